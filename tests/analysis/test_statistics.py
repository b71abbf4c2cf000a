"""The statistics as statistics: in seeded experiments whose truth is known, intervals cover it as often as they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from bench.analysis.statistics import Estimate, Noise, around, drift, interval_of_difference, mean, outliers

NUM_EXPERIMENTS = 2000
NUM_STEPS = 20
AUTOCORRELATION = 0.4

Generator = np.random.Generator
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def normal(random: Generator, shape: tuple[int, ...], frac: float) -> Array:
    return random.normal(0, frac, shape)


def skewed(random: Generator, shape: tuple[int, ...], frac: float) -> Array:
    """A gamma of shape 2, skewness 1.4: launches that are late are later than early ones are early."""
    return (random.gamma(2, 1, shape) - 2) / math.sqrt(2) * frac


def launches(
    random: Generator,
    shape: tuple[int, ...],
    launch_frac: float = 0.03,
    step_frac: float = 0.03,
    noise: Callable[[Generator, tuple[int, ...], float], Array] = normal,
) -> Array:
    """The median step of each launch, 0.1 s: noise between launches, and inside them noise of steps that depend on each other."""
    steps = np.empty((*shape, NUM_STEPS))
    fresh = random.normal(0, step_frac, steps.shape)
    steps[..., 0] = fresh[..., 0]
    for step in range(1, NUM_STEPS):
        steps[..., step] = AUTOCORRELATION * steps[..., step - 1] + (1 - AUTOCORRELATION**2) ** 0.5 * fresh[..., step]
    return np.asarray(0.1 * np.median(np.exp(noise(random, shape, launch_frac)[..., None] + steps), axis=-1))


@pytest.mark.parametrize("num_launches", [2, 3, 5, 10])
@pytest.mark.parametrize(("noise", "least"), [(normal, 0.93), (skewed, 0.91)])
def test_intervals_cover_the_truth_as_often_as_they_say(
    noise: Callable[[Generator, tuple[int, ...], float], Array], least: float, num_launches: int
) -> None:
    random = np.random.default_rng(1)
    truth = launches(random, (200_000,), noise=noise).mean()
    covered = 0
    for sample in launches(random, (NUM_EXPERIMENTS, num_launches), noise=noise):
        low, high = mean(sample).interval() or (math.nan, math.nan)
        covered += low <= truth <= high
    assert least <= covered / NUM_EXPERIMENTS <= 0.97


@pytest.mark.parametrize("num_launches", [2, 5, 10])
def test_intervals_of_ratios_cover_the_truth(num_launches: int) -> None:
    """Of unequal noise too, as a cell at one rank and the same at eight have."""
    random = np.random.default_rng(2)
    base, many = (launches(random, (NUM_EXPERIMENTS, num_launches), launch_frac=frac) for frac in (0.01, 0.05))
    truth = [launches(random, (200_000,), launch_frac=frac).mean() for frac in (0.01, 0.05)]
    covered = 0
    for one, eight in zip(base, many, strict=True):
        low, high = (mean(eight) / mean(one)).interval() or (math.nan, math.nan)
        covered += low <= truth[1] / truth[0] <= high
    assert 0.93 <= covered / NUM_EXPERIMENTS <= 0.97


def test_the_bootstrap_is_not_used_because_it_covers_too_little() -> None:
    """BCa at 5 and at 10 launches, on the same experiments: what it says is 95 % is not."""
    random = np.random.default_rng(1)
    truth = launches(random, (200_000,)).mean()
    for num_launches, at_most in ((5, 0.88), (10, 0.93)):
        sample = launches(random, (500, num_launches))
        found = stats.bootstrap(
            (sample,), np.mean, axis=-1, method="BCa", n_resamples=1000, vectorized=True, rng=np.random.default_rng(0)
        ).confidence_interval
        assert ((found.low <= truth) & (truth <= found.high)).mean() < at_most


def test_a_mean_by_hand() -> None:
    # 9, 10, 11: mean 10, standard deviation 1, of the mean 1 / sqrt(3); t of 2 degrees at 97.5 % is 4.3027 (Fisher's table).
    found = mean([9.0, 10.0, 11.0])
    assert (found.value, found.degrees) == (10.0, 2.0)
    assert found.error_frac == pytest.approx(0.1 / math.sqrt(3))
    assert found.interval() == pytest.approx((10 * math.exp(-0.24842), 10 * math.exp(0.24842)), rel=1e-4)


def test_one_launch_has_no_interval_and_takes_it_from_every_ratio() -> None:
    assert mean([3.0]) == Estimate(3.0)
    assert mean([3.0]).interval() is None
    assert (mean([3.0]) / mean([1.0, 1.1])).interval() is None
    assert interval_of_difference([3.0]) is None
    with pytest.raises(ValueError, match="no launch"):
        mean([])


def test_welch_degrees_against_scipy() -> None:
    # With little noise the logarithm's t test is Welch's on the values.
    random = np.random.default_rng(3)
    one, other = 1 + random.normal(0, 1e-4, 6), 1 + random.normal(0, 3e-4, 9)
    found = mean(one) / mean(other)
    expected = stats.ttest_ind(one, other, equal_var=False)
    assert found.degrees == pytest.approx(expected.df, rel=1e-3)
    low, high = found.interval() or (math.nan, math.nan)
    wanted = expected.confidence_interval()
    assert (low - 1, high - 1) == pytest.approx((wanted.low, wanted.high), rel=1e-2)


def test_an_interval_stays_above_zero_however_wide() -> None:
    low, high = mean([1.0, 1000.0]).interval() or (math.nan, math.nan)
    assert 0 <= low < 1 and high > 1000 and math.isfinite(high)


def test_around_keeps_the_figure_and_takes_the_certainty_of_the_launches() -> None:
    found = around(0.9, [0.8, 0.9, 1.0])
    assert (found.value, found.error_frac) == (0.9, mean([0.8, 0.9, 1.0]).error_frac)


def test_a_difference_may_be_below_zero() -> None:
    low, high = interval_of_difference([-0.001, 0.001, 0.003]) or (math.nan, math.nan)
    # Mean 0.001, standard deviation 0.002, of the mean 0.0011547; t 4.3027.
    assert (low, high) == pytest.approx((0.001 - 0.0049684, 0.001 + 0.0049684), rel=1e-4)


def suite(random: Generator, fracs: Sequence[float], num_launches: int) -> list[Array]:
    return [np.exp(random.normal(0, frac, num_launches)) for frac in fracs]


def test_equal_noise_is_pooled_and_unequal_noise_is_not() -> None:
    random = np.random.default_rng(4)
    equal = [Noise.of(suite(random, [0.02] * 30, 4)) for _ in range(50)]
    assert np.median([found.variance**0.5 for found in equal if found]) == pytest.approx(0.02, rel=0.05)
    assert np.median([found.degrees for found in equal if found]) > 30
    unequal = [Noise.of(suite(random, np.geomspace(0.002, 0.2, 30).tolist(), 4)) for _ in range(50)]
    assert np.median([found.degrees for found in unequal if found]) < 3


def test_noise_needs_several_cells_and_several_launches() -> None:
    random = np.random.default_rng(5)
    assert Noise.of(suite(random, [0.02] * 5, 4)) is None
    assert Noise.of(suite(random, [0.02] * 40, 1)) is None
    # Launches that agree to the last digit say nothing of the scale, and break nothing.
    assert Noise.of([[1.0, 1.0]] * 40) is None


def test_common_noise_is_recovered_as_smyth_defines_it() -> None:
    """Variances drawn from the model itself: s0^2 d0 / chi2(d0), here d0 = 8 and s0 = 0.03."""
    random = np.random.default_rng(6)
    true = 0.03**2 * 8 / random.chisquare(8, 4000)
    found = Noise.of([np.exp(random.normal(0, variance**0.5, 5)) for variance in true])
    assert found is not None
    assert found.variance**0.5 == pytest.approx(0.03, rel=0.03)
    assert found.degrees == pytest.approx(8, rel=0.2)


def test_outliers_by_the_fences_of_a_textbook() -> None:
    # Quartiles 3 and 7, range 4: inner fences -3 and 13, outer fences -9 and 19.
    values = [1, 2, 3, 4, 5, 6, 7, 8, 9.0]
    assert outliers(values) == (0, 0)
    assert outliers([*values, 14.9]) == (1, 0)
    assert outliers([*values, 25]) == (0, 1)
    assert outliers([1.0, 100.0]) == (0, 0)


def interleaved(random: Generator, frac: float, drift_frac: float, rounds: int = 5) -> tuple[list[str], list[float]]:
    """Six cells of unequal speed in rounds of random order, on a machine that becomes slower."""
    names, values = [], []
    for number in range(rounds * 6):
        if number % 6 == 0:
            order = random.permutation(6)
        cell = int(order[number % 6])
        names.append(f"cell {cell}")
        slower = 1 + drift_frac * number / (rounds * 6 - 1)
        values.append(0.1 * (1 + cell) * slower * math.exp(random.normal(0, frac)))
    return names, values


def test_a_drifting_machine_is_found_out_and_a_steady_one_is_not() -> None:
    random = np.random.default_rng(7)
    estimates, found, false = [], 0, 0
    for _ in range(500):
        trend = drift(*interleaved(random, 0.01, 0.05))
        steady = drift(*interleaved(random, 0.01, 0.0))
        assert trend is not None and steady is not None
        estimates.append(trend.value)
        found += (trend.interval(0.99) or (0, 0))[0] > 1
        low, high = steady.interval(0.99) or (0, 0)
        false += not low <= 1 <= high
    assert np.mean(estimates) == pytest.approx(1.05, abs=0.002)
    assert found / 500 >= 0.99
    assert false / 500 <= 0.02


def test_drift_is_not_known_from_one_launch_a_cell() -> None:
    assert drift(["a", "b", "c"], [1.0, 2.0, 3.0]) is None
    assert drift([], []) is None
