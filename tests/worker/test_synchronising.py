"""Ways to synchronise that must come to what plain data-parallel training does, and what a record keeps of the others."""

from __future__ import annotations

from typing import Any

import pytest

from bench.analysis.gates import faults
from bench.analysis.validity import judge
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from tests import forked

GPT = {"hidden_size": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 199, "max_seq_len": 16}
SGD = {"optimizer": "sgd", "learning_rate": 0.2}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.002}


def cell(strategy: str, world_size: int = 2, options: dict[str, Any] | None = None, **fields: Any) -> Cell:
    """Thirty steps of four sequences in all, warm-up included."""
    given = {"model": "gpt-nano", "model_options": GPT, "micro_batch_size": 2, "steps": 24, "max_warmup_steps": 6}
    return Cell(**{**given, **fields}, strategy=strategy, world_size=world_size, strategy_options=options or {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Records by cell: each is trained once, whoever asks for it."""
    folder, known = tmp_path_factory.mktemp("synchronising"), dict[str, Record]()

    def train(asked: Cell) -> Record:
        if asked.id not in known:
            known[asked.id] = forked.train(asked, folder=folder)
        return known[asked.id]

    return train


def believed(record: Record) -> None:
    [launch] = judge(to_frame([record]), {record.launch_id: faults(record)}).to_dict("records")
    assert launch["outcome"] == "ok", launch["reason"]


DEALT = {"batching": "padded", "length_spread": 0.6, "grad_accum_steps": 2}

AS_DDP = [
    ("local_sgd", 2, {"every_steps": 1}, SGD),
    ("local_sgd", 2, {"every_steps": 1}, {**SGD, **DEALT}),
    ("local_sgd", 2, {"every_steps": 6, "start_step": 1000}, ADAMW),
    ("hierarchical", 4, {"every_steps": 1, "ranks_per_node": 2}, SGD),
    ("hierarchical", 4, {"every_steps": 1, "ranks_per_node": 2}, {**SGD, **DEALT}),
    ("param_server", 3, {}, ADAMW),
    ("param_server", 4, {"num_servers": 2}, {**ADAMW, "max_grad_norm": 0.5, "schedule_warmup_steps": 4}),
    ("param_server", 3, {}, {**ADAMW, **DEALT}),
    ("param_server", 3, {"aggregate": "weights"}, {**SGD, **DEALT}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "world_size", "options", "training"), AS_DDP)
def test_losses_follow_those_of_ddp(trained, strategy, world_size, options, training) -> None:  # type: ignore[no-untyped-def]
    """Thirty steps, fp32, to 1e-4; and the workers' replicas are equal at the end."""
    found = trained(cell(strategy, world_size, options, **training))
    ddp = trained(cell("ddp", found.cell.num_workers, **training))
    losses, expected = found.mean_losses(), ddp.mean_losses()
    assert found.cell.global_batch_size == ddp.cell.global_batch_size
    # Losses that stand still would follow anything.
    assert len(expected) == 30 and max(expected) - min(expected) > 0.1
    shared = min(len(losses), len(expected))
    assert shared >= 24 and losses[:shared] == pytest.approx(expected[:shared], rel=1e-4)
    assert found.work is not None and found.work.replicas is not None and found.work.replicas.largest < 1e-6
    assert len(found.workers) == found.cell.num_workers
    believed(found)


@pytest.mark.slow
@pytest.mark.parametrize("outer_dtype", ["fp32", "fp16", "int8"])
def test_diloco_without_an_outer_optimizer_is_averaging(trained, outer_dtype: str) -> None:  # type: ignore[no-untyped-def]
    """Every step, outer rate 1, no momentum; in few bits as far as these tell numbers apart."""
    plain = {"every_steps": 1, "outer_learning_rate": 1.0, "outer_momentum": 0.0, "outer_dtype": outer_dtype}
    found = trained(cell("diloco", options=plain, **ADAMW))
    averaged = trained(cell("local_sgd", options={"every_steps": 1}, **ADAMW))
    tolerance = {"fp32": 1e-5, "fp16": 1e-4, "int8": 3e-3}[outer_dtype]
    assert found.mean_losses() == pytest.approx(averaged.mean_losses(), rel=tolerance)
    believed(found)


@pytest.mark.slow
def test_replicas_drift_until_they_are_averaged(trained) -> None:  # type: ignore[no-untyped-def]
    """The longer apart the further; afterwards they are equal."""
    drift = {}
    for every in (1, 8):
        found = trained(cell("local_sgd", options={"every_steps": every}, max_warmup_steps=8, **ADAMW))
        assert found.synchronisation is not None and found.work is not None and found.work.replicas is not None
        sample = found.synchronisation.samples[-1]
        assert sample.step == len(found.ranks[0].losses) and sample.largest >= sample.mean > 0
        assert found.work.replicas.largest == 0
        drift[every] = sample.mean
        believed(found)
    assert drift[8] > 2 * drift[1]


@pytest.mark.slow
def test_a_schedule_of_the_outer_optimizer_is_not_taken_for_the_cells(trained) -> None:  # type: ignore[no-untyped-def]
    found = trained(
        cell("diloco", options={"every_steps": 3}, schedule="cosine", schedule_steps=40, max_grad_norm=1.0, **ADAMW)
    )
    assert found.ranks[0].witnessed is not None
    assert {one.name for one in found.ranks[0].witnessed.optimizers} == {"AdamW", "OuterSGD"}
    assert found.mean_losses()[-1] < found.mean_losses()[0] - 0.1
    believed(found)


@pytest.mark.slow
def test_a_server_trains_nothing(trained) -> None:  # type: ignore[no-untyped-def]
    found = trained(cell("param_server", 4, {"num_servers": 2}, **ADAMW))
    assert [rank.role for rank in found.ranks] == ["worker", "worker", "server", "server"]
    for rank in found.ranks[2:]:
        assert not rank.losses and not rank.step_times_s and not rank.tokens
    assert found.work is not None and found.work.tokens_per_step == 2 * 2 * 16
    assert found.synchronisation is not None and found.synchronisation.staleness == {0: 24}
    assert found.synchronisation.num_updates == 24 and found.synchronisation.num_tokens == 24 * 2 * 2 * 16
