"""Least squares against a textbook's straight line, and where there is nothing to find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.theory.least_squares import fitted

Array = NDArray[np.float64]
X = np.array([1.0, 2, 3, 4, 5])
Y = np.array([1.1, 1.9, 3.2, 3.9, 5.1])


def line(values: Array) -> tuple[Array, Array]:
    return values[0] + values[1] * X - Y, np.stack([np.ones(5), X], axis=1)


def test_a_straight_line_by_hand() -> None:
    """Slope S_xy / S_xx = 10 / 10, intercept 3.04 - 3; variance of the slope s^2 / S_xx; Student's t of 3 degrees at 95 %."""
    found = fitted(line, np.array([5.0, -3.0]))
    assert found is not None and found.covariance is not None
    assert found.values.tolist() == pytest.approx([0.04, 1.0])
    residuals = Y - 0.04 - X
    assert found.noise == pytest.approx(float(residuals @ residuals / 3) ** 0.5) and found.degrees == 3
    assert found.half_width(np.array([0.0, 1.0]), 0.95) == pytest.approx(3.182446 * found.noise / 10**0.5)
    # A further figure at the mean of x: s^2 (1 + 1/5).
    assert found.half_width(np.array([1.0, 3.0]), 0.95, found.noise) == pytest.approx(3.182446 * found.noise * 1.2**0.5)


def test_a_curve_is_reached_from_afar() -> None:
    def growth(values: Array) -> tuple[Array, Array]:
        curve = np.exp(values[0] * X)
        return curve - np.exp(0.3 * X), (X * curve)[:, None]

    found = fitted(growth, np.array([0.8]))
    assert found is not None and found.values[0] == pytest.approx(0.3) and found.noise == pytest.approx(0.0, abs=1e-9)


def same(values: Array) -> tuple[Array, Array]:
    return (values[0] + values[1]) * X - Y, np.stack([X, X], axis=1)


def without_effect(values: Array) -> tuple[Array, Array]:
    return values[0] * X - Y, np.stack([X, 0 * X], axis=1)


def too_few(values: Array) -> tuple[Array, Array]:
    return values.sum(keepdims=True) - 1.0, np.ones((1, 2))


def off_the_scale(values: Array) -> tuple[Array, Array]:
    return values[0] * X - Y, np.full((5, 2), np.nan)


@pytest.mark.parametrize("residuals", [same, without_effect, too_few, off_the_scale])
def test_what_cannot_be_told_apart_is_none(residuals: Any) -> None:
    assert fitted(residuals, np.array([1.0, 1.0])) is None


def test_as_many_figures_as_constants_say_nothing_of_how_sure_they_are() -> None:
    def through(values: Array) -> tuple[Array, Array]:
        found, slopes = line(values)
        return found[:2], slopes[:2]

    found = fitted(through, np.array([0.0, 0.0]))
    assert found is not None and found.covariance is None and found.half_width(np.ones(2), 0.95) is None
    assert found.values.tolist() == pytest.approx([0.3, 0.8])
