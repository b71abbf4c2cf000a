"""Charts and words of training to a loss: validation loss against seconds and against tokens, a line a contender."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from reports import units
from reports.columns import Column, table, without_empty
from reports.style import Style, legend, legend_lines, name_panel, panels

_TARGET, _FLOOR = "#d55e00", "#888888"
_TICKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0]
_NOTES = (
    "Loss on the validation split, in nats a token, logarithmic. Seconds of training on the slowest rank: evaluations are not "
    "in them. Each mark is an evaluation."
)


def loss_curves(curves: pd.DataFrame, styles: dict[str, Style]) -> Figure | None:
    """Validation loss against seconds (left) and tokens (right); a row of panels a number of workers: servers train nothing.

    `curves`: rows of `bench.analysis.training.curves` of one model, scaling and setting.
    """
    if curves.empty:
        return None
    sizes = sorted(curves["num_workers"].unique())
    first = curves.iloc[0]
    what = ", ".join(str(part) for part in (first["model"], first["setting"]) if not units.is_unknown(part) and part)
    columns = (("wall_s", "seconds", "training time, {}"), ("tokens", "rate", "{} tokens"))
    present = set(curves["contender"])
    drawn = {name: style for name, style in styles.items() if name in present}
    across = _lines_across(curves)
    lines = legend_lines(drawn, across)
    with panels(len(sizes), 2, f"Loss of {what}", _NOTES, between=0.4, legend_lines=lines) as (figure, axes):
        for row, size in enumerate(sizes):
            own = curves[curves["num_workers"] == size]
            for column, (x, kind, label) in enumerate(columns):
                axis = axes[row, column]
                # One scale for all world sizes, so that they can be compared too.
                divisor, unit = units.scale(curves[x].max(), kind)
                _lines(axis, own, x, divisor, styles)
                axis.set_xlim(0, curves[x].max() / divisor * 1.02 or 1)
                last = row == len(sizes) - 1
                axis.set_xlabel(label.format(unit).strip() if last else "")
                axis.tick_params(axis="x", labelbottom=last)
                _loss_axis(axis, curves, labelled=column == 0)
                served = bool((own["world_size"] > own["num_workers"]).any())
                name_panel(axis, units.ranks(size) + (" that train" if served else ""))
        legend(figure, drawn, across, num_lines=lines)
    return figure


def _lines(axis: Axes, curves: pd.DataFrame, x: str, divisor: float, styles: dict[str, Style]) -> None:
    present = [name for name in styles if name in set(curves["contender"])]
    for place, name in enumerate(present):
        style = styles[name]
        for _, launch in curves[curves["contender"] == name].groupby("launch_id", sort=False):
            axis.plot(
                launch[x] / divisor,
                launch["loss"],
                color=style.color,
                marker=style.marker,
                markersize=3.5,
                # Equal work gives equal curves against tokens: the lower ones show beside those on top of them.
                linewidth=1.3 + 2.4 * (len(present) - 1 - place) / max(1, len(present) - 1),
                markeredgecolor="white",
                markeredgewidth=0.4,
            )
    for target in curves["target_loss"].dropna().unique():
        axis.axhline(target, color=_TARGET, linestyle="--", linewidth=1.1, zorder=1)
    for floor in _floors(curves):
        axis.axhline(floor, color=_FLOOR, linestyle=":", linewidth=1.3, zorder=1)


def _loss_axis(axis: Axes, curves: pd.DataFrame, labelled: bool) -> None:
    marks = [*curves["loss"].dropna(), *curves["target_loss"].dropna(), *_floors(curves)]
    low, high = min(marks) / 1.05, max(marks) * 1.05
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter((lambda value, _: f"{value:g}") if labelled else "")
    axis.set_ylabel("validation loss" if labelled else "")


def _floors(curves: pd.DataFrame) -> list[float]:
    """Least possible losses that a logarithmic axis can show."""
    return [float(floor) for floor in curves["entropy_floor_nats"].dropna().unique() if floor > 0]


def _lines_across(curves: pd.DataFrame) -> list[Any]:
    found = []
    if curves["target_loss"].notna().any():
        found.append(Line2D([], [], color=_TARGET, linestyle="--", label="target"))
    if _floors(curves):
        found.append(Line2D([], [], color=_FLOOR, linestyle=":", label="least possible"))
    return found


_COLUMNS: list[Column] = [
    ("model", "model", units.text),
    ("contender", "strategy", units.text),
    ("setting", "setting", units.text),
    ("world_size", "ranks", units.count),
    ("global_batch_size", "global batch", units.count),
    ("target_loss", "target", units.number),
    ("met", "reached", units.text),
    ("seconds_to_target", "time to target", units.seconds),
    ("tokens_to_target", "tokens to target", units.rate),
    ("steps_to_target", "steps to target", units.count),
    ("final_loss", "final loss", units.number),
    ("above", "above the least", units.fraction),
    ("final_accuracy", "accuracy", units.fraction),
    ("wall_s", "trained for", units.seconds),
    ("stopped", "ended by", units.text),
    ("replica_distance", "replica distance", units.number),
]


def time_to_loss(rows: pd.DataFrame) -> pd.DataFrame:
    """The table as text. `rows`: those of `bench.analysis.training.time_to_loss`."""
    shown = rows.assign(
        met=[
            f"{met} of {launches}" if not units.is_unknown(target) else units.UNKNOWN
            for met, launches, target in zip(
                rows["launches_reached"], rows["launches"], rows["target_loss"], strict=True
            )
        ],
        # Where the least possible loss is 0, as of pairs, nothing is a fraction above it.
        above=rows["final_loss"] / rows["entropy_floor_nats"].astype(float).where(lambda floor: floor > 0) - 1,
    )
    titles = (
        "setting",
        "target",
        "reached",
        "time to target",
        "tokens to target",
        "steps to target",
        "above the least",
    )
    return without_empty(table(shown, _COLUMNS), *titles, "replica distance")


def sentences(rows: pd.DataFrame) -> list[str]:
    """Who comes to the target first, of each model, setting and target, in seconds and in tokens."""
    told = []
    for (model, target), cells in rows.groupby(["model", "target_loss"], sort=False):
        there = cells[cells["seconds_to_target"].notna()]
        head = f"{model} to a validation loss of {units.number(target)}"
        if there.empty:
            told.append(f"{head}: no strategy came to it in all its launches.")
            continue
        soonest = there.sort_values("seconds_to_target", kind="stable").iloc[0]
        fewest = there.sort_values("tokens_to_target", kind="stable").iloc[0]
        told.append(
            f"{head}: soonest is {_who(soonest)}, in {units.seconds(soonest['seconds_to_target'])}; the fewest tokens, "
            f"{units.rate(fewest['tokens_to_target'])}, {_needs(there, fewest)}."
        )
        if len(missed := cells[cells["seconds_to_target"].isna()]):
            told.append(f"Not in all launches: {'; '.join(_who(row) for _, row in missed.iterrows())}.")
    return told


def _needs(there: pd.DataFrame, fewest: pd.Series) -> str:
    equal = there["tokens_to_target"] == fewest["tokens_to_target"]
    return "all of them need" if len(there) > 1 and bool(equal.all()) else f"{_who(fewest)} needs"


def _who(row: pd.Series) -> str:
    return f"{row['contender']} on {units.ranks(row['world_size'])}"
