"""Latency and bandwidth out of noisy seconds: the truth lies in the interval as often as it says, and outliers don't bend it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.theory.line_fit import line, plane

LATENCY_S, BANDWIDTH = 2e-4, 1e9


def experiment(draw: np.random.Generator, octaves: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    sizes = 1024 * 2.0 ** np.arange(octaves)
    return sizes, (LATENCY_S + sizes / BANDWIDTH) * np.exp(noise * draw.standard_normal(octaves))


@pytest.mark.parametrize(("octaves", "noise"), [(18, 0.05), (18, 0.15), (12, 0.1)])
def test_intervals_hold_what_they_promise(octaves: int, noise: float) -> None:
    """95 % intervals around planted constants, 400 experiments: 91 to 98 %, three standard errors around what Huber's
    asymptotic covariance reaches with so few figures."""
    draw = np.random.default_rng(octaves)
    inside = np.zeros(2)
    for _ in range(400):
        found = line(*experiment(draw, octaves, noise))
        assert found is not None
        inside += [
            found.latency_s_lo <= LATENCY_S <= found.latency_s_hi,
            found.bandwidth_bytes_per_s_lo <= BANDWIDTH <= found.bandwidth_bytes_per_s_hi,
        ]
    assert ((inside / 400 > 0.90) & (inside / 400 < 0.985)).all(), inside / 400


def test_without_noise_both_constants_are_exact() -> None:
    found = line(*experiment(np.random.default_rng(0), 18, 0.0))
    assert found is not None and found.num_points == 18 and found.error_frac < 1e-9
    assert found.latency_s == pytest.approx(LATENCY_S) and found.bandwidth_bytes_per_s == pytest.approx(BANDWIDTH)


def test_a_size_at_which_all_stands_still_does_not_bend_the_line() -> None:
    draw = np.random.default_rng(3)
    sizes, seconds = experiment(draw, 18, 0.03)
    seconds[[4, 12]] *= 6
    found = line(sizes, seconds)
    plain = np.exp(np.polyfit(np.log(sizes[9:]), np.log(seconds[9:]), 0)[0])
    assert found is not None and plain > 0
    assert found.latency_s == pytest.approx(LATENCY_S, rel=0.06)
    assert found.bandwidth_bytes_per_s == pytest.approx(BANDWIDTH, rel=0.06)


def test_the_plateau_of_small_messages_sets_the_latency_and_not_the_bandwidth() -> None:
    """Ten more sizes at which nothing but latency shows leave the bandwidth where it was."""
    sizes = 2.0 ** np.arange(2, 29)
    found = line(sizes, LATENCY_S + sizes / BANDWIDTH)
    assert found is not None and found.bandwidth_bytes_per_s == pytest.approx(BANDWIDTH, rel=1e-6)


@pytest.mark.parametrize("seconds", [[1e-4] * 3, [1e-4] * 8, [1e-4, 0.0, 1e-4, 1e-4], [8e-4, 4e-4, 2e-4, 1e-4, 5e-5]])
def test_where_a_constant_does_not_show_there_is_none(seconds: list[float]) -> None:
    assert line([1024 * 2**place for place in range(len(seconds))], seconds) is None


def test_figures_may_hold_the_latency_several_times() -> None:
    counts, volumes = np.array([1.0, 2, 3, 4, 6]), np.array([1e6, 5e6, 1e5, 4e7, 2e4])
    found = plane(counts, volumes, counts * LATENCY_S + volumes / BANDWIDTH)
    assert found is not None and math.isclose(found.latency_s, LATENCY_S, rel_tol=1e-6)
    assert math.isclose(found.bandwidth_bytes_per_s, BANDWIDTH, rel_tol=1e-6)
