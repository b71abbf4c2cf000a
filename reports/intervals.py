"""How sure a figure is, drawn: error bars of which no end is cut off unseen, and the band of the A/A spread."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.markers import CARETDOWN, CARETLEFT, CARETRIGHT, CARETUP
from matplotlib.patches import Patch

from reports import units

# How far an axis follows an interval above the highest figure. Two launches may have one of ten times their figure, on whose
# axis nothing else would be seen.
_ROOM = 1.4
BAND = "#9a9a9a"


def axis_top(cells: pd.DataFrame, name: str) -> float:
    """Upper end of an axis from zero: above every figure, and above every interval that ends within _ROOM of the highest."""
    highest = float(cells[name].max())
    ends = cells[f"{name}_hi"].dropna()
    return 1.08 * max(highest, min(float(ends.max()), _ROOM * highest) if len(ends) else 0.0)


def is_cut(cells: pd.DataFrame, name: str) -> bool:
    """Whether an interval goes on beyond that axis."""
    return bool((cells[f"{name}_hi"] > axis_top(cells, name)).any())


def error_bars(axis: Axes, along: list[float], low: list[float], high: list[float], color: str) -> None:
    """Upright bars with thin caps, where both ends are known; after the axis got its limits.

    An end beyond a limit is an arrow at that limit.
    """
    _bars(axis, along, low, high, color, upright=True)


def flat_bars(axis: Axes, along: list[float], low: list[float], high: list[float], color: str) -> None:
    """The same as `error_bars`, lying: `along` is the height of each."""
    _bars(axis, along, low, high, color, upright=False)


def _bars(axis: Axes, along: list[float], low: list[float], high: list[float], color: str, upright: bool) -> None:
    bars = pd.DataFrame({"along": along, "low": low, "high": high}, dtype=float).dropna()
    # A cell against itself is exactly 1.
    bars = bars[bars["high"] > bars["low"]]
    if bars.empty:
        return
    least, most = sorted(axis.get_ylim() if upright else axis.get_xlim())
    draw = axis.vlines if upright else axis.hlines
    draw(bars["along"], bars["low"].clip(least, most), bars["high"].clip(least, most), color, linewidth=1.0, zorder=2.5)
    below, above = bars["low"] < least, bars["high"] > most
    cap, down, up = ("_", CARETDOWN, CARETUP) if upright else ("|", CARETLEFT, CARETRIGHT)
    ends = [
        (bars["low"], ~below, cap),
        (bars["high"], ~above, cap),
        (bars["low"], below, down),
        (bars["high"], above, up),
    ]
    for values, which, marker in ends:
        look: dict[str, Any] = {"linestyle": "", "color": color, "marker": marker, "zorder": 2.5}
        look.update({"markersize": 5, "markeredgewidth": 1.0} if marker == cap else {"markersize": 6, "clip_on": False})
        if bool(which.any()):
            places, shown = bars.loc[which, "along"], values[which].clip(least, most)
            axis.plot(*((places, shown) if upright else (shown, places)), **look)


def band(axis: Axes, along: list[float], values: list[float], spread_frac: float | None, color: str = BAND) -> None:
    """What lies within the A/A spread of a line: as far as one cell may be from itself."""
    if spread_frac is not None:
        low, high = ([value * factor for value in values] for factor in (1 / (1 + spread_frac), 1 + spread_frac))
        axis.fill_between(along, low, high, color=color, alpha=0.18, linewidth=0, zorder=1)


def band_name(spread_frac: float | None) -> list[Patch]:
    """The band in a legend; nothing where no A/A pair ran."""
    return (
        []
        if spread_frac is None
        else [Patch(color=BAND, alpha=0.35, label=f"A/A spread {units.fraction(spread_frac)}")]
    )
