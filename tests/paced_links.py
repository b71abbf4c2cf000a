"""A paced model on hosts joined by shaped links: what the theory of the step is held to where nobody has to rent a cluster.

    python -m tests.paced_links --output links --rates 100,200,400 --hosts 2,4,8

Trains every strategy and accumulation on one host, and on several with a rank each (tests/netlab.py; needs root), and appends a
line to OUTPUT/paced_links.csv for each launch. What is there already is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.plan.cell import Cell
from bench.results.record import Record
from bench.theory.paced_links import COLUMNS, STRATEGIES, model_fields
from tests import forked, netlab


def cell_of(strategy: str, grad_accum_steps: int, num_hosts: int, scale: int = 1) -> Cell:
    """A launch of the model that all rows of a scale share."""
    steps = 6 if scale == 1 else 4
    return Cell(
        **model_fields(scale),
        strategy=strategy,
        grad_accum_steps=grad_accum_steps,
        world_size=num_hosts,
        steps=steps,
        max_warmup_steps=4,
    )


def measured(cell: Cell, lab: netlab.Lab | None, rate_mbit_per_s: float | None, folder: Path) -> dict[str, Any]:
    """A row of COLUMNS but `scale`: the mean over the window's steps of the slowest rank's seconds, as a step is predicted."""
    where: dict[str, Any] = {}
    if lab is not None:
        where = {
            "namespaces": [lab.network_of(name) for name in lab.names[: cell.world_size]],
            "master_addr": lab.addresses[lab.names[0]],
            "environment": {"GLOO_SOCKET_IFNAME": "eth0"},
        }
    record: Record = forked.train(cell, folder=folder, timeout_s=300, **where)
    times_s = record.slowest_step_times_s()
    return {
        "strategy": cell.strategy,
        "grad_accum_steps": cell.grad_accum_steps,
        "hosts": cell.world_size,
        "rate_mbit_per_s": "" if rate_mbit_per_s is None else f"{rate_mbit_per_s:g}",
        "step_time_s": f"{float(np.mean(times_s)):.4f}",
        "spread_frac": f"{max(times_s) / min(times_s) - 1:.3f}",
        "started_at": record.started_at,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rates", default="100,200,400", help="Mbit/s")
    parser.add_argument("--hosts", default="2,4,8")
    parser.add_argument("--accumulation", default="1,4")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--scale", type=int, default=1, help="how many times as long and large the layers are")
    chosen = parser.parse_args()
    accumulation = [int(number) for number in chosen.accumulation.split(",")]
    path: Path = chosen.output / "paced_links.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    for lab, hosts, rate in _places(
        [int(number) for number in chosen.hosts.split(",")], [float(rate) for rate in chosen.rates.split(",")]
    ):
        done = _done(path)
        for strategy in chosen.strategies.split(","):
            for steps in accumulation:
                key = (str(chosen.scale), strategy, str(steps), str(hosts), "" if rate is None else f"{rate:g}")
                if key in done:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    row = measured(cell_of(strategy, steps, hosts, chosen.scale), lab, rate, Path(folder))
                row = {"scale": chosen.scale, **row}
                _append(path, row)
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def _places(hosts: list[int], rates: list[float]) -> Iterator[tuple[netlab.Lab | None, int, float | None]]:
    """One host, then each number of hosts on each link."""
    yield None, 1, None
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(netlab.hosts(max(hosts)))
        for rate in rates:
            for name in lab.names:
                lab.shape(name, rate)
            for number in hosts:
                yield lab, number, rate


def _done(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[name] for name in COLUMNS[:5]) for row in csv.DictReader(file)}


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
