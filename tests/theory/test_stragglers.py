"""The slowest of N against tabled order statistics and drawn samples."""

import numpy as np
import pytest

from bench.theory.machine import load_machine
from bench.theory.stragglers import expected_maximum, lateness_s, maximum_quantile, variation_frac


@pytest.mark.parametrize(
    ("count", "tabled"), [(1, 0.0), (2, 0.56419), (4, 1.02938), (8, 1.42360), (16, 1.76599), (100, 2.50759)]
)
def test_expected_maximum_as_tabled(count: int, tabled: float) -> None:
    """Harter 1961, table of expected values of normal order statistics."""
    assert expected_maximum(count) == pytest.approx(tabled, abs=2e-5)


def test_a_step_is_as_long_as_its_slowest_rank() -> None:
    machine = load_machine("dgx1-v100-16gb")
    drawn = np.random.default_rng(0).normal(size=(200_000, 8)).max(axis=1).mean()
    assert variation_frac(machine, 8) == pytest.approx(0.0148 * drawn, rel=0.01)
    assert lateness_s(machine, 8, 10**8) == pytest.approx(0.006 * drawn, rel=0.01)
    assert lateness_s(machine, 8, 8 * 10**8) == pytest.approx(2 * lateness_s(machine, 8, 10**8))
    assert lateness_s(machine, 1, 10**8) == variation_frac(machine, 1) == 0


def test_how_the_slowest_is_spread() -> None:
    drawn = np.random.default_rng(1).normal(size=(100_000, 80)).max(axis=1)
    for part in (0.05, 0.5, 0.95):
        assert maximum_quantile(80, part) == pytest.approx(float(np.quantile(drawn, part)), abs=0.02)
