"""A rank that is slow gets less, as soon as it is known to be; nobody told the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.results.store import read_records
from tests.command_line import Scalebench

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SUITE = """
aa_pair: false
grids:
  - model: paced-nano
    strategy: zero1
    world_size: 2
    micro_batch_size: 16
    batching: padded
    length_spread: 0.5
    partition: dynamic
    slow_rank_frac: 0.5
    model_options: {forward_s: 0.006, backward_s: 0.006}
    steps: 8
    max_warmup_steps: 6
    timeout_s: 200
"""


def test_a_slow_rank_is_dealt_as_much_less_as_it_is_slower(tmp_path: Path, scalebench: Scalebench) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(SUITE)
    done = scalebench(
        "run", suite, "--output", tmp_path / "results", "--device", "cpu", "--no-reference", "--no-report"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = read_records(tmp_path / "results")
    costs = np.array([rank.costs for rank in record.ranks])
    # Three steps are dealt before anything is known: equally, as lengths allow.
    assert costs[1, :3].sum() / costs[0, :3].sum() == pytest.approx(1, abs=0.03)
    # 1 / 1.5, but for what each step costs beside its sleeps.
    assert costs[1, 6:].sum() / costs[0, 6:].sum() == pytest.approx(1 / 1.5, rel=0.15)
    # All ranks knew the same: each batch was dealt whole.
    assert record.work is not None
    assert [sum(step) for step in zip(*(rank.tokens for rank in record.ranks), strict=True)] == record.work.batch_tokens
