"""What others published of data-parallel training: one GPU's speed and that of N, by which the theory is judged.

bench/theory/published/throughput.csv has every row that can be used, with its source; left_out.csv those that cannot, with
the reason. Where accumulation is not published it is taken as 1. `step_time_1_s` is units_per_rank_step / throughput_1.
Sentences of GNMT count 54 tokens (assumed: twice 27).
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.theory.collectives import Group
from bench.theory.machine import Machine, load_machine, load_network

_FOLDER = Path(__file__).parent / "published"

ONE_MACHINE, ONE_CARD, FOUR_CARDS, ACCUMULATED, UNSURE, UNSURE_FOUR_CARDS = (
    "one machine",
    "across nodes, one 100 Gb card",
    "across nodes, four cards",
    "one machine, accumulation 64 or more",
    "one machine, accumulation not published",
    "across nodes, four cards, accumulation not published",
)
CLASSES = (ONE_MACHINE, ONE_CARD, FOUR_CARDS, ACCUMULATED, UNSURE, UNSURE_FOUR_CARDS)
"""Nothing is fitted to the last three, so that they show what the theory is worth on rows that it never saw."""

# Families whose software, not the machine, sets how they scale. Both figures are shown, with them and without.
LEFT_OUT_FAMILIES = {
    "BERT-Base, PaddlePaddle": (
        "loses 21 to 44 % on 8 GPUs of one machine where the same model in MXNet and TensorFlow loses 1 to 18 % on the same "
        "machine in the same test: the framework's own cost"
    ),
    "BERT-Large SQuAD, TensorFlow Horovod": (
        "the same machine, model and batch give 0.87 in the release of 2019-04 and 0.62 in that of 2019-07: the release "
        "decides, and none is described"
    ),
    "GNMT, PyTorch apex": (
        "each rank draws sentences of its own, of unequal length, and the program reads the loss back before the backward "
        "pass: the release of 2019-02 loses 36 to 49 ms a step in fp32 and 33 to 48 in fp16, whatever is sent; how unequal "
        "the ranks are is not published"
    ),
}


@dataclass(frozen=True)
class PublishedRow:
    """One published run on `world_size` GPUs, with the one-GPU run of the same work. `efficiency` is weak scaling's."""

    source: str
    family: str
    machine: str
    network: str | None
    precision: str
    num_params: int
    grad_accum_steps: int
    accumulation_published: bool
    step_time_1_s: float
    world_size: int
    efficiency: float

    @property
    def kept(self) -> bool:
        return self.family not in LEFT_OUT_FAMILIES

    @property
    def kind(self) -> str:
        """Its class, one of CLASSES."""
        if not self.accumulation_published:
            return UNSURE if self.network is None else UNSURE_FOUR_CARDS
        if self.grad_accum_steps > 1:
            return ACCUMULATED
        return {None: ONE_MACHINE, "edr-1x": ONE_CARD, "edr-4x": FOUR_CARDS}[self.network]

    def group(self, machine: Machine | None = None) -> Group:
        """Its ranks, on its machine or on a changed one."""
        network = None if self.network is None else load_network(self.network)
        return Group(machine or load_machine(self.machine), self.world_size, network)


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """Every row that can be used."""
    found = []
    for row in _read("throughput.csv"):
        one, many, ranks = float(row["throughput_1"]), float(row["throughput"]), int(row["world_size"])
        accumulation = int(row["grad_accum_steps"])
        found.append(
            PublishedRow(
                source=row["source"],
                family=row["family"],
                machine=row["machine"],
                network=row["network"] or None,
                precision=row["precision"],
                num_params=int(row["num_params"]),
                grad_accum_steps=accumulation,
                accumulation_published=row["accumulation_published"] == "yes",
                step_time_1_s=accumulation * float(row["units_per_rank_step"]) / one,
                world_size=ranks,
                efficiency=many / (ranks * one),
            )
        )
    return tuple(found)


def left_out() -> Counter[str]:
    """Rows that can't be used, by the reason."""
    reasons: Counter[str] = Counter()
    for row in _read("left_out.csv"):
        reasons[row["reason"]] += int(row["rows"])
    return reasons


def _read(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
