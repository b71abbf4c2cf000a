"""Training in several places over slow links: utilisation by bandwidth, of DDP and of DiLoCo, beside a published simulation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from bench.theory.collectives import Group
from bench.theory.machine import load_machine
from bench.theory.replicas import GBIT, Training, bandwidth_bytes_per_s, utilisation
from bench.theory.ways import Options, step_of
from bench.theory.workload import from_preset

PUBLISHED_1B = Training(num_params=10**9, num_layers=24, step_s=0.1)
"""The published case: two places, a step of 0.1 s, H = 100, 16 bits a parameter."""

LEVELS = (0.5, 0.8, 0.9, 0.95)
LEAST_GBIT, MOST_GBIT = 0.01, 800.0
PLACES_10B = 10

WAYS_SHOWN: tuple[tuple[str, str, Options], ...] = (
    ("DDP", "ddp", Options()),
    ("DiLoCo, H 100, 16 bits", "diloco", Options(every_steps=100, outer_dtype="bf16")),
    ("DiLoCo, H 100, 8 bits", "diloco", Options(every_steps=100, outer_dtype="int8")),
    ("DiLoCo, H 500, 16 bits", "diloco", Options(every_steps=500, outer_dtype="bf16")),
)
"""Name, strategy and how it is set."""

_GRID_GBIT = np.geomspace(LEAST_GBIT, MOST_GBIT, int(np.log10(MOST_GBIT / LEAST_GBIT) * 24) + 1)

# What the published simulation calls them.
_SAME = {"Data-Parallel": "DDP", "DiLoCo": "DiLoCo, H 100, 16 bits"}


@dataclass(frozen=True)
class Point:
    """The part of the time in which every place computes, at a bandwidth."""

    case: str
    way: str
    gbit_per_s: float
    utilisation: float


@dataclass(frozen=True)
class Need:
    """The least bandwidth for a utilisation: ours, and the published one where there is one."""

    case: str
    way: str
    utilisation: float
    gbit_per_s: float
    published_gbit_per_s: float | None

    @property
    def ratio(self) -> float | None:
        """Ours over the published one."""
        return None if self.published_gbit_per_s is None else self.gbit_per_s / self.published_gbit_per_s


@cache
def cases() -> dict[str, tuple[Training, int]]:
    """What is trained, and in how many places: the published case, and ten billion parameters with a DGX-1 in each of ten."""
    machine = load_machine("dgx1-v100-32gb")
    work = from_preset(
        machine,
        model="gpt-10b",
        micro_batch_size=4,
        precision="fp16",
        strategy="zero3",
        activation_checkpointing=True,
        profile="tuned",
    )
    inside_s = step_of(work, "zero3", Group(machine, machine.node.num_devices)).step_time_s
    return {
        "one billion parameters, two places": (PUBLISHED_1B, 2),
        "ten billion parameters, ten places": (
            Training(work.num_params, work.num_layers, inside_s, dtype="fp16"),
            PLACES_10B,
        ),
    }


def points() -> list[Point]:
    """Utilisation of every way over the whole range of bandwidths."""
    return [
        Point(case, name, float(gbit), busy)
        for case in cases()
        for name, _, _ in WAYS_SHOWN
        for gbit, busy in zip(_GRID_GBIT, _curve(case, name), strict=True)
    ]


def needs(levels: Sequence[float] = LEVELS) -> list[Need]:
    """Bandwidth that each way needs for each utilisation."""
    known = {(way, level): gbit for way, level, gbit in published() if way in _SAME.values()}
    return [
        Need(
            case,
            name,
            level,
            bandwidth_bytes_per_s(training, strategy, level, places, options) / GBIT,
            known.get((name, level)) if training is PUBLISHED_1B else None,
        )
        for case, (training, places) in cases().items()
        for name, strategy, options in WAYS_SHOWN
        for level in levels
    ]


def crossing_gbit_per_s(case: str, way: str, margin: float) -> float | None:
    """The least bandwidth from which on DDP's utilisation is within `margin` of that way's; None where it is nowhere so.

    To 10 %: of the bandwidths that `points` has.
    """
    behind = [other - ddp > margin for other, ddp in zip(_curve(case, way), _curve(case, "DDP"), strict=True)]
    if behind[-1]:
        return None
    last = max((place for place, is_behind in enumerate(behind) if is_behind), default=-1)
    return float(_GRID_GBIT[last + 1])


@cache
def _curve(case: str, way: str) -> tuple[float, ...]:
    training, places = cases()[case]
    strategy, options = next((strategy, options) for name, strategy, options in WAYS_SHOWN if name == way)
    return tuple(utilisation(training, strategy, gbit * GBIT, places, options) for gbit in _GRID_GBIT)


@cache
def published() -> tuple[tuple[str, float, float], ...]:
    """Way, utilisation and Gbit/s of the published simulation (published/low_bandwidth.csv, 1 billion parameters)."""
    path = Path(__file__).parent / "published" / "low_bandwidth.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        (
            _SAME.get(row["method"], row["method"]),
            float(row["metric"].split("for ")[1].split("%")[0]) / 100,
            float(row["value"]),
        )
        for row in rows
    )
