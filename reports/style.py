"""What all charts have in common: a strategy's colour and marker, the grid of panels, the axis of ranks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

# Okabe and Ito's colours, told apart by colour-blind readers too; their black is made grey, or its bars would outweigh all
# others. Markers tell them apart in print without colours.
_KNOWN = {
    "ddp": ("#454545", "o"),
    "zero0": ("#56b4e9", "s"),
    "zero1": ("#0072b2", "^"),
    "zero2": ("#e69f00", "D"),
    "zero3": ("#009e73", "v"),
    # Kin of the ones above, darker or lighter.
    "zero2_offload": ("#8c5a00", "d"),
    "zero3_offload": ("#00503c", "<"),
    "zeropp": ("#7fd3b9", ">"),
    "ddp_fp16": ("#8a8a8a", "h"),
    "ddp_bf16": ("#b9b9b9", "H"),
    "fsdp": ("#d55e00", "P"),
    "mics": ("#b3a800", "p"),
    "ddp_powersgd": ("#cc79a7", "X"),
    "onebit_adam": ("#7b3294", "8"),
    "local_sgd": ("#17becf", "*"),
    "diloco": ("#3b3fb6", ">"),
    "hierarchical": ("#98df8a", "<"),
    "param_server": ("#b2182b", "v"),
}
_OTHERS = [("#f781bf", "P"), ("#c49c94", "X"), ("#ff9896", "<"), ("#9467bd", "h"), ("#dbdb8d", "p"), ("#c7c7c7", ">")]
_MARKERS = "osD^vPX*<>hp"

PANEL_WIDTH, PANEL_HEIGHT = 3.5, 2.45
_LEFT, _RIGHT, _TOP, _BOTTOM, _BETWEEN_X, _BETWEEN_Y = 0.8, 0.2, 0.95, 0.5, 0.72, 0.22
# From so many on they would reach the right edge of a single panel.
_MANY_HANDLES = 8
_LEGEND_LINE, _LEGEND_CHARACTERS_PER_INCH = 0.19, 14.2
_DODGED_OCTAVES = 0.36
_INK = "#222222"
_LOOK = {
    **sns.axes_style("whitegrid"),
    "axes.edgecolor": "#bbbbbb",
    "grid.color": "#e6e6e6",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "font.family": ["sans-serif"],
    # The first comes with matplotlib and sets the layout; a browser without it takes one of the others.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    # Text stays text: half the size, and it can be found and copied.
    "svg.fonttype": "none",
    "axes.grid.axis": "y",
    # A dollar sign in a name is no formula.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Style:
    """How one contender is drawn in every chart."""

    color: str
    marker: str


def styles(contenders: Iterable[str]) -> dict[str, Style]:
    """A style for each contender. Known strategies always have the same, also with settings where no other contender is of that
    strategy; the others follow in alphabetical order. Where there are more of those than styles, as `kin_styles`."""
    names = sorted(set(contenders))
    strategies = [name.partition(" (")[0] for name in names]
    known = {
        name: _KNOWN[strategy]
        for name, strategy in zip(names, strategies, strict=True)
        if strategy in _KNOWN and (name == strategy or strategies.count(strategy) == 1)
    }
    others = [name for name in names if name not in known]
    if len(others) > len(_OTHERS):
        return kin_styles(names)
    given = {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return {name: Style(*(known.get(name) or given[name])) for name in names}


def kin_styles(contenders: Iterable[str]) -> dict[str, Style]:
    """As `styles`, but one strategy's settings share its colour, each with a marker of its own: for charts of many settings."""
    names = sorted(set(contenders))
    found = {}
    for name in names:
        base = name.partition(" (")[0]
        kin = [other for other in names if other.partition(" (")[0] == base]
        color, marker = _KNOWN.get(base) or _OTHERS[names.index(kin[0]) % len(_OTHERS)]
        found[name] = Style(color, marker if len(kin) == 1 else _MARKERS[kin.index(name) % len(_MARKERS)])
    return found


def look() -> AbstractContextManager[None]:
    """The settings that a figure of this room is made and saved under."""
    return matplotlib.rc_context(_LOOK)


def _panel_width(columns: int, width: float = PANEL_WIDTH) -> float:
    return max(width, 6.2) if columns < 2 else width


def _width(columns: int, width: float = PANEL_WIDTH, left: float = _LEFT) -> float:
    """Inches of a figure with so many panels side by side."""
    return left + columns * _panel_width(columns, width) + (columns - 1) * _BETWEEN_X + _RIGHT


@contextmanager
def panels(
    rows: int,
    columns: int,
    title: str,
    notes: str = "",
    width: float = PANEL_WIDTH,
    tall: float = 1.0,
    left: float = _LEFT,
    between: float = _BETWEEN_Y,
    legend_lines: int = 1,
) -> Iterator[tuple[Figure, Any]]:
    """A figure of rows x columns panels: yields it and the array of its axes, with room left for title and legend, which may
    have several lines.

    Panels are `width` inches wide and `tall` times as high as usual; a single column is wider, or it would be narrower than
    its own title. Margins, and the room `between` two rows, are in inches, so that text keeps its size and place however many
    panels there are.
    """
    panel_width = _panel_width(columns, width)
    panel_height = PANEL_HEIGHT * tall
    wide = _width(columns, width, left)
    lines = textwrap.wrap(notes, int(wide * 14.5))
    top = _TOP + 0.17 * len(lines) + _LEGEND_LINE * (legend_lines - 1)
    high = top + rows * panel_height + (rows - 1) * between + _BOTTOM
    with look():
        figure = Figure(figsize=(wide, high), facecolor="white")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            # Fixed places: looking for free ones takes matplotlib a quarter of a report's time.
            axis.xaxis.set_label_coords(0.5, -0.3 / panel_height)
            axis.yaxis.set_label_coords(-0.55 / panel_width, 0.5)
            axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        figure.subplots_adjust(
            left=left / wide,
            right=1 - _RIGHT / wide,
            top=1 - top / high,
            bottom=_BOTTOM / high,
            wspace=_BETWEEN_X / panel_width,
            hspace=between / panel_height,
        )
        figure.text(0.12 / wide, 1 - 0.1 / high, title, ha="left", va="top", fontsize=12, weight="bold")
        for number, line in enumerate(lines):
            y = 1 - (0.36 + 0.17 * number) / high
            figure.text(0.12 / wide, y, line, ha="left", va="top", fontsize=9, color="#555555")
        yield figure, axes


def name_panel(axis: Axes, text: str) -> None:
    """The title of one panel, at a fixed place."""
    axis.set_title(text, y=1.02)


def legend_lines(drawn: Iterable[str], extra: Iterable[Any] = (), columns: int = 2) -> int:
    """Lines that a legend of these takes in a figure of so many columns of panels. A legend's columns are each as wide as
    their widest name."""
    wide = [len(name) + 6 for name in [*drawn, *map(_label, extra)]]
    room = _width(columns) * _LEGEND_CHARACTERS_PER_INCH
    for side_by_side in range(len(wide), 1, -1):
        lines = math.ceil(len(wide) / side_by_side)
        if sum(max(wide[start : start + lines]) for start in range(0, len(wide), lines)) <= room:
            return lines
    return max(1, len(wide))


def legend(
    figure: Figure, drawn: dict[str, Style], extra: Iterable[Any] = (), lines: bool = True, num_lines: int = 1
) -> None:
    """One legend for the whole figure, between the title and the panels, in as many lines as `panels` left room for. Of several
    handles that lie on each other, a tuple, the last has the label."""
    handles: list[Any] = [
        Line2D([], [], color=style.color, marker=style.marker, linestyle="-" if lines else "", label=name)
        for name, style in drawn.items()
    ]
    handles.extend(extra)
    wide, high = figure.get_size_inches()
    panels_top = high * max(axis.get_position().y1 for axis in figure.axes)
    figure.legend(
        handles=handles,
        labels=[_label(handle) for handle in handles],
        loc="lower left",
        bbox_to_anchor=(0.04 / wide, (panels_top + 0.32) / high),
        ncols=math.ceil(len(handles) / num_lines),
        frameon=False,
        columnspacing=1.2 if len(handles) < _MANY_HANDLES else 0.9,
        handletextpad=0.4,
        borderaxespad=0,
    )


def _label(handle: Any) -> str:
    return str((handle[-1] if isinstance(handle, tuple) else handle).get_label())


def log2_axis(axis: Axes, values: Iterable[int], label: str = "") -> None:
    """An x axis in powers of two with a tick at exactly what was measured; numbered where it has a label."""
    ticks = sorted(set(values))
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter((lambda value, _: f"{value:g}") if label else "")
    axis.set_xlim(ticks[0] / 2**0.35, ticks[-1] * 2**0.35)
    axis.set_xlabel(label)


def dodged(value: float, position: float, total: int, span: float) -> float:
    """The place on a log2 axis of one of `total` contenders: a little beside the others, so that none hides another.

    `span` is the largest over the smallest value of the axis. However many there are, they stay nearer to their place than
    to the middle between it and the next of three and four ranks.
    """
    step = min(0.016 * (math.log2(span) + 0.7), _DODGED_OCTAVES / max(1, total - 1))
    return float(value * 2 ** (step * (position - (total - 1) / 2)))
