"""The instrument against the outside world: known slow ranks are named, and a load from outside is seen where it is."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bench.analysis.arms import arms, useful
from bench.analysis.timeline import chrome_trace
from bench.launch.machine import detect
from bench.launch.order import Task
from bench.launch.sweep import Sweep
from bench.plan.cell import Cell
from bench.plan.suite import LaunchSettings, PlannedCell, Suite
from bench.results.metered import ARMS, Injection
from bench.results.record import Record
from bench.verbs.shared import LAUNCHERS
from tests.command_line import Scalebench

pytestmark = [pytest.mark.slow, pytest.mark.alone]


class Silent:
    """Progress that nobody watches."""

    def started(self, task: Task, index: int, total: int, eta_s: float | None) -> None: ...

    def tick(self) -> None: ...

    def ended(self, record: Record, index: int, total: int) -> None: ...


def attribution_launch(folder: Path, cell: Cell, injections: tuple[Injection, ...] = ()) -> Record:
    settings = LaunchSettings(timeout_s=240)
    suite = Suite(name="instrument", description="", seed=0, cells=(PlannedCell(cell, settings),))
    sweep = Sweep(suite, detect("cpu", 8), LAUNCHERS[0], folder)
    [record] = sweep.launch([Task(cell, settings, 0, "attribution", injections)], Silent())
    assert record.outcome == "ok", (record.reason, record.evidence)
    return record


def test_what_is_injected_is_recovered(scalebench: Scalebench, tmp_path: Path) -> None:
    # Other work on the cores can hide an effect once.
    for attempt in ("first", "second"):
        started = time.monotonic()
        done = scalebench("prove", "--world-size", "4", "--device", "cpu", "--json", "--output", tmp_path / attempt)
        spent_s = time.monotonic() - started
        if done.returncode != 1:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert all({"name", "injected", "expected", "recovered", "tolerance", "ok"} <= row.keys() for row in rows)
    assert all(row["ok"] is True for row in rows)
    found = {row["name"]: row for row in rows}
    serial = found["zero2: each collective 50 ms late"]
    assert serial["injected"] >= 0.1
    assert serial["recovered"] == pytest.approx(serial["injected"], rel=0.05)
    overlapped = found["ddp: each collective 30 ms late"]
    assert overlapped["expected"] < overlapped["injected"] / 2
    for where in ("forward", "backward", "input"):
        assert found[f"ddp: slow rank in {where}, load_balance"]["expected"] < 0.8
    assert found["ddp: one rank's payload withheld"]["recovered"] > 500_000
    assert spent_s < 180


SHORT = {"forward_s": 0.005, "backward_s": 0.01}


@pytest.fixture(scope="module")
def twenty_trials(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Twenty slow ranks, drawn at random, one after the other in one launch of four ranks."""
    draw = random.Random(7)
    trials = tuple(
        Injection(
            name=f"trial {number}",
            kind="slow_rank",
            seconds=0.05,
            rank=draw.randrange(4),
            where=draw.choice(("forward", "backward", "input")),
            arms=("local",),
        )
        for number in range(20)
    )
    cell = Cell(
        model="paced-nano",
        model_options=SHORT,
        strategy="zero2",
        world_size=4,
        seq_len=256,
        steps=6,
        max_warmup_steps=4,
    )
    return attribution_launch(tmp_path_factory.mktemp("trials"), cell, trials)


def test_the_slow_rank_is_named_in_twenty_of_twenty_trials(twenty_trials: Record) -> None:
    assert twenty_trials.attribution is not None
    named = {}
    for injection in twenty_trials.attribution.injections:
        disturbed = useful(twenty_trials, injection.name)
        assert disturbed is not None
        named[injection.name] = disturbed.straggler
    assert named == {injection.name: injection.rank for injection in twenty_trials.attribution.injections}


def test_blocks_are_interleaved_in_the_recorded_order(twenty_trials: Record) -> None:
    plan = twenty_trials.attribution
    assert plan is not None
    half = len(plan.blocks) // 2
    first, second = plan.blocks[:half], plan.blocks[half:]
    assert first != second and sorted(map(str, first)) == sorted(map(str, second))
    assert {block.arm for block in first if block.injection is None} == set(ARMS)
    for rank in twenty_trials.ranks:
        assert rank.attribution is not None
        assert [len(times_s) for times_s in rank.attribution.block_times_s] == [3] * len(plan.blocks)


def test_the_timeline_is_a_trace_that_a_viewer_opens(twenty_trials: Record) -> None:
    """Every event complete and in order; on one track, spans lie inside one another or apart (else a viewer drops them)."""
    trace = chrome_trace(twenty_trials)
    assert trace is not None
    events = json.loads(json.dumps(trace))["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in spans} == {0, 1, 2, 3}
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in spans:
        assert event["dur"] >= 0 and event["ts"] >= 0
        tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for track in tracks.values():
        for (a, b), (c, d) in ((x, y) for i, x in enumerate(track) for y in track[i + 1 :]):
            assert b <= c or d <= a or (a <= c and d <= b) or (c <= a and b <= d)
    for rank in twenty_trials.ranks:
        assert rank.attribution is not None
        own = [event for event in spans if event["pid"] == rank.rank]
        names = [event["name"] for event in own]
        assert {"step", "forward", "backward", "optimizer"} <= set(names)
        [step] = [event for event in own if event["name"] == "step"]
        computing = sum(event["dur"] for event in own if event["cat"] == "compute")
        # Six layers of 15 ms, in microseconds.
        assert 90_000 <= computing <= step["dur"]
        for event in own:
            assert step["ts"] <= event["ts"] and event["ts"] + event["dur"] <= step["ts"] + step["dur"] + 1
        counted = sum(line.count for line in rank.attribution.ledger if 0 in line.steps)
        assert sum(event["cat"] == "collective" for event in own) == counted


NUM_BURNERS = 3


@contextmanager
def burnt(core: int, folder: Path) -> Iterator[None]:
    """Each rank that starts below `folder` is pinned to a core of its own, and other processes burn one core."""
    stop = threading.Event()

    def pin() -> None:
        while not stop.wait(0.5):
            for path in folder.glob("*/*/rank_*.pid"):
                rank, pid = int(path.stem.removeprefix("rank_")), int(path.read_text().split()[1])
                for thread in psutil.Process(pid).threads() if psutil.pid_exists(pid) else []:
                    try:
                        os.sched_setaffinity(thread.id, {rank})
                    except ProcessLookupError:
                        continue  # ended in between

    pinning = threading.Thread(target=pin)
    pinning.start()
    burn = ["taskset", "-c", str(core), sys.executable, "-c", "while True: pass"]
    # In sessions of their own, because Linux shares a core out by session, and the ranks have one too.
    burners = [subprocess.Popen(burn, start_new_session=True) for _ in range(NUM_BURNERS)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        stop.set()
        pinning.join()


def test_an_outside_load_is_the_imbalance_of_its_rank(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2 or not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs the cores 0 and 1")
    cell = Cell(
        model="gpt-nano", strategy="ddp", world_size=2, micro_batch_size=4, seq_len=64, steps=12, max_warmup_steps=6
    )
    with burnt(1, tmp_path):
        record = attribution_launch(tmp_path, cell)
    found = arms(record)
    assert found is not None
    quick, slow = found.useful.by_rank
    assert found.useful.straggler == 1
    # The rank has a quarter of its core left.
    assert slow > 2 * quick
    lost_to_imbalance_s = found.useful.slowest_s - found.useful.mean_s
    assert lost_to_imbalance_s > 2 * found.exposed_comm_s
