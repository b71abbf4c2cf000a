"""Which constants fit measured figures best, and how sure that says they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Vector = NDArray[np.float64]

_STEPS = 25
_SETTLED = 1e-9
# Below this part of the largest singular value two columns say the same.
_SAME = 1e-6


@dataclass(frozen=True)
class Fit:
    """`values`, in the order of the start; `covariance` of them, None where there are no more figures than constants; `noise` the
    standard deviation of a residual, in its own units; `degrees` of freedom of it."""

    values: Vector
    covariance: NDArray[np.float64] | None
    noise: float
    degrees: int

    def half_width(self, gradient: Vector, confidence: float, own_noise: float = 0.0) -> float | None:
        """Half the interval of a figure with that gradient to the constants: t sqrt(g' C g + own_noise^2), Student's t;
        None where nothing is known."""
        if self.covariance is None:
            return None
        variance = float(gradient @ self.covariance @ gradient) + own_noise**2
        return float(special.stdtrit(self.degrees, (1 + confidence) / 2) * np.sqrt(variance))


def fitted(residuals: Callable[[Vector], tuple[Vector, NDArray[np.float64]]], start: Vector) -> Fit | None:
    """The constants with the least sum of squared residuals, by Gauss and Newton; None where they can't be told apart.

    `residuals` gives predicted less measured, each in units of its noise, shape (figures,), and their derivatives, shape
    (figures, constants). Covariance: s^2 (J'J)^-1, s^2 the mean squared residual per degree of freedom (Draper and Smith,
    Applied Regression Analysis, 3rd edition, sections 5.1 and 24.2).
    """
    values = start.astype(float)
    for _ in range(_STEPS):
        found, slopes = residuals(values)
        scale = np.linalg.norm(slopes, axis=0)
        if len(found) < len(values) or not ((scale > 0) & np.isfinite(scale)).all():
            return None
        _, singular, _ = np.linalg.svd(slopes / scale, full_matrices=False)
        if singular[-1] < _SAME * singular[0]:
            return None
        change = np.linalg.lstsq(slopes / scale, -found, rcond=None)[0] / scale
        values = values + change
        if (abs(change) <= _SETTLED * (abs(values) + _SETTLED)).all():
            break
    found, slopes = residuals(values)
    degrees = len(found) - len(values)
    if degrees == 0:
        return Fit(values, None, 0.0, 0)
    noise = float(np.sqrt(found @ found / degrees))
    covariance = np.asarray(noise**2 * np.linalg.inv(slopes.T @ slopes), dtype=np.float64)
    return Fit(values, covariance, noise, degrees)
