"""What a sweep of collectives comes to: a row a point, and latency and bandwidth of every operation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from scipy import stats

from bench.results.comm import CommRecord
from bench.theory.bus_bandwidth import algbw, bus_factor, busbw
from bench.theory.line_fit import line

CONFIDENCE = 0.95

COLUMNS = (
    "operation",
    "in_place",
    "size_bytes",
    "num_elements",
    "time_s",
    "time_lo_s",
    "time_hi_s",
    "algbw_bytes_per_s",
    "busbw_bytes_per_s",
    "num_repetitions",
    "checked",
    "note",
)
FIT_COLUMNS = (
    *("operation", "in_place", "latency_s", "latency_s_lo", "latency_s_hi"),
    *("bandwidth_bytes_per_s", "bandwidth_bytes_per_s_lo", "bandwidth_bytes_per_s_hi"),
    *("busbw_bytes_per_s", "fit_error_frac", "num_points", "note"),
)
GLOO_REDUCE_SCATTER = "gloo: all_reduce underneath"
REFUSED = "not supported here: "


def comm_table(record: CommRecord) -> pd.DataFrame:
    """A row an operation, in place or not, and size, in the order of OPERATIONS. `time_s`: the median over repetitions of the
    slowest rank's seconds, `time_lo_s` and `time_hi_s` its 95 % interval (order statistics; None for fewer than 6
    repetitions). It says how steady one launch was, not how far another would be. An operation that the backend refused has
    a row without figures, and the reason as its note."""
    rows = []
    for point in record.points:
        times_s = point.repetition_times_s
        low_s, high_s = median_interval(times_s)
        time_s = float(np.median(times_s))
        rows.append(
            {
                "operation": point.operation,
                "in_place": point.in_place,
                "size_bytes": point.size_bytes,
                "num_elements": point.num_elements,
                "time_s": time_s,
                "time_lo_s": low_s,
                "time_hi_s": high_s,
                "algbw_bytes_per_s": algbw(point.size_bytes, time_s),
                "busbw_bytes_per_s": busbw(point.operation, point.size_bytes, time_s, record.plan.world_size),
                "num_repetitions": len(times_s),
                "checked": point.num_checked == (point.num_warmups + len(times_s)) * len(point.times_s),
                "note": note_of(record, point.operation),
            }
        )
    for left in record.left_out:
        rows.append({"operation": left.operation, "in_place": left.in_place, "note": REFUSED + left.reason})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    place = {name: number for number, name in enumerate(record.plan.operations)}
    keys = table.assign(place=table["operation"].map(place)).sort_values(["place", "in_place", "size_bytes"]).index
    return table.loc[keys].reset_index(drop=True)


def note_of(record: CommRecord, operation: str) -> str:
    """What has to be known to read an operation's figures; empty for nothing."""
    gloo = record.environment is not None and record.environment.backend == "gloo"
    return GLOO_REDUCE_SCATTER if gloo and operation == "reduce_scatter" else ""


def median_interval(values: list[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of the median: two order statistics, whatever the distribution; None for fewer than 6 values.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2.
    """
    number = len(values)
    below = int(stats.binom.ppf((1 - CONFIDENCE) / 2, number, 0.5))
    if stats.binom.cdf(below, number, 0.5) > (1 - CONFIDENCE) / 2:
        below -= 1
    if below < 0:
        return None, None
    ordered = sorted(values)
    return ordered[below], ordered[number - 1 - below]


def fit_table(table: pd.DataFrame, world_size: int) -> pd.DataFrame:
    """Latency and bandwidth (of the algorithm, without end) of each operation, rows of `comm_table`; `busbw_bytes_per_s` is the
    bus bandwidth that it comes to. An operation with fewer than four sizes, or one constant that does not show, has none."""
    rows = []
    measured = table[table["time_s"].notna()]
    for (operation, in_place), points in measured.groupby(["operation", "in_place"], sort=False):
        found = line(points["size_bytes"].to_numpy(float), points["time_s"].to_numpy(float))
        row: dict[str, object] = {"operation": operation, "in_place": in_place, "note": points["note"].iloc[0]}
        if found is not None:
            fields = dataclasses.asdict(found)
            row |= {**fields, "fit_error_frac": fields.pop("error_frac")}
            row["busbw_bytes_per_s"] = found.bandwidth_bytes_per_s * bus_factor(str(operation), world_size)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(FIT_COLUMNS))
