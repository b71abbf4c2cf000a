"""Charts of the case studies: utilisation against bandwidth, speed-up with its interval, memory beside what a device has."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from reports import units
from reports.intervals import flat_bars
from reports.style import PANEL_HEIGHT, Style, legend, name_panel, panels

_LINES = ("#454545", "#0072b2", "#56b4e9", "#e69f00")
_SOFT = "#666666"
_OTHER = "#8c6d31"
_BARS = ("#0072b2", "#e69f00")


def utilisation(points: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Part of the time in which places compute, against bandwidth; a panel a case, published points in the first.

    `points`: case, way, gbit_per_s, utilisation. `published`: way, utilisation, gbit_per_s; a way without a line is grey.
    """
    ways, cases = list(dict.fromkeys(points["way"])), list(dict.fromkeys(points["case"]))
    looks = {way: Style(color, "") for way, color in zip(ways, _LINES, strict=True)}
    others = [way for way in dict.fromkeys(published["way"]) if way not in looks]
    notes = "Lines: theory. Rings: the published simulation of the same (arXiv:2501.18512, table 4)."
    notes += f" Crosses: its {' and '.join(others)}, of which there is no line." if others else ""
    with panels(2, 1, "Utilisation by bandwidth between the places", notes, width=8.6, tall=1.25, between=0.75) as (
        figure,
        axes,
    ):
        for place, case in enumerate(cases):
            axis = axes[place, 0]
            for way, style in looks.items():
                own = points[(points["case"] == case) & (points["way"] == way)]
                axis.plot(own["gbit_per_s"], 100 * own["utilisation"], color=style.color, linewidth=1.8)
            if place == 0:
                for way in [*looks, *others]:
                    own = published[published["way"] == way]
                    color = looks[way].color if way in looks else _OTHER
                    mark = {
                        "marker": "o" if way in looks else "x",
                        "markerfacecolor": "white",
                        "markeredgecolor": color,
                    }
                    axis.plot(own["gbit_per_s"], 100 * own["utilisation"], linestyle="", markersize=6, **mark)
            ticks = [0.01, 0.1, 1, 10, 100, 800]
            axis.set(xscale="log", xlim=(0.0095, 850), ylim=(0, 104), ylabel="utilisation, %")
            axis.xaxis.set_major_locator(FixedLocator(ticks))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticks(ticks, ["10 Mbit/s", "100 Mbit/s", "1 Gbit/s", "10 Gbit/s", "100 Gbit/s", "800"])
            name_panel(axis, case)
        marks = Line2D([], [], linestyle="", marker="o", markerfacecolor="white", color=_SOFT, label="published")
        legend(figure, looks, [marks])
    return figure


def speedup(schemes: pd.DataFrame, least: float, nodes: int) -> Figure:
    """Speed-up over one node with its interval, a row a way, a panel a network. `least`: the line that halves the time."""
    names, networks = list(dict.fromkeys(schemes["name"])), list(dict.fromkeys(schemes["network"]))
    tall = 0.32 * (len(names) + 0.8) / PANEL_HEIGHT
    notes = "Bars: intervals of the projection, cut at the ideal. Dashed: half of one node's time. A cross: it does not fit."
    with panels(1, len(networks), "Speed-up of ten nodes over one", notes, width=2.5, tall=tall, left=2.7) as (
        figure,
        axes,
    ):
        for column, network in enumerate(networks):
            axis = axes[0, column]
            own = schemes[schemes["network"] == network].set_index("name").loc[names]
            axis.set(xlim=(0, nodes * 1.05), ylim=(len(names) - 0.5, -0.5))
            axis.set_yticks(range(len(names)), names if column == 0 else [""] * len(names))
            axis.tick_params(axis="y", length=0)
            axis.grid(False, axis="y")
            axis.grid(True, axis="x")
            axis.axvline(least, color=_SOFT, linestyle="--", linewidth=1.0, zorder=1.5)
            for place, row in enumerate(own.itertuples(index=False)):
                color = _LINES[0] if row.equal_work else _LINES[3]
                flat_bars(axis, [place], [row.speedup_lo], [row.speedup_hi], color)
                axis.plot([row.speedup], [place], marker="o" if row.fits else "x", color=color, markersize=6, zorder=3)
            name_panel(axis, network)
        kinds = [("the same updates as one node", _LINES[0]), ("other updates: compare the loss too", _LINES[3])]
        legend(figure, {}, [Line2D([], [], linestyle="", marker="o", color=color, label=text) for text, color in kinds])
    return figure


def memory(fits: pd.DataFrame) -> Figure:
    """Memory of one GPU by strategy, on one node and on several, beside what the cards have.

    `fits`: strategy, world_size, memory_bytes; `device_bytes` of every card that is asked about.
    """
    names, sizes = list(dict.fromkeys(fits["strategy"])), list(dict.fromkeys(fits["world_size"]))
    tall = 0.42 * (len(names) + 0.6) / PANEL_HEIGHT
    notes = "Theory, held against no measured GPU. Dashed: what the cards have."
    with panels(1, 1, "Memory of one GPU", notes, tall=tall, left=1.3) as (figure, axes):
        axis = axes[0, 0]
        axis.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 1.12 * fits["memory_bytes"].max() / 2**30), xlabel="GiB")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
        axis.grid(False, axis="y")
        axis.grid(True, axis="x")
        for number, (size, color) in enumerate(zip(sizes, _BARS, strict=True)):
            own = fits[fits["world_size"] == size].drop_duplicates("strategy").set_index("strategy").loc[names]
            for place, value in enumerate(own["memory_bytes"] / 2**30):
                along = place + 0.36 * (number - 0.5)
                axis.barh(along, value, height=0.34, color=color)
                # On white, because the lines of the cards pass behind it.
                behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                axis.text(
                    value + 1.2, along, units.significant(value), va="center", fontsize=8.5, bbox=behind, zorder=4
                )
        for whole in sorted(set(fits["device_bytes"])):
            axis.axvline(whole / 2**30, color="#d55e00", linestyle="--", linewidth=1.2)
        handles = [Patch(color=color, label=units.ranks(size)) for size, color in zip(sizes, _BARS, strict=True)]
        legend(figure, {}, handles)
    return figure
