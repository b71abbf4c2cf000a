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

    Fitted on logarithms, so that every size counts alike and both constants stay above zero, by Huber's M-estimator, so that a
    size at which the backend behaves otherwise does not bend the line (Huber, Robust Statistics, 1981, section 7.8; covariance
    by his equation 6.5 there). Intervals: Student's t on the logarithm.
    """
    sizes = np.asarray(size_bytes, dtype=np.float64)
    return plane(np.ones_like(sizes), sizes, seconds)


def plane(latencies: ArrayLike, volumes: ArrayLike, seconds: ArrayLike) -> Line | None:
    """As `line`, of figures that hold `latencies` times the latency and `volumes` bytes each, all of shape (points,)."""
    times = np.asarray(seconds, dtype=np.float64)
    terms = np.stack([np.asarray(latencies, dtype=np.float64), np.asarray(volumes, dtype=np.float64)], axis=1)
    if len(times) < FEWEST or not (times > 0).all():
        return None
    weights = np.ones_like(times)
    # A guess: the quickest is latency alone; of the slowest, at least a tenth is not.
    quickest, slowest = int(times.argmin()), int(times.argmax())
    per_byte = max(times[slowest] - times[quickest], 0.1 * times[slowest]) / terms[slowest, 1]
    values: Vector = np.log(np.array([times[quickest] / terms[quickest, 0], per_byte]))
    for _ in range(_ROUNDS):
        fit = fitted(partial(_residuals, terms, np.log(times), np.sqrt(weights)), values)
        if fit is None or not np.isfinite(fit.values).all():
            return None
        found, slopes = _residuals(terms, np.log(times), np.ones_like(times), fit.values)
        scale = float(np.median(abs(found))) / _MEDIAN_NORMAL
        settled = bool((abs(fit.values - values) < _SETTLED).all())
        values = fit.values
        if settled or scale == 0:
            break
        weights = np.minimum(1.0, _TUNING * scale / np.maximum(abs(found), 1e-300))
    half = _half_widths(found, slopes, scale)
    # Its part of any figure tells a constant; where that is small everywhere, noise would.
    if not (half < _WIDEST).all() or (slopes.max(axis=0) < _LEAST_PART).any():
        return None
    # Seconds of a byte: the bandwidth's interval is upside down.
    low, middle, high = (np.exp(values + way * half) for way in (-1, 0, 1))
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


def _residuals(
    terms: NDArray[np.float64], log_times: Vector, weights: Vector, values: Vector
) -> tuple[Vector, NDArray[np.float64]]:
    """Predicted less measured logarithms, weighted, and the derivatives to the logarithms of both constants."""
    # A step of the search may overshoot what a float holds.
    parts = terms * np.exp(np.minimum(values, 300.0))
    whole = parts.sum(axis=1)
    return weights * (np.log(whole) - log_times), weights[:, None] * parts / whole[:, None]


def _half_widths(found: Vector, slopes: NDArray[np.float64], scale: float) -> Vector:
    """Half the intervals of the two logarithms."""
    degrees = len(found) - slopes.shape[1]
    if scale == 0:
        return np.zeros(slopes.shape[1])
    clipped = np.clip(found / scale, -_TUNING, _TUNING)
    inside = float(np.mean(abs(found) <= _TUNING * scale))
    correction = 1 + slopes.shape[1] / len(found) * (1 - inside) / inside
    variance = (correction * scale / inside) ** 2 * float(clipped @ clipped) / degrees
    covariance = variance * np.linalg.inv(slopes.T @ slopes)
    return np.asarray(special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * np.sqrt(np.diag(covariance)))
