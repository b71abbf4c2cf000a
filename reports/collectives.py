"""A sweep of collectives: its chart, bus bandwidth and time against size, and its tables as text."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from reports import units
from reports.columns import Column, table, without_empty
from reports.style import Style, panels

_LOOKS = {
    "all_reduce": Style("#454545", "o"),
    "all_gather": Style("#0072b2", "^"),
    "reduce_scatter": Style("#e69f00", "D"),
    "broadcast": Style("#009e73", "v"),
    "all_to_all": Style("#cc79a7", "s"),
}
_IN_PLACE = {True: "in place", False: "out of place"}
# Octaves between two ticks of sizes.
_OCTAVES = 4


def bandwidth(points: pd.DataFrame, title: str, notes: str) -> Figure | None:
    """Bus bandwidth (left) and time (right) by size, both axes logarithmic: a colour an operation, dashed in place. None where
    nothing was measured. `points`: operation, in_place, size_bytes, time_s, time_lo_s, time_hi_s, busbw_bytes_per_s."""
    shown = points[points["time_s"].notna()]
    if shown.empty:
        return None
    factors = shown["busbw_bytes_per_s"] * shown["time_s"]
    fast, fast_unit = units.scale(shown["busbw_bytes_per_s"].max(), "rate")
    slow, slow_unit = units.scale(shown["time_s"].max(), "seconds")
    with panels(1, 2, title, notes, width=4.6, tall=1.35) as (figure, axes):
        left, right = axes[0]
        for (operation, in_place), own in shown.groupby(["operation", "in_place"], sort=False):
            style = _LOOKS[str(operation)]
            look = {
                "color": style.color,
                "marker": style.marker,
                "markersize": 4,
                "linewidth": 1.4,
                "linestyle": "--" if in_place else "-",
                "markerfacecolor": "white" if in_place else style.color,
            }
            left.plot(own["size_bytes"], own["busbw_bytes_per_s"] / fast, **look)
            right.plot(own["size_bytes"], own["time_s"] / slow, **look)
            if own["time_lo_s"].notna().all():
                moved = factors[own.index]
                soft = {"color": style.color, "alpha": 0.13, "linewidth": 0}
                left.fill_between(
                    own["size_bytes"], moved / own["time_hi_s"] / fast, moved / own["time_lo_s"] / fast, **soft
                )
                right.fill_between(own["size_bytes"], own["time_lo_s"] / slow, own["time_hi_s"] / slow, **soft)
        for axis, label in (
            (left, f"bus bandwidth, {fast_unit}B/s"),
            (right, f"time of the slowest rank, {slow_unit}"),
        ):
            _by_size(axis, shown["size_bytes"], label)
        drawn = [
            Line2D([], [], color=style.color, marker=style.marker, markersize=4, label=name)
            for name, style in _LOOKS.items()
            if name in set(shown["operation"])
        ]
        places = [
            Line2D([], [], color="#666666", linestyle="--" if flag else "-", label=_IN_PLACE[flag])
            for flag in sorted(set(shown["in_place"].astype(bool)))
        ]
        _legend(figure, [*drawn, *places])
    return figure


def _by_size(axis: Axes, sizes: pd.Series, label: str) -> None:
    axis.set(xscale="log", yscale="log", xlabel="size", ylabel=label)
    first = 1024
    ticks = [first]
    while ticks[-1] < sizes.max():
        ticks.append(ticks[-1] * 2**_OCTAVES)
    axis.set_xlim(sizes.min() / 1.4, sizes.max() * 1.4)
    ticks = [tick for tick in ticks if sizes.min() / 1.4 <= tick <= sizes.max() * 1.4]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(ticks, [_whole(tick) for tick in ticks])
    low, high = axis.get_ylim()
    # Few decades: their halves and fifths are needed to read anything.
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 1e3 * low else (1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.9f}".rstrip("0").rstrip("."))
    axis.yaxis.set_minor_locator(NullLocator())


def _whole(size_bytes: int) -> str:
    divisor, unit = units.scale(size_bytes, "bytes")
    return f"{size_bytes / divisor:g} {unit}"


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    wide, high = figure.get_size_inches()
    top = max(axis.get_position().y1 for axis in figure.axes)
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.04 / wide, top + 0.08 / high),
        ncols=len(handles),
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.4,
        borderaxespad=0,
    )


def place(in_place: object) -> str:
    """In place or not, in words."""
    return _IN_PLACE[bool(in_place)]


def _short(in_place: object) -> str:
    return "in" if in_place else "out of"


def _yes(value: object) -> str:
    return units.UNKNOWN if units.is_unknown(value) else "yes" if value else "NO"


_POINTS: list[Column] = [
    ("operation", "operation", units.text),
    ("in_place", "place", _short),
    ("size_bytes", "size", units.memory),
    ("num_elements", "elements", units.count),
    ("time_s", "time", units.seconds),
    ("between", "95 %", units.text),
    ("algbw_bytes_per_s", "algbw, B/s", units.rate),
    ("busbw_bytes_per_s", "busbw, B/s", units.rate),
    ("num_repetitions", "reps", units.count),
    ("checked", "checked", _yes),
    ("note", "note", units.text),
]
_FITS: list[Column] = [
    ("operation", "operation", units.text),
    ("in_place", "place", _short),
    ("latency_s", "latency", units.seconds),
    ("latency_between", "95 %", units.text),
    ("bandwidth_bytes_per_s", "bandwidth, B/s", units.rate),
    ("bandwidth_between", "95 % ", units.text),
    ("busbw_bytes_per_s", "as busbw", units.rate),
    ("fit_error_frac", "off by", units.fraction),
    ("note", "note", units.text),
]


def points_text(points: pd.DataFrame) -> pd.DataFrame:
    """The points as text, for a page or a terminal."""
    between = [
        units.seconds_between(low, high) for low, high in zip(points["time_lo_s"], points["time_hi_s"], strict=True)
    ]
    return without_empty(table(points.assign(between=between), _POINTS), "note")


def fits_text(fits: pd.DataFrame) -> pd.DataFrame:
    """The fits as text."""
    latency, rate = "latency_s", "bandwidth_bytes_per_s"
    shown = fits.assign(
        latency_between=[
            units.seconds_between(low, high)
            for low, high in zip(fits[f"{latency}_lo"], fits[f"{latency}_hi"], strict=True)
        ],
        bandwidth_between=[
            units.rate_between(low, high) for low, high in zip(fits[f"{rate}_lo"], fits[f"{rate}_hi"], strict=True)
        ],
    )
    return without_empty(table(shown, _FITS), "note")
