"""Where each step's time goes, in plain sentences: what is lost to whom, and which of it may not be believed."""

from __future__ import annotations

import pandas as pd

from reports import units
from reports.charts import title
from reports.seconds import meter_cost
from reports.verdict import Paragraph

_PARTS = {"imbalance_s": "load imbalance", "wait_s": "waiting", "transfer_s": "transfer"}


def paragraphs(efficiency: pd.DataFrame) -> list[Paragraph]:
    """For each model, scaling and setting: the losses at each strategy's largest world size, stragglers, and what to doubt.

    `efficiency`: rows of the efficiency table. Losses are fractions of the metered step, full_s, so that they add up.
    """
    found = []
    for _, cells in efficiency.groupby(["model", "scaling", "setting"], sort=False):
        several_series = cells["keeps"].nunique() > 1
        shown = cells.assign(
            lost=1 - cells["parallel_efficiency"],
            called=cells["contender"] + " with " + cells["keeps"] if several_series else cells["contender"],
        )
        several = shown[shown["world_size"] > 1]
        largest = several.loc[several.groupby(["keeps", "contender"], sort=False)["world_size"].idxmax()]
        largest = largest.sort_values(["world_size", "lost"], ascending=[False, True], kind="stable")
        sentences = [_lost(row) for _, row in largest.iterrows()]
        told = [*sentences, *_stragglers(several), *_not_reconciled(shown), *_without_baseline(several)]
        if cost := meter_cost(shown):
            told.append(cost)
        found.append(Paragraph(title(cells), _summary(largest), told))
    return found


def _summary(largest: pd.DataFrame) -> str:
    if largest.empty:
        return "one rank, which waits for nobody"
    top = largest[largest["world_size"] == largest["world_size"].max()]
    least, most = top.iloc[0], top.iloc[-1]
    size = units.ranks(least["world_size"])
    if len(top) == 1:
        return f"at {size}, {least['called']} loses {units.fraction(least['lost'])} of its step"
    return (
        f"at {size}, {least['called']} loses least of its step, {units.fraction(least['lost'])}, and {most['called']} most, "
        f"{units.fraction(most['lost'])}"
    )


def _lost(row: pd.Series) -> str:
    parts = ", ".join(f"{units.fraction(row[part] / row['full_s'])} {name}" for part, name in _PARTS.items())
    if min(row[part] for part in _PARTS) / row["full_s"] < -0.0005:
        parts += " (below zero: noise)"
    text = (
        f"At {units.ranks(row['world_size'])} {row['called']} loses {units.fraction(row['lost'])} of its step: {parts}."
    )
    if not units.is_unknown(row["global_efficiency"]):
        text += (
            f" A rank computes at {units.fraction(row['compute_scaling'])} of its speed at "
            f"{units.ranks(row['baseline_world_size'])}; together a global efficiency of "
            f"{units.fraction(row['global_efficiency'])}, measured directly {units.fraction(row['measured_efficiency'])}."
        )
    return text


def _stragglers(cells: pd.DataFrame) -> list[str]:
    known = cells[cells["straggler"].notna()]
    told = [
        f"rank {int(float(str(rank)))} of {units.ranks(size)} ({', '.join(rows['called'])})"
        for (size, rank), rows in known.groupby(["world_size", "straggler"], sort=False)
    ]
    return [f"Slower than the others: {'; '.join(told)}."] if told else []


def _not_reconciled(cells: pd.DataFrame) -> list[str]:
    told = [
        f"{row['called']} at {units.ranks(row['world_size'])} (product {units.fraction(row['global_efficiency'])}, measured "
        f"{units.fraction(row['measured_efficiency'])}; apart by {units.fraction(row['reconciliation_error'])}, tolerance "
        f"{units.fraction(row['reconciliation_tolerance'])})"
        for _, row in cells[cells["reconciled"].eq(False)].iterrows()
    ]
    return [f"Not reconciled, so do not trust how these split: {'; '.join(told)}."] if told else []


def _without_baseline(cells: pd.DataFrame) -> list[str]:
    unknown = cells[cells["global_efficiency"].isna()]
    if unknown.empty:
        return []
    whose = "any strategy" if len(unknown) == len(cells) else _at_sizes(unknown)
    why = "oversubscribed, or without a baseline that has an attribution launch too"
    return [f"No compute scaling and no global efficiency for {whose}: {why}."]


def _at_sizes(rows: pd.DataFrame) -> str:
    sizes = rows.groupby("called", sort=False)["world_size"].agg(lambda own: ", ".join(map(str, own)))
    return "; ".join(f"{name} at {size} ranks" for name, size in sizes.items())
