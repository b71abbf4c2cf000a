"""What a cell's strategy_options make of the DeepSpeed file that its strategy starts from."""

from __future__ import annotations

import math
from typing import Any

from bench.plan.cell import Cell

MOST_OF_A_NODE = 8
"""Ranks of a node where nobody says: as many GPUs as a common one has."""


def put_options(cell: Cell, config: dict[str, Any]) -> None:
    """Write the options of the cell's strategy into the file. Those of strategies without DeepSpeed are none of its business."""
    options = cell.options
    zero = config.setdefault("zero_optimization", {})
    if path := options.get("nvme_path"):
        for part in ("offload_optimizer", "offload_param"):
            zero[part] = {**zero.get(part, {}), "device": "nvme", "nvme_path": path}
    if "hpz_partition_size" in options:
        zero["zero_hpz_partition_size"] = _of_a_node(cell, int(options["hpz_partition_size"]))
    if "shard_size" in options:
        zero["mics_shard_size"] = _of_a_node(cell, int(options["shard_size"]))
    if "freeze_step" in options:
        config["optimizer"]["params"]["freeze_step"] = options["freeze_step"]


def _of_a_node(cell: Cell, asked: int) -> int:
    return asked or math.gcd(cell.world_size, MOST_OF_A_NODE)
