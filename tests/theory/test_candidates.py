"""The search: every way to share a batch, and for each the same step as a projection of it alone."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import ProjectionError
from bench.theory.candidates import SEARCHED, candidates, searched, steps, world_sizes
from bench.theory.machine import load_machine, load_network
from bench.theory.project import project
from bench.theory.ways import way_of
from bench.theory.workload import from_preset

PARTS = ("forward_s", "backward_s", "update_s", "copy_s", "variation_s", "lateness_s", "exposed_comm_s", "step_time_s")


def test_every_way_to_share_a_batch_is_there_once() -> None:
    found = candidates(24, [1, 2, 4, 8])
    rows = set(
        zip(
            found.strategy.tolist(),
            found.world_size.tolist(),
            found.micro_batch_size.tolist(),
            found.grad_accum_steps.tolist(),
            found.activation_checkpointing.tolist(),
            strict=True,
        )
    )
    assert len(rows) == len(found) == len(SEARCHED) * 2 * (8 + 6 + 4 + 2)
    assert (found.world_size * found.micro_batch_size * found.grad_accum_steps == 24).all()
    assert len(candidates(24, [8], ["zero3"], checkpointing=False)) == 2


def test_past_one_node_only_whole_nodes_take_part() -> None:
    machine = load_machine("dgx1-v100-16gb")
    assert world_sizes(machine, 48, 100, None) == [1, 2, 3, 4, 6, 8]
    assert world_sizes(machine, 48, 100, load_network("edr-1x")) == [1, 2, 3, 4, 6, 8, 16, 24, 48]
    assert world_sizes(machine, 48, 20, load_network("edr-1x"))[-1] == 16


@pytest.mark.parametrize(
    ("name", "model", "precision", "network"),
    [
        ("dgx1-v100-16gb", "gpt2-small", "fp16", "edr-1x"),
        ("hgx-h100", "gpt-10b", "bf16", "eth-100g"),
        ("pcie-v100", "gpt2-xl", "fp32", "eth-10g"),
        ("cpu-gloo", "paced-nano", "fp32", "eth-25g"),
    ],
)
def test_all_at_once_is_each_alone(name: str, model: str, precision: str, network: str) -> None:
    """Nothing of the vectorised step differs from `project` of the one candidate: parts, interval, memory, whether it fits."""
    machine, link = load_machine(name), load_network(network)
    found = candidates(48, world_sizes(machine, 48, 16, link), searched(machine))
    together = steps(found, machine, model=model, precision=precision, network=link, seq_len=128)
    for place in np.random.default_rng(0).permutation(len(found))[:150]:
        strategy = SEARCHED[found.strategy[place]]
        work = from_preset(
            machine,
            model=model,
            micro_batch_size=int(found.micro_batch_size[place]),
            precision=precision,
            strategy=way_of(strategy).base,
            seq_len=128,
            grad_accum_steps=int(found.grad_accum_steps[place]),
            activation_checkpointing=bool(found.activation_checkpointing[place]),
        )
        alone = project(work, strategy, machine, int(found.world_size[place]), link)
        for part in PARTS:
            assert getattr(together, part)[place] == pytest.approx(getattr(alone, part), rel=1e-9, abs=1e-12), part
        assert together.memory_bytes[place] == pytest.approx(alone.memory_bytes)
        off = together.compute_error_frac
        assert (1 - off) * together.scaling_lo_s[place] == pytest.approx(alone.step_time_lo_s)
        assert (1 + off) * together.scaling_hi_s[place] == pytest.approx(alone.step_time_hi_s)
        assert alone.fits in (bool(together.fits[place]), None) and (alone.fits is None) >= (
            not together.activations_known and bool(together.fits[place])
        )


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ProjectionError, match="--global-batch-size: found 0"):
        candidates(0, [1])
