"""The fit of what sequences cost against SciPy's, and against figures that were made with known constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from bench.worker.data.cost_fit import non_negative
from bench.worker.measured_cost import fit

LENGTHS = np.array(
    [[12, 200, 31, 7], [250, 3, 3, 90], [64, 64, 64, 64], [5, 9, 14, 30], [256, 256, 1, 80], [33, 150, 99, 2]]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.floats(-0.5, 2.0)), min_size=4, max_size=20))
def test_no_other_constants_from_zero_on_are_nearer(passes: list[tuple[int, int, float]]) -> None:
    rows = [(1.0, float(a + b), float(a * a + b * b)) for a, b, _ in passes]
    wanted = [seconds for *_, seconds in passes]
    found = non_negative(rows, wanted)
    assert min(found) >= 0
    scale = np.abs(rows).max(axis=0)
    _, least = nnls(np.array(rows) / scale, wanted)
    assert float(np.linalg.norm(np.array(rows) @ found - wanted)) == pytest.approx(least, rel=1e-5, abs=1e-6)


def test_known_constants_come_back() -> None:
    tokens, pairs = LENGTHS.sum(axis=1), (LENGTHS**2).sum(axis=1)
    for per_pass, per_token, per_pair in ((0.004, 2e-5, 3e-8), (0.0, 0.0, 5e-8), (0.001, 4e-4, 0.0)):
        seconds = per_pass + per_token * tokens + per_pair * pairs
        found = fit([np.stack([tokens, pairs, seconds], axis=1).tolist()])
        assert (found.per_pass_s, found.per_token_s, found.per_pair_s) == pytest.approx(
            (per_pass, per_token, per_pair), rel=1e-6, abs=1e-12
        )
        assert found.tells and found.error_s < 1e-9 and found.num_passes == len(LENGTHS)


def test_what_does_not_depend_on_lengths_tells_nothing() -> None:
    tokens, pairs = LENGTHS.sum(axis=1), (LENGTHS**2).sum(axis=1)
    found = fit([np.stack([tokens, pairs, 0.01 - 1e-6 * tokens], axis=1).tolist()])
    assert not found.tells and found.per_pass_s == pytest.approx(0.01, rel=0.2)


def test_passes_that_were_interrupted_hardly_bend_it() -> None:
    generator = np.random.default_rng(0)
    lengths = np.minimum(np.exp(generator.normal(4, 0.8, (24, 4))), 256).round()
    tokens, pairs = lengths.sum(axis=1), (lengths**2).sum(axis=1)
    seconds = 0.002 + 1e-4 * tokens + 2e-6 * pairs + generator.normal(0, 0.0005, 24)
    late = np.where(np.arange(24) % 6 == 0, 0.05, 0.0)
    off = []
    for found in (
        fit([np.stack([tokens, pairs, seconds + late], axis=1).tolist()]),
        non_negative([(1.0, *row) for row in zip(tokens, pairs, strict=True)], seconds + late),
    ):
        a, b = (found.per_token_s, found.per_pair_s) if not isinstance(found, list) else found[1:]
        off.append(max(abs((a * n + b * n**2) / (1e-4 * n + 2e-6 * n**2) - 1) for n in (32, 64, 128, 256)))
    # By squares alone it is bent several times as far.
    assert off[0] < 0.1 and off[1] > 3 * off[0]


def test_a_slow_rank_that_is_dealt_less_hides_nothing() -> None:
    """Dealt by speed, all passes take about equally long, whatever their lengths: a plain fit to all finds that nothing costs."""
    generator = np.random.default_rng(1)
    by_rank, rows, seconds = [], [], []
    for slowness, tokens_s in ((0.75, 240), (0.75, 240), (1.5, 120)):
        tokens = tokens_s + generator.integers(-15, 16, 16)
        pairs = tokens * generator.integers(40, 120, 16)
        taken_s = slowness * (0.002 + 2e-4 * tokens + 1e-6 * pairs) + generator.normal(0, 0.0002, 16)
        by_rank.append(np.stack([tokens, pairs, taken_s], axis=1).tolist())
        rows += [(1.0, float(a), float(b)) for a, b in zip(tokens, pairs, strict=True)]
        seconds += taken_s.tolist()
    found = fit(by_rank)
    assert found.rank_slowness == pytest.approx([0.75, 0.75, 1.5], rel=0.1)

    def error(a: float, b: float) -> float:
        return max(abs((a * n + b * n**2) / (2e-4 * n + 1e-6 * n**2) - 1) for n in (32, 64, 128, 256))

    assert error(found.per_token_s, found.per_pair_s) < 0.15 < 3 * 0.15 < error(*non_negative(rows, seconds)[1:])
