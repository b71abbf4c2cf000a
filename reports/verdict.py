"""The verdict in plain sentences: what was fastest, how well it scales, what did not run, and how sure that is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from reports import units
from reports.charts import title


@dataclass
class Paragraph:
    """Sentences about one model, scaling and setting."""

    heading: str
    summary: str
    sentences: list[str] = field(default_factory=list)


def lead(scaling: pd.DataFrame, aa_spread_frac: float | None) -> list[str]:
    """What was tried, and how far the figures can be trusted; `scaling` holds rows of `scaling_table`, `aa_spread_frac` is how
    far the A/A pair is apart, None where none ran."""
    if scaling.empty:
        return ["No timing launch was found: there is nothing to compare."]
    tried = int(scaling["launches_tried"].sum())
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in scaling["outcome"].value_counts().items())
    sentences = [
        f"{_plural(len(scaling), 'cell')} in {_plural(tried, 'timing launch', 'timing launches')}: {outcomes}."
    ]
    ok = scaling[scaling["outcome"] == "ok"]
    if ok.empty:
        return [*sentences, "No cell gave a figure; the reasons are below."]
    single = int((ok["launches"] == 1).sum())
    if single:
        sentences.append(_one_launch(ok, single, aa_spread_frac))
    if single < len(ok):
        sentences.append(_several_launches(ok[ok["launches"] > 1], aa_spread_frac))
    crowded = int(ok["oversubscribed"].astype(bool).sum())
    if crowded:
        sentences.append(
            f"{_plural(crowded, 'cell')} ran oversubscribed, with more threads than cores: such ranks wait for a core and not "
            "for each other, so that no speed-up or efficiency is given for them."
        )
    other = ", ".join(ok.loc[~ok["equal_work"].astype(bool), "contender"].unique())
    if other:
        sentences.append(
            f"Other work: {other}. These do not make the same update in each step (delayed, asynchronous or lossy "
            "synchronisation), so that no step time ranks them: compare them by loss against time, under Synchronisation."
        )
    served = ok[ok["num_workers"] < ok["world_size"]]
    if served["num_workers"].nunique() > 1:
        sentences.append(
            "Servers count as ranks: where more workers share as many servers, efficiency can be above 100 %."
        )
    paced = ", ".join(ok.loc[ok["paced"].astype(bool), "model"].unique())
    if paced:
        sentences.append(
            f"Paced: {paced} sleeps for a known time instead of computing. Its figures show what communication and the "
            "framework cost, not how fast a model trains."
        )
    in_host = ok["strategy"].str.endswith("_offload") & (ok["device_type"] == "cpu")
    if offloaded := ", ".join(sorted(ok.loc[in_host, "strategy"].unique())):
        sentences.append(
            f"Offload on CPU: {offloaded} copied from memory to the same memory. Its figures show what that code costs, not what "
            "a GPU's link to its host does."
        )
    return sentences


def _one_launch(ok: pd.DataFrame, single: int, aa_spread_frac: float | None) -> str:
    """How figures of one launch are told apart; `single` is the number of cells that have no more."""
    some = f"{single} of {_plural(len(ok), 'cell')} {'was' if single == 1 else 'were'}"
    text = f"{'Each cell was' if single == len(ok) else some} measured by one launch, so that no interval is known: "
    wide = aa_spread_frac is not None and aa_spread_frac > 0.05
    text += (
        f"what comes within {units.fraction(aa_spread_frac) if wide else '5 %'} of the fastest is called not resolved, "
    )
    if aa_spread_frac is None:
        text += (
            "a margin assumed for the noise between two launches of the same cell (A/A noise), which was not measured here and "
            "is larger where other work shares the machine; "
        )
    elif wide:
        text += "as far as the A/A pair, two launches of the same cell, is apart; "
    else:
        text += (
            "a margin assumed for the noise between two launches of the same cell, of which the A/A pair, "
            f"{units.fraction(aa_spread_frac)} apart, shows one example; "
        )
    return f"{text}a larger difference is one measurement, not a proof."


def _several_launches(ok: pd.DataFrame, aa_spread_frac: float | None) -> str:
    """How figures of several launches are told apart."""
    least, most = int(ok["launches"].min()), int(ok["launches"].max())
    number = str(most) if least == most else f"{least} to {most}"
    pair = (
        "(no A/A pair gave a figure to hold it to as well)"
        if aa_spread_frac is None
        else f"and the ratio is beyond the spread of the A/A pair, {units.fraction(aa_spread_frac)}"
    )
    return (
        f"Figures of several launches are means over {number} launches with 95 % intervals; launches differed by up to "
        f"{units.fraction(ok['launch_spread_frac'].max())} within a cell. A strategy is called slower than the fastest where the "
        f"99 % interval of the ratio of their step times (in brackets beside a lead) leaves out 1 {pair}; what is not is called "
        "not resolved."
    )


def paragraphs(scaling: pd.DataFrame, ranking: pd.DataFrame) -> list[Paragraph]:
    """For each model, scaling and setting: the fastest, the efficiency, accumulation, and what did not run."""
    found: list[Paragraph] = []
    same = ["model", "scaling", "setting"]
    for (model, kind, setting), cells in scaling.groupby(same, sort=False):
        ranked = ranking[(ranking["model"] == model) & (ranking["scaling"] == kind) & (ranking["setting"] == setting)]
        paragraph = Paragraph(title(cells), _summary(ranked))
        for accumulation, rows in ranked.groupby("grad_accum_steps"):
            paragraph.sentences.append(_fastest(int(str(accumulation)), rows))
            paragraph.sentences.append(
                _efficiency(cells[cells["grad_accum_steps"] == accumulation], int(str(accumulation)))
            )
        paragraph.sentences += [*_accumulation(cells, ranked), *_did_not_run(cells)]
        found.append(paragraph)
    return found


def _summary(ranked: pd.DataFrame) -> str:
    """One line: the fastest at the largest world size; accumulations with one and the same answer together."""
    if ranked.empty:
        return "no cell of equal work gave a figure"
    largest = ranked[ranked["world_size"] == ranked["world_size"].max()]
    answers: dict[str, list[str]] = {}
    for row in largest.to_dict("records"):
        near = f" (not resolved: {row['unresolved']})" if row["unresolved"] else ""
        answers.setdefault(f"{row['fastest']}{near}", []).append(str(row["grad_accum_steps"]))
    told = [f"{answer} with accumulation {', '.join(each)}" for answer, each in answers.items()]
    return f"fastest measured at {units.ranks(largest['world_size'].iloc[0])}: {'; '.join(told)}"


def _fastest(accumulation: int, rows: pd.DataFrame) -> str:
    """The fastest at each world size; world sizes with one and the same answer together."""
    answers: dict[str, list[str]] = {}
    for row in rows.sort_values("world_size").to_dict("records"):
        once = " from one launch" if row["min_launches"] == 1 else ""
        near = f" (not resolved{once}: {row['unresolved']})" if row["unresolved"] else ""
        alone = " (no other gave a figure)" if row["num_ok"] == 1 else ""
        crowded = ", oversubscribed" if row["oversubscribed"] else ""
        time = units.seconds(row["step_time_s"])
        at = f"{units.ranks(row['world_size'])} [{time} a step{_ahead(row)}{crowded}]"
        answers.setdefault(f"{row['fastest']}{near}{alone}", []).append(at)
    parts = [f"{answer} at {', '.join(places)}" for answer, places in answers.items()]
    return f"Fastest measured, accumulation {accumulation}: {'; '.join(parts)}."


def _ahead(row: dict[Hashable, Any]) -> str:
    """How far the fastest is ahead of the next, where that is sure; empty elsewhere."""
    next_one = row["runner_up"]
    first_slower = row["slower"] == next_one or str(row["slower"]).startswith(f"{next_one}, ")
    if not first_slower or units.is_unknown(row["lead_lo"]):
        return ""
    sure = units.fraction_between(row["lead_lo"] - 1, row["lead_hi"] - 1)
    return f", {units.fraction(row['lead'] - 1)} faster than {next_one} ({sure})"


def _efficiency(cells: pd.DataFrame, accumulation: int) -> str:
    """Efficiency at each strategy's largest world size, the best first, against the baseline that is named."""
    known = cells[cells["efficiency"].notna() & (cells["world_size"] != cells["baseline_world_size"])]
    if known.empty:
        if cells["baseline"].isna().all():
            why = "no strategy has figures at more than one world size"
        else:
            why = "the cells that could show it, or their baselines, are oversubscribed"
        return f"Efficiency, accumulation {accumulation}: not known, because {why}."
    largest = known.loc[known.groupby("contender")["world_size"].idxmax()].sort_values("efficiency", ascending=False)
    parts: dict[str, list[str]] = {}
    for row in largest.to_dict("records"):
        size, base = units.ranks(row["world_size"]), units.ranks(row["baseline_world_size"])
        against = f"at {size} against {base} of the same strategy"
        sure = _in_brackets(units.fraction_between(row["efficiency_lo"], row["efficiency_hi"]))
        parts.setdefault(against, []).append(f"{row['contender']} {units.fraction(row['efficiency'])}{sure}")
    told = [f"{against}, {', '.join(each)}" for against, each in parts.items()]
    return f"Efficiency, accumulation {accumulation}: {'; '.join(told)}."


def _accumulation(cells: pd.DataFrame, ranked: pd.DataFrame) -> list[str]:
    known = cells[cells["accumulation_gain"].notna()]
    if known.empty:
        return []
    at = known[known["world_size"] == known["world_size"].max()]
    least, most = at["grad_accum_steps"].min(), at["grad_accum_steps"].max()
    at = at[at["grad_accum_steps"] == most].sort_values("accumulation_gain", ascending=False)
    if least == most or at.empty:
        return []
    each = ", ".join(
        f"{row['contender']} {units.ratio(row['accumulation_gain'])}"
        f"{_in_brackets(units.ratio_between(row['accumulation_gain_lo'], row['accumulation_gain_hi']))}"
        for row in at.to_dict("records")
    )
    margin = ranked.loc[ranked["min_launches"] == 1, "resolution_frac"].max()
    single = bool((at["launches"] == 1).any())
    once = f" (a change below {units.fraction(margin)} is not resolved from one launch)" if single else ""
    size = units.ranks(at["world_size"].iloc[0])
    return [f"Accumulation {most} in place of {least}, tokens/s at {size}: {each}{once}."]


def _did_not_run(cells: pd.DataFrame) -> list[str]:
    failed = cells[cells["outcome"] != "ok"]
    sentences = []
    for (outcome, reason), rows in failed.groupby(["outcome", failed["reason"].fillna("no reason known")], sort=False):
        contenders: dict[str, list[str]] = {}
        for (contender, accumulation), same in rows.groupby(["contender", "grad_accum_steps"], sort=False):
            sizes = ", ".join(str(size) for size in sorted(same["world_size"]))
            where = f"{sizes} {'rank' if sizes == '1' else 'ranks'} with accumulation {accumulation}"
            contenders.setdefault(where, []).append(str(contender))
        told = [f"{', '.join(names)} at {where}" for where, names in contenders.items()]
        sentences.append(f"No figure, {outcome} ({reason}): {'; '.join(told)}.")
    return sentences


def _in_brackets(interval: str) -> str:
    return "" if interval == units.UNKNOWN else f" ({interval})"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
