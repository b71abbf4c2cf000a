"""Training over the internet: from which bandwidth on is plain data parallelism as good as exchanging every hundred steps?"""

from __future__ import annotations

import dataclasses

import pandas as pd

from bench.cases.study import Drawn, Study
from bench.theory.internet import LEVELS, WAYS_SHOWN, Need, cases, crossing_gbit_per_s, needs, points, published
from reports import cases as charts
from reports import units
from reports.columns import Column, table
from reports.page import Case, Section

_MARGIN = 0.05
# Either way, of a bandwidth: above what the published simulation and this theory differ by.
_FACTOR = 1.5
# Of the published ways that have no line here, the one that shows how far the method was taken.
_FURTHEST = "Streaming DiLoCo overlapped FP4"


def study() -> Study:
    """The study, from theory and the published simulation."""
    needed = needs()
    curve = pd.DataFrame([dataclasses.asdict(point) for point in points()])
    named = [row for row in published() if row[0] in {name for name, _, _ in WAYS_SHOWN} | {_FURTHEST}]
    marks = pd.DataFrame(named, columns=["way", "utilisation", "gbit_per_s"])
    wanted = pd.DataFrame([{**dataclasses.asdict(need), "ratio": need.ratio} for need in needed])
    case = Case(
        title="The same training over the internet",
        subtitle="Data parallelism against DiLoCo between places that a slow link joins, by theory: nothing was measured.",
        answers=[*_crossings(), _against_published(needed), *_needs(needed)],
        sections=[
            Section(
                "utilisation",
                "How busy are the places?",
                "The part of the time in which every place computes, from 10 Mbit/s to 800 Gbit/s. A place sends "
                "and receives so much at once.",
            ),
            Section(
                "needs", "What bandwidth is needed?", "The least for each utilisation.", table=table(wanted, _NEED)
            ),
        ],
        assumed=_ASSUMED,
        footer="Made by scalebench case internet.",
    )
    drawn = Drawn("utilisation", "Utilisation against bandwidth", "utilisation", charts.utilisation(curve, marks))
    return Study("internet", case, {"utilisation": curve, "needs": wanted, "published": marks}, [drawn])


def _crossings() -> list[str]:
    """Where DDP catches up, in words."""
    found = []
    for case in cases():
        words = []
        for name, _, _ in WAYS_SHOWN[1:]:
            gbit = crossing_gbit_per_s(case, name, _MARGIN)
            words.append(f"{name}: {'nowhere up to 800 Gbit/s' if gbit is None else f'from {_bandwidth(gbit)} on'}")
        same = len({word.partition(": ")[2] for word in words}) == 1
        told = f"{words[0].partition(': ')[2]}, whichever DiLoCo" if same else "; ".join(words)
        found.append(
            f"{case.capitalize()}: DDP is within {100 * _MARGIN:g} points of DiLoCo {told}; below, DiLoCo keeps the places "
            "busier."
        )
    return found


def _against_published(needed: list[Need]) -> str:
    words = []
    for way in dict.fromkeys(need.way for need in needed if need.ratio is not None):
        ratios = [need.ratio for need in needed if need.way == way and need.ratio is not None]
        words.append(f"{way} {min(ratios):.2f} to {max(ratios):.2f} times")
    return (
        f"Against the published simulation (1 billion parameters, {100 * LEVELS[0]:g} to {100 * LEVELS[-1]:g} % utilisation) the "
        f"bandwidths here are: {', '.join(words)} its own. So a factor of {_FACTOR:g} either way is taken as their interval; "
        "both are theory."
    )


def _needs(needed: list[Need]) -> list[str]:
    found = []
    for case in dict.fromkeys(need.case for need in needed):
        words = [
            f"{need.way} {_bandwidth(need.gbit_per_s)} "
            f"({_bandwidth(need.gbit_per_s / _FACTOR)} to {_bandwidth(need.gbit_per_s * _FACTOR)})"
            for need in needed
            if need.case == case and need.utilisation == 0.9
        ]
        found.append(f"{case.capitalize()}, 90 % busy: {'; '.join(words)}.")
    return found


def _bandwidth(gbit_per_s: float) -> str:
    small = gbit_per_s < 1
    return f"{units.significant(gbit_per_s * (1000 if small else 1), 2)} {'Mbit/s' if small else 'Gbit/s'}"


_ASSUMED = [
    "A place is one replica: what happens inside it is in its step (0.1 s for 1 billion parameters as published; for ten billion "
    "that of ZeRO-3 on one DGX-1 V100-32GB, four sequences a GPU, by theory).",
    "The link carries its bandwidth in both directions at once, without the latency, losses and other users of the internet.",
    "All exchanges go round a ring; 8-bit differences are gathered from all, which costs more than 16 bits from five places on.",
    "DDP's buckets of 25 MiB overlap with the backward pass; DiLoCo's differences are known only after the last inner step, so "
    "nothing hides their exchange. The published simulation exchanges layer by layer.",
    "Utilisation says nothing of the loss: DiLoCo's updates are others than DDP's. The same paper's table 1 has 2.67 for DDP and "
    "2.66 for its furthest DiLoCo after 25 billion tokens.",
]
_NEED: list[Column] = [
    ("case", "case", units.text),
    ("way", "way", units.text),
    ("utilisation", "utilisation", units.fraction),
    ("gbit_per_s", "bandwidth", _bandwidth),
    (
        "published_gbit_per_s",
        "published",
        lambda value: units.UNKNOWN if units.is_unknown(value) else _bandwidth(value),
    ),
    ("ratio", "here / published", units.ratio),
]
