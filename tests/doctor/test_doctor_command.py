"""scalebench doctor as a user runs it: here, with a host that can't be reached, and on hosts by ssh."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ROOT, Scalebench, command, command_environment
from tests.netlab import Lab

CHECKS = {
    *(
        "Python",
        "system",
        "packages",
        "torch",
        "DeepSpeed",
        "transformers",
        "op compiler",
        "GPUs",
        "GPU memory",
        "NVLink",
    ),
    *("PCIe", "clocks", "ECC", "driver", "kernels", "bf16", "memory", "disk", "/dev/shm", "leftovers", "limits"),
    *("interfaces", "gloo", "NCCL", "CUDA_VISIBLE_DEVICES", "variables", "reference machine"),
}


def checked(said: str) -> dict[str, Any]:
    """The JSON, held to its schema."""
    content: dict[str, Any] = json.loads(said)
    assert set(content) == {"schema_version", "status", "hosts", "counts", "findings"}
    for finding in content["findings"]:
        assert set(finding) == {"check", "host", "status", "found", "remedy"}
        assert finding["status"] in content["counts"] and finding["found"]
        assert finding["host"] is None or finding["host"] in content["hosts"]
        assert finding["remedy"] or finding["status"] in ("ok", "not checked")
    assert Counter(finding["status"] for finding in content["findings"]) == Counter(content["counts"])
    return content


def statuses(content: dict[str, Any], host: str) -> dict[str, str]:
    return {finding["check"]: finding["status"] for finding in content["findings"] if finding["host"] == host}


def test_this_machine(scalebench: Scalebench, tmp_path: Path) -> None:
    done = scalebench("doctor", "--suite", "quick", "--output", tmp_path / "results", "--json")
    content = checked(done.stdout)
    assert done.returncode == (1 if content["counts"]["problem"] else 0), done.stderr
    found = statuses(content, "here")
    assert set(found) == CHECKS | {"other hosts", "suite: memory", "suite: disk"}
    # The tests need these themselves, so they are good wherever they run.
    assert {found[check] for check in ("torch", "DeepSpeed", "transformers", "disk")} == {"ok"}
    assert not (tmp_path / "results").exists()


def test_a_wrong_name_is_bad_input(scalebench: Scalebench) -> None:
    done = scalebench("doctor", "--suite", "quikc")
    assert done.returncode == 2 and "did you mean 'quick'?" in done.stderr and not done.stdout


def test_a_host_that_refuses_is_named_at_once(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("127.0.0.77 slots=2\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.77", 0))  # nothing listens
        options = f"-p {taken.getsockname()[1]} -F /dev/null"
        started = time.monotonic()
        done = subprocess.run(
            command("doctor", "--hostfile", nodes, "--json"),
            cwd=tmp_path,
            env={**command_environment(), "PDSH_SSH_ARGS_APPEND": options},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    content = checked(done.stdout)
    assert done.returncode == 1 and time.monotonic() - started < 60
    assert content["hosts"] == ["here", "127.0.0.77"] and set(statuses(content, "here")) == CHECKS
    [ssh] = [finding for finding in content["findings"] if finding["host"] == "127.0.0.77"]
    assert (ssh["check"], ssh["status"]) == ("ssh", "problem") and "no ssh server listens there" in ssh["found"]


def test_a_library_that_kills_python_is_a_reading(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    done = subprocess.run(
        [sys.executable, "-m", "bench.doctor.examined", "--host", "a", "--resolve", "localhost,nowhere.invalid"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    reading = json.loads(done.stdout)
    assert reading["host"] == "a" and reading["software"]["torch"] is None
    assert reading["software"]["unread"]["torch"] == "the import ended by SIGILL"
    assert reading["software"]["unread"]["deepspeed"].startswith("not reached")
    assert reading["network"]["resolved"]["nowhere.invalid"] == [] and reading["network"]["resolved"]["localhost"]


@pytest.mark.parametrize(
    ("module", "beyond"),
    [
        # Examined on hosts where half of the installation is missing: the standard library has to do.
        ("bench.doctor.examined", {"pydantic", "psutil", "pynvml", "packaging", "rich", "numpy"}),
        ("bench.doctor.diagnosis, bench.doctor.shown", {"torch", "deepspeed", "transformers", "pandas"}),
    ],
)
def test_what_is_not_imported(module: str, beyond: set[str]) -> None:
    code = f"import sys, {module}\nheavy = {beyond!r} & set(sys.modules)\nassert not heavy, heavy\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.hosts
def test_two_hosts_by_ssh_of_which_one_knows_the_other_by_a_loopback_address(lab: Lab) -> None:
    lab.resolve("node-2", "node-1", "127.0.1.1")
    content = examined(lab, 0)
    assert content["hosts"] == ["node-1", "node-2"]
    across = {"ssh", "package", "clock", "same software", "same code", "same hardware", "names"}
    for host in content["hosts"]:
        found = statuses(content, host)
        assert set(found) == CHECKS | across
        assert {found[check] for check in (*(across - {"names"}), "gloo", "torch")} == {"ok"}
    [astray] = [one for one in content["findings"] if one["check"] == "names" and one["status"] != "ok"]
    assert astray["host"] == "node-2" and "node-1 resolves to 127.0.1.1 there" in astray["found"]


@pytest.mark.hosts
def test_a_host_without_the_package(lab: Lab) -> None:
    lab.hide("node-2", ROOT / "bench")
    content = examined(lab, 1)
    [package] = [one for one in content["findings"] if one["check"] == "package" and one["host"] == "node-2"]
    assert package["status"] == "problem" and "scalebench is not there" in package["found"]
    assert str(ROOT) in package["remedy"]
    assert statuses(content, "node-1")["torch"] == "ok"


def examined(lab: Lab, exit_code: int) -> dict[str, Any]:
    """What the doctor on node-1 says of both hosts."""
    done = lab.run(
        "node-1",
        command("doctor", "--hostfile", lab.hostfile(2), "--json"),
        environment=lab.environment(command_environment()),
        cwd=Path("/tmp"),
        timeout_s=120,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return checked(done.stdout)
