"""Hosts before a launch, and the command on each of them: with a stand-in for ssh that answers, or runs the line here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bench.launch.each import each_command
from bench.launch.launcher import free_port
from bench.launch.preflight import Preflight, Unusable, loops_back, master_address
from bench.launch.presence import Presence, no_way, presence
from bench.worker.started import interface_towards, name_ranks_as_torch_does, on_several_hosts
from tests.command_line import command_environment

HERE = presence("127.0.0.1", 1)


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ssh, first on the PATH, that runs the line here and counts its calls."""
    path = tmp_path / "ssh"
    write(path, 'for line; do :; done; exec sh -c "$line"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return path


def write(path: Path, text: str) -> None:
    path.write_text(f'#!/bin/sh\necho call >> "{path.parent}/calls"\n{text}\n')
    path.chmod(0o755)


def answers(path: Path, **changes: object) -> None:
    (path.parent / "answer").write_text(Presence(**{**HERE.model_dump(), **changes}).model_dump_json() + "\n")
    write(path, f'cat "{path.parent}/answer"')


def num_calls(path: Path) -> int:
    return len((path.parent / "calls").read_text().split())


def test_hosts_that_can_be_used_are_asked_once_until_a_launch_fails(ssh: Path) -> None:
    preflight = Preflight(always_ssh=False, warn=pytest.fail)
    assert preflight.check(["a", "b"], "127.0.0.1", free_port()) is None and num_calls(ssh) == 2
    assert preflight.check(["b", "a"], "127.0.0.1", 1) is None and num_calls(ssh) == 2
    preflight.forget()
    assert preflight.check(["a"], "127.0.0.1", 1) is None and num_calls(ssh) == 3


def test_a_host_that_can_not_be_used_is_named_with_what_to_do(ssh: Path) -> None:
    def check() -> Unusable:
        found = Preflight(always_ssh=False, warn=pytest.fail).check(["worker-1"], "10.0.0.1", 1234)
        assert found is not None and "worker-1" in found.reason
        return found

    write(ssh, "echo 'env: /opt/python: No such file or directory' >&2; exit 127")
    assert check().outcome == "crashed" and "No such file" in check().reason and "install it there" in check().reason
    write(ssh, "exit 0")
    assert check().outcome == "crashed" and "it said nothing" in check().reason
    write(ssh, "echo '{}'")
    assert check().outcome == "crashed"
    answers(ssh, version="0.0.9")
    assert check().outcome == "crashed" and "0.0.9" in check().reason
    answers(ssh, missing=["deepspeed"])
    assert check().outcome == "crashed" and "lacks deepspeed" in check().reason
    answers(ssh, no_way="no answer within 5 s")
    assert check().outcome == "unreachable" and "can't reach 10.0.0.1" in check().reason
    write(ssh, "echo 'Permission denied (publickey).' >&2; exit 255")
    assert check().outcome == "unreachable"


def test_another_state_of_the_code_is_a_warning(ssh: Path) -> None:
    answers(ssh, commit="0" * 40)
    warnings: list[str] = []
    assert Preflight(always_ssh=False, warn=warnings.append).check(["worker-1"], "10.0.0.1", 1) is None
    assert len(warnings) == 1 and "worker-1 has another state of the code" in warnings[0]


def test_where_ranks_meet() -> None:
    assert master_address("a", "10.0.0.1") == "10.0.0.1"
    assert master_address("10.0.0.2", None) == "10.0.0.2"
    for name, words in (("localhost", "resolves to"), ("nowhere.invalid", "can't be resolved")):
        found = master_address(name, None)
        assert isinstance(found, Unusable) and found.outcome == "unreachable"
        assert words in found.reason and "--master-addr" in found.reason
    assert loops_back("localhost") in ("127.0.0.1", "::1") and loops_back("10.0.0.2") is None
    assert no_way("127.0.0.1", free_port()) is None  # refused: an answer
    assert no_way("nowhere.invalid", 1) is not None
    assert interface_towards("127.0.0.1") == "lo" and interface_towards("nowhere.invalid") is None


@pytest.mark.parametrize(
    ("told", "expected", "several"),
    [
        ({}, ("0", "0", "1"), False),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_SIZE": "2"}, ("3", "1", "4"), True),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, ("1", "1", "2"), False),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}, ("0", "0", "1"), False),  # a user's shell
        (
            {
                "SLURM_PROCID": "3",
                "SLURM_LOCALID": "1",
                "SLURM_NTASKS": "4",
                "MASTER_PORT": "1",
                "SLURM_NTASKS_PER_NODE": "2",
            },
            ("3", "1", "4"),
            True,
        ),
        (
            {
                "OMPI_COMM_WORLD_RANK": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "MASTER_PORT": "1",
            },
            ("2", "0", "4"),
            True,
        ),
    ],
)
def test_a_rank_knows_its_place_by_any_launcher(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], expected: tuple[str, str, str], several: bool
) -> None:
    monkeypatch.setattr("os.environ", {"PATH": "/usr/bin", **told})
    name_ranks_as_torch_does()
    assert tuple(os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")) == expected
    assert on_several_hosts() == several
    assert os.environ["PATH"].endswith("/usr/bin") and os.environ["PATH"] != "/usr/bin"


def each(include: str, visible: bool, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**command_environment(), "GLOO_SOCKET_IFNAME": "$(touch planted)"}
    words = each_command(include, ["GLOO_SOCKET_IFNAME"], visible, command)
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_one_command_on_each_host(ssh: Path) -> None:
    show = 'printf \'%s %s %s\\n\' "$1" "$CUDA_VISIBLE_DEVICES" "$GLOO_SOCKET_IFNAME"'
    done = each("localhost:0,1@a:2,3", True, ["sh", "-c", show, "sh", "number %n; exit 7"])
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if "each" not in line) == [
        "a: number 1; exit 7 2,3 $(touch planted)",
        "localhost: number 0; exit 7 0,1 $(touch planted)",
    ]
    assert not Path("planted").exists()


def test_one_that_fails_ends_the_others(ssh: Path) -> None:
    done = each(
        "localhost:0@a:0", False, ["sh", "-c", 'if [ "$1" = 1 ]; then exit 5; else exec sleep 30; fi', "sh", "%n"]
    )
    assert done.returncode == 5 and "each: a: exit status 5" in done.stdout
