"""What a record says that its ranks did, held against its cell. tests/worker/test_broken_runs.py trips the same gates with
launches that are really broken; here stand what CPU ranks can't do, and what must not trip a gate."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.analysis.gates import faults
from bench.plan.cell import Cell
from bench.results.metered import RankAttribution
from bench.results.record import OptimizerSettings, Record, Witnessed
from tests import synthetic

ADAMW = OptimizerSettings(name="AdamW", learning_rate=3e-4, weight_decay=0.01, betas=[0.9, 0.999], eps=1e-8)
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {"model": "gpt-nano", "strategy": "ddp", "world_size": 2, "seq_len": 64, "steps": 5}
    return Cell(**{**fields, **changes})


def witnessed(asked: Cell, **changes: Any) -> Witnessed:
    """What a rank is seen to do that does what its cell says, in two steps of warm-up."""
    fields: dict[str, Any] = {
        "tokens": [asked.micro_batch_size * asked.grad_accum_steps * asked.seq_len] * 2,
        "num_updates": [1, 1],
        "grad_norms": [1.5, 1.25],
        "skipped": [False, False],
        "parameter_dtypes": [DTYPES[asked.precision]],
        "optimizers": [ADAMW],
    }
    return Witnessed(**{**fields, **changes})


def record(asked: Cell, ranks: dict[int, dict[str, Any]] | None = None, **changes: Any) -> Record:
    """A launch whose ranks were seen to do what the cell says; `ranks` changes fields of single ranks."""
    launch = synthetic.launch(asked, **changes)
    whole = {"witnessed": witnessed(asked), "launch_id": launch.launch_id}
    parts = [rank.model_copy(update={**whole, **(ranks or {}).get(rank.rank, {})}) for rank in launch.ranks]
    return launch.model_copy(update={"ranks": parts})


def seen(asked: Cell, **changes: Any) -> list[str]:
    """The faults of a launch whose rank 1 was seen to do something else."""
    return faults(record(asked, {1: {"witnessed": witnessed(asked, **changes)}}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_launch_that_did_what_it_was_asked_has_no_fault(precision: str) -> None:
    assert faults(record(cell(precision=precision, grad_accum_steps=4))) == []


def test_what_an_older_record_does_not_know_is_no_fault() -> None:
    assert faults(synthetic.launch(cell())) == []


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_an_overflow_is_a_fault_only_where_no_scaler_caught_it(norm: float) -> None:
    fp16 = cell(precision="fp16")
    # torch's fused optimizer is called for a skipped step too, DeepSpeed's is not.
    for num_updates, norms in ((0, [None, 1.0]), (1, [norm, 1.0])):
        caught = {"skipped": [True, False], "num_updates": [num_updates, 1], "grad_norms": norms}
        assert seen(fp16, **caught) == []
        assert seen(cell(), **caught) == ["rank 1 skipped 1 optimizer steps in warm-up, expected none in fp32"]
    assert seen(fp16, grad_norms=[1.0, norm]) == [
        f"gradient norm of rank 1 in warm-up step 1 is {norm:g}, expected a finite one"
    ]


def test_a_step_without_an_update() -> None:
    reason = "rank 1 updated its parameters 0 times in warm-up step 1, expected once"
    assert seen(cell(), num_updates=[1, 0]) == [reason]
    # A tuned optimizer may be none of torch's, which nobody sees.
    assert seen(cell(profile="tuned"), num_updates=[0, 0], grad_norms=[None, None], optimizers=[]) == []
    assert seen(cell(), num_updates=[0, 0], grad_norms=[None, None], optimizers=[]) == [
        reason.replace("step 1", "step 0")
    ]


@pytest.mark.parametrize(
    ("changes", "expected", "allowed_when_tuned"),
    [
        ({"learning_rate": 1e-3}, "expected learning_rate 0.0003", False),
        ({"weight_decay": 0.0}, "expected weight_decay 0.01", False),
        ({"betas": [0.9, 0.95]}, "expected betas [0.9, 0.999]", True),
        ({"eps": 1e-6}, "expected eps 1e-08", True),
        ({"name": "Lamb"}, "expected name AdamW", True),
        ({"name": "SGD", "betas": None, "eps": None}, "expected name AdamW", True),
    ],
)
def test_another_optimizer(changes: dict[str, Any], expected: str, allowed_when_tuned: bool) -> None:
    other = {"optimizers": [ADAMW, ADAMW.model_copy(update=changes)]}
    [reason] = seen(cell(), **other)
    assert reason.startswith("optimizer of rank 1 is ") and reason.endswith(expected)
    assert len(seen(cell(profile="tuned"), **other)) == (0 if allowed_when_tuned else 1)


def test_parameters_of_mixed_precision() -> None:
    reason = "parameters of rank 1 are bfloat16, float32, expected bfloat16"
    assert seen(cell(precision="bf16"), parameter_dtypes=["bfloat16", "float32"]) == [reason]


def test_threads_are_what_was_asked_or_one_on_cpu_and_torchs_own_on_gpus() -> None:
    assert faults(record(cell(threads_per_rank=2))) == ["rank 0 ran with 1 threads, expected 2"]
    assert faults(record(cell(), {1: {"threads": 8}})) == ["rank 1 ran with 8 threads, expected 1"]
    on_gpus = {rank: {"threads": 8} for rank in range(2)}
    assert faults(record(cell(), on_gpus, place=synthetic.eight_v100s(cell()))) == []
    asked = cell(threads_per_rank=4)
    assert len(faults(record(asked, on_gpus, place=synthetic.eight_v100s(asked)))) == 1


def test_affinity_is_judged_on_the_launching_host_alone() -> None:
    here = {0: {"affinity": [0, 1]}, 1: {"affinity": [1]}}
    [reason] = faults(record(cell(), here, hostname="localhost", affinity=[0, 1]))
    assert reason == "rank 1 may use cores 1, expected 0,1"
    there = {0: {"affinity": [0, 1]}, 1: {"affinity": [1], "hostname": "another"}}
    assert faults(record(cell(), there, hostname="localhost", affinity=[0, 1])) == []
    assert faults(record(cell(), here)) == []


def test_arms_that_skipped_updates() -> None:
    arms = {"attribution": RankAttribution(block_times_s=[[0.1]], ledger=[], num_skipped_steps=3)}
    assert faults(record(cell(), {1: arms})) == ["rank 1 skipped 3 optimizer steps in the arms, expected none"]


@pytest.mark.parametrize("step_time_s", [0.0, -0.1, math.nan, math.inf])
def test_a_time_that_is_none(step_time_s: float) -> None:
    times = [[0.1] * 5, [0.1, 0.1, step_time_s, 0.1, 0.1]]
    [reason] = faults(record(cell(), step_times_s=times))
    assert reason == f"impossible: step 2 of rank 1 took {step_time_s:.4g} s, expected a positive time"


def test_a_paced_step_is_not_shorter_than_its_sleeps() -> None:
    # 3 micro-batches of 2 x 128 tokens, each 6 x 60 ms: 1.08 s.
    paced = cell(model="paced-nano", seq_len=128, micro_batch_size=2, grad_accum_steps=3)
    assert paced.paced_step_s == pytest.approx(1.08)
    assert cell().paced_step_s is None
    assert faults(record(paced, step_time_s=1.1)) == []
    [reason] = faults(record(paced, step_time_s=1.0))
    assert reason.startswith(
        "impossible: step 0 of rank 0 took 1 s, expected at least the 1.08 s that the model sleeps"
    )


def test_a_paced_step_of_few_tokens_sleeps_for_these() -> None:
    """Where lengths differ each rank and step has a floor of its own, and a slow rank a higher one."""
    padded = cell(
        **{"model": "paced-nano", "seq_len": 256, "batching": "padded", "length_spread": 0.5, "slow_rank_frac": 0.5}
    )
    fed = {"tokens": [256] * 6 + [64] * 5, "padding": [0] * 11, "costs": [1.0] * 11}
    made = synthetic.launch(padded, step_times_s=[[0.14] * 5] * 2)
    assert made.work is not None

    def judged(tokens: list[int]) -> list[str]:
        ranks = [rank.model_copy(update={**fed, "tokens": tokens}) for rank in made.ranks]
        total = [2 * number for number in tokens]
        return faults(
            made.model_copy(update={"ranks": ranks, "work": made.work.model_copy(update={"batch_tokens": total})})
        )

    # 64 tokens are 90 ms, on the slow rank 135 ms; 80 tokens would be 169 ms there.
    assert judged(fed["tokens"]) == []
    [reason] = judged([256] * 6 + [64, 64, 80, 64, 64])
    assert reason.startswith("impossible: step 2 of rank 1 took 0.14 s, expected at least the 0.1688 s")


def test_a_cross_entropy_is_not_negative() -> None:
    assert faults(record(cell(), losses=[8.0, -0.5])) == [
        "impossible: loss of rank 0 in step 1 is -0.5, expected at least 0"
    ]


@pytest.mark.parametrize(("step_time_s", "possible"), [(0.3, True), (0.2, False)])
def test_no_device_does_more_than_its_peak(step_time_s: float, possible: bool) -> None:
    # 8 x 1024 tokens of 1 TFLOP each on two V100s of 15.7 TFLOP/s in fp32: 0.261 s at the least.
    asked = cell(seq_len=256, micro_batch_size=4)
    work = {"flops_per_token": 1e12 / 256, "place": synthetic.eight_v100s(asked)}
    found = faults(record(asked, step_time_s=step_time_s, **work))
    assert len(found) == (0 if possible else 1)
    if not possible:
        assert found[0] == "impossible: MFU 1.27 of Tesla V100-SXM2-32GB in fp32, at most 1"


def test_ranks_of_unequal_length_are_left_to_their_own_gate() -> None:
    assert faults(record(cell(), step_times_s=[[0.1] * 5, []], place=synthetic.eight_v100s(cell()))) == []


def test_several_faults_are_all_named() -> None:
    wrong = {"witnessed": witnessed(cell(), tokens=[64, 32], num_updates=[1, 2]), "threads": 3, "launch_id": "other"}
    found = faults(record(cell(), {1: wrong}))
    assert len(found) == 4 and found[0].startswith("rank 1 is of launch other, expected ")
    assert found[1] == "rank 1 trained on 32 tokens in warm-up step 1, expected 64"
