"""Forked ranks are real ranks: they communicate, what fails in one is told, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from bench.plan.cell import Cell
from tests import forked


def summed(number: float) -> tuple[str, int, float]:
    dist.init_process_group("gloo")
    total = torch.tensor(number * (1 + dist.get_rank()))
    dist.all_reduce(total)
    dist.destroy_process_group()
    return os.environ["RANK"], os.getpid(), total.item()


def raising() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("planted in rank 1")
    time.sleep(60)


def killed() -> None:
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)


def sleeping(path: Path) -> None:
    path.with_suffix("." + os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(60)


def interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def test_ranks_are_processes_that_communicate(tmp_path: Path) -> None:
    found = forked.run(3, summed, 0.5, folder=tmp_path)
    assert [rank for rank, _, _ in found] == ["0", "1", "2"]
    assert len({os.getpid(), *(pid for _, pid, _ in found)}) == 4
    assert {total for _, _, total in found} == {3.0}


def test_the_failing_ranks_traceback_is_told(tmp_path: Path) -> None:
    with pytest.raises(forked.RankFailed, match=r"(?s)rank 1 ended with status 1 .*ValueError: planted in rank 1"):
        forked.run(2, raising, folder=tmp_path, timeout_s=2)
    with pytest.raises(forked.RankFailed, match="rank 0 ended with status -9"):
        forked.run(2, killed, folder=tmp_path)


def test_ranks_that_do_not_end_are_ended(tmp_path: Path) -> None:
    with pytest.raises(forked.RankFailed, match=r"(?s)did not end within 0\.5 s.*in sleeping"):
        forked.run(2, sleeping, tmp_path / "pid", folder=tmp_path, timeout_s=0.5)
    for rank in (0, 1):
        assert not psutil.pid_exists(int((tmp_path / f"pid.{rank}").read_text()))


def test_the_rank_program_writes_its_record(tmp_path: Path) -> None:
    options = {"hidden_size": 32, "num_layers": 1, "vocab_size": 128}
    cell = Cell(model="gpt-nano", model_options=options, seq_len=16, strategy="zero2", world_size=2, steps=2)
    record = forked.train(cell, folder=tmp_path)
    assert (record.outcome, record.cell, len(record.ranks)) == ("ok", cell, 2)
    assert {rank.device for rank in record.ranks} == {"cpu"}
    phases = record.ranks[0].phases
    assert phases.start_s is not None and phases.start_s + phases.import_s < 30
    with pytest.raises(forked.RankFailed, match="planted"):
        forked.train(cell.model_copy(update={"model": "hf:planted"}), folder=tmp_path)


def test_ranks_enter_their_namespaces(tmp_path: Path) -> None:
    name = f"forked-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a network namespace needs root: {made.stderr.strip()}")
    try:
        here, there = forked.run(2, interfaces, folder=tmp_path, namespaces=["/proc/self/ns/net", f"/run/netns/{name}"])
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert here == interfaces() and there == ["lo"] != here
