"""Projected figures in a chart of measured ones: dashed, with a band, and named as what they are."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports.style import Style, dodged

_GREY = "#666666"
_DASHES = (0, (4, 2))


def held_out(projected: pd.DataFrame | None, cells: pd.DataFrame) -> pd.DataFrame:
    """The projected rows of the contenders and panels among `cells` of which something was held out from the fit; none for None.

    `projected`: rows of `bench.analysis.projected.projected_table`.
    """
    if projected is None or projected.empty:
        return cells.iloc[:0].assign(in_fit=[], fitted_to=[])
    rows = projected[projected["keeps"].isin(cells["keeps"]) & projected["contender"].isin(cells["contender"])]
    return rows[rows.groupby(["contender", "keeps"])["in_fit"].transform(lambda fitted: not fitted.all())]


def dashed(
    axis: Axes, rows: pd.DataFrame, y: str, styles: dict[str, Style], divisor: float = 1.0, dodge: bool = True
) -> None:
    """A dashed line a contender from the largest size that was fitted to through those that were foreseen, with hollow points as
    far beside the others as the measured ones, and a band as wide as their intervals; after the axis got its limits."""
    low, high = axis.get_xlim()
    # Bands lie on each other: the more of them, the fainter each.
    alpha = min(0.10, 0.24 / max(1, rows["contender"].nunique()))
    for place, (name, style) in enumerate(styles.items()):
        own = rows[rows["contender"] == name].sort_values("world_size", kind="stable")
        fitted = own["in_fit"].astype(bool)
        own = pd.concat([own[fitted].tail(1), own[~fitted]])
        if own.empty:
            continue
        sizes = own["world_size"]
        along = pd.Series(
            [dodged(size, place, len(styles), high / low) if dodge else float(size) for size in sizes], index=own.index
        )
        color: dict[str, Any] = {"color": style.color, "linewidth": 1.2, "zorder": 1.8}
        axis.plot(along, own[y] / divisor, linestyle=_DASHES, **color)
        hollow: dict[str, Any] = {
            "marker": style.marker,
            "markersize": 4.5,
            "markerfacecolor": "white",
            "markeredgewidth": 1.0,
        }
        ahead = ~own["in_fit"].astype(bool)
        axis.plot(along[ahead], own.loc[ahead, y] / divisor, linestyle="", **hollow, **color)
        # Where it starts, at what was fitted, nobody may know how sure that is: from the point itself.
        low_end, high_end = (own[f"{y}_{end}"].astype(float).fillna(own[y].astype(float)) for end in ("lo", "hi"))
        axis.fill_between(
            along, low_end / divisor, high_end / divisor, color=style.color, alpha=alpha, linewidth=0, zorder=0.9
        )


def names(rows: pd.DataFrame) -> list[Any]:
    """The dashed line on its band in a legend; nothing where nothing is projected."""
    if rows.empty:
        return []
    look: dict[str, Any] = {"color": _GREY, "linestyle": _DASHES, "linewidth": 1.2, "marker": "o", "markersize": 4.5}
    line = Line2D([], [], markerfacecolor="white", label="projected", **look)
    return [(Patch(color=_GREY, alpha=0.2, linewidth=0), line)]


def note(rows: pd.DataFrame) -> str:
    """What the dashed lines were fitted to, and what their bands mean."""
    sizes = ", ".join(dict.fromkeys(rows["fitted_to"]))
    return f"Projected from {sizes} rank{'' if sizes == '1' else 's'}; its band: nine of ten." if sizes else ""
