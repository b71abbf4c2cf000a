"""Chart of how evenly ranks are loaded: what was reckoned beside what was measured, by partition."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import units
from reports.style import PANEL_HEIGHT, legend, name_panel, panels

_MEASURED, _PREDICTED = "#0072b2", "#d55e00"


def balance(rows: pd.DataFrame) -> Figure | None:
    """Load balance of each partition: a bar for the measured one, a mark for the reckoned. Panels side by side are world sizes.

    `rows`: those of `bench.analysis.balance.balance_table` of one model, strategy, data and slow rank. Nothing is drawn where
    nothing was measured.
    """
    shown = rows[rows["load_balance"].notna()]
    by_measured = shown["partition_cost"] == "measured"
    shown = shown.assign(partition=shown["partition"].where(~by_measured, shown["partition"] + ", measured costs"))
    if shown.empty:
        return None
    names = list(dict.fromkeys(shown["partition"]))
    sizes = sorted(shown["world_size"].unique())
    first = shown.iloc[0]
    # In the notes, which are broken into lines.
    slow = f"One rank is {first['slow_rank_frac']:.0%} slower. " if first["slow_rank_frac"] else ""
    title = f"Load balance of {first['model']}, {first['strategy']}, {first['data']}"
    notes = f"{slow}Mean over ranks of their own seconds over the slowest rank's: 1 where all have equally much to do."
    tall = max(1.0, (0.34 * len(names) + 0.3) / PANEL_HEIGHT)
    left_inches = 0.3 + 0.075 * max(map(len, names))
    with panels(1, len(sizes), title, notes, tall=tall, left=left_inches) as (figure, axes):
        for column, size in enumerate(sizes):
            axis = axes[0, column]
            cells = shown[shown["world_size"] == size].drop_duplicates("partition").set_index("partition")
            for place, name in enumerate(names):
                if name not in cells.index:
                    continue
                measured, predicted = cells.loc[name, ["load_balance", "predicted_load_balance"]]
                axis.barh(place, measured, height=0.6, color=_MEASURED)
                axis.plot([predicted], [place], marker="D", color=_PREDICTED, linestyle="", markersize=5, zorder=3)
                axis.text(0.02, place, units.fraction(measured), va="center", color="white", fontsize=8)
            axis.set_yticks(range(len(names)), names if not column else [])
            axis.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.05), xlabel="load balance")
            name_panel(axis, f"{size} ranks")
            axis.grid(False, axis="y")
            axis.grid(True, axis="x")
        mark = Line2D([], [], marker="D", color=_PREDICTED, linestyle="", label="reckoned from the sequences' costs")
        legend(figure, {}, [Patch(color=_MEASURED, label="measured"), mark])
    return figure
