"""Charts of ways to synchronise as they were measured on shaped links and with a slow worker, theory beside each."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import units
from reports.style import legend, name_panel, panels, styles

_THEORY = {"color": "#222222", "marker": "D", "markersize": 5, "linestyle": ""}
_MEASURED = "#56b4e9"
_GOAL = 0.85


def ways(rows: pd.DataFrame) -> Figure:
    """Seconds of communication in a step that nothing hides, and what a rank sends in it, by way to synchronise.

    `rows`: contender, comm_s, predicted_comm_s, bytes_per_step_per_rank, step_time_1_s (`bench.theory.sync_links.table_rows`).
    """
    shown = rows.iloc[::-1]
    places = range(len(shown))
    notes = (
        "Four hosts joined by links of 100 Mbit/s, a paced model whose step alone is "
        f"{units.seconds(float(rows['step_time_1_s'].iloc[0]))}; the parameter server is one of the four. Theory from that "
        "step, the rate, and what a small call costs there."
    )
    with panels(1, 2, "Ways to synchronise: communication in a step", notes, left=2.05, tall=1.2) as (figure, axes):
        seconds, sent = axes[0]
        seconds.barh(places, shown["comm_s"], color=_MEASURED, linewidth=0)
        seconds.plot(shown["predicted_comm_s"], places, **_THEORY)
        seconds.set_xlabel("seconds exposed in a step")
        megabytes = shown["bytes_per_step_per_rank"] / 1e6
        sent.barh(places, megabytes, color=_MEASURED, linewidth=0)
        sent.set_xlabel("MB that a rank sends a step")
        _values(seconds, shown["comm_s"])
        _values(sent, megabytes)
        for axis, labels in ((seconds, list(shown["contender"])), (sent, [""] * len(shown))):
            axis.set_yticks(list(places), labels)
            axis.grid(axis="y", visible=False)
            axis.grid(axis="x", visible=True)
        legend(figure, {}, _handles())
    return figure


def crossing(rows: pd.DataFrame, measured_mbit_per_s: float, predicted_mbit_per_s: float) -> Figure:
    """Step time of DDP and of averaging every second step by rate, with the rates at which they are equal.

    `rows`: strategy, rate_mbit_per_s, step_time_s, predicted_s (`bench.theory.sync_links.crossing_rows`).
    """
    looks = styles(rows["strategy"])
    notes = (
        f"Four hosts. They are equally fast at {measured_mbit_per_s:.0f} Mbit/s; by theory, from one host's step alone, at "
        f"{predicted_mbit_per_s:.0f}. Dashed: theory."
    )
    with panels(1, 1, "DDP against averaging weights every second step", notes, tall=1.3) as (figure, axes):
        axis = axes[0, 0]
        for strategy, style in looks.items():
            own = rows[rows["strategy"] == strategy].sort_values("rate_mbit_per_s")
            axis.plot(own["rate_mbit_per_s"], own["step_time_s"], color=style.color, marker=style.marker, linewidth=1.2)
            axis.plot(own["rate_mbit_per_s"], own["predicted_s"], color=style.color, linestyle="--", linewidth=1)
        axis.axvline(measured_mbit_per_s, color="#bbbbbb", linewidth=1, zorder=1)
        axis.set(xlabel="Mbit/s of each link", ylabel="step time (s)", ylim=(0, None))
        legend(figure, looks, [Line2D([], [], color="#444444", linestyle="--", linewidth=1, label="theory")])
    return figure


def slow_worker(rows: pd.DataFrame) -> Figure:
    """Of the throughput that the sum of the workers' speeds allows, what each way reaches: all alike, and one slow.

    `rows`: strategy, partition, slow_rank_frac, share, predicted_share (`bench.theory.slow_worker.slow_worker_rows`).
    """
    fracs = sorted(set(rows["slow_rank_frac"]))
    notes = (
        "Eight workers that sleep instead of computing, on one host of two cores. 100 %: every worker sleeps all the time. "
        f"Line: {100 * _GOAL:.0f} %."
    )
    with panels(1, len(fracs), "What is used of the sum of the workers' speeds", notes, tall=1.2) as (figure, axes):
        for axis, frac in zip(axes[0], fracs, strict=True):
            panel = rows[rows["slow_rank_frac"] == frac]
            places = range(len(panel))
            bars = axis.bar(places, 100 * panel["share"], 0.6, color=_MEASURED, linewidth=0)
            axis.bar_label(bars, fmt="%.0f %%", label_type="center", fontsize=9)
            axis.plot(places, 100 * panel["predicted_share"], **_THEORY)
            axis.axhline(100 * _GOAL, color="#888888", linewidth=0.8, zorder=1)
            axis.set_xticks(
                list(places), [_name(*names) for names in zip(panel["strategy"], panel["partition"], strict=True)]
            )
            axis.set(ylim=(0, 108), ylabel="%" if frac == fracs[0] else "")
            name_panel(axis, f"one takes {1 + frac:g} times as long" if frac else "all alike")
        legend(figure, {}, _handles())
    return figure


def _name(strategy: str, partition: str) -> str:
    if strategy == "param_server":
        return "param_server,\nasync"
    return f"{strategy},\ndynamic" if partition == "dynamic" else strategy


def _handles() -> list[Patch | Line2D]:
    return [Patch(color=_MEASURED, label="measured"), Line2D([], [], label="theory", **_THEORY)]  # type: ignore[arg-type]


def _values(axis: Axes, values: pd.Series) -> None:
    for place, value in enumerate(values):
        axis.text(value + 0.03 * values.max(), place, f"{value:.3g}", va="center", fontsize=8, color="#444444")
    axis.set_xlim(0, 1.18 * values.max())
