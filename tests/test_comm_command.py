"""scalebench comm: what it refuses, in one line, before anything is launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import ScalebenchError
from bench.fitted_machine import write_fitted
from bench.verbs.comm import comm
from tests.command_line import Scalebench
from tests.synthetic_comm import sweep


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"world_size": 1}, "--world-size: found 1; Input should be greater than or equal to 2"),
        ({"world_size": 4096}, "--world-size: found 4096, there are"),
        ({"operations": "all_reduce,allgather"}, "--operations: found 'allgather'; did you mean 'all_gather'?"),
        ({"max_bytes": "much"}, "--max-bytes: found 'much', expected bytes, or a size like 64KiB"),
        ({"max_bytes": "512"}, "--max-bytes: found 512; Input should be greater than or equal to 1024"),
        ({"min_bytes": "4KiB", "max_bytes": "2k"}, "max_bytes 2048 is below min_bytes 4096"),
        ({"budget_s": 0.0}, "--budget-s: found 0.0; Input should be greater than 0"),
        ({"budget_s": float("nan")}, "--budget-s: found nan"),
        ({"launcher": "mpi"}, "--launcher: found 'mpi'"),
        ({"hostfile": Path("absent")}, "cannot read hostfile absent"),
        ({"record": Path("absent.json")}, "cannot read absent.json"),
        ({"timing": Path("results")}, "--timing: not used without --write-machine"),
        ({"machine": "cpu-gloo"}, "--machine: not used without --write-machine"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ScalebenchError) as raised:
        comm(**{"device": "cpu", "output": tmp_path / "out", **arguments})
    assert words in str(raised.value) and "\n" not in str(raised.value) and raised.value.exit_code == 2
    assert not (tmp_path / "out" / "launches").exists()


def test_the_command_exits_2_and_its_help_has_an_example(scalebench: Scalebench) -> None:
    done = scalebench("comm", "--operations", "sum")
    assert done.returncode == 2 and "--operations: found 'sum'; allowed: all_gather" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = scalebench("comm", "--help")
    assert done.returncode == 0 and "Example: scalebench comm" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("name", "base", "timing", "words"),
    [
        ("mine.txt", None, None, "mine.txt', expected a name that ends in .yaml"),
        ("mine.yaml", "dgx2-v100-32gb", None, "talks over nccl, but the sweep over gloo"),
        ("mine.yaml", "dgx3", None, "found 'dgx3', expected a known machine or a YAML file"),
        ("mine.yaml", None, Path("absent"), "absent is not a folder"),
    ],
)
def test_a_machine_file_that_cannot_be_made_says_why(
    tmp_path: Path, name: str, base: str | None, timing: Path | None, words: str
) -> None:
    with pytest.raises(ScalebenchError) as raised:
        write_fitted(tmp_path / name, sweep(lambda operation, size: 1e-4 + size / 1e9), base, timing)
    assert words in str(raised.value) and not (tmp_path / name).exists()
