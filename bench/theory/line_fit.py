"""Latency and bandwidth of a collective, from seconds by size: t = latency + size / bandwidth, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bench.theory.least_squares import Vector, fitted

CONFIDENCE = 0.95
# Huber's: 95 % as efficient as least squares where the noise is normal.
_TUNING = 1.345
_ROUNDS = 30
_SETTLED = 1e-6
# The median absolute value of a normal variable, in units of its standard deviation.
_MEDIAN_NORMAL = 0.6745
# Of an interval's half, on the logarithm: a constant that may be a thousand times as large does not show.
_WIDEST = math.log(1e3)
_LEAST_PART = 0.1
# Sizes from this part of the largest on tell the bandwidth.
_LARGEST_FRAC = 1 / 16
# Two constants, and something to tell how far off they are.
FEWEST = 4


@dataclass(frozen=True)
class Line:
    """`latency_s` of a message without length, `bandwidth_bytes_per_s` of one without end, each with its 95 % interval.
    `error_frac`: the median relative residual, over `num_points` sizes."""

    latency_s: float
    latency_s_lo: float
    latency_s_hi: float
    bandwidth_bytes_per_s: float
    bandwidth_bytes_per_s_lo: float
    bandwidth_bytes_per_s_hi: float
    error_frac: float
    num_points: int


def line(size_bytes: ArrayLike, seconds: ArrayLike) -> Line | None:
    """The line through seconds by size, both of shape (points,); None for fewer than 4 sizes, and where the sizes are all so
    small, or all so large, that one of the constants does not show.

    Fitted on logarithms, so that both constants stay above zero and a size of a microsecond counts as one of a second. A size
    weighs by how purely it shows one constant: all of it where latency is all there is, down to nothing in between, and up again
    with the root of its size, because the bandwidth is that of a message without end; what lies between follows no line (a
    backend changes its way, a link lets a burst through). Huber's M-estimator, so that a size at which something stood still
    does not bend the line (Huber, Robust Statistics, 1981, section 7.8); then, with that latency, the bandwidth of the largest
    sizes alone, the median by bytes, which the interval is widened to hold. Intervals: Student's t on the logarithm, by the
    sandwich of those weights.
    """
    sizes = np.asarray(size_bytes, dtype=np.float64)
    return plane(np.ones_like(sizes), sizes, seconds)


def plane(latencies: ArrayLike, volumes: ArrayLike, seconds: ArrayLike) -> Line | None:
    """As `line`, of figures that hold `latencies` times the latency and `volumes` bytes each, all of shape (points,)."""
    times = np.asarray(seconds, dtype=np.float64)
    terms = np.stack([np.asarray(latencies, dtype=np.float64), np.asarray(volumes, dtype=np.float64)], axis=1)
    if len(times) < FEWEST or not (times > 0).all():
        return None
    large = np.sqrt(terms[:, 1] / terms[:, 1].max())
    # A guess: the quickest is latency alone; of the slowest, at least a tenth is not.
    quickest, slowest = int(times.argmin()), int(times.argmax())
    per_byte = max(times[slowest] - times[quickest], 0.1 * times[slowest]) / terms[slowest, 1]
    values: Vector = np.log(np.array([times[quickest] / terms[quickest, 0], per_byte]))
    clipped = np.ones_like(times)
    for _ in range(_ROUNDS):
        found, slopes = _residuals(terms, np.log(times), np.ones_like(times), values)
        shown = slopes[:, 0] ** 2 + large * slopes[:, 1] ** 2
        fit = fitted(partial(_residuals, terms, np.log(times), np.sqrt(shown * clipped)), values)
        if fit is None or not np.isfinite(fit.values).all():
            return None
        found, slopes = _residuals(terms, np.log(times), np.ones_like(times), fit.values)
        settled = bool((abs(fit.values - values) < _SETTLED).all())
        values = fit.values
        scale = _weighted_median(abs(found), shown) / _MEDIAN_NORMAL
        if settled or scale == 0:
            break
        clipped = np.minimum(1.0, _TUNING * scale / np.maximum(abs(found), 1e-300))
    half = _half_widths(found, slopes, shown, scale)
    # Its part of any figure tells a constant; where that is small everywhere, noise would.
    if not (half < _WIDEST).all() or (slopes.max(axis=0) < _LEAST_PART).any():
        return None
    # Seconds of a byte: the bandwidth's interval is upside down.
    low, middle, high = (np.exp(values + way * half) for way in (-1, 0, 1))
    per_byte = _of_the_largest(terms, times, float(middle[0]))
    low[1], middle[1], high[1] = min(low[1], per_byte), per_byte, max(high[1], per_byte)
    return Line(
        latency_s=float(middle[0]),
        latency_s_lo=float(low[0]),
        latency_s_hi=float(high[0]),
        bandwidth_bytes_per_s=float(1 / middle[1]),
        bandwidth_bytes_per_s_lo=float(1 / high[1]),
        bandwidth_bytes_per_s_hi=float(1 / low[1]),
        error_frac=float(np.median(abs(np.expm1(found)))),
        num_points=len(times),
    )


def _of_the_largest(terms: NDArray[np.float64], times: Vector, latency_s: float) -> float:
    """Seconds of a byte by the largest sizes, the median by bytes: what small ones do, by no line, has no say in it."""
    beyond = times - latency_s * terms[:, 0]
    chosen = (terms[:, 1] >= terms[:, 1].max() * _LARGEST_FRAC) & (beyond > 0)
    return _weighted_median(beyond[chosen] / terms[chosen, 1], terms[chosen, 1])


def _residuals(
    terms: NDArray[np.float64], log_times: Vector, weights: Vector, values: Vector
) -> tuple[Vector, NDArray[np.float64]]:
    """Predicted less measured logarithms, weighted, and the derivatives to the logarithms of both constants."""
    # A step of the search may overshoot what a float holds.
    parts = terms * np.exp(np.minimum(values, 300.0))
    whole = parts.sum(axis=1)
    return weights * (np.log(whole) - log_times), weights[:, None] * parts / whole[:, None]


def _weighted_median(values: Vector, weights: Vector) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _half_widths(found: Vector, slopes: NDArray[np.float64], weights: Vector, scale: float) -> Vector:
    """Half the intervals of the two logarithms: (J'WJ)^-1 J'W^2 J (J'WJ)^-1 times the residuals' variance, with Huber's
    correction. Degrees of freedom: the points that the weights come to, less two."""
    if scale == 0:
        return np.zeros(slopes.shape[1])
    clipped = np.clip(found / scale, -_TUNING, _TUNING)
    inside = float(weights @ (abs(found) <= _TUNING * scale)) / weights.sum()
    number = float(weights.sum() ** 2 / (weights @ weights))
    degrees = max(1.0, number - slopes.shape[1])
    correction = 1 + slopes.shape[1] / number * (1 - inside) / inside
    spread = float(weights @ clipped**2) / weights.sum() * number / degrees
    bread = np.linalg.inv(slopes.T @ (weights[:, None] * slopes))
    covariance = bread @ (slopes.T @ ((weights**2)[:, None] * slopes)) @ bread
    errors = np.sqrt((correction * scale / inside) ** 2 * spread * np.diag(covariance))
    return np.asarray(special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * errors)
