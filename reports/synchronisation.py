"""Ways to synchronise: what they send, where they get to in what time, and what that means, in charts, a table and words."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from reports import units
from reports.columns import Column, table, without_empty
from reports.style import Style, log2_axis, name_panel, panels

Styles = dict[str, Style]


def bytes_by_period(rows: pd.DataFrame, styles: Styles) -> Figure | None:
    """Bytes that a rank sends in a step, against how many steps lie between two exchanges. Panels are numbers of workers.

    `rows`: those of `bench.analysis.synchronisation.synchronisation_table` of one model. Both axes are logarithmic: halving
    how often ranks exchange halves what they send.
    """
    shown = rows[rows["bytes_per_step_per_rank"] > 0].drop_duplicates(["contender", "world_size"])
    if shown.empty or shown["every_steps"].nunique() < 2:
        return None
    shown = shown.sort_values("num_workers", kind="stable")
    sizes = list(dict.fromkeys(shown["num_workers"]))
    notes = (
        "What a rank sends in a mean optimizer step; collectives as a ring would carry them, servers counted as ranks."
    )
    with panels(1, len(sizes) + 1, f"Bytes a step of {shown['model'].iloc[0]}", notes, tall=1.3) as (figure, axes):
        divisor, unit = units.scale(shown["bytes_per_step_per_rank"].max(), "bytes")
        lowest, highest = (shown["bytes_per_step_per_rank"].agg(which) / divisor for which in ("min", "max"))
        for column, size in enumerate(sizes):
            axis, panel = axes[0, column], shown[shown["num_workers"] == size]
            log2_axis(axis, panel["every_steps"], "steps from one exchange to the next (H)")
            axis.set_yscale("log")
            axis.set_ylim(lowest / 1.5, highest * 1.5)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            for name, cells in panel.groupby("contender", sort=False):
                style = styles[str(name)]
                axis.plot(
                    cells["every_steps"], cells["bytes_per_step_per_rank"] / divisor, color=style.color,
                    marker=style.marker, linestyle="",
                )  # fmt: skip
            name_panel(axis, f"{size} workers")
        axes[0, 0].set_ylabel(f"{unit} a step and rank")
        _names(axes[0, -1], shown, styles)
    return figure


def time_and_loss(rows: pd.DataFrame, styles: Styles) -> Figure | None:
    """Seconds for the same number of tokens, against the loss there; those that nothing beats in both are joined.

    `rows` as for `bytes_by_period`, of one model and slow rank. Panels are numbers of workers.
    """
    shown = rows[rows["common_loss"].notna() & (rows["num_workers"] > 1)]
    if shown.empty or shown["contender"].nunique() < 2:
        return None
    counts = sorted(shown["num_workers"].unique())
    notes = (
        f"Both after {shown['common_tokens'].iloc[0]:,.0f} tokens of training, warm-up counted; the line joins those that no "
        "other beats in both. A difference of losses of one seed is one draw."
    )
    title = _of_whom("Time and loss", shown.iloc[0])
    with panels(1, len(counts) + 1, title, notes, tall=1.5) as (figure, axes):
        divisor, unit = units.scale(shown["common_s"].max(), "seconds")
        for column, count in enumerate(counts):
            axis, panel = axes[0, column], shown[shown["num_workers"] == count]
            for row in panel.itertuples():
                style = styles[str(row.contender)]
                axis.plot(
                    [row.common_s / divisor], [row.common_loss], color=style.color, marker=style.marker, linestyle=""
                )
            best = panel.loc[pareto(panel)].sort_values("common_s")
            axis.plot(best["common_s"] / divisor, best["common_loss"], color="#888888", linewidth=1, zorder=1)
            axis.set_xlim(0, 1.08 * panel["common_s"].max() / divisor)
            axis.set_xlabel(f"time, {unit}")
            name_panel(axis, f"{count} workers")
        axes[0, 0].set_ylabel("loss, nats a token")
        _names(axes[0, -1], shown, styles)
    return figure


def loss_by_time(courses: pd.DataFrame, styles: Styles) -> Figure | None:
    """Training loss against seconds, a line a contender; one worker alone dashed beside them. Panels are numbers of workers.

    `courses`: rows of `bench.analysis.synchronisation.loss_courses` of one task and slow rank.
    """
    several, alone = courses[courses["num_workers"] > 1], courses[courses["num_workers"] == 1]
    if several.empty or several["contender"].nunique() < 2:
        return None
    counts = sorted(several["num_workers"].unique())
    notes = (
        "Mean training loss of the last five steps, at the window's speed, warm-up counted; dashed: one worker alone. "
        "Lines of equal work lie on each other but for their speed."
    )
    title = _of_whom("Loss by time", several.iloc[0])
    with panels(1, len(counts) + 1, title, notes, tall=1.5) as (figure, axes):
        divisor, unit = units.scale(several["time_s"].max(), "seconds")
        seen = pd.concat([several, alone[alone["time_s"] <= several["time_s"].max()]])["loss"]
        for column, count in enumerate(counts):
            axis, panel = axes[0, column], several[several["num_workers"] == count]
            for _, rows in alone.groupby("cell_id", sort=False):
                axis.plot(
                    rows["time_s"] / divisor, rows["loss"], color="#888888", linestyle="--", linewidth=1, zorder=1
                )
            for name, rows in panel.groupby("contender", sort=False):
                style = styles[str(name)]
                end = rows.iloc[-1]
                axis.plot(rows["time_s"] / divisor, rows["loss"], color=style.color, linewidth=1.2)
                axis.plot(
                    [end["time_s"] / divisor], [end["loss"]], color=style.color, marker=style.marker, linestyle=""
                )
            axis.set_xlim(0, 1.04 * several["time_s"].max() / divisor)
            margin = 0.04 * (seen.max() - seen.min())
            axis.set_ylim(seen.min() - margin, seen.max() + margin)
            axis.set_xlabel(f"time, {unit}")
            name_panel(axis, f"{count} workers")
        axes[0, 0].set_ylabel("loss, nats a token")
        _names(axes[0, -1], several, styles)
    return figure


def _of_whom(what: str, first: pd.Series) -> str:
    slow = f", one slower by {units.fraction(first['slow_rank_frac'])}" if first["slow_rank_frac"] else ""
    return f"{what} of {first['model']}{slow}"


def _names(axis: Axes, rows: pd.DataFrame, styles: Styles) -> None:
    """The contenders in a panel of their own: there may be too many for a line."""
    axis.axis("off")
    handles = [
        Line2D([], [], color=styles[name].color, marker=styles[name].marker, linestyle="", label=name)
        for name in dict.fromkeys(rows["contender"])
    ]
    axis.legend(handles=handles, loc="center left", frameon=False, fontsize=7.5, bbox_to_anchor=(-0.1, 0.5))


def pareto(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether no other row takes less time for a loss as low, or comes lower in a time as short."""
    ordered = rows.sort_values(["common_s", "common_loss"])
    return (ordered["common_loss"] < ordered["common_loss"].shift(fill_value=float("inf")).cummin()).reindex(rows.index)


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The table for people."""
    columns: list[Column] = [
        ("model", "model", units.text),
        ("contender", "strategy", units.text),
        ("world_size", "ranks", units.count),
        ("num_workers", "workers", units.count),
        ("slow_rank_frac", "slow rank", lambda value: units.fraction(value) if value else units.UNKNOWN),
        ("equal_work", "work", lambda value: "equal" if value else "other"),
        ("step_time_s", "step time", units.seconds),
        ("tokens_per_s", "tokens/s", units.rate),
        ("bytes_per_step_per_rank", "sent a step and rank", units.memory),
        ("exposed_comm_s", "exposed", units.seconds),
        ("replica_distance_largest", "replicas apart, largest", units.number),
        ("replica_distance_mean", "replicas apart, mean", units.number),
        ("staleness_mean", "staleness, mean", units.number),
        ("staleness_max", "staleness, most", units.count),
        ("common_s", "time for the same tokens", units.seconds),
        ("common_updates", "updates", units.count),
        ("common_loss", "loss there", units.number),
        ("peak_memory_bytes", "peak memory", units.memory),
        ("final_loss", "final loss", units.number),
    ]
    return without_empty(table(rows, columns), "slow rank", "exposed", "staleness, mean", "staleness, most")


def sentences(rows: pd.DataFrame) -> list[str]:
    """What several nodes bring over one, for each way to synchronise: is time more than halved, what does a node need for it, is
    the model as good? Empty where no cell of one worker trained the same task."""
    found = []
    for _, cells in rows.groupby("task", sort=False):
        alone = cells[(cells["num_workers"] == 1) & cells["equal_work"].astype(bool)]
        several = cells[cells["num_workers"] > 1]
        if alone.empty or several.empty:
            continue
        base = alone.sort_values("common_s").iloc[0]
        found.append(
            f"One worker ({base['contender']}, {base['model']}) takes {units.seconds(base['common_s'])} for "
            f"{base['common_tokens']:,.0f} tokens, in {base['common_updates']:,.0f} updates, to a loss of "
            f"{base['common_loss']:.3f}."
        )
        order = several.sort_values(["slow_rank_frac", "num_workers", "common_s"])
        found += [_against(base, row) for _, row in order.iterrows()]
    return found


def _against(base: pd.Series, row: pd.Series) -> str:
    ratio = base["common_s"] / row["common_s"]
    slow = f", one of them slower by {units.fraction(row['slow_rank_frac'])}" if row["slow_rank_frac"] else ""
    servers = int(row["world_size"] - row["num_workers"])
    beside = f" and {servers} {'server' if servers == 1 else 'servers'}" if servers else ""
    halved = "more than halved" if ratio > 2 else "not halved"
    used = row["world_size"] / base["world_size"]
    worse = row["common_loss"] - base["common_loss"]
    good = "as good as" if abs(worse) < 0.01 * base["common_loss"] else "worse than" if worse > 0 else "better than"
    return (
        f"{row['contender']}, {row['num_workers']} workers{beside}{slow}: time is {halved}, "
        f"{units.seconds(row['common_s'])}, {ratio:.2f} times as fast with {used:g} times the ranks "
        f"({units.fraction(ratio / used)} of each); a rank sends {units.memory(row['bytes_per_step_per_rank'])} a step and "
        f"holds {units.memory(row['peak_memory_bytes'])} at most (one worker alone {units.memory(base['peak_memory_bytes'])}). "
        f"After as many tokens the model is {good} one worker's: loss {row['common_loss']:.3f} in "
        f"{row['common_updates']:,.0f} updates, replicas {_apart(row)}."
    )


def _apart(row: pd.Series) -> str:
    distance = row["replica_distance_largest"]
    return "equal" if not distance > 0 else f"up to {units.fraction(distance)} of their norm apart"
