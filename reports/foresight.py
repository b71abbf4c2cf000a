"""Charts of what the theory says by itself: steps that nobody measured, and steps on shaped links that somebody did."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import units
from reports.style import legend, log2_axis, name_panel, panels, styles

_BAND = 0.14


def projected(rows: pd.DataFrame, title: str) -> Figure:
    """Step time and efficiency by ranks, a line a strategy, with the interval that holds nine of ten as a band.

    `rows`: strategy, world_size, and step_time_s and efficiency with their _lo and _hi (`bench.theory.project.Row`).
    """
    looks = styles(rows["strategy"])
    divisor, unit = units.scale(float(rows["step_time_hi_s"].max()), "seconds")
    notes = "Projected, not measured: each rank does the same work whatever their number. Bands: nine of ten."
    with panels(1, 2, title, notes) as (figure, axes):
        for axis, column, by, name in (
            (axes[0, 0], "step_time", divisor, f"step time ({unit})"),
            (axes[0, 1], "efficiency", 0.01, "efficiency (%)"),
        ):
            # Steps are named with their unit, efficiency has none.
            value = f"{column}_s" if column == "step_time" else column
            ends = [f"{column}_{end}_s" if column == "step_time" else f"{column}_{end}" for end in ("lo", "hi")]
            log2_axis(axis, rows["world_size"], "ranks")
            for strategy, style in looks.items():
                own = rows[rows["strategy"] == strategy].sort_values("world_size")
                axis.plot(own["world_size"], own[value] / by, color=style.color, marker=style.marker)
                low, high = (own[end].astype(float) / by for end in ends)
                axis.fill_between(own["world_size"], low, high, color=style.color, alpha=_BAND, linewidth=0)
            axis.set_ylim(bottom=0)
            name_panel(axis, name)
        legend(figure, looks)
    return figure


def on_shaped_links(rows: pd.DataFrame) -> Figure:
    """Predicted over measured step time, a panel a rate and accumulation, by hosts; between the thin lines within 10 %.

    `rows`: strategy, grad_accum_steps, hosts, rate_mbit_per_s, error_frac (predicted over measured, less 1), host_bound (such
    rows are left out).
    """
    rows = rows[~rows["host_bound"].astype(bool)]
    looks = styles(rows["strategy"])
    rates, steps = sorted(set(rows["rate_mbit_per_s"])), sorted(set(rows["grad_accum_steps"]))
    reach = max(12.0, 110 * float(rows["error_frac"].abs().max()))
    notes = "A paced model, one rank a host on links of that rate, predicted from its step on one host. Lines: 10 % either way."
    notes += " Eight hosts, and four at the fastest rate, with steps four times as long."
    with panels(len(steps), len(rates), "Predicted less measured step time", notes, between=0.6) as (figure, axes):
        for line, accumulation in enumerate(steps):
            for place, rate in enumerate(rates):
                axis = axes[line, place]
                panel = rows[(rows["rate_mbit_per_s"] == rate) & (rows["grad_accum_steps"] == accumulation)]
                log2_axis(axis, rows["hosts"], "hosts" if line == len(steps) - 1 else "")
                axis.set_ylim(-reach, reach)
                for height, color in ((0, "#444444"), (-10, "#bbbbbb"), (10, "#bbbbbb")):
                    axis.axhline(height, color=color, linewidth=0.8, zorder=1)
                for strategy, style in looks.items():
                    own = panel[panel["strategy"] == strategy].sort_values("hosts")
                    axis.plot(
                        own["hosts"], 100 * own["error_frac"], color=style.color, marker=style.marker, linewidth=1
                    )
                axis.set_ylabel("%" if place == 0 else "")
                name_panel(axis, f"{rate:g} Mbit/s, accumulation {accumulation}")
        legend(figure, looks, [Line2D([], [], color="#bbbbbb", linewidth=0.8, label="10 %")])
    return figure
