"""The naive model that the theory has to beat: three constants, fitted to the very rows on which it is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.theory.published_rows import PublishedRow
from bench.theory.workload import BACKWARD_FRAC
from bench.theory.zero_settings import DTYPE_BYTES

Constants = tuple[float, float, float]
"""Bus bandwidth in bytes/s, the part of the backward pass that hides communication, the part that sharing a node costs."""


def naive_efficiency(rows: Sequence[PublishedRow], constants: Constants) -> NDArray[np.float64]:
    """t / (t (1 + s) + max(0, c - h b t)): t one GPU's step, c = 2 (n - 1) / n x bytes / bandwidth, b the backward part."""
    bandwidth, hidden, shared = constants
    step_s = np.array([row.step_time_1_s for row in rows])
    ranks = np.array([row.world_size for row in rows])
    sent = np.array([row.num_params * DTYPE_BYTES[row.precision] for row in rows])
    backward_s = BACKWARD_FRAC * step_s / np.array([row.grad_accum_steps for row in rows])
    exposed_s = np.maximum(0.0, 2 * (ranks - 1) / ranks * sent / bandwidth - hidden * backward_s)
    return np.asarray(step_s / (step_s * (1 + shared) + exposed_s))


def fitted_naive(rows: Sequence[PublishedRow]) -> Constants:
    """The constants with the least mean absolute error of efficiency on `rows`: a grid, made finer around its best point."""
    published = np.array([row.efficiency for row in rows])
    low, high = np.array([9.0, 0.0, 0.0]), np.array([11.5, 1.0, 0.3])
    best: Constants = (1e10, 0.0, 0.0)
    for _ in range(6):
        axes = [np.linspace(low[axis], high[axis], 9) for axis in range(3)]
        tried = [
            (float(np.mean(abs(naive_efficiency(rows, (10**a, h, s)) - published))), (float(10**a), float(h), float(s)))
            for a in axes[0]
            for h in axes[1]
            for s in axes[2]
        ]
        best = min(tried)[1]
        centre, reach = np.array([np.log10(best[0]), best[1], best[2]]), (high - low) / 4
        low, high = np.maximum([8.0, 0.0, 0.0], centre - reach), np.minimum([12.5, 1.0, 0.5], centre + reach)
    return best
