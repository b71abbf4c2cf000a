"""Draws the charts of a report: which ones there are, and several at a time."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports import balance as balance_charts
from reports import bars, charts, efficiency, seconds
from reports import synchronisation as synchronisation_charts
from reports import traffic as traffic_charts
from reports import training as training_charts
from reports.style import kin_styles, look, styles

# Below this many charts, starting other processes takes longer than drawing.
_CHARTS_WORTH_A_PROCESS = 12

_OF_CELLS: dict[str, Callable[..., Figure | None]] = {
    "speed": charts.throughput,
    "scaling": charts.scaling,
    "accumulation": charts.accumulation,
    "memory": bars.memory,
    "mfu": charts.utilisation,
}
# What it shows -> its section and chart.
_OF_STEPS: dict[str, tuple[str, Callable[..., Figure | None]]] = {
    "where efficiency is lost": ("efficiency", efficiency.waterfall),
    "seconds of a step": ("efficiency", seconds.step_parts),
    "seconds of each rank": ("ranks", seconds.ranks),
}


@dataclass(frozen=True)
class Chart:
    """One chart to draw: picklable, so that another process can. `name` is that of its files, `alt` what it shows."""

    section: str
    name: str
    alt: str
    draw: Callable[..., Figure | None]
    arguments: tuple[Any, ...]


def wanted(
    scaling: pd.DataFrame,
    tree: pd.DataFrame,
    ranks: pd.DataFrame,
    traffic: pd.DataFrame,
    phases: pd.DataFrame,
    balance: pd.DataFrame,
    aa_spread_frac: float | None,
    projected: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
    synchronisation: pd.DataFrame | None = None,
    courses: pd.DataFrame | None = None,
) -> list[Chart]:
    """All charts that a report may have: each question for each model, scaling and setting, under names of their own.

    `scaling`: rows of `scaling_table`; `tree` and `ranks`: rows of the two tables of `efficiency_table`, whose charts are
    drawn for each series too; `traffic`: rows of `traffic_table`; `phases`: rows of `phases`; `balance`: rows of
    `balance_table`; `aa_spread_frac`: how far the cell and the twin of the run's A/A pair are apart, None where there is none;
    `projected`: rows of `projected_table`; `curves`: rows of `bench.analysis.training.curves`; `synchronisation` and
    `courses`: rows of `synchronisation_table` and of `loss_courses`.
    """
    looks = styles([*scaling["contender"], *tree["contender"]])
    found: list[Chart] = []
    for section, draw in _OF_CELLS.items():
        for (model, kind, setting), cells in scaling.groupby(["model", "scaling", "setting"], sort=False):
            name = _slug(section, str(model), str(kind), str(setting))
            # Memory hardly differs between launches, and no pair says how far.
            arguments: tuple[Any, ...] = (cells, looks) if draw is bars.memory else (cells, looks, aa_spread_frac)
            if projected is not None and draw in (charts.throughput, charts.scaling):
                arguments = (*arguments, projected[projected["cell_id"].isin(cells["cell_id"])])
            found.append(Chart(section, name, f"{section}: {charts.title(cells)}", draw, arguments))
    for shows, (section, draw) in _OF_STEPS.items():
        frame = ranks if section == "ranks" else tree
        for _, cells in frame.groupby(["model", "scaling", "setting", "keeps"], sort=False):
            common = efficiency.series_title(cells)
            found.append(Chart(section, _slug(shows, common), f"{shows}: {common}", draw, (cells, looks)))
    for model, launches in phases.groupby("model", sort=False):
        words = ["outside", str(model)]
        found.append(Chart("outside", _slug(*words), f"seconds of a launch: {words[1]}", bars.outside, (launches,)))
    for (model, kind, setting), rows in traffic.groupby(["model", "scaling", "setting"], sort=False):
        name = _slug("traffic", str(model), str(kind), str(setting))
        found.append(Chart("traffic", name, f"traffic: {charts.title(rows)}", traffic_charts.traffic, (rows,)))
    for (model, strategy, data, slow), rows in balance.groupby(
        ["model", "strategy", "data", "slow_rank_frac"], sort=False
    ):
        shows = f"balance {model} {strategy} {data}" + (f" slow rank {slow:g}" if slow else "")
        found.append(Chart("balance", _slug(shows), shows, balance_charts.balance, (rows,)))
    if curves is not None:
        for (model, kind, setting), rows in curves.groupby(["model", "scaling", "setting"], dropna=False, sort=False):
            name = _slug("loss", str(model), str(kind), str(setting or ""))
            found.append(
                Chart("training", name, f"loss: {charts.title(rows)}", training_charts.loss_curves, (rows, looks))
            )
    if synchronisation is not None:
        found += _of_synchronisation(synchronisation, courses)
    # Signs that a file name can't hold are dropped, which may leave two names alike.
    taken: Counter[str] = Counter()
    for position, chart in enumerate(found):
        taken[chart.name] += 1
        if taken[chart.name] > 1:
            found[position] = replace(chart, name=f"{chart.name}-{taken[chart.name]}")
    return found


def _of_synchronisation(rows: pd.DataFrame, courses: pd.DataFrame | None) -> list[Chart]:
    looks = kin_styles(rows["contender"])
    found = []
    for model, cells in rows.groupby("model", sort=False):
        shows = f"bytes a step {model}"
        found.append(
            Chart("synchronisation", _slug(shows), shows, synchronisation_charts.bytes_by_period, (cells, looks))
        )
    for (name, task, slower), cells in rows.groupby(["model", "task", "slow_rank_frac"], sort=False):
        of_whom = str(name) + (f" slow rank {slower:g}" if slower else "")
        if courses is not None:
            # One worker alone is never the slow one, and stands beside all.
            beside = (courses["slow_rank_frac"] == slower) | (courses["num_workers"] == 1)
            arguments = (courses[(courses["task"] == task) & beside], looks)
            shows = f"loss by time {of_whom}"
            found.append(Chart("synchronisation", _slug(shows), shows, synchronisation_charts.loss_by_time, arguments))
        shows = f"time and loss {of_whom}"
        found.append(
            Chart("synchronisation", _slug(shows), shows, synchronisation_charts.time_and_loss, (cells, looks))
        )
    return found


def drawn(wanted: list[Chart]) -> Iterator[tuple[Chart, bytes, str]]:
    """The charts that have something to show, in order, each as PNG and SVG; by several processes where there are many."""
    workers = min(4, os.cpu_count() or 1)
    if len(wanted) < _CHARTS_WORTH_A_PROCESS or workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from _with_result(wanted, map(_draw, wanted))
        return
    # Forked, so that no worker imports pandas and matplotlib again.
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=fork, initializer=_collect_seldom) as pool:
        yield from _with_result(wanted, pool.map(_draw, wanted))


def _slug(*words: str) -> str:
    return re.sub(r"[^a-zA-Z0-9.]+", "-", "-".join(words)).strip("-.")[:120]


def _draw(chart: Chart) -> tuple[bytes, str] | None:
    figure = chart.draw(*chart.arguments)
    return None if figure is None else saved(figure)


def saved(figure: Figure) -> tuple[bytes, str]:
    """The figure as PNG and as SVG."""
    png, svg = io.BytesIO(), io.StringIO()
    with look():
        figure.savefig(png, format="png", dpi=120, pil_kwargs={"compress_level": 1})
        figure.savefig(svg, format="svg")
    return png.getvalue(), svg.getvalue()


def _with_result(
    wanted: list[Chart], results: Iterable[tuple[bytes, str] | None]
) -> Iterator[tuple[Chart, bytes, str]]:
    for chart, result in zip(wanted, results, strict=True):
        if result is not None:
            yield (chart, *result)


def _collect_seldom() -> None:
    """Leave what was there before the fork to itself: matplotlib's many small objects start the collector all the time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
