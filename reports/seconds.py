"""Charts of the seconds of a step: by part for each cell, and useful and waiting for each rank.

Each takes rows of the efficiency table (`ranks`: of its table of ranks) of one model, scaling, setting and series (`keeps`),
and the styles of all contenders. What is unknown is not drawn; a chart without anything to draw is None.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import units
from reports.charts import Styles, notes
from reports.efficiency import HATCH, IMBALANCE, SEEN_FRAC, TRANSFER, USEFUL, WAIT, WARN, hatched, series_title
from reports.intervals import flat_bars
from reports.style import PANEL_HEIGHT, legend, name_panel, panels

# Above this, the page says what the meter costs.
METER_FRAC = 0.03

_STRAGGLER = "#1f3b57"
# How far the axis follows an interval beyond the longest bar.
_ROOM = 1.25
_PARTS = {
    "useful_s": ("useful", USEFUL),
    "imbalance_s": ("load imbalance", IMBALANCE),
    "wait_s": ("waiting (serialization)", WAIT),
    "transfer_s": ("transfer", TRANSFER),
}


def step_parts(cells: pd.DataFrame, styles: Styles) -> Figure | None:
    """Mean seconds of a metered step by part, a bar a cell as long as full_s; marked, the timing launches' step_time_s."""
    if cells.empty:
        return None
    place_of = {name: place for place, name in enumerate(styles)}
    shown = cells.sort_values(["world_size", "contender"], key=lambda column: column.map(place_of).fillna(column))
    divisor, unit = units.scale(shown[["full_s", "step_time_s"]].astype(float).max().max(), "seconds")
    # A row's place: one line each, and half a line between two world sizes.
    apart = shown["world_size"].ne(shown["world_size"].shift()).cumsum() - 1
    places = [number + 0.6 * gap for number, gap in enumerate(apart)]
    labels = [
        f"{name}, {units.ranks(size)}" for name, size in zip(shown["contender"], shown["world_size"], strict=True)
    ]
    tall = max(0.5, 0.23 * (places[-1] + 1) / PANEL_HEIGHT)
    left_inches = 0.3 + 0.075 * max(map(len, labels))
    longest = shown[["step_time_s", "sync_s", "full_s"]].astype(float).max().max()
    # As long as its communication, from where the slowest rank's own seconds end.
    low, high = (shown["slowest_useful_s"] + shown[f"exposed_comm_s_{end}"].astype(float) for end in ("lo", "hi"))
    right = max(1.03 * longest, min(1.02 * high.max(), _ROOM * longest) if high.notna().any() else 0.0)
    cut = bool((low.lt(0) | high.gt(right)).any())
    sure = notes(shown, cut, "attribution launch", "exposed communication (waiting and transfer)")
    words = " ".join(part for part in (sure, meter_cost(shown)) if part)
    name = f"Seconds of a step: {series_title(cells)}"
    with panels(1, 1, name, words, width=7.6, tall=tall, left=left_inches) as (figure, axes):
        axis = axes[0, 0]
        below = _stack(axis, places, shown, list(_PARTS), divisor)
        marked = shown["step_time_s"].astype(float) / divisor
        axis.plot(marked, places, linestyle="", marker="D", color="black", markersize=4.5, markeredgecolor="white")
        axis.set_yticks(places, labels)
        name_panel(axis, "strategy, ranks: mean of the metered steps")
        axis.set(xlabel=f"time, {unit}", ylim=(places[-1] + 0.6, -0.6))
        axis.set_xlim(0, right / divisor)
        # Below the mark, whose interval it is not.
        flat_bars(
            axis, [place + 0.24 for place in places], (low / divisor).tolist(), (high / divisor).tolist(), "#222222"
        )
        axis.grid(False, axis="y")
        axis.grid(True, axis="x")
        extra: list[Any] = [Patch(color=color, label=label) for label, color in _PARTS.values()]
        if bool(marked.notna().any()):
            extra.append(Line2D([], [], linestyle="", marker="D", color="black", label="timing launches"))
        legend(figure, {}, [*extra, *([hatched("below zero")] if below else [])])
    return figure


def ranks(ranks: pd.DataFrame, styles: Styles) -> Figure | None:
    """Useful and waiting seconds of each rank in a step without payload, for each strategy's largest world size.

    A straggler is dark, marked and named. Cells of one rank, which waits for nobody, are left out.
    """
    shown = ranks[ranks["world_size"] > 1]
    shown = shown[shown["world_size"] == shown.groupby("contender")["world_size"].transform("max")]
    if shown.empty:
        return None
    names = [name for name in styles if name in set(shown["contender"])]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    highest = (shown["useful_s"] + shown["wait_s"].clip(lower=0)).max()
    divisor, unit = units.scale(highest, "seconds")
    below = False
    with panels(rows, columns, f"Seconds of each rank: {series_title(ranks)}", between=0.85) as (figure, axes):
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        for number, name in enumerate(names):
            axis = axes.flat[number]
            own = shown[shown["contender"] == name].sort_values("rank")
            places = own["rank"].tolist()
            below |= _stack(axis, places, own, ["useful_s", "wait_s"], divisor, upright=True)
            name_panel(axis, f"{name}, {units.ranks(own['world_size'].iloc[0])}")
            for rank in own.loc[own["straggler"].astype(bool), "rank"]:
                axis.patches[places.index(rank)].set_facecolor(_STRAGGLER)
                top = own[["useful_s", "wait_s"]].sum(axis=1).max() / divisor
                axis.plot(rank, top + 0.05 * highest / divisor, marker="v", color=WARN, markersize=6)
                word: dict[str, Any] = {"color": WARN, "fontsize": 8, "ha": "center", "va": "bottom"}
                axis.text(rank, top + 0.09 * highest / divisor, f"rank {rank}", **word)
            beside = 0.6 + 0.05 * len(own)
            axis.set(ylim=(0, highest / divisor * 1.22), xlim=(-beside, own["rank"].max() + beside), xlabel="rank")
            axis.set_xticks(range(0, len(own), -(-len(own) // 16)))
            axis.set_ylabel("" if number % columns else f"time, {unit}")
        extra = [Patch(color=USEFUL, label="useful"), Patch(color=WAIT, label="waiting for the others")]
        if bool(shown["straggler"].any()):
            extra.insert(1, Patch(color=_STRAGGLER, label="useful, straggler"))
        legend(figure, {}, [*extra, *([hatched("below zero")] if below else [])])
    return figure


def _stack(
    axis: Axes, places: list[float], cells: pd.DataFrame, parts: list[str], divisor: float, upright: bool = False
) -> bool:
    """Draw the parts of each row one after another; whether one of them is so far below zero that it is seen."""
    start = pd.Series(0.0, index=cells.index)
    below = False
    for part in parts:
        seconds = cells[part].astype(float) / divisor
        less, color = seconds < 0, _PARTS[part][1]
        look: dict[str, Any] = {
            "color": ["white" if backward else color for backward in less],
            "edgecolor": [color] * len(cells),
            "hatch": [HATCH if backward else "" for backward in less],
            "linewidth": 0,
        }
        if upright:
            axis.bar(places, seconds, 0.8, bottom=start, **look)
        else:
            axis.barh(places, seconds, 0.8, left=start, **look)
        start = start + seconds
        below |= bool((seconds < -SEEN_FRAC * start).any())
    return below


def meter_cost(cells: pd.DataFrame) -> str:
    """One sentence where the meter costs more of a step than METER_FRAC; empty where it does not."""
    costly = cells[cells["meter_overhead_frac"].astype(float) > METER_FRAC]
    if costly.empty:
        return ""
    worst = costly.sort_values("meter_overhead_frac").iloc[-1]
    where = f"{worst['contender']}, {units.ranks(worst['world_size'])}"
    return f"The meter itself costs up to {units.fraction(worst['meter_overhead_frac'])} of a step ({where}), more than 3 %."
