"""Chart of what changed between two runs: for each cell the ratio of step times with its interval."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from reports import units
from reports.comparison import VARYING, alike, varying
from reports.intervals import BAND, band_name, flat_bars
from reports.style import PANEL_HEIGHT, legend, panels

# Colour and marker of a verdict: colours that the colour-blind tell apart too, and markers that point the way.
_VERDICTS = {
    "slower": ("#d55e00", ">", True),
    "faster": ("#0072b2", "<", True),
    "same": ("#7f7f7f", "o", True),
    "not resolved": ("#7f7f7f", "o", False),
}
_SOFT = "#666666"
# Inches: a row, and the verdict in words beside it.
_ROW, _WORDS = 0.22, 1.75
# How far, as a factor, the axis follows an interval beyond the ratio that is furthest from 1.
_ROOM = 1.3


def forest(
    cells: pd.DataFrame,
    *,
    base: str,
    new: str,
    confidence: float,
    least_effect_frac: float,
    aa_spread_frac: float | None,
) -> Figure | None:
    """The ratio new / base of step times on a log axis, a row a cell and models apart; cells without one have their word alone.

    `cells`: rows of `bench.analysis.comparison.compare`; `base` and `new` name the runs. The band is the spread of the A/A
    pairs, the thin lines the least effect that counts. None without any cell.
    """
    if cells.empty:
        return None
    several = [*varying(cells), *(["cell_id"] if alike(cells) else [])]
    rows: list[dict[str, Any] | str] = []
    for model, own in cells.groupby("model", sort=False):
        rows += [str(model), *({str(name): value for name, value in row.items()} for row in own.to_dict("records"))]
    labels = [row if isinstance(row, str) else _label(row, several) for row in rows]
    limit = _limit(cells, least_effect_frac, aa_spread_frac)
    cut = bool((cells["ratio_lo"].lt(math.exp(-limit)) | cells["ratio_hi"].gt(math.exp(limit))).any())
    notes = f"Bars: {100 * confidence:g} % intervals over launches, where both runs have several."
    notes += " An arrow: the interval goes on beyond the axis." if cut else ""
    left = max(1.0, 0.3 + 0.075 * max(map(len, labels)))
    tall = _ROW * (len(rows) + 0.6) / PANEL_HEIGHT
    with panels(1, 1, f"Step time, new ({new}) / base ({base})", notes, width=5.2 + _WORDS, tall=tall, left=left) as (
        figure,
        axes,
    ):
        axis = axes[0, 0]
        wide = figure.get_size_inches()[0]
        figure.subplots_adjust(right=1 - (_WORDS + 0.1) / wide)
        axis.set(xscale="log", xlim=(math.exp(-limit), math.exp(limit)), ylim=(len(rows) - 0.2, -0.8))
        axis.xaxis.set_major_locator(FixedLocator(_ticks(limit)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axis.set_yticks(range(len(rows)), labels)
        axis.tick_params(axis="y", length=0)
        axis.grid(False, axis="y")
        axis.grid(True, axis="x")
        axis.axvline(1.0, color="#444444", linewidth=1.0, zorder=1.5)
        for end in (1 + least_effect_frac, 1 / (1 + least_effect_frac)):
            axis.axvline(end, color=_SOFT, linewidth=0.8, linestyle=":", zorder=1.5)
        if aa_spread_frac is not None:
            axis.axvspan(1 / (1 + aa_spread_frac), 1 + aa_spread_frac, color=BAND, alpha=0.25, linewidth=0, zorder=1)
        for place, (row, label) in enumerate(zip(rows, axis.get_yticklabels(), strict=True)):
            if isinstance(row, str):
                label.set_fontweight("bold")
            else:
                _row(axis, place, row)
        present = [name for name in _VERDICTS if name in set(cells["verdict"])]
        least = Line2D([], [], color=_SOFT, linestyle=":", label=f"least effect, {100 * least_effect_frac:g} %")
        legend(figure, {}, [*(_marker(name) for name in present), *band_name(aa_spread_frac), least])
    return figure


def _label(row: dict[str, Any], several: list[str]) -> str:
    words = [str(row["strategy"]), units.ranks(row["world_size"]), f"accumulation {row['grad_accum_steps']}"]
    words += [f"{VARYING[name]} {row[name]}" for name in several if name in VARYING]
    return ", ".join([*words, *(str(row[name]).rpartition("_")[2] for name in several if name == "cell_id")])


def _row(axis: Axes, place: int, row: dict[str, Any]) -> None:
    word: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 8.5}
    color, *_ = _VERDICTS.get(row["verdict"], (_SOFT,))
    if units.is_unknown(row["ratio"]):
        axis.text(1.015, place, row["verdict"], color=_SOFT, style="italic", **word)
        return
    axis.text(1.015, place, f"{units.ratio(row['ratio'])}  {row['verdict']}", color=color, **word)
    flat_bars(axis, [place], [row["ratio_lo"]], [row["ratio_hi"]], color)
    axis.plot([row["ratio"]], [place], zorder=3, **_look(row["verdict"]))


def _look(verdict: str) -> dict[str, Any]:
    color, marker, filled = _VERDICTS[verdict]
    look: dict[str, Any] = {"linestyle": "", "marker": marker, "color": color, "markersize": 6}
    return {**look, "markeredgecolor": color, "markerfacecolor": color if filled else "white"}


def _marker(verdict: str) -> Line2D:
    return Line2D([], [], label=verdict, **_look(verdict))


def _limit(cells: pd.DataFrame, least_effect_frac: float, aa_spread_frac: float | None) -> float:
    """Half the axis, as a logarithm: all ratios, the band and the least effect, and intervals as far as _ROOM."""
    ends = [1 + least_effect_frac, 1 + (aa_spread_frac or 0.0), *cells["ratio"].dropna()]
    furthest = max(0.02, *(abs(math.log(end)) for end in ends))
    bounds = [abs(math.log(max(end, 1e-300))) for side in ("lo", "hi") for end in cells[f"ratio_{side}"].dropna()]
    return 1.12 * max(furthest, min(max(bounds, default=0.0), furthest + math.log(_ROOM)))


def _ticks(limit: float) -> list[float]:
    """Round ratios between exp(-limit) and exp(limit), about seven."""
    low, high = math.exp(-limit), math.exp(limit)
    if high > 4:
        return [base * 10**power for power in range(-9, 9) for base in (1, 2, 5) if low <= base * 10**power <= high]
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / step <= 8 or step == 0.5)
    return [round(step * number, 2) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
