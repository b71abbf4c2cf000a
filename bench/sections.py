"""What the page of a report says: its sections in order, each with its words, pictures and table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from bench.examine import Findings
from bench.theory.validation import class_scores
from reports import certainty, losses, page, predicted, synchronisation, tables, training

if TYPE_CHECKING:
    pass

# Section, heading, what it shows, its table.
_SECTIONS: list[tuple[str, str, str, Callable[[pd.DataFrame], pd.DataFrame] | None]] = [
    (
        "speed",
        "Speed",
        "Tokens per second over all ranks, and seconds per optimizer step. Points of one world size stand side by side "
        "only so that none hides another. Bars are 95 % intervals over launches, and the band around a line is the spread of "
        "the A/A pair, where they are known.",
        tables.speed,
    ),
    (
        "scaling",
        "Scaling",
        "Speed-up and efficiency against the same strategy at its smallest world size that ran (the table of speed names "
        "each baseline); the dashed line is ideal, and the band "
        "around it the spread of the A/A pair. Weak and strong scaling are apart. Nothing is drawn for a series with "
        "one world size, nor where ranks are oversubscribed.",
        None,
    ),
    (
        "accumulation",
        "Accumulation",
        "What more micro-batches per optimizer step do to speed, for cells that were measured at more than one "
        "accumulation: the optimizer, and with ddp, fsdp, zero0 and zero1 the exchange of gradients, run once a step, however "
        "many micro-batches it has.",
        tables.accumulation,
    ),
    ("memory", "Memory", "Peak memory of the fullest rank, by strategy.", tables.memory),
    (
        "mfu",
        "Utilisation",
        "Model FLOPs utilisation, where the peak of the device is known; drawn at the largest accumulation, all of them are "
        "in the table of speed.",
        None,
    ),
]
_FASTEST = "The fastest measured strategy of each group of comparable cells, and those that can't be told from it. "
_PAIR = (
    "Beside each lead stands the spread of the A/A pair, how far one cell is from itself when it is measured as if it were "
    "two: a lead inside it is no lead."
)
_NO_PAIR = "No A/A pair gave a figure, so that no lead could be held to how far a cell is from itself."
_HOW_SURE = "What the launches say of their own figures; the same as numbers is in tables/certainty.csv."
_NO_SCALING = "Not known: no strategy has comparable figures at more than one world size."
_EFFICIENCY = (
    "From attribution launches, which run a cell through a meter. Each factor takes its share of what the factors before it "
    "left, so that together they multiply to the global efficiency; the timing launches measure the same directly, and where "
    "the two disagree the row is not reconciled. The seconds are means of a metered step; the mark is the step time of the "
    "timing launches, a mean of medians. Communication efficiency (serialization x transfer) rises when imbalance grows: "
    "never read it alone. One step of every rank of these launches is in timelines/*.json beside this page, for Perfetto "
    "(ui.perfetto.dev) or chrome://tracing."
)
_NO_EFFICIENCY = (
    "Not known: no attribution launch has figures; attribution_launches: 1 in the suite makes the next run start them."
)
_TRAINING = (
    "Trained until the loss on the validation split was the target, or for as many steps as it may take: a strategy that is "
    "fast a step but learns slowly is found out here. Time to target is that of the first evaluation at or below it; evaluations "
    "are in no time. Where replicas differ, the loss is the mean over theirs."
)
_ALARMS = (
    "Faster than the machine that was named can be: its description is wrong, or the measurement is. These launches are in all "
    "tables and rankings none the less."
)
_PROJECTED = (
    "What theory says of the cells that were measured, dashed in the charts of speed and scaling: one rank's own step, and what "
    "its strategy's collectives add on more ranks. No projected figure is in any ranking."
)
_THEORY_ERROR = (
    "Absolute error of efficiency on what others published of V100s, N GPUs predicted from one, and that of a naive model fitted "
    "to these rows. `scalebench project --validate` makes this table again, by family and machine, and says what is left out."
)
_MEMORY = (
    "What the process held before the model was built, then parameters, gradients, optimizer, buckets and activations by "
    "theory, beside the measured peak."
)
_NO_CLAIM = (
    "On CPUs this is no claim: the resident set of a process also holds what libraries load later and what the allocator "
    "keeps, which weighs more than a small model."
)
_SYNCHRONISATION = (
    "What each way of synchronising buys in time, and what it costs in consistency and loss. Those whose work is other than "
    "full synchronisation's make other updates: their step time alone says nothing. Replicas are compared with the first "
    "worker's (relative L2), where they are averaged just before the window's last average. Staleness counts the updates that "
    "others made while a gradient was on its way. The loss there is that of the last five steps before as many tokens as the "
    "cell that trained on fewest saw; the steps of workers at their own pace are ordered by how far each worker was on its way."
)
_RANKS = (
    "What each rank does in a step without payload: its own work, and waiting for the others; drawn at each strategy's "
    "largest world size. A straggler is slower than the others beyond noise."
)


def sections(
    findings: Findings,
    ranked: pd.DataFrame,
    spread: float | None,
    seconds: pd.DataFrame,
    pictures: dict[str, list[page.Picture]],
) -> list[page.Section]:
    found = []
    if len(ranked):
        text = _FASTEST + (_NO_PAIR if spread is None else _PAIR)
        shown = tables.fastest(ranked, spread)
        found.append(page.Section("fastest", "Fastest", text, table=shown, folded=len(ranked) > 24))
    sure = certainty.sentences(findings.certainty)
    found.append(page.Section("how-sure", "How sure", _HOW_SURE, sentences=sure))
    if len(findings.alarms):
        found.append(page.Section("alarms", "Alarms", _ALARMS, table=predicted.alarms(findings.alarms), folded=False))
    for anchor, heading, text, table in _SECTIONS:
        drawn = pictures.get(anchor, [])
        rows = table(findings.scaling) if table is not None else None
        if drawn or anchor == "scaling" or (rows is not None and len(rows)):
            says = _NO_SCALING if anchor == "scaling" and not drawn else text
            found.append(page.Section(anchor, heading, says, drawn, rows, folded=rows is not None and len(rows) > 24))
        if anchor == "scaling":
            found += _training(findings.time_to_loss, pictures)
            found += _projected(findings.projected)
            found += _attribution(findings.efficiency, findings.ranks, pictures)
            found += _balance(findings.balance, pictures)
            found += _traffic(findings.traffic, pictures)
            found += _synchronisation(findings.synchronisation, pictures)
        if anchor == "memory" and len(findings.memory):
            words = _MEMORY if bool(findings.memory["claimed"].any()) else f"{_MEMORY} {_NO_CLAIM}"
            shown = predicted.memory(findings.memory)
            found.append(page.Section("memory-by-theory", "Memory by theory", words, table=shown))
    if len(seconds):
        text = (
            "What a launch costs beside its measured window: from the launcher's start to the first line, imports, building "
            "the model and its engine, warm-up, checks afterwards, and the rest."
        )
        found.append(
            page.Section("outside", "Outside the window", text, pictures.get("outside", []), tables.phases(seconds))
        )
    return found


def _training(time_to_loss: pd.DataFrame, pictures: dict[str, list[page.Picture]]) -> list[page.Section]:
    if time_to_loss.empty:
        return []
    return [
        page.Section(
            "training",
            "Time to a loss",
            _TRAINING,
            pictures.get("training", []),
            training.time_to_loss(time_to_loss),
            folded=len(time_to_loss) > 24,
            sentences=training.sentences(time_to_loss),
        )
    ]


def _projected(projected: pd.DataFrame) -> list[page.Section]:
    """What theory foresaw, where something was held out from what it was fitted to."""
    if projected.empty:
        return []
    table = predicted.steps(projected)
    words = predicted.sentences(projected)
    published = predicted.scores(pd.DataFrame([asdict(score) for score in class_scores()]))
    return [
        page.Section("projected", "Projected", _PROJECTED, table=table, sentences=words, folded=len(table) > 24),
        page.Section("theory-error", "How far off the theory is elsewhere", _THEORY_ERROR, table=published),
    ]


def _attribution(
    efficiency: pd.DataFrame, ranks: pd.DataFrame, pictures: dict[str, list[page.Picture]]
) -> list[page.Section]:
    """Where the time goes, and the ranks; one sentence how to know it where no attribution launch gave figures."""
    heading = "Where the time goes"
    if efficiency.empty:
        return [page.Section("efficiency", heading, _NO_EFFICIENCY)]
    table, told = tables.efficiency(efficiency), losses.paragraphs(efficiency)
    return [
        page.Section("efficiency", heading, _EFFICIENCY, pictures.get("efficiency", []), table, paragraphs=told),
        page.Section("ranks", "Ranks", _RANKS, pictures.get("ranks", []), tables.ranks(ranks)),
    ]


def _balance(balance: pd.DataFrame, pictures: dict[str, list[page.Picture]]) -> list[page.Section]:
    if balance.empty:
        return []
    text = (
        "Sequences of unequal length, dealt to the ranks: load balance as reckoned from what they cost, beside the one that the "
        "meter found on the same batches; and the step time, beside what a paced model's slowest rank and the best possible "
        "deal would sleep. By measured costs a sequence of L tokens takes a L + b L^2 seconds of a forward pass, a for a token "
        "and b for a pair of them, fitted to the first steps; half of these passes are nearer than the fit is said to be off. "
        "Padding is no token: its share is of all positions that went through the model. Waiting for input is "
        "what the rank that did so longest waited for its batches, of the window."
    )
    shown = pictures.get("balance", [])
    return [page.Section("balance", "Balance", text, shown, tables.balance(balance), folded=len(balance) > 24)]


def _traffic(traffic: pd.DataFrame, pictures: dict[str, list[page.Picture]]) -> list[page.Section]:
    if traffic.empty:
        return []
    text = (
        "What one rank communicates in an optimizer step, counted by the meter, beside what theory says. In the charts bytes as "
        "a ring would send them; P is the size of the parameters, and the factor is the volume as a multiple of "
        "P (n - 1) / n on n ranks. In the table the bytes of the full arrays."
    )
    shown = pictures.get("traffic", [])
    return [page.Section("traffic", "Traffic", text, shown, tables.traffic(traffic), folded=len(traffic) > 24)]


def _synchronisation(rows: pd.DataFrame, pictures: dict[str, list[page.Picture]]) -> list[page.Section]:
    if rows.empty:
        return []
    shown, told = synchronisation.shown(rows), synchronisation.sentences(rows)
    drawn = pictures.get("synchronisation", [])
    folded = len(shown) > 24
    text = _SYNCHRONISATION
    return [page.Section("synchronisation", "Synchronisation", text, drawn, shown, folded=folded, sentences=told)]
