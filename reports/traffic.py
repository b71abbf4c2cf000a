"""Chart of what is communicated: bytes of one optimizer step, observed beside theory."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports import units
from reports.charts import title
from reports.style import PANEL_HEIGHT, legend, name_panel, panels

_OPERATIONS = {
    "all_reduce": ("all-reduce", "#0072b2"),
    "reduce": ("reduce", "#56b4e9"),
    "reduce_scatter": ("reduce-scatter", "#009e73"),
    "all_gather": ("all-gather", "#e69f00"),
}
_OTHER = ("other", "#7f7f7f")
_BAR, _GAP = 0.36, 0.03


def traffic(rows: pd.DataFrame) -> Figure | None:
    """Bytes that a rank sends in a step if collectives go round a ring: a pair of bars a strategy and world size, observed
    above theory, and the factor of P written on it. Panels side by side are accumulations.

    `rows`: those of `bench.analysis.traffic.traffic_table` of one model, scaling and setting. On one rank nothing is sent.
    """
    shown = rows[(rows["world_size"] > 1) & rows["observed_volume_bytes"].notna()]
    if shown.empty:
        return None
    names = list(dict.fromkeys(zip(shown["contender"], shown["world_size"], strict=True)))
    names.sort(key=lambda name: (name[1], name[0]))
    accumulations = sorted(shown["grad_accum_steps"].unique())
    tall = max(1.0, (0.34 * len(names) + 0.3) / PANEL_HEIGHT)
    left_inches = 0.3 + 0.075 * max(len(_label(*name)) for name in names)
    notes = "Hatched: theory. P: the parameters' bytes; factor: volume / (P (n - 1) / n) on n ranks."
    name = f"Traffic of one step of {title(rows)}"
    divisor, unit = units.scale(_longest(shown), "bytes")
    with panels(1, len(accumulations), name, notes, tall=tall, left=left_inches) as (figure, axes):
        for column, accumulation in enumerate(accumulations):
            panel = shown[shown["grad_accum_steps"] == accumulation]
            axis = axes[0, column]
            for place, (contender, world_size) in enumerate(names):
                cells = panel[(panel["contender"] == contender) & (panel["world_size"] == world_size)]
                if len(cells):
                    _pair(axis, place, cells, divisor)
            axis.set_yticks(range(len(names)), [_label(*name) for name in names] if not column else [])
            # Room for the factor beside the longest bar.
            axis.set(
                ylim=(len(names) - 0.5, -0.5),
                xlabel=f"sent per rank and step, {unit}",
                xlim=(0, _longest(panel) / divisor * 1.32),
            )
            name_panel(axis, f"accumulation {accumulation}")
            axis.grid(False, axis="y")
            axis.grid(True, axis="x")
        present = [name for name in _OPERATIONS if name in set(shown["operation"])]
        extra = [_OTHER] if not set(shown["operation"]) <= set(_OPERATIONS) else []
        looks = [*(_OPERATIONS[name] for name in present), *extra]
        legend(figure, {}, [Patch(color=color, label=label) for label, color in looks])
    return figure


def _label(contender: str, world_size: int) -> str:
    return f"{contender}, {world_size} ranks"


def _longest(rows: pd.DataFrame) -> float:
    sums = rows.groupby("cell_id")[["observed_volume_bytes", "theory_volume_bytes"]].sum()
    return float(sums.max().max()) or 1.0


def _pair(axis: Axes, place: int, cells: pd.DataFrame, divisor: float) -> None:
    """The two bars of one cell, stacked by operation, and its factor; where several cells share a place, the first's."""
    cell = cells[cells["cell_id"] == cells["cell_id"].iloc[0]].set_index("operation")
    operations = [name for name in _OPERATIONS if name in cell.index]
    operations += [name for name in cell.index if name not in _OPERATIONS]
    ends = []
    for column, offset in (("observed_volume_bytes", -1), ("theory_volume_bytes", 1)):
        left = 0.0
        for name in operations:
            size = cell.loc[name, column]
            color = _OPERATIONS.get(name, _OTHER)[1]
            if pd.notna(size) and size > 0:
                theory: dict[str, Any] = {"facecolor": "white", "edgecolor": color, "hatch": "//////", "linewidth": 0.8}
                look: dict[str, Any] = {"color": color, "linewidth": 0} if offset < 0 else theory
                axis.barh(place + offset * (_BAR + _GAP) / 2, size / divisor, _BAR, left=left / divisor, **look)
                left += size
        ends.append(left)
    first = cell.iloc[0]
    has_theory = pd.notna(first["theory_factor"])
    words = "factor –" if pd.isna(first["observed_factor"]) else f"{first['observed_factor']:.2f} P"
    if not has_theory:
        words += ", no theory"
    elif not all(cell["agrees"]):
        words += f", theory {first['theory_factor']:.2f} P"
    beside = place if has_theory else place - (_BAR + _GAP) / 2
    axis.annotate(words, (max(ends) / divisor, beside), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
