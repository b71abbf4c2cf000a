"""Charts of speed: how fast, how well it scales, what accumulation buys. One function a figure, which it returns.

Each takes cells of one model, scaling and setting (rows of `scaling_table`), and the styles of all contenders. Panels side
by side are what a series keeps, mostly its accumulation. Cells without a figure are not drawn; a chart without anything to
draw is None. Error bars are the 95 % intervals over launches, where they are known. `aa_spread_frac` is how far a cell and
its A/A twin are apart, drawn as a band around what is compared; None where no pair ran, and then there is no band.
`projected`: rows of `projected_table` of the same cells, drawn dashed; None for none.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import projection, units
from reports.intervals import axis_top, band, band_name, error_bars, is_cut
from reports.style import Style, dodged, legend, legend_lines, log2_axis, name_panel, panels

Styles = dict[str, Style]
RANKS = "ranks (world size)"
_IDEAL = "#888888"


def throughput(
    cells: pd.DataFrame, styles: Styles, aa_spread_frac: float | None = None, projected: pd.DataFrame | None = None
) -> Figure | None:
    """Tokens per second over all ranks, and seconds per optimizer step, against world size."""
    shown = cells[cells["tokens_per_s"].notna()]
    if shown.empty:
        return None
    kept = list(dict.fromkeys(shown["keeps"]))
    each = [shown[shown["keeps"] == keeps] for keeps in kept]
    cut = is_cut(shown, "tokens_per_s") or any(is_cut(panel, "step_time_s") for panel in each)
    foreseen = projection.held_out(projected, shown)
    words = f"{notes(shown, cut)} {projection.note(foreseen)}".strip()
    both = pd.concat([shown, foreseen]) if len(foreseen) else shown
    drawn, extra = _drawn(shown, styles), [*band_name(aa_spread_frac), *projection.names(foreseen)]
    lines = legend_lines(drawn, extra, len(kept))
    with panels(2, len(kept), f"Speed of {title(cells)}", words, legend_lines=lines) as (figure, axes):
        rate_divisor, rate_unit = units.scale(shown["tokens_per_s"].max(), "rate")
        for column, (keeps, panel) in enumerate(zip(kept, each, strict=True)):
            divisor, unit = units.scale(panel["step_time_s"].max(), "seconds")
            top, bottom = axes[0, column], axes[1, column]
            log2_axis(top, shown["world_size"])
            log2_axis(bottom, shown["world_size"], RANKS)
            ahead = foreseen[foreseen["keeps"] == keeps]
            top.set_ylim(0, axis_top(both, "tokens_per_s") / rate_divisor)
            bottom.set_ylim(0, axis_top(both[both["keeps"] == keeps], "step_time_s") / divisor)
            projection.dashed(top, ahead, "tokens_per_s", styles, rate_divisor)
            projection.dashed(bottom, ahead, "step_time_s", styles, divisor)
            _lines(top, panel, "world_size", "tokens_per_s", styles, rate_divisor, spread=aa_spread_frac)
            _lines(bottom, panel, "world_size", "step_time_s", styles, divisor, spread=aa_spread_frac)
            name_panel(top, keeps)
            # The steps of unequal accumulations are unequal work: each panel has its own axis.
            bottom.set_ylabel(f"step time, {unit}")
        _label_shared(axes[0], f"{rate_unit} tokens/s".strip())
        legend(figure, drawn, extra, num_lines=lines)
    return figure


def scaling(
    cells: pd.DataFrame, styles: Styles, aa_spread_frac: float | None = None, projected: pd.DataFrame | None = None
) -> Figure | None:
    """Speed-up with its ideal line, and efficiency, against world size; for the series that have a baseline."""
    shown = cells[cells["speedup"].notna()]
    if shown.empty:
        return None
    kept = list(dict.fromkeys(shown["keeps"]))
    speedups = _speedup_limits(shown)
    cut = is_cut(shown, "efficiency") or bool(
        ((shown["speedup_lo"] < speedups[0]) | (shown["speedup_hi"] > speedups[1])).any()
    )
    # A projection is against one rank, so it stands beside what was measured against one alone.
    foreseen = projection.held_out(projected, shown[shown["baseline_world_size"] == 1])
    words = f"{notes(shown, cut)} {projection.note(foreseen)}".strip()
    ideal = Line2D([], [], color=_IDEAL, linestyle="--", label="ideal")
    drawn, extra = _drawn(shown, styles), [ideal, *band_name(aa_spread_frac), *projection.names(foreseen)]
    lines = legend_lines(drawn, extra, len(kept))
    with panels(2, len(kept), f"Scaling of {title(cells)}", words, legend_lines=lines) as (figure, axes):
        for column, keeps in enumerate(kept):
            panel = shown[shown["keeps"] == keeps]
            top, bottom = axes[0, column], axes[1, column]
            log2_axis(top, shown["world_size"])
            log2_axis(bottom, shown["world_size"], RANKS)
            _speedup_axis(top, speedups)
            bottom.set_ylim(0, max(1.08, axis_top(shown, "efficiency")))
            for base, series in panel.groupby("baseline_world_size"):
                # Ideal from each baseline: a strategy that needs two ranks to start with has its own line.
                sizes = sorted({base, *series["world_size"]})
                top.plot(sizes, [size / base for size in sizes], color=_IDEAL, linestyle="--", linewidth=1.2, zorder=1)
            bottom.axhline(1.0, color=_IDEAL, linestyle="--", linewidth=1.2, zorder=1)
            band(bottom, list(bottom.get_xlim()), [1.0, 1.0], aa_spread_frac)
            # On the diagonal, a point set aside would look faster or slower than it is; its interval is.
            ahead = foreseen[foreseen["keeps"] == keeps]
            projection.dashed(top, ahead, "speedup", styles, dodge=False)
            projection.dashed(bottom, ahead, "efficiency", styles)
            _lines(top, panel, "world_size", "speedup", styles, dodge=False)
            _lines(bottom, panel, "world_size", "efficiency", styles)
            name_panel(top, keeps)
        _label_shared(axes[0], "speed-up")
        _label_shared(axes[1], "efficiency")
        legend(figure, drawn, extra, num_lines=lines)
    return figure


def utilisation(cells: pd.DataFrame, styles: Styles, aa_spread_frac: float | None = None) -> Figure | None:
    """MFU against world size at the largest accumulation, where the peak of the device is known."""
    known = cells[cells["mfu"].notna()]
    if known.empty:
        return None
    shown = known[known["grad_accum_steps"] == known["grad_accum_steps"].max()]
    drawn, extra = _drawn(shown, styles), band_name(aa_spread_frac)
    lines, words = legend_lines(drawn, extra, columns=1), notes(shown, is_cut(shown, "mfu"))
    with panels(1, 1, f"MFU of {title(cells)}", words, legend_lines=lines) as (figure, axes):
        axis = axes[0, 0]
        log2_axis(axis, shown["world_size"], RANKS)
        axis.set(ylabel="MFU, %", ylim=(0, 100 * axis_top(shown, "mfu")))
        _lines(axis, shown, "world_size", "mfu", styles, 0.01, spread=aa_spread_frac)
        name_panel(axis, f"accumulation {shown['grad_accum_steps'].iloc[0]}")
        legend(figure, drawn, extra, num_lines=lines)
    return figure


def accumulation(cells: pd.DataFrame, styles: Styles, aa_spread_frac: float | None = None) -> Figure | None:
    """Tokens per second against accumulation, at the smallest and the largest world size measured at several."""
    shown = cells[cells["accumulation_gain"].notna()]
    if shown.empty:
        return None
    sizes = sorted({shown["world_size"].min(), shown["world_size"].max()})
    each = [shown[shown["world_size"] == size] for size in sizes]
    words = notes(pd.concat(each), any(is_cut(panel, "tokens_per_s") for panel in each))
    drawn, extra = _drawn(shown, styles), band_name(aa_spread_frac)
    lines = legend_lines(drawn, extra, len(sizes))
    with panels(1, len(sizes), f"Effect of accumulation on {title(cells)}", words, legend_lines=lines) as (
        figure,
        axes,
    ):
        for column, (size, panel) in enumerate(zip(sizes, each, strict=True)):
            log2_axis(axes[0, column], shown["grad_accum_steps"], "accumulation (micro-batches a step)")
            # World sizes differ by so much that one axis for all would hide what accumulation does at the small ones.
            divisor, unit = units.scale(panel["tokens_per_s"].max(), "rate")
            axes[0, column].set_ylim(0, axis_top(panel, "tokens_per_s") / divisor)
            _lines(axes[0, column], panel, "grad_accum_steps", "tokens_per_s", styles, divisor, spread=aa_spread_frac)
            name_panel(axes[0, column], units.ranks(size))
            axes[0, column].set_ylabel(f"{unit} tokens/s".strip())
        legend(figure, drawn, extra, num_lines=lines)
    return figure


def title(cells: pd.DataFrame) -> str:
    """What the cells have in common, for a title."""
    first = cells.iloc[0]
    parts = [str(first["model"]), f"{first['scaling']} scaling", str(first["setting"])]
    return ", ".join(part for part in parts if part)


def notes(cells: pd.DataFrame, cut: bool = False, kind: str = "launch", of: str = "") -> str:
    """What must be known to read a figure with intervals rightly. `cut`: whether one goes on beyond its axis; `kind`: of the
    launches that the cells count; `of`: which figures have intervals, if not all."""
    words = []
    least, most = int(cells["launches"].min()), int(cells["launches"].max())
    if most == 1:
        words.append(f"One {kind} a cell: no interval is known.")
    else:
        over = f"{most}" if least == most else f"{max(2, least)} to {most}" if most > 2 else "2"
        words.append(
            f"Bars: 95 % intervals{of and f' of {of}'} over {over} {kind}es{'; none of one launch' if least == 1 else ''}."
        )
    if cut:
        words.append("An arrow: the interval goes on beyond the axis.")
    return " ".join([*words, caveats(cells)]).rstrip()


def caveats(cells: pd.DataFrame) -> str:
    """What the figures of some cells don't stand for."""
    words = []
    if bool(cells["oversubscribed"].astype(bool).any()):
        worst = ", ".join(
            str(size) for size in sorted(cells.loc[cells["oversubscribed"].astype(bool), "world_size"].unique())
        )
        words.append(f"Oversubscribed at {worst} ranks: more threads than cores.")
    if bool(cells["paced"].any()):
        words.append("Paced: the model sleeps instead of computing.")
    return " ".join(words)


def _lines(
    axis: Axes,
    cells: pd.DataFrame,
    x: str,
    y: str,
    styles: Styles,
    divisor: float = 1.0,
    spread: float | None = None,
    dodge: bool = True,
) -> None:
    """A line a contender, each point and its interval a little beside those of the others; after the axis got its limits."""
    low, high = axis.get_xlim()
    ordered = cells.sort_values(x, kind="stable")
    for place, (name, style) in enumerate(styles.items()):
        own = ordered[ordered["contender"] == name]
        if own.empty:
            continue
        aside = [dodged(value, place, len(styles), high / low) for value in own[x]]
        along = aside if dodge else own[x].tolist()
        values, least, most = ((own[column] / divisor).tolist() for column in (y, f"{y}_lo", f"{y}_hi"))
        axis.plot(
            along,
            values,
            color=style.color,
            marker=style.marker,
            linewidth=1.6,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
        # A lone point has a band as wide as its place beside the others.
        alone = [dodged(own[x].iloc[0], place + side, len(styles), high / low) for side in (-0.4, 0.4)]
        band(axis, *((along, values) if len(own) > 1 else (alone, 2 * values)), spread, style.color)
        error_bars(axis, aside, least, most, style.color)


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


def _speedup_limits(shown: pd.DataFrame) -> tuple[float, float]:
    """Of all figures and the ideal, with room for intervals that are not much wider than that."""
    low = min(1.0, shown["speedup"].min())
    high = max(shown["speedup"].max(), (shown["world_size"] / shown["baseline_world_size"]).max())
    return low / 2**0.35, high * 2**0.35


def _speedup_axis(axis: Axes, limits: tuple[float, float]) -> None:
    """Log2, as the world size is, so that ideal is a straight line from corner to corner."""
    axis.set_yscale("log", base=2)
    axis.set_ylim(limits)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
