"""This repository's own rows of ways to synchronise on shaped links, beside what theory makes of one host's step and the rate.

measured/sync_links.csv: each way on four hosts at 100 Mbit/s, columns of tables/synchronisation.csv. measured/sync_crossing.csv:
plain DDP and averaging every second step at several rates. measured/sync_hop.csv: what a small call costs those four ranks on one
host, without links. All were written by tests/sync_links.py; nothing is fitted to the rows.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from bench.plan.cell import Cell
from bench.theory.collectives import Group
from bench.theory.compression import POWERSGD_CALLS, powersgd_share
from bench.theory.machine import Machine, Positive, Quantity
from bench.theory.paced_links import MEASURED, host, link
from bench.theory.step import Step, exchange_of
from bench.theory.transformer import Shape, preset_shape
from bench.theory.ways import Options, step_of
from bench.theory.workload import copied, from_numbers

HOSTS = 4
CORES = 2
"""Of the one machine that all hosts shared when the rows were measured."""
RATE_MBIT_PER_S = 100.0

EXCHANGE_BOUND: dict[str, Any] = {
    "model": "paced-nano",
    "model_options": {"num_layers": 4, "hidden_size": 256, "forward_s": 0.005, "backward_s": 0.010},
    "micro_batch_size": 1,
    "seq_len": 256,
}
"""A model whose exchange takes eighteen times as long as its passes on such links: next to nothing is hidden."""

BALANCED: dict[str, Any] = {"model": "paced-nano", "micro_batch_size": 1, "seq_len": 256}
"""A model that hides half of its exchange beside its backward pass at 100 Mbit/s, most of it at 200, and little at 50."""

CONTENDERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ddp", {}),
    ("ddp_fp16", {}),
    ("ddp_powersgd", {}),
    ("local_sgd", {"every_steps": 8}),
    ("diloco", {"every_steps": 32}),
    ("param_server", {"mode": "async"}),
)
CROSSING: tuple[tuple[str, dict[str, Any]], ...] = (("ddp", {}), ("local_sgd", {"every_steps": 2}))


def cell_of(fields: dict[str, Any], strategy: str, options: dict[str, Any], world_size: int = HOSTS) -> Cell:
    """A cell of the table or the crossing: a window of whole periods, several where they are short, after little warm-up."""
    every = int(options.get("every_steps", 1))
    return Cell(
        **fields,
        strategy=strategy,
        strategy_options=options,
        world_size=world_size,
        steps=8 if every < 8 else 32,
        max_warmup_steps=max(every, 6),
    )


def predicted(cell: Cell, rate_mbit_per_s: float, step_time_1_s: float) -> Step:
    """The mean step of the cell with a rank on each host, from one host's step, the links' rate and what a small call costs.

    In step with each other all ranks compute at the same time, on CORES: what a step takes on one host beyond its sleeps takes as
    many times longer as there are ranks to a core, and so does what is moved in memory for the exchange.
    """
    shape = preset_shape(cell.model, cell.model_options)
    crowd = 1.0 if cell.own_pace else max(1.0, cell.world_size / CORES)
    machine = _crowded(crowd)
    network = link(rate_mbit_per_s)
    assert cell.paced_step_s is not None
    work = dataclasses.replace(
        from_numbers(
            machine,
            num_params=shape.num_params,
            grad_dtype=cell.precision,
            step_time_1_s=cell.paced_step_s + crowd * (step_time_1_s - cell.paced_step_s),
            num_layers=shape.num_layers,
        ),
        profile=cell.profile,
        last_frac=shape.embedding_params / shape.num_params,
        copied_bytes=copied("ddp", shape.num_params, cell.precision),
        tensors=_tensors(shape),
    )
    staleness = int(cell.options["staleness"]) if cell.options.get("mode") == "stale" else None
    options = Options(
        every_steps=cell.every_steps if cell.every_steps > 1 else None,
        powersgd_rank=int(cell.options.get("rank", 1)),
        staleness=0 if cell.options.get("mode") == "sync" else staleness,
        num_servers=max(1, cell.num_servers),
    )
    group = Group(machine, cell.num_workers, network)
    call_bytes = float(work.gradient_bytes * work.num_params) / len(exchange_of(work, "ddp", group).buckets)
    if cell.strategy == "ddp_powersgd":
        call_bytes *= powersgd_share(work, options.powersgd_rank) / POWERSGD_CALLS
    hop_s = _hop_left_s(call_bytes / cell.num_workers / network.node_bytes_per_s)
    return step_of(work, cell.strategy, Group(_with_hop(machine, hop_s), cell.num_workers, network), options)


def _hop_left_s(chunk_s: float) -> float:
    """Of a hop what is not hidden, where a rank's part of the array takes `chunk_s` on the wire: gloo sends it in two segments,
    of which one is on its way while the other is received and added up (gloo/allreduce.cc)."""
    return max(0.0, measured_hop_s() - chunk_s / 2)


def _tensors(shape: Shape) -> tuple[int, ...]:
    """Of a paced model (models/paced.py), the last layer first and the embeddings at the end: two matrices a layer, h x 4h."""
    width = shape.hidden_size
    layer = (width, 4 * width**2, 4 * width, 4 * width**2)
    return layer * shape.num_layers + (shape.max_seq_len * width, shape.vocab_size * width)


def _crowded(crowd: float) -> Machine:
    """A host whose core so many ranks share."""
    rate = host().device.memory_bytes_per_s
    shared = Positive(value=rate.value / crowd, source=rate.source)
    return host().model_copy(update={"device": host().device.model_copy(update={"memory_bytes_per_s": shared})})


def _with_hop(machine: Machine, hop_s: float) -> Machine:
    left = Quantity(value=hop_s, source="measured/sync_hop.csv")
    fabric = machine.node.fabric.model_copy(update={"hop_s": left})
    return machine.model_copy(update={"node": machine.node.model_copy(update={"fabric": fabric})})


@cache
def measured_hop_s(path: Path = MEASURED / "sync_hop.csv") -> float:
    """Seconds of one step of gloo's ring of HOSTS ranks on CORES, beside its bytes: a small all-reduce over 2 (HOSTS - 1)."""
    with path.open(newline="") as file:
        [line] = csv.DictReader(file)
    return float(line["hop_s"])


@cache
def table_rows(path: Path = MEASURED / "sync_links.csv") -> pd.DataFrame:
    """The table of all ways at 100 Mbit/s: columns of `bench.analysis.synchronisation`, `exposed_median_s`, what theory says
    (`predicted_step_time_s`, `predicted_comm_s`, `error_frac` of the step), and `step_time_1_s` (ddp on one host).

    `exposed_median_s`: exposed communication in the median period, where the mean has the seconds that TCP now and then waits
    for a lost packet. `comm_s` is that, or of the parameter server, which has no meter, its step less one host's;
    `predicted_comm_s` is what communication adds by theory.
    """
    rows = pd.read_csv(path)
    [alone_s] = rows.loc[rows["world_size"] == 1, "step_time_s"]
    several = rows[rows["world_size"] > 1].copy()
    steps = [
        predicted(cell_of(EXCHANGE_BOUND, line["strategy"], _options(line["contender"])), RATE_MBIT_PER_S, alone_s)
        for line in several.to_dict("records")
    ]
    several["step_time_1_s"] = alone_s
    several["comm_s"] = several["exposed_median_s"].fillna(several["step_time_s"] - alone_s)
    several["predicted_step_time_s"] = [step.step_time_s for step in steps]
    several["predicted_comm_s"] = [step.exposed_comm_s for step in steps]
    several["error_frac"] = several["predicted_step_time_s"] / several["step_time_s"] - 1
    return several.reset_index(drop=True)


def _options(contender: str) -> dict[str, Any]:
    return next(
        options for strategy, options in CONTENDERS if cell_of(EXCHANGE_BOUND, strategy, options).contender == contender
    )


@cache
def crossing_rows(path: Path = MEASURED / "sync_crossing.csv") -> pd.DataFrame:
    """Steps of ddp and of local_sgd with H = 2 by rate: rate_mbit_per_s, strategy, step_time_s, predicted_s, error_frac."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    alone_s = next(float(line["step_time_s"]) for line in lines if line["hosts"] == "1")
    found = []
    for line in lines:
        if line["hosts"] == "1":
            continue
        rate = float(line["rate_mbit_per_s"])
        expected_s = crossing_step_s(line["strategy"], rate, alone_s)
        seconds = float(line["step_time_s"])
        found.append(
            {
                "strategy": line["strategy"],
                "rate_mbit_per_s": rate,
                "step_time_s": seconds,
                "predicted_s": expected_s,
                "error_frac": expected_s / seconds - 1,
                "step_time_1_s": alone_s,
            }
        )
    return pd.DataFrame(found)


def crossing_step_s(strategy: str, rate_mbit_per_s: float, step_time_1_s: float) -> float:
    """Predicted seconds of a step of the balanced model under one of CROSSING."""
    cell = cell_of(BALANCED, strategy, dict(CROSSING)[strategy])
    return predicted(cell, rate_mbit_per_s, step_time_1_s).step_time_s


def measured_crossing_mbit_per_s(rows: pd.DataFrame) -> float:
    """The rate below which averaging every second step is faster than DDP, between the two measured rates on either side.

    What DDP loses to it, in seconds, by the logarithm of the rate, joined by straight lines. Raises ValueError where they
    cross nowhere, or more than once.
    """
    by_rate = rows.pivot_table(index="rate_mbit_per_s", columns="strategy", values="step_time_s").sort_index()
    lost = by_rate["ddp"] - by_rate["local_sgd"]
    places = [at for at in range(len(lost) - 1) if (lost.iloc[at] > 0) != (lost.iloc[at + 1] > 0)]
    if len(places) != 1:
        raise ValueError(f"DDP and averaging cross {len(places)} times at {list(lost.index)} Mbit/s, expected once")
    at = places[0]
    part = lost.iloc[at] / (lost.iloc[at] - lost.iloc[at + 1])
    low, high = (math.log(float(lost.index[place])) for place in (at, at + 1))
    return math.exp(low + part * (high - low))


def predicted_crossing_mbit_per_s(step_time_1_s: float, low: float = 25.0, high: float = 400.0) -> float:
    """The same rate by theory: where the two predicted steps are equal, by bisection."""

    def lost_s(rate: float) -> float:
        return crossing_step_s("ddp", rate, step_time_1_s) - crossing_step_s("local_sgd", rate, step_time_1_s)

    if lost_s(low) <= 0 or lost_s(high) >= 0:
        raise ValueError(f"by theory they don't cross between {low:g} and {high:g} Mbit/s")
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if lost_s(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def crossings_mbit_per_s(rows: pd.DataFrame) -> tuple[float, float]:
    """Where they cross, measured and by theory. `rows`: those of `crossing_rows`."""
    return measured_crossing_mbit_per_s(rows), predicted_crossing_mbit_per_s(float(rows["step_time_1_s"].iloc[0]))
