"""Chart of a theory against published efficiencies: every row, by machine and family, with the naive model below it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from reports.style import look, name_panel, panels

_KEPT = (
    *("#454545", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7b3294", "#b3a800"),
    *("#1b9e77", "#a6761d"),
)
_LEFT_OUT_MARKERS = ("x", "+", "1", "2", "3", "4")
_LEFT_OUT = "#9a9a9a"
_MODELS = (("predicted_efficiency", "theory"), ("naive_efficiency", "naive model"))
_LEAST = 0.3


def against_published(rows: pd.DataFrame) -> Figure:
    """Predicted against published efficiency, a column a machine, the theory above and the naive model below.

    `rows`: machine, family, kept, efficiency, predicted_efficiency, naive_efficiency. Families that were left out of the fit are
    grey. On the line a prediction is right, between the thin lines within 0.05 of it.
    """
    machines = sorted(set(rows["machine"]))
    looks = _looks(rows)
    notes = (
        "Each point a published run on 2 to 256 V100s, predicted from its one-GPU step. Thin lines: 0.05 either way."
    )
    notes += " Grey: families left out, whose software decides how they scale."
    least = min(_LEAST, float(rows[["efficiency", *(column for column, _ in _MODELS)]].min().min()))
    with panels(2, len(machines) + 1, "Predicted against published efficiency", notes, width=2.6, between=0.5) as (
        figure,
        axes,
    ):
        for line, (column, title) in enumerate(_MODELS):
            for place, machine in enumerate(machines):
                axis = axes[line, place]
                _frame(axis, least)
                for family, style in looks.items():
                    own = rows[(rows["machine"] == machine) & (rows["family"] == family)]
                    axis.plot(own["efficiency"], own[column], linestyle="", markersize=4.5, alpha=0.75, **style)
                name_panel(axis, machine if line == 0 else "")
                axis.set_ylabel(f"{title}: predicted" if place == 0 else "")
                axis.set_xlabel("published" if line == 1 else "")
            axes[line, -1].set_axis_off()
        handles = [Line2D([], [], linestyle="", label=family, **style) for family, style in looks.items()]
        with look():
            axes[0, -1].legend(
                handles=handles, loc="upper left", bbox_to_anchor=(-0.25, 1.05), frameon=False, fontsize=8.5
            )
    return figure


def _looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour and marker of each family, those kept first."""
    kept = sorted(set(rows.loc[rows["kept"].astype(bool), "family"]))
    left_out = sorted(set(rows["family"]) - set(kept))
    looks: dict[str, dict[str, Any]] = {}
    for place, family in enumerate(kept):
        looks[family] = {"marker": "o", "color": _KEPT[place % len(_KEPT)]}
    for place, family in enumerate(left_out):
        looks[family] = {"marker": _LEFT_OUT_MARKERS[place % len(_LEFT_OUT_MARKERS)], "color": _LEFT_OUT}
    return looks


def _frame(axis: Axes, least: float) -> None:
    ends = [least, 1.0]
    axis.plot(ends, ends, color="#444444", linewidth=1.0, zorder=1.5)
    for off in (-0.05, 0.05):
        axis.plot(ends, [end + off for end in ends], color="#bbbbbb", linewidth=0.8, zorder=1.4)
    axis.set(xlim=(least - 0.02, 1.04), ylim=(least - 0.02, 1.04))
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(FixedLocator([0.4, 0.6, 0.8, 1.0]))
