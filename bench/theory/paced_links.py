"""This repository's own rows: a paced model on hosts joined by shaped links, predicted from one host's step and the rate alone.

measured/paced_links.csv was written by tests/paced_links.py: one rank a host, the mean step of a launch of its own in each line;
measured/paced_nano_SCALE.outline.json is the model's outline as a metered launch watched it, from which ZeRO-3's gathers follow.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.plan.cell import Cell
from bench.results.metered import Outline
from bench.theory.machine import Machine, Network, Positive, Quantity, load_machine
from bench.theory.measured_work import MeasuredWork, Series, parts
from bench.theory.transformer import preset_shape

MEASURED = Path(__file__).parent / "measured"


def model_fields(scale: int) -> dict[str, Any]:
    """Fields of the cells that all rows share: layers that sleep `scale` times as long and are `scale` times as large.

    On a machine of few cores eight hosts are busy with themselves for 0.2 s of a step, which no cluster would be: at scale 4
    that is a small part of it.
    """
    options = {"forward_s": 0.02 * scale, "backward_s": 0.04 * scale, "hidden_size": round(128 * math.sqrt(scale))}
    fields: dict[str, Any] = {"model": "paced-nano", "micro_batch_size": 1, "seq_len": 256}
    return fields if scale == 1 else {**fields, "model_options": options}


STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
COLUMNS = (
    "scale",
    "strategy",
    "grad_accum_steps",
    "hosts",
    "rate_mbit_per_s",
    "step_time_s",
    "spread_frac",
    "started_at",
)

PAYLOAD_FRAC = 0.992
"""Of a link's rate: Ethernet, IP and TCP headers take the rest of frames of 9,000 bytes (9014 + 66 on the wire for 8,948)."""


@dataclass(frozen=True)
class PacedRow:
    """One launch. `step_time_1_s` is the step of the same strategy and accumulation on one host, `spread_frac` how far the steps
    of the launch are apart (slowest over fastest, less 1)."""

    scale: int
    strategy: str
    grad_accum_steps: int
    hosts: int
    rate_mbit_per_s: float
    step_time_1_s: float
    step_time_s: float
    spread_frac: float

    @property
    def host_bound(self) -> bool:
        """Whether the machine that the hosts shared, of two cores, had too much to do besides: at scale 1 eight hosts, and four
        on the fastest links. The theory knows nothing of that, and each such case was measured at scale 4 too."""
        return self.scale == 1 and (self.hosts == 8 or (self.hosts == 4 and self.rate_mbit_per_s == 400))

    @property
    def predicted_s(self) -> float:
        series = (self.strategy, self.grad_accum_steps)
        return predicted_s(series, self.hosts, self.rate_mbit_per_s, self.step_time_1_s, self.scale)

    @property
    def error_frac(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_s / self.step_time_s - 1


@cache
def paced_rows(path: Path = MEASURED / "paced_links.csv") -> list[PacedRow]:
    """The rows of several hosts, each with its one-host step."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    alone = {_key(line): float(line["step_time_s"]) for line in lines if line["hosts"] == "1"}
    return [
        PacedRow(
            scale=int(line["scale"]),
            strategy=line["strategy"],
            grad_accum_steps=int(line["grad_accum_steps"]),
            hosts=int(line["hosts"]),
            rate_mbit_per_s=float(line["rate_mbit_per_s"]),
            step_time_1_s=alone[_key(line)],
            step_time_s=float(line["step_time_s"]),
            spread_frac=float(line["spread_frac"]),
        )
        for line in lines
        if line["hosts"] != "1"
    ]


def predicted_s(series: Series, hosts: int, rate_mbit_per_s: float, step_time_1_s: float, scale: int = 1) -> float:
    """Seconds of a step of the model with a rank on each of `hosts`, whose links have that rate in each direction.

    The latency of a hop and the hosts' lateness are those that the machine `cpu-gloo` assumes; nothing is fitted.
    """
    return sum(parts(_work(scale), series, hosts, step_time_1_s, host(), link(rate_mbit_per_s)))


def _key(line: dict[str, str]) -> tuple[str, str, str]:
    return line["scale"], line["strategy"], line["grad_accum_steps"]


@cache
def _work(scale: int) -> MeasuredWork:
    cell = Cell(**model_fields(scale), strategy="ddp", world_size=1)
    outline = Outline.model_validate_json((MEASURED / f"paced_nano_{scale}.outline.json").read_text())
    shape = preset_shape(cell.model, cell.model_options)
    return MeasuredWork(cell, shape.num_params, "cpu", None, "gloo", None, (), {"zero3": outline})


@cache
def host() -> Machine:
    """A host of one rank."""
    machine = load_machine("cpu-gloo")
    return machine.model_copy(update={"node": machine.node.model_copy(update={"num_devices": 1})})


def link(rate_mbit_per_s: float) -> Network:
    return Network(
        cards=Positive(value=1, source="one link a host"),
        card_bytes_per_s=Positive(
            value=PAYLOAD_FRAC * rate_mbit_per_s * 1e6 / 8, source="the shaped rate less headers"
        ),
        added_latency_s=Quantity(value=0.0, source="the shaper adds none to a packet that it lets pass"),
    )
