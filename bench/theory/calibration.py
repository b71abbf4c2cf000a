"""What measured launches say of the constants that a projection needs: least squares, with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProjectionError
from bench.theory.least_squares import Fit, Vector, fitted
from bench.theory.machine import Machine, Network, load_machine, machine_names
from bench.theory.measured_work import MeasuredWork, Observation, Series, described, parts

# Relative change by which a derivative is taken.
_NUDGE = 1e-3


@dataclass(frozen=True)
class Calibration:
    """The constants that fit a measured workload. `own_1_s`: by series, one rank's whole step. `hop_ratio` and `link_ratio`:
    measured over described, 1 where they were not fitted; `free` names those that were, in the order of the fit."""

    work: MeasuredWork
    machine: Machine
    used: tuple[Observation, ...]
    own_1_s: dict[Series, float]
    hop_ratio: float
    link_ratio: float
    free: tuple[str, ...]
    fit: Fit

    def gradient(self, series: Series) -> Vector:
        """Of one rank's whole step of a series, to all that was fitted."""
        return self._unit(list(self.own_1_s).index(series))

    def gradient_of(self, ratio: str) -> Vector:
        """Of a ratio of the network that was fitted."""
        return self._unit(len(self.own_1_s) + self.free.index(ratio))

    def _unit(self, place: int) -> Vector:
        return np.asarray(np.eye(len(self.fit.values))[place])


def machine_of(work: MeasuredWork, name: str | None) -> Machine:
    """The machine that a workload was measured on: the named one, and by default `cpu-gloo` for gloo.

    Raises ProjectionError for GPUs without a name, which no record tells from each other, and for a machine of another
    backend than the launches'; MachineError for an unknown name.
    """
    if name is None and work.backend == "gloo":
        return load_machine("cpu-gloo")
    known = {one: load_machine(one) for one in machine_names()}
    if name is None:
        device = str(work.device_name).removeprefix("NVIDIA ").removeprefix("Tesla ")
        fitting = [one for one, machine in known.items() if machine.device.name == device]
        hint = f"described with that device: {', '.join(fitting)}" if fitting else "give a YAML file of your own"
        raise ProjectionError(f"--machine: missing, and the launches ran on {work.device_name}", hint=hint)
    machine = load_machine(name)
    if machine.node.backend != work.backend:
        fitting = [one for one, other in known.items() if other.node.backend == work.backend]
        raise ProjectionError(
            f"--machine: found {machine.name}, which talks over {machine.node.backend}, but the launches over {work.backend}",
            hint=f"such machines: {', '.join(fitting)}",
        )
    return machine


def calibrate(work: MeasuredWork, machine: Machine, world_sizes: Collection[int] | None = None) -> Calibration:
    """Fit one rank's step of each series, the seconds of a hop and the bytes/s of the links to the launches of `work`.

    Least squares over launches, each figure in units of its whole step: a step on n ranks is `parts` of it by the theory. The
    hop is fitted for gloo alone (NCCL's latencies are its own), links inside one node. `world_sizes`: those whose
    launches are used, all by default. A constant that the launches can't tell apart from another, or that comes out
    at zero or below, stays as the machine file has it. Raises ProjectionError where no series has a rank's own seconds.
    """
    usable = [seen for seen in work.observations if world_sizes is None or seen.world_size in world_sizes]
    alone = {seen.series for seen in usable if seen.part == "own" or (seen.part == "step" and seen.world_size == 1)}
    most = machine.node.num_devices
    used = tuple(seen for seen in usable if seen.series in alone and seen.world_size <= most)
    if not used:
        raise ProjectionError(
            f"{work.cell.model}: no launch tells what one rank does by itself",
            hint="measure world_size 1, or add attribution_launches: 1",
        )
    series = tuple(sorted({seen.series for seen in used}))
    free, fit = _best(work, machine, used, series)
    ratios = dict(zip(free, fit.values[len(series) :].tolist(), strict=True))
    own_1_s = dict(zip(series, fit.values.tolist(), strict=False))
    return Calibration(work, machine, used, own_1_s, ratios.get("hop", 1.0), 1 / ratios.get("link", 1.0), free, fit)


def plainest(found: Calibration, grad_accum_steps: int) -> Series:
    """The series whose step stands for what one rank computes, where the model does not sleep a known time: DDP, which has the
    least host cost, else the fastest. Raises ProjectionError where nothing was measured at that accumulation."""
    own = {series: seconds for series, seconds in found.own_1_s.items() if series[1] == grad_accum_steps}
    if not own:
        measured = ", ".join(str(steps) for steps in sorted({steps for _, steps in found.own_1_s}))
        raise ProjectionError(
            f"accumulation {grad_accum_steps}: nothing was measured at it", hint=f"measured: {measured}"
        )
    return ("ddp", grad_accum_steps) if ("ddp", grad_accum_steps) in own else min(own, key=lambda one: own[one])


def compute_s(found: Calibration, grad_accum_steps: int) -> float:
    """What a step of one rank computes, without host cost: a paced model's sleeps, else the plainest series' step."""
    known = found.work.known_compute_s(grad_accum_steps)
    return found.own_1_s[plainest(found, grad_accum_steps)] if known is None else known


def network_constants(work: MeasuredWork) -> tuple[str, ...]:
    """What of the network can be fitted: for NCCL the links alone, whose latencies are its own."""
    return ("hop", "link") if work.backend == "gloo" else ("link",)


def _best(
    work: MeasuredWork, machine: Machine, used: Sequence[Observation], series: tuple[Series, ...]
) -> tuple[tuple[str, ...], Fit]:
    """The fit with the most constants that come out above zero, and which of the network's are free in it."""
    start = [_first_guess(used, one) for one in series]
    network = network_constants(work) if any(seen.world_size > 1 for seen in used) else ()
    for number in range(len(network), -1, -1):
        found = []
        for free in itertools.combinations(network, number):
            residuals = partial(_residuals, work, machine, used, series, free)
            try:
                fit = fitted(residuals, np.array([*start, *[1.0] * number]))
            except ProjectionError:
                continue  # on its way it came to a step of no length
            if fit is not None and (fit.values > 0).all():
                found.append((free, fit))
        if found:
            return min(found, key=lambda pair: pair[1].noise)
    raise ProjectionError(
        f"{work.cell.model}: no constants fit its launches, which are too few or contradict each other",
        hint="fit to fewer of them: --fit-world-sizes 1,2",
    )


def _first_guess(used: Sequence[Observation], series: Series) -> float:
    return float(np.mean([s.seconds for s in used if s.series == series and (s.part == "own" or s.world_size == 1)]))


def _residuals(
    work: MeasuredWork,
    machine: Machine,
    used: Sequence[Observation],
    series: tuple[Series, ...],
    free: tuple[str, ...],
    values: Vector,
) -> tuple[Vector, NDArray[np.float64]]:
    """Predicted less measured in units of each whole step, and the derivatives to all constants."""
    cells: dict[tuple[Series, int], NDArray[np.float64]] = {}
    found, slopes = np.zeros(len(used)), np.zeros((len(used), len(values)))
    columns = [len(series) + number for number in range(len(free))]
    for row, seen in enumerate(used):
        place = series.index(seen.series)
        key = (seen.series, seen.world_size)
        if key not in cells:
            ratios = dict(zip(free, values[columns], strict=True))
            cells[key] = differentiated(work, machine, *key, float(values[place]), ratios, free)
        own, exposed = cells[key]
        line = {"step": own + exposed, "own": own, "exposed": exposed}[seen.part]
        found[row] = (line[0] - seen.seconds) / seen.whole_s
        slopes[row, [place, *columns]] = line[1:] / seen.whole_s
    return found, slopes


def differentiated(
    work: MeasuredWork,
    machine: Machine,
    series: Series,
    world_size: int,
    own_1_s: float,
    ratios: Mapping[str, float],
    free: Sequence[str],
    network: Network | None = None,
) -> NDArray[np.float64]:
    """Own and exposed seconds of a step (two rows): the value, and the derivatives to `own_1_s` and the ratios in `free`.

    `ratios`: of a hop, and of the seconds a byte takes, to what the machine file says.
    """

    def at(own_s: float, changed: Mapping[str, float]) -> NDArray[np.float64]:
        there = described(work, machine, changed.get("hop", 1.0), 1 / changed.get("link", 1.0))
        return np.array(parts(work, series, world_size, own_s, there, network))

    value = at(own_1_s, ratios)
    lines = [value, (at(own_1_s * (1 + _NUDGE), ratios) - value) / (_NUDGE * own_1_s)]
    for name in free:
        nudged = {**ratios, name: ratios[name] * (1 + _NUDGE)}
        lines.append((at(own_1_s, nudged) - value) / (_NUDGE * ratios[name]))
    return np.asarray(np.array(lines, dtype=np.float64).T)
