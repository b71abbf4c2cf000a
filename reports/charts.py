"""Charts of speed: how fast, how well it scales, what accumulation buys. One function a figure, which it returns.

Each takes cells of one model, scaling and setting (rows of `scaling_table`), and the styles of all contenders. Panels side
by side are what a series keeps, mostly its accumulation. Cells without a figure are not drawn; a chart without anything to
draw is None.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import units
from reports.style import Style, dodged, legend, log2_axis, name_panel, panels

Styles = dict[str, Style]
RANKS = "ranks (world size)"
_IDEAL = "#888888"


def throughput(cells: pd.DataFrame, styles: Styles) -> Figure | None:
    """Tokens per second over all ranks, and seconds per optimizer step, against world size."""
    shown = cells[cells["tokens_per_s"].notna()]
    if shown.empty:
        return None
    kept = list(dict.fromkeys(shown["keeps"]))
    with panels(2, len(kept), f"Speed of {title(cells)}", notes(shown)) as (figure, axes):
        rate_divisor, rate_unit = units.scale(shown["tokens_per_s"].max(), "rate")
        for column, keeps in enumerate(kept):
            panel = shown[shown["keeps"] == keeps]
            divisor, unit = units.scale(panel["step_time_s"].max(), "seconds")
            top, bottom = axes[0, column], axes[1, column]
            log2_axis(top, shown["world_size"])
            log2_axis(bottom, shown["world_size"], RANKS)
            _lines(top, panel, "world_size", panel["tokens_per_s"] / rate_divisor, styles)
            _lines(bottom, panel, "world_size", panel["step_time_s"] / divisor, styles)
            name_panel(top, keeps)
            top.set_ylim(0, shown["tokens_per_s"].max() / rate_divisor * 1.08)
            bottom.set_ylim(0, panel["step_time_s"].max() / divisor * 1.08)
            # The steps of unequal accumulations are unequal work: each panel has its own axis.
            bottom.set_ylabel(f"step time, {unit}")
        _label_shared(axes[0], f"{rate_unit} tokens/s".strip())
        legend(figure, _drawn(shown, styles))
    return figure


def scaling(cells: pd.DataFrame, styles: Styles) -> Figure | None:
    """Speed-up with its ideal line, and efficiency, against world size; for the series that have a baseline."""
    shown = cells[cells["speedup"].notna()]
    if shown.empty:
        return None
    kept = list(dict.fromkeys(shown["keeps"]))
    with panels(2, len(kept), f"Scaling of {title(cells)}", notes(shown)) as (figure, axes):
        for column, keeps in enumerate(kept):
            panel = shown[shown["keeps"] == keeps]
            top, bottom = axes[0, column], axes[1, column]
            log2_axis(top, shown["world_size"])
            log2_axis(bottom, shown["world_size"], RANKS)
            for base, series in panel.groupby("baseline_world_size"):
                # Ideal from each baseline: a strategy that needs two ranks to start with has its own line.
                sizes = sorted({base, *series["world_size"]})
                top.plot(sizes, [size / base for size in sizes], color=_IDEAL, linestyle="--", linewidth=1.2, zorder=1)
            bottom.axhline(1.0, color=_IDEAL, linestyle="--", linewidth=1.2, zorder=1)
            # On the diagonal, a point set aside would look faster or slower than it is.
            _lines(top, panel, "world_size", panel["speedup"], styles, dodge=False)
            _lines(bottom, panel, "world_size", panel["efficiency"], styles)
            name_panel(top, keeps)
            _speedup_axis(top, shown)
            bottom.set_ylim(0, max(1.08, shown["efficiency"].max() * 1.05))
        _label_shared(axes[0], "speed-up")
        _label_shared(axes[1], "efficiency")
        legend(figure, _drawn(shown, styles), [Line2D([], [], color=_IDEAL, linestyle="--", label="ideal")])
    return figure


def utilisation(cells: pd.DataFrame, styles: Styles) -> Figure | None:
    """MFU against world size at the largest accumulation, where the peak of the device is known."""
    known = cells[cells["mfu"].notna()]
    if known.empty:
        return None
    shown = known[known["grad_accum_steps"] == known["grad_accum_steps"].max()]
    with panels(1, 1, f"MFU of {title(cells)}", notes(shown)) as (figure, axes):
        axis = axes[0, 0]
        log2_axis(axis, shown["world_size"], RANKS)
        _lines(axis, shown, "world_size", 100 * shown["mfu"], styles)
        name_panel(axis, f"accumulation {shown['grad_accum_steps'].iloc[0]}")
        axis.set(ylabel="MFU, %", ylim=(0, 100 * shown["mfu"].max() * 1.12))
        legend(figure, _drawn(shown, styles))
    return figure


def accumulation(cells: pd.DataFrame, styles: Styles) -> Figure | None:
    """Tokens per second against accumulation, at the smallest and the largest world size measured at several."""
    shown = cells[cells["accumulation_gain"].notna()]
    if shown.empty:
        return None
    sizes = sorted({shown["world_size"].min(), shown["world_size"].max()})
    with panels(1, len(sizes), f"Effect of accumulation on {title(cells)}", notes(shown)) as (figure, axes):
        for column, size in enumerate(sizes):
            panel = shown[shown["world_size"] == size]
            log2_axis(axes[0, column], shown["grad_accum_steps"], "accumulation (micro-batches a step)")
            # World sizes differ by so much that one axis for all would hide what accumulation does at the small ones.
            divisor, unit = units.scale(panel["tokens_per_s"].max(), "rate")
            _lines(axes[0, column], panel, "grad_accum_steps", panel["tokens_per_s"] / divisor, styles)
            name_panel(axes[0, column], units.ranks(size))
            axes[0, column].set_ylim(0, panel["tokens_per_s"].max() / divisor * 1.12)
            axes[0, column].set_ylabel(f"{unit} tokens/s".strip())
        legend(figure, _drawn(shown, styles))
    return figure


def title(cells: pd.DataFrame) -> str:
    """What the cells have in common, for a title."""
    first = cells.iloc[0]
    parts = [str(first["model"]), f"{first['scaling']} scaling", str(first["setting"])]
    return ", ".join(part for part in parts if part)


def notes(cells: pd.DataFrame) -> str:
    """What must be known to read the figure rightly."""
    words = []
    if bool((cells["launches"] == 1).all()):
        words.append("One launch a cell: no interval is known.")
    if bool(cells["oversubscribed"].astype(bool).any()):
        worst = ", ".join(
            str(size) for size in sorted(cells.loc[cells["oversubscribed"].astype(bool), "world_size"].unique())
        )
        words.append(f"Oversubscribed at {worst} ranks: more threads than cores.")
    if bool(cells["paced"].any()):
        words.append("Paced: the model sleeps instead of computing.")
    return " ".join(words)


def _lines(axis: Axes, cells: pd.DataFrame, x: str, y: pd.Series[float], styles: Styles, dodge: bool = True) -> None:
    """A line a contender, each point a little beside those of the others; after the axis got its limits."""
    low, high = axis.get_xlim()
    points: dict[str, list[tuple[float, float]]] = {}
    for name, along, up in zip(cells["contender"], cells[x], y, strict=True):
        points.setdefault(name, []).append((along, up))
    for place, (name, style) in enumerate(styles.items()):
        if name in points:
            along_all, up_all = zip(*sorted(points[name]), strict=True)
            axis.plot(
                [dodged(along, place, len(styles), high / low) if dodge else along for along in along_all],
                up_all,
                color=style.color,
                marker=style.marker,
                linewidth=1.6,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.6,
            )


def _drawn(cells: pd.DataFrame, styles: Styles) -> Styles:
    present = set(cells["contender"])
    return {name: style for name, style in styles.items() if name in present}


def _label_shared(row: list[Axes], label: str) -> None:
    """Label the first panel of a row whose axes are one and the same."""
    limits = (min(axis.get_ylim()[0] for axis in row), max(axis.get_ylim()[1] for axis in row))
    for position, axis in enumerate(row):
        axis.set_ylim(limits)
        axis.set_ylabel("" if position else label)
        if position:
            axis.tick_params(axis="y", labelleft=False)


def _speedup_axis(axis: Axes, shown: pd.DataFrame) -> None:
    """Log2, as the world size is, so that ideal is a straight line from corner to corner."""
    low = min(1.0, shown["speedup"].min())
    high = max(shown["speedup"].max(), (shown["world_size"] / shown["baseline_world_size"]).max())
    axis.set_yscale("log", base=2)
    axis.set_ylim(low / 2**0.35, high * 2**0.35)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
