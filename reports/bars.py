"""Charts of what a cell costs beside its step: memory per rank, and seconds outside the measured window."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports import units
from reports.charts import RANKS, Styles, caveats, title
from reports.style import PANEL_HEIGHT, legend, name_panel, panels

# In the order of the launch; the window is what was measured, the rest is its price.
_PHASES = {
    "start_s": ("start", "#7f7f7f"),
    "import_s": ("import", "#cc79a7"),
    "build_s": ("build", "#d55e00"),
    "warmup_s": ("warm-up", "#e69f00"),
    "window_s": ("window", "#0072b2"),
    "checks_s": ("checks", "#56b4e9"),
    "rest_s": ("rest", "#cccccc"),
}


def memory(cells: pd.DataFrame, styles: Styles) -> Figure | None:
    """Peak memory of the fullest rank by world size and strategy; hatched, what it held before the model was built.

    A cell that was launched and has no figure is named by its outcome: running out of memory is a result, not a gap.
    """
    known = cells[cells["peak_memory_bytes"].notna()]
    if known.empty:
        return None
    shown = cells[cells["outcome"] != "skipped"]
    kept = list(dict.fromkeys(shown["keeps"]))
    names = [name for name in styles if name in set(shown["contender"])]
    divisor, unit = units.scale(known["peak_memory_bytes"].max(), "bytes")
    places = {size: place for place, size in enumerate(sorted(shown["world_size"].unique()))}
    width = 0.8 / len(names)
    highest = known["peak_memory_bytes"].max() / divisor
    with_base = bool((known["base_memory_bytes"] > 0).any())
    with panels(1, len(kept), f"Peak memory per rank of {title(cells)}", caveats(known)) as (figure, axes):
        for column, keeps in enumerate(kept):
            axis = axes[0, column]
            panel = shown[shown["keeps"] == keeps]
            for number, name in enumerate(names):
                own = panel[panel["contender"] == name]
                aside = width * (number - (len(names) - 1) / 2)
                for size, outcome in own.loc[own["peak_memory_bytes"].isna(), ["world_size", "outcome"]].to_numpy():
                    word = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 8, "color": "#444444"}
                    axis.text(places[size] + aside, highest * 0.01, str(outcome), **word)
                own = own[own["peak_memory_bytes"].notna()]
                x = [places[size] + aside for size in own["world_size"]]
                axis.bar(x, own["peak_memory_bytes"] / divisor, width, color=styles[name].color, linewidth=0.8)
                if with_base:
                    base = own["base_memory_bytes"].fillna(0.0) / divisor
                    axis.bar(x, base, width, facecolor="none", edgecolor="white", hatch="////", linewidth=0)
            name_panel(axis, keeps)
            axis.set(xlabel=RANKS, ylabel="" if column else f"peak memory, {unit}", ylim=(0, highest * 1.08))
            axis.set(xticks=list(places.values()), xticklabels=list(places), xlim=(-0.6, len(places) - 0.4))
            if column:
                axis.tick_params(axis="y", labelleft=False)
        hatched = Patch(facecolor="#999999", edgecolor="white", hatch="////", label="before the model was built")
        legend(figure, {name: styles[name] for name in names}, [hatched] if with_base else [], lines=False)
    return figure


def outside(phases: pd.DataFrame) -> Figure | None:
    """Mean seconds of a launch by phase, a bar a strategy and world size; for launches of one model.

    `phases`: rows of `bench.analysis.phases.phases`.
    """
    seconds = list(_PHASES)
    means = phases.groupby(["strategy", "world_size"])[seconds].mean().fillna(0.0)
    if means.empty:
        return None
    divisor, unit = units.scale(means.sum(axis=1).max(), "seconds")
    labels = [f"{strategy}, {size}" for strategy, size in means.index]
    tall = max(1.0, 0.21 * len(means) / PANEL_HEIGHT)
    left_inches = 0.3 + 0.075 * max(map(len, labels))
    name = f"Where the seconds of a launch go: {phases['model'].iloc[0]}"
    with panels(1, 1, name, width=7.6, tall=tall, left=left_inches) as (figure, axes):
        axis = axes[0, 0]
        left = pd.Series(0.0, index=means.index)
        for phase, (_, color) in _PHASES.items():
            axis.barh(range(len(means)), means[phase] / divisor, left=left / divisor, color=color, height=0.75)
            left = left + means[phase]
        axis.set_yticks(range(len(means)), labels)
        axis.invert_yaxis()
        axis.set(xlabel=f"time, {unit}")
        name_panel(axis, "strategy, ranks: mean over its launches")
        axis.grid(False, axis="y")
        axis.grid(True, axis="x")
        present = [phase for phase in seconds if means[phase].max() > 0]
        legend(figure, {}, [Patch(color=_PHASES[phase][1], label=_PHASES[phase][0]) for phase in present])
    return figure
