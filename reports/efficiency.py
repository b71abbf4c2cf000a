"""Chart of where efficiency is lost: its factors, multiplied one after another, against what was measured directly.

Takes rows of the efficiency table of one model, scaling, setting and series (`keeps`), and the styles of all contenders.
"""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import units
from reports.charts import Styles, notes, title
from reports.intervals import error_bars
from reports.style import legend, name_panel, panels

# A loss has one colour, as a factor and in seconds.
USEFUL, IMBALANCE, WAIT, TRANSFER, WARN = "#5b8db8", "#cc79a7", "#e69f00", "#d55e00", "#b30000"
HATCH = "//////"
# A smaller factor above 1, or part below zero, is too thin for its hatching to be seen.
SEEN_FRAC = 0.005

_INK, _DARK = "#222222", "#1f3b57"
# In the order of the tree: what each factor loses, it loses of what the factors before it left.
_FACTORS = {
    "load_balance": ("load balance", IMBALANCE),
    "serialization": ("serialization (waiting)", WAIT),
    "transfer": ("transfer", TRANSFER),
    "compute_scaling": ("compute scaling", "#009e73"),
}
# Inches: a bar with its label, the widest row of panels that a page shows well, and the narrowest that holds the legend.
_SLOT, _WIDEST, _NARROWEST = 0.36, 13.0, 9.4
# Of the axis over the highest figure: a label fits, and an interval that is not much wider.
_HEADROOM = 1.14
# Between two world sizes, in bars.
_GAP = 0.7


def waterfall(cells: pd.DataFrame, styles: Styles) -> Figure | None:
    """From the ideal 100 % down to the global efficiency, a panel a strategy and a staircase a world size.

    Each bar spans the product of the factors before it and that product times its own factor, which is written above it;
    so the last step is the product of all. Where no cell has a baseline, that is the parallel efficiency. A black line is
    the efficiency measured directly; a world size where it disagrees with the product says "not reconciled". Thin bars are the
    95 % intervals of both, where they are known.
    """
    if cells.empty:
        return None
    scaled = bool(cells["global_efficiency"].notna().any())
    factors = list(_FACTORS) if scaled else list(_FACTORS)[:-1]
    whole = "global efficiency" if scaled else "parallel efficiency"
    sizes = sorted(cells["world_size"].unique())
    names = [name for name in styles if name in set(cells["contender"])]
    stride = len(factors) + 1 + _GAP
    width = _SLOT * stride * len(sizes)
    columns = max(1, min(len(names), int(_WIDEST / (width + 0.7))))
    width = max(width, _NARROWEST / columns - 0.7 * (columns - 1) / columns)
    rows = -(-len(names) // columns)
    products = cells[factors].astype(float).cumprod(axis=1)
    highest = max(1.0, products.max().max(), cells["measured_efficiency"].fillna(0).max())
    name = f"Where efficiency is lost: {series_title(cells)}"
    with panels(rows, columns, name, _notes(cells, highest * _HEADROOM), width=width, tall=0.8, between=0.7) as (
        figure,
        axes,
    ):
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        for number, contender in enumerate(names):
            axis = axes.flat[number]
            flags = dict.fromkeys(sizes, "")
            axis.axhline(1.0, color="#888888", linestyle="--", linewidth=1.0, zorder=1)
            axis.set_ylim(0, highest * _HEADROOM)
            for row in cells[cells["contender"] == contender].to_dict("records"):
                _staircase(axis, stride * sizes.index(row["world_size"]), row, factors)
                flags[row["world_size"]] = _flag(row)
            name_panel(axis, contender)
            middle = len(factors) / 2
            axis.set_xticks(
                [stride * place + middle for place in range(len(sizes))],
                [f"{units.ranks(size)}\n{flags[size]}".rstrip() for size in sizes],
            )
            for label, size in zip(axis.get_xticklabels(), sizes, strict=True):
                label.set_color(WARN if flags[size] else _INK)
            axis.set(xlim=(-0.5 - _GAP / 2, stride * len(sizes) - 0.5 - _GAP / 2))
            axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
            axis.set_ylabel("" if number % columns else "of ideal")
        extra: list[Any] = [Patch(color=_FACTORS[factor][1], label=_FACTORS[factor][0]) for factor in factors]
        extra.append(Patch(color=USEFUL, label=whole))
        if bool(cells["measured_efficiency"].notna().any()):
            extra.append(Line2D([], [], color="black", linewidth=2, label="measured directly"))
        if bool((cells[factors].astype(float) > 1 + SEEN_FRAC).any(axis=None)):
            extra.append(hatched("a factor above 1"))
        legend(figure, {}, extra)
    return figure


def series_title(cells: pd.DataFrame) -> str:
    """What the cells have in common, their series included."""
    return f"{title(cells)}, {cells['keeps'].iloc[0]}"


def hatched(label: str) -> Patch:
    """The legend's entry for a part that gives back what the parts before it took."""
    return Patch(facecolor="white", edgecolor="#555555", hatch=HATCH, linewidth=0, label=label)


def _staircase(axis: Axes, left: float, row: dict[Any, Any], factors: list[str]) -> None:
    """One world size: a floating bar a factor, the product as a bar from zero, and a line where it was measured to be."""
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
    word: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 7.5, "color": _INK, "zorder": 4, "bbox": paper}
    level = 1.0
    for place, factor in enumerate(factors):
        if units.is_unknown(row[factor]):
            # Nothing is known from here on, and a bar would say zero.
            for unknown in range(place, len(factors) + 1):
                axis.text(left + unknown, level + 0.02, units.UNKNOWN, **word)
            return
        after = level * float(row[factor])
        look: dict[str, Any] = {"color": _FACTORS[factor][1], "linewidth": 0}
        if after > level:
            look = {"facecolor": "white", "edgecolor": _FACTORS[factor][1], "hatch": HATCH, "linewidth": 0}
        axis.bar(left + place, after - level, 0.86, bottom=level, zorder=2, **look)
        axis.plot([left + place - 0.43, left + place + 1.43], [after, after], color="#777777", linewidth=0.7, zorder=3)
        axis.text(left + place, max(level, after) + 0.02, f"×{row[factor]:.2f}", **word)
        level = after
    end = left + len(factors)
    axis.bar(end, level, 0.86, color=USEFUL, linewidth=0, zorder=2)
    product, direct = _intervals(row)
    error_bars(axis, [end - 0.2], product[:1], product[1:], _DARK)
    error_bars(axis, [end + 0.2], direct[:1], direct[1:], "black")
    measured = row["measured_efficiency"]
    if not units.is_unknown(measured):
        axis.plot([end - 0.5, end + 0.5], [measured, measured], color="black", linewidth=2, zorder=3.5)
    # On its own bar, unless the line would cross it there; at its foot where intervals would.
    crossed = not units.is_unknown(measured) and level < measured < level + 0.12
    sure = any(not units.is_unknown(high) and high > low for low, high in (product, direct))
    axis.text(end, 0.02 if sure else (measured if crossed else level) + 0.02, f"={level:.2f}", **word)


def _intervals(row: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    """Ends of the interval of the product, and of what was measured directly; unknown where one is not known."""
    product = "parallel_efficiency" if units.is_unknown(row["global_efficiency"]) else "global_efficiency"
    found = [row[f"{product}_{end}"] for end in ("lo", "hi")]
    if row["baseline_world_size"] != 1:
        # What was measured directly is multiplied by what such a baseline lost, which is not that sure.
        return found, [None, None]
    return found, [row[f"efficiency_{end}"] for end in ("lo", "hi")]


def _notes(cells: pd.DataFrame, top: float) -> str:
    ends = [_intervals(row) for row in cells.to_dict("records")]
    highs = [high for _, high in itertools.chain(*ends) if not units.is_unknown(high)]
    words = notes(cells, any(high > top for high in highs), "attribution launch")
    direct = any(not units.is_unknown(high) for _, (_, high) in ends)
    return f"{words} The bar of what was measured directly: over timing launches." if direct else words


def _flag(row: dict[Any, Any]) -> str:
    """What stands under a world size whose staircase must not be read as it is."""
    if row["reconciled"] is False:
        return "not reconciled"
    return "oversubscribed" if row["oversubscribed"] is True else ""
