"""What a step would take where nothing was measured, by constants that were fitted to what was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.errors import ProjectionError, nearest
from bench.plan.strategies import STRATEGIES
from bench.theory.calibration import Calibration, compute_s, differentiated, network_constants, plainest
from bench.theory.least_squares import Vector
from bench.theory.machine import Network
from bench.theory.measured_work import Series
from bench.theory.project import efficiency_error, in_proportion

CONFIDENCE = 0.90
"""As the intervals of `bench.theory.project`."""


@dataclass(frozen=True)
class Foreseen:
    """A projected step. `efficiency` is weak scaling's against one rank of the same series; intervals are meant to hold nine of
    ten, None where nothing tells how sure it is. `in_fit`: launches of this very cell were fitted to, so that it is no
    prediction."""

    strategy: str
    grad_accum_steps: int
    world_size: int
    nodes: int
    step_time_s: float
    step_time_lo_s: float | None
    step_time_hi_s: float | None
    efficiency: float
    efficiency_lo: float | None
    efficiency_hi: float | None
    own_s: float
    exposed_comm_s: float
    tokens_per_s: float
    in_fit: bool


def foresee(found: Calibration, series: Series, world_size: int, network: Network | None = None) -> Foreseen:
    """The step of the calibrated workload under a strategy and accumulation on `world_size` ranks, each doing all of it.

    A strategy that was not measured has the host cost of the one nearest to it, which may be off by all of that. The interval
    is the fit's own, and where nothing of that cell was fitted to, the theory's error in efficiency with it
    (`efficiency_error`), the two as independent. Raises ProjectionError for an unknown strategy, an accumulation at which
    nothing was measured, and several nodes without a network.
    """
    own_1_s, gradient, doubt_s = _own(found, series)
    ratios = {"hop": found.hop_ratio, "link": 1 / found.link_ratio}
    own, exposed = differentiated(found.work, found.machine, series, world_size, own_1_s, ratios, found.free, network)
    own_s, exposed_s = float(own[0]), float(exposed[0])
    step_s = own_s + exposed_s
    slopes = own[1:] + exposed[1:]
    whole = slopes[0] * gradient
    whole[len(found.own_1_s) :] += slopes[1:]
    half_s = found.fit.half_width(whole, CONFIDENCE, found.fit.noise * step_s)
    in_fit = any((seen.series, seen.world_size) == (series, world_size) for seen in found.used)
    efficiency = own_1_s / step_s
    rates_fitted = found.free == network_constants(found.work)
    theory = 0.0 if in_fit else efficiency_error(series[0], found.machine, world_size, rates_fitted)
    of_fit = efficiency * float(np.hypot(half_s or 0.0, doubt_s)) / step_s
    error = float(np.hypot(in_proportion(theory, efficiency), of_fit))
    low = efficiency - min(error, 0.9 * efficiency) if error else None
    # Ranks gain nothing by being several: noise alone reaches beyond 1.
    high = max(efficiency + of_fit, min(1.0, efficiency + error)) if error else None
    return Foreseen(
        strategy=series[0],
        grad_accum_steps=series[1],
        world_size=world_size,
        nodes=found.machine.num_nodes(world_size),
        step_time_s=step_s,
        step_time_lo_s=None if high is None else own_1_s / high,
        step_time_hi_s=None if low is None else own_1_s / low,
        efficiency=efficiency,
        efficiency_lo=low,
        efficiency_hi=high,
        own_s=own_s,
        exposed_comm_s=exposed_s,
        tokens_per_s=world_size * series[1] * found.work.cell.micro_batch_size * found.work.cell.seq_len / step_s,
        in_fit=in_fit,
    )


def _own(found: Calibration, series: Series) -> tuple[float, Vector, float]:
    """One rank's whole step, its derivatives to the fitted constants, and by how much it may be off where it is assumed."""
    strategy, steps = series
    if strategy not in STRATEGIES:
        raise ProjectionError(f"--strategy: found {strategy!r}", hint=nearest(strategy, STRATEGIES))
    if series in found.own_1_s:
        return found.own_1_s[series], found.gradient(series), 0.0
    # Raises where nothing was measured at that accumulation.
    nearest_one = plainest(found, steps)
    for one in found.own_1_s:
        if one[1] == steps and abs(_stage(one[0]) - _stage(strategy)) < abs(_stage(nearest_one[0]) - _stage(strategy)):
            nearest_one = one
    own_s = found.own_1_s[nearest_one]
    return own_s, found.gradient(nearest_one), abs(own_s - compute_s(found, steps))


def _stage(strategy: str) -> int:
    spec = STRATEGIES[strategy]
    return -1 if spec.zero_stage is None and not spec.stage else spec.stage
