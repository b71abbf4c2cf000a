"""One rank that trains many small cells, metered, for test_metered_traffic.py: one start for all of them.

Usage: torchrun ... traffic_rank.py OUT.json
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.plan.cell import Cell
from bench.worker.meter.ledger import Ledger
from bench.worker.meter.outline import OutlineWatch
from bench.worker.meter.process_group import BACKEND, Meter, register
from bench.worker.trainer import Trainer

# Odd sizes, so that neither parameters nor buckets divide by the ranks.
GPT = {"hidden_size": 36, "num_layers": 2, "num_heads": 2, "vocab_size": 101, "max_seq_len": 16}
LARGE = {**GPT, "hidden_size": 128, "vocab_size": 4096}
SEQ2SEQ: dict[str, Any] = {"model": "seq2seq-nano", "model_options": GPT, "corpus": "reverse"}
PACED = {"hidden_size": 36, "num_layers": 3, "vocab_size": 101, "max_seq_len": 16}

# Strategy, fields of the cell, zero_optimization, other parts of the DeepSpeed file. What is left out is DeepSpeed's default.
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("ddp", {"model_options": LARGE, "profile": "tuned"}, {}, {}),
    ("ddp", {"precision": "bf16", "grad_accum_steps": 2}, {}, {}),
    ("zero0", {}, {}, {}),
    ("zero0", {"precision": "bf16"}, {}, {"communication_data_type": "fp32"}),
    ("zero1", {}, {"reduce_bucket_size": 3000, "use_multi_rank_bucket_allreduce": False}, {}),
    ("zero1", {}, {"reduce_bucket_size": 7000, "overlap_comm": False}, {}),
    ("zero1", {}, {"reduce_bucket_size": 500, "contiguous_gradients": False, "overlap_comm": True}, {}),
    (
        "zero1",
        {"precision": "bf16"},
        {"reduce_bucket_size": 3000, "overlap_comm": True, "compute_grad_norm": False},
        {"bf16": {"enabled": True, "check_grad_overflow": False}, "gradient_clipping": 0.0},
    ),
    ("zero2", {}, {"reduce_bucket_size": 500}, {}),
    ("zero2", {}, {"reduce_bucket_size": 500, "use_multi_rank_bucket_allreduce": False}, {}),
    ("zero2", {"grad_accum_steps": 2}, {"reduce_bucket_size": 7000, "use_multi_rank_bucket_allreduce": False}, {}),
    ("zero2", {"grad_accum_steps": 2}, {"reduce_bucket_size": 3000, "reduce_scatter": False}, {}),
    ("zero2", {"precision": "bf16", "grad_accum_steps": 2}, {"reduce_bucket_size": 3000, "overlap_comm": True}, {}),
    ("zero2", {"profile": "matched"}, {}, {"gradient_clipping": 0.0}),
    ("zero3", {}, {}, {}),
    (
        "zero3",
        {"grad_accum_steps": 2},
        {
            "reduce_bucket_size": 7000,
            "sub_group_size": 500,
            "stage3_prefetch_bucket_size": 5000,
            "stage3_param_persistence_threshold": 300,
            "stage3_max_live_parameters": 20_000,
            "stage3_max_reuse_distance": 2000,
        },
        {},
    ),
    (
        "zero3",
        {},
        {
            "reduce_bucket_size": 500,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
        {},
    ),
    (
        "zero3",
        {"activation_checkpointing": True},
        {
            "stage3_prefetch_bucket_size": 10_000,
            "stage3_param_persistence_threshold": 5000,
            "stage3_model_persistence_threshold": 200,
            "stage3_max_live_parameters": 3000,
            "stage3_max_reuse_distance": 20_000,
        },
        {},
    ),
    (
        "zero3",
        {"precision": "bf16", "grad_accum_steps": 2},
        {"reduce_bucket_size": 3000, "reduce_scatter": False, "stage3_max_live_parameters": 8000},
        {"communication_data_type": "fp32"},
    ),
    (
        "zero3",
        {"model": "paced-nano", "model_options": PACED, "grad_accum_steps": 4},
        {
            "stage3_prefetch_bucket_size": 1_000_000,
            "stage3_param_persistence_threshold": 40,
            "stage3_max_live_parameters": 100_000,
            "stage3_max_reuse_distance": 12_000,
        },
        {},
    ),
    ("ddp", SEQ2SEQ, {}, {}),
    ("zero2", {**SEQ2SEQ, "grad_accum_steps": 2}, {"reduce_bucket_size": 3000}, {}),
    # The decoder's layers take what the encoder made besides their input.
    ("zero3", SEQ2SEQ, {"stage3_prefetch_bucket_size": 5000, "stage3_param_persistence_threshold": 300}, {}),
    (
        "zero3",
        {**SEQ2SEQ, "activation_checkpointing": True, "grad_accum_steps": 2},
        {
            "stage3_prefetch_bucket_size": 10_000,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 20_000,
            "stage3_max_reuse_distance": 2000,
        },
        {},
    ),
]


def cell_of(
    folder: Path, number: int, strategy: str, fields: dict[str, Any], zero: dict[str, Any], more: dict[str, Any]
) -> Cell:
    given = {"model": "gpt-nano", "model_options": GPT, "profile": "tuned", "seq_len": 16, **fields}
    if strategy != "ddp":
        precision = given.get("precision", "fp32")
        config = {
            "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 3e-4, "weight_decay": 0.01}},
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": int(strategy[-1]), **zero},
            "bf16": {"enabled": precision == "bf16"},
            **more,
        }
        path = folder / f"{number}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        given["deepspeed_config"] = str(path)
    return Cell(**given, strategy=strategy, world_size=dist.get_world_size())


def trained(cell: Cell, meter: Meter, control: dist.ProcessGroup) -> dict[str, Any]:
    """Two steps to settle, two that are counted."""
    trainer = Trainer(cell, meter.device, control, meter)
    watch = OutlineWatch(trainer.model)
    meter.ledger = Ledger()
    trainer.step()
    trainer.step()
    meter.ledger = Ledger()
    trainer.step()
    trainer.step()
    lines = meter.ledger.close()
    if cell.strategy != "ddp":
        trainer.strategy._engine.destroy()  # type: ignore[attr-defined]
    return {
        "cell": cell.model_dump(),
        "config": trainer.strategy.deepspeed_config,
        "outline": watch.outline().model_dump(),
        "ledger": [line.model_dump() for line in lines],
    }


def main() -> None:
    torch.set_num_threads(1)
    meter = Meter(torch.device("cpu"))
    register(meter)
    dist.init_process_group(BACKEND)
    control = dist.new_group(backend="gloo")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            results.append(trained(cell_of(Path(folder), number, *case), meter, control))
            gc.collect()
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, results, group=control)
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(gathered), encoding="utf-8")
    dist.barrier(control)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
