"""Ways to synchronise, measured: on hosts joined by shaped links, and with one of eight workers half as fast.

    python -m tests.sync_links --output FOLDER table crossing slow hop

table: sync_links.csv, every way on four hosts at 100 Mbit/s, a timing and (but for the parameter server) an attribution launch
each. crossing: sync_crossing.csv, DDP and averages every second step at several rates. Both need root (tests/netlab.py). slow:
slow_worker.csv, nine processes on this host. hop: sync_hop.csv, a small all-reduce of as many ranks as there are hosts in the
table, here and without links. Records are kept in FOLDER; what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.analysis.arms import block_times
from bench.examine import examine
from bench.plan.cell import Cell
from bench.results.record import Record
from bench.results.store import read_records
from bench.theory import slow_worker, sync_links
from bench.theory.sync_links import BALANCED, CONTENDERS, CROSSING, EXCHANGE_BOUND, HOSTS, RATE_MBIT_PER_S
from tests import forked, netlab
from tests.small_calls import NUM_BYTES, small_all_reduce_s

RATES = (50.0, 75.0, 100.0, 150.0, 200.0)


@contextlib.contextmanager
def shaped(number: int, rate_mbit_per_s: float) -> Iterator[netlab.Lab]:
    with netlab.hosts(number) as lab:
        for name in lab.names:
            lab.shape(name, rate_mbit_per_s)
        yield lab


def launch(
    cell: Cell, folder: Path, lab: netlab.Lab | None = None, kind: Literal["timing", "attribution"] = "timing"
) -> Record:
    """The record of the cell, a rank on each host of the lab, or all of them here."""
    where: dict[str, Any] = {}
    if lab is not None:
        where = {
            "namespaces": [lab.network_of(name) for name in lab.names[: cell.world_size]],
            "master_addr": lab.addresses[lab.names[0]],
            "environment": {"GLOO_SOCKET_IFNAME": "eth0"},
        }
    return forked.train(cell, folder=folder, timeout_s=300, kind=kind, **where)


def once(
    cell: Cell,
    folder: Path,
    lab: netlab.Lab | None = None,
    kind: Literal["timing", "attribution"] = "timing",
    launches: int = 1,
) -> Record:
    """As `launch`, so often in all, or the record that is there already. Returns the first."""
    there = [
        record
        for record in (read_records(folder) if (folder / cell.id).exists() else [])
        if record.cell == cell and record.kind == kind
    ]
    while len(there) < launches:
        there.append(launch(cell, folder, lab, kind))
        print(
            f"{folder.name}: {cell.contender}, {cell.world_size} ranks, {kind}: {step_s(there[-1]):.4f} s", flush=True
        )
    return there[0]


def step_s(record: Record) -> float:
    """Median over the window's periods of the slowest rank's mean step: now and then TCP waits seconds for a lost packet."""
    return float(np.median(record.slowest_step_times_s()))


def _spread(record: Record) -> str:
    """How far the periods of a window are apart: the slowest over the fastest, less 1."""
    times_s = record.slowest_step_times_s()
    return f"{max(times_s) / min(times_s) - 1:.3f}"


def table(output: Path) -> None:
    folder = output / "table"
    once(sync_links.cell_of(EXCHANGE_BOUND, "ddp", {}, 1), folder)
    with shaped(HOSTS, RATE_MBIT_PER_S) as lab:
        for strategy, options in CONTENDERS:
            cell = sync_links.cell_of(EXCHANGE_BOUND, strategy, options)
            once(cell, folder, lab)
            if cell.unmetered_because is None:
                # Of a period of eight steps a launch has few.
                once(cell, folder, lab, "attribution", launches=3 if cell.every_steps == 8 else 1)
    found = examine(folder).synchronisation.drop(columns="task")
    metered: dict[str, list[Record]] = {}
    for record in read_records(folder):
        if record.kind == "attribution":
            metered.setdefault(record.cell.id, []).append(record)
    medians = {cell_id: exposed_median_s(launches) for cell_id, launches in metered.items()}
    found["exposed_median_s"] = found["cell_id"].map(medians)
    found.to_csv(output / "sync_links.csv", index=False, float_format="%.9g")


def exposed_median_s(records: list[Record]) -> float:
    """The median period of the arm `full` less that of `local`, the slowest rank's in each, over all attribution launches of a
    cell."""
    full, local = (
        np.concatenate([block.max(axis=0) for record in records for block in block_times(record, arm)])
        for arm in ("full", "local")
    )
    return float(np.median(full) - np.median(local))


def crossing(output: Path) -> None:
    rows = [_crossing_row(once(sync_links.cell_of(BALANCED, "ddp", {}, 1), output / "crossing" / "alone"), None)]
    for rate in RATES:
        with shaped(HOSTS, rate) as lab:
            for strategy, options in CROSSING:
                cell = sync_links.cell_of(BALANCED, strategy, options)
                rows.append(_crossing_row(once(cell, output / "crossing" / f"{rate:g}", lab), rate))
    _write(output / "sync_crossing.csv", rows)


def _crossing_row(record: Record, rate_mbit_per_s: float | None) -> dict[str, Any]:
    return {
        "strategy": record.cell.strategy,
        "every_steps": record.cell.every_steps,
        "hosts": record.cell.world_size,
        "rate_mbit_per_s": "" if rate_mbit_per_s is None else f"{rate_mbit_per_s:g}",
        "step_time_s": f"{step_s(record):.4f}",
        "spread_frac": _spread(record),
        "started_at": record.started_at,
    }


def slow(output: Path) -> None:
    rows = []
    for cell in (slow_worker.alone(), *slow_worker.cells()):
        record = once(cell, output / "slow")
        rows.append(
            {
                "strategy": cell.strategy,
                "partition": cell.partition,
                "num_workers": cell.num_workers,
                "slow_rank_frac": f"{cell.slow_rank_frac:g}",
                "step_time_s": f"{step_s(record):.4f}",
                "tokens_per_s": f"{slow_worker.tokens_per_s(record):.2f}",
                "started_at": record.started_at,
            }
        )
    _write(output / "slow_worker.csv", rows)


def hop(output: Path) -> None:
    started_at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    call_s = forked.run(HOSTS, small_all_reduce_s, folder=output / "hop")[0]
    # A ring's steps: each rank's part goes round once to be added up and once to be told.
    row = {
        "ranks": HOSTS,
        "size_bytes": NUM_BYTES,
        "call_s": f"{call_s:.6f}",
        "hop_s": f"{call_s / (2 * (HOSTS - 1)):.6f}",
        "started_at": started_at,
    }
    _write(output / "sync_hop.csv", [row])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("what", nargs="+", choices=("table", "crossing", "slow", "hop"))
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name, measure in (("table", table), ("crossing", crossing), ("slow", slow), ("hop", hop)):
        if name in chosen.what:
            measure(chosen.output)


if __name__ == "__main__":
    main()
