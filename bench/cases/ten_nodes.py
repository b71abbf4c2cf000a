"""The classic tutorial case: ten billion parameters on ten nodes. Is training time halved, and what does it cost?"""

from __future__ import annotations

import dataclasses

import pandas as pd

from bench.cases.study import Drawn, Study
from bench.theory.failures import useful_frac
from bench.theory.ten_nodes import (
    EVERY_STEPS,
    MACHINE,
    MICRO_BATCH_SIZE,
    NETWORKS,
    NODES,
    Fit,
    Scheme,
    fits,
    schemes,
    slowest_frac,
)
from reports import cases, units
from reports.columns import Column, table
from reports.page import Case, Section

_HALVED = 2.0
# Of a node, of a checkpoint written by all nodes together, of a restart.
_NODE_MTBF_S, _CHECKPOINT_S, _RESTART_S = 1000 * 3600.0, 60.0, 300.0


def study() -> Study:
    """The study, from theory alone."""
    rows, kept = schemes(), fits()
    shown = pd.DataFrame([dataclasses.asdict(row) for row in rows])
    fitting = pd.DataFrame([{**dataclasses.asdict(one), "fits": one.fits} for one in kept])
    sections = [
        Section(
            "time",
            "Is training time halved?",
            f"Tokens a second of {NODES} nodes over those of one, by the network between them. A time is halved where the "
            f"speed-up is above {_HALVED:g}.",
            table=table(shown.assign(between=_between(rows)), _SCHEME),
        ),
        Section(
            "memory",
            "Which stage fits at all?",
            "Weights, gradients and optimizer of ten billion parameters are 165 GB in half precision with Adam; activations of "
            f"{MICRO_BATCH_SIZE} sequences of 1,024 tokens with checkpointing come on top.",
            table=table(fitting, _FIT),
        ),
    ]
    case = Case(
        title="Ten billion parameters on ten nodes of eight V100s",
        subtitle=f"gpt-10b on {MACHINE}, {MICRO_BATCH_SIZE} sequences a GPU and step, by theory: nothing of this was measured.",
        answers=[*_time(rows), *_memory(kept), _consistency(rows), _slowest(), _failures()],
        sections=sections,
        assumed=_ASSUMED,
        footer="Made by scalebench case ten-nodes.",
    )
    charts = [
        Drawn(
            "speedup",
            "Speed-up of ten nodes over one, by way and network",
            "time",
            cases.speedup(shown, _HALVED, NODES),
        ),
        Drawn("memory", "Memory of one GPU by strategy and ranks", "memory", cases.memory(fitting)),
    ]
    return Study("ten-nodes", case, {"schemes": shown, "memory": fitting}, charts)


def _between(rows: list[Scheme]) -> list[str]:
    return [units.ratio_between(row.speedup_lo, row.speedup_hi) if row.nodes > 1 else "" for row in rows]


def _time(rows: list[Scheme]) -> list[str]:
    """For each network, which ways halve the time for sure, perhaps, or not."""
    found = []
    for network in NETWORKS:
        words = []
        for row in rows:
            if row.network == network and row.nodes > 1 and row.fits:
                verdict = "yes" if row.speedup_lo > _HALVED else "no" if row.speedup_hi < _HALVED else "can't be told"
                between = units.ratio_between(row.speedup_lo, row.speedup_hi)
                words.append(f"{row.name}: {verdict}, {units.ratio(row.speedup)} ({between})")
        found.append(f"Is time halved over {network}? {'; '.join(words)}.")
    fast = [row for row in rows if row.network == NETWORKS[0] and row.nodes > 1 and row.fits]
    if max(row.speedup_lo for row in fast) < min(row.speedup_hi for row in fast):
        found.append(
            f"Over {NETWORKS[0]} the theory can't tell these ways apart: their intervals overlap, and only the synchronous ones "
            "make the updates of plain training."
        )
    return found


def _memory(kept: list[Fit]) -> list[str]:
    found = []
    for machine in dict.fromkeys(one.machine for one in kept):
        own = [one for one in kept if one.machine == machine]
        words = [
            f"{one.strategy} on {one.world_size} GPUs ({units.memory(one.memory_bytes)})" for one in own if one.fits
        ]
        found.append(
            f"On {machine} fit: {', '.join(words)}; plain DDP needs {units.memory(own[0].memory_bytes)} a GPU."
        )
    return found


def _consistency(rows: list[Scheme]) -> str:
    words = [
        f"{row.name}: {row.apart}, {units.memory(row.memory_bytes)} a GPU"
        + (f" and {units.memory(row.host_bytes)} of a node's host" if row.host_bytes else "")
        for row in rows
        if row.network == NETWORKS[0] and row.nodes > 1
    ]
    return (
        f"What it costs in memory and consistency: {'; '.join(words)}. What that does to the loss is not in the theory."
    )


def _slowest() -> str:
    mean, low, high = slowest_frac()
    return (
        f"Stragglers: of 80 equal GPUs the slowest is {units.fraction(mean)} slower than a typical one (nine sets of ten: "
        f"{units.fraction_between(low, high)}); all that wait for each other go at its pace."
    )


def _failures() -> str:
    parts = {nodes: useful_frac(nodes, _NODE_MTBF_S, _CHECKPOINT_S, _RESTART_S) for nodes in (1, NODES, 100 * NODES)}
    words = ", ".join(f"{units.fraction(part)} on {units.count(nodes)}" for nodes, part in parts.items())
    return f"Failures: of the time is useful {words} nodes, where a node fails every 1,000 hours (Daly 2006)."


_ASSUMED = [
    "Every GPU does the same work however many there are, so ten nodes train ten times the batch of one (weak scaling).",
    "Synchronous: ZeRO over all GPUs. Asynchronous and delayed: ZeRO-3 inside each node, a node is one worker.",
    "A parameter server runs in every node's host, each with a tenth of the parameters, Adam there, and a link as fast as the "
    "node's own beside it; workers go at their own pace.",
    f"Delayed: DiLoCo, differences in half precision every {EVERY_STEPS} steps, outer weights and momentum in the hosts; nothing "
    "hides their exchange.",
    "Speeds of devices and hosts vary as the machine's file says; no node is slow for good.",
    "Intervals: twice the theory's error across nodes on published rows of plain DDP, since none is of ZeRO-3 or of these ways; "
    "DeepSpeed's time on the host and in its optimizer is not in them.",
    "A node fails every 1,000 hours, a checkpoint takes 60 s, a restart 300 s.",
]
_SCHEME: list[Column] = [
    ("network", "network", units.text),
    ("name", "way", units.text),
    ("step_time_s", "step time", units.seconds),
    ("exposed_comm_s", "exposed", units.seconds),
    ("speedup", "speed-up", units.ratio),
    ("between", "interval", units.text),
    ("memory_bytes", "memory of a GPU", units.memory),
    ("host_bytes", "of a host", lambda size: units.memory(size) if size else units.UNKNOWN),
    ("apart", "replicas", units.text),
]
_FIT: list[Column] = [
    ("machine", "machine", units.text),
    ("strategy", "strategy", units.text),
    ("world_size", "GPUs", units.count),
    ("memory_bytes", "memory of a GPU", units.memory),
    ("fits", "fits", lambda fits: "yes" if fits else "no"),
]
