"""What ranks that train apart send each other: every message of the ledger, held to the closed forms."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bench.analysis.arms import arms, block_times
from bench.analysis.traffic import disagreement, traffic_table
from bench.plan.cell import Cell
from bench.results.metered import LedgerLine
from bench.theory.delayed_traffic import served_calls
from bench.theory.sent import sent_bytes_per_step
from tests import forked
from tests.worker.test_synchronising import cell

pytestmark = pytest.mark.slow

STEPS = {"steps": 8, "max_warmup_steps": 8}
UNEQUAL = {**STEPS, "batching": "padded", "length_spread": 0.6}
CASES: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    ("local_sgd", 2, {"every_steps": 4}, STEPS),
    ("local_sgd", 2, {"every_steps": 4}, {**UNEQUAL, "precision": "bf16"}),
    ("diloco", 2, {"every_steps": 4, "outer_dtype": "fp16"}, STEPS),
    ("diloco", 2, {"every_steps": 8, "outer_dtype": "int8"}, STEPS),
    ("hierarchical", 4, {"every_steps": 4, "ranks_per_node": 2}, STEPS),
    ("hierarchical", 2, {"every_steps": 2}, UNEQUAL),
]


@pytest.mark.parametrize(("strategy", "world_size", "options", "fields"), CASES)
def test_a_ledger_is_what_theory_says(
    tmp_path: Path, strategy: str, world_size: int, options: dict[str, Any], fields: dict[str, Any]
) -> None:
    """Step by step; and its mean over the window is the closed form."""
    asked = cell(strategy, world_size, options, **fields)
    found = forked.train(asked, folder=tmp_path, kind="attribution")
    assert disagreement(found) is None
    table = traffic_table([found])
    assert len(table) and table["agrees"].all(), table
    work, outline = found.work, found.outline
    assert work is not None and outline is not None
    expected = sent_bytes_per_step(asked, work.num_params, len(outline.parameters), num_nodes=1)
    observed = table["observed_volume_bytes"].sum()
    # Numbers by which ranks weigh each other are in the ledger of every step, and in no byte of a model.
    assert expected is not None and observed == pytest.approx(expected, abs=16)
    # The arms are of whole periods: each has at least two, and nothing in them is undefined.
    for arm in ("full", "sync", "local"):
        assert sum(times.shape[1] for times in block_times(found, arm)) >= 8 // asked.every_steps  # type: ignore[arg-type]
    seen = arms(found)
    assert seen is not None and math.isfinite(seen.exposed_comm_s) and all(rank.attribution for rank in found.ranks)


def served(asked: Cell) -> list[LedgerLine]:
    """The ledger of two steps of this rank after three. A server takes none, and has nothing in it."""
    from bench.worker.meter.ledger import Ledger
    from bench.worker.meter.process_group import BACKEND, Meter, register
    from bench.worker.trainer import Trainer

    torch.set_num_threads(1)
    meter = Meter(torch.device("cpu"))
    register(meter)
    dist.init_process_group(BACKEND)
    trainer = Trainer(asked, meter.device, dist.new_group(backend="gloo"), meter)
    trainer.timed_steps(3)
    meter.ledger = Ledger()
    trainer.timed_steps(2)
    lines = meter.ledger.close()
    dist.barrier(trainer.control)
    dist.destroy_process_group()
    return lines


@pytest.mark.parametrize(("world_size", "options"), [(3, {}), (4, {"num_servers": 2, "aggregate": "weights"})])
def test_messages_of_workers_and_servers(tmp_path: Path, world_size: int, options: dict[str, Any]) -> None:
    asked = cell("param_server", world_size, options)
    ledgers = forked.run(world_size, served, asked, folder=tmp_path)
    num_params = 48 * (199 + 16) + 2 * (12 * 48**2 + 13 * 48) + 2 * 48
    for lines in ledgers[: asked.num_workers]:
        # The end of the window is announced in its last step, and answered with a number for each worker.
        counted: Counter[tuple[str, int, int]] = Counter()
        for line in lines:
            counted[line.operation, line.group_size, line.payload_bytes] += line.count * len(line.steps)
        expected = Counter({call: 2 * count for call, count in served_calls(asked, num_params).items()})
        expected["send", world_size, 16] += asked.num_servers
        expected["recv", world_size, 8 * asked.num_workers] += asked.num_servers
        assert counted == expected
    sent = sent_bytes_per_step(asked, num_params)
    headers = 16 * (3 * asked.num_servers + 1)
    assert sent == pytest.approx(asked.num_workers * (8 * num_params + headers) / world_size)


def test_a_window_holds_its_last_exchange(tmp_path: Path) -> None:
    """The last collective of a window is half a second late, and the window lasts as much longer."""
    for strategy, options in (("local_sgd", {"every_steps": 4}), ("diloco", {"every_steps": 4, "outer_dtype": "int8"})):
        asked = cell(strategy, 2, options, **STEPS)
        plain, late = np.array(forked.run(2, windows, asked, folder=tmp_path)).T
        assert (late > 0.5).all() and (late > plain + 0.3).all(), (strategy, plain, late)


def windows(asked: Cell) -> tuple[float, float]:
    """Seconds of one period as it is, and of one whose last collective completes half a second late."""
    from bench.worker.meter.line import Line
    from bench.worker.meter.process_group import BACKEND, Meter, register
    from bench.worker.trainer import Trainer

    torch.set_num_threads(1)
    meter = Meter(torch.device("cpu"))
    register(meter)
    dist.init_process_group(BACKEND)
    trainer = Trainer(asked, meter.device, dist.new_group(backend="gloo"), meter)
    trainer.timed_steps(asked.every_steps)
    plain_s = sum(trainer.timed_steps(asked.every_steps))
    meter.line = Line(meter.device)
    meter.line.delay_s = 0.5
    late_s = sum(trainer.timed_steps(asked.every_steps))
    meter.line.close()
    dist.barrier(trainer.control)
    dist.destroy_process_group()
    return plain_s, late_s
