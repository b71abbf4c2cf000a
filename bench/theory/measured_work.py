"""A workload that was measured: what was seen of its steps, and what the theory makes of one rank's step on N ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from bench.errors import ConfigError, ProjectionError, SuiteError
from bench.plan.cell import Cell
from bench.plan.deepspeed_config import resolve_deepspeed_config
from bench.plan.strategies import STRATEGIES
from bench.results.metered import Outline
from bench.theory.collectives import Group, collective_s
from bench.theory.machine import Machine, Network, Quantity
from bench.theory.step import exchange_of, step
from bench.theory.traffic import TrafficLine, traffic
from bench.theory.transformer import Shape, preset_shape
from bench.theory.workload import Workload, copied, from_numbers
from bench.theory.zero_settings import UnknownTraffic

Series = tuple[str, int]
"""Strategy and accumulation: what one rank's own seconds depend on."""

Part = Literal["step", "own", "exposed"]


@dataclass(frozen=True)
class Observation:
    """One figure of one launch. `part`: its whole step; the slowest rank's own seconds, with nothing communicated; or what
    communication adds to them. `whole_s`: the step that it is a part of, to which its noise is in proportion."""

    series: Series
    world_size: int
    part: Part
    seconds: float
    whole_s: float
    launch_id: str
    cell_id: str


@dataclass(frozen=True, eq=False)
class MeasuredWork:
    """The weak cells of a results folder that differ in strategy, accumulation and world size alone.

    `cell` is one of them. `outlines`: by strategy, of metered launches. `num_cores`: those that all ranks of a host share;
    None on GPUs and across hosts, where they are no bottleneck that is known.
    """

    cell: Cell
    num_params: int
    device_type: str
    device_name: str | None
    backend: str
    num_cores: int | None
    observations: tuple[Observation, ...]
    outlines: Mapping[str, Outline] = field(default_factory=dict)

    @property
    def series(self) -> list[Series]:
        """Those that were measured, in order."""
        return sorted({seen.series for seen in self.observations})

    @property
    def world_sizes(self) -> list[int]:
        return sorted({seen.world_size for seen in self.observations})

    def known_compute_s(self, grad_accum_steps: int) -> float | None:
        """Seconds that a paced model's rank sleeps in a step, known by construction; None for a model that computes."""
        return self.cell.model_copy(update={"grad_accum_steps": grad_accum_steps}).paced_step_s

    def shape(self) -> Shape | None:
        """None for a model that is no preset."""
        try:
            return preset_shape(self.cell.model, self.cell.model_options)
        except (SuiteError, ProjectionError):
            return None


def parts(
    work: MeasuredWork,
    series: Series,
    world_size: int,
    own_1_s: float,
    machine: Machine,
    network: Network | None = None,
) -> tuple[float, float]:
    """Seconds of a step on `world_size` ranks: the slowest rank's own, and what communication adds, as (own, exposed).

    `own_1_s` is one rank's whole step. The rest is `bench.theory.step`; where the engine does not overlap, what is exposed is
    every collective that `bench.theory.traffic` counts, one after another, if a metered launch left an outline of the
    model. Raises ProjectionError where several nodes are needed and no network is named.
    """
    strategy, grad_accum_steps = series
    group = Group(machine, world_size, network)
    load = _workload(work, series, own_1_s, machine)
    exchanged = exchange_of(load, strategy, group)
    found = step(load, strategy, group, exchanged)
    exposed_s = found.exposed_comm_s
    if not exchanged.overlaps and world_size > 1:
        lines = _lines(work, strategy, grad_accum_steps, world_size)
        if lines is not None:
            exposed_s = sum(
                line.count * float(collective_s(line.operation, line.payload_bytes, group)) for line in lines
            )
    return found.step_time_s - found.exposed_comm_s, exposed_s


def described(work: MeasuredWork, machine: Machine, hop_ratio: float = 1.0, link_ratio: float = 1.0) -> Machine:
    """The machine with the cores of the host that was measured on, hops `hop_ratio` as long and links `link_ratio` as fast."""

    def times(quantity: Quantity | None, ratio: float) -> Quantity | None:
        return None if quantity is None else quantity.model_copy(update={"value": quantity.value * ratio})

    fabric = machine.node.fabric
    changes = {
        "hop_s": times(fabric.hop_s, hop_ratio),
        "host_path_bytes_per_s": times(fabric.host_path_bytes_per_s, link_ratio),
        "link_bytes_per_s": times(fabric.link_bytes_per_s, link_ratio),
    }
    node = machine.node.model_copy(update={"fabric": fabric.model_copy(update=changes), "num_cores": work.num_cores})
    return machine.model_copy(update={"node": node})


def _workload(work: MeasuredWork, series: Series, own_1_s: float, machine: Machine) -> Workload:
    shape = work.shape()
    load = from_numbers(
        machine,
        num_params=work.num_params,
        grad_dtype=work.cell.precision,
        step_time_1_s=own_1_s,
        grad_accum_steps=series[1],
        num_layers=None if shape is None else shape.num_layers,
    )
    last_frac = 0.0 if shape is None else shape.embedding_params / shape.num_params
    copied_bytes = copied(series[0], work.num_params, work.cell.precision)
    return replace(load, profile=work.cell.profile, last_frac=last_frac, copied_bytes=copied_bytes)


@lru_cache(maxsize=512)
def _lines(work: MeasuredWork, strategy: str, grad_accum_steps: int, world_size: int) -> list[TrafficLine] | None:
    """Every collective of a step; None where no outline or no rule tells."""
    outline = work.outlines.get(strategy) or next(iter(work.outlines.values()), None)
    if outline is None:
        return None
    changes = {"strategy": strategy, "grad_accum_steps": grad_accum_steps, "world_size": world_size}
    cell = work.cell.model_copy(update={**changes, "deepspeed_config": None})
    try:
        config = (
            None if STRATEGIES[strategy].deepspeed_config is None else resolve_deepspeed_config(cell, work.num_params)
        )
        return traffic(cell, outline, config)
    except (UnknownTraffic, ConfigError):
        return None
