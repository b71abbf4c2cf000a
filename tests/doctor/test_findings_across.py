"""Several readings side by side: what hosts must have in common, the hostfile, and what a suite needs of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.doctor.asking import parsed
from bench.doctor.finding import Finding
from bench.doctor.judges import across, hostfile
from bench.doctor.judges.across import Heard
from bench.doctor.judges.suite import judge as judge_suite
from bench.doctor.reading import Reading, Torch
from bench.launch.hostfile import Hostfile, read_hostfile
from bench.launch.remote import RemoteResult
from bench.plan.suite import load_suite
from tests.synthetic_hosts import GIB, dgx1, laptop

THREE = ("a", "b", "c")


def at(check: str, host: str | None, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if (finding.check, finding.host) == (check, host))


def heard(changes: dict[str, Any] | None = None, ahead_s: tuple[float, float] = (-0.1, 0.2)) -> list[Finding]:
    """Three DGX-1, of which b's software is other."""
    readings = [dgx1(host) for host in THREE]
    known = {name: [f"10.0.0.{index}"] for index, name in enumerate(THREE, start=1)}
    readings = [replace(one, network=replace(one.network, resolved=known)) for one in readings]
    readings[1] = replace(readings[1], software=replace(readings[1].software, **(changes or {})))
    return across.judge([Heard(readings[0], (0, 0)), Heard(readings[1], ahead_s), Heard(readings[2], (0, 0))])


def test_equal_hosts_have_nothing_against_each_other() -> None:
    assert {finding.status for finding in heard()} == {"ok"}
    assert across.judge([Heard(dgx1(), (0.0, 0.0))]) == []


def test_a_clock_five_seconds_ahead_or_behind() -> None:
    ahead = at("clock", "b", heard(ahead_s=(4.8, 5.2)))
    assert ahead.status == "warning" and "5.0 s ahead of" in ahead.found and "chrony" in ahead.remedy
    assert "5.0 s behind" in at("clock", "b", heard(ahead_s=(-5.2, -4.8))).found
    # The host's answer took long: that may be all there is to it.
    assert at("clock", "b", heard(ahead_s=(-3.0, 9.0))).status == "ok"


def test_another_torch_on_one_host_is_named_there_and_nowhere_else() -> None:
    found = heard({"torch": Torch("2.9.0+cu128", "12.8", "2.27.5", ["sm_70"], True)})
    other = at("same software", "b", found)
    assert other.status == "problem" and "torch 2.9.0+cu128 (elsewhere 2.10.0+cu128)" in other.found
    assert {at("same software", host, found).status for host in ("a", "c")} == {"ok"}
    assert at("same software", "b", heard({"transformers": "4.50.0"})).status == "warning"
    assert at("same software", "b", heard({"python": "3.11.2"})).status == "ok"


def test_other_code_on_one_host() -> None:
    found = at("same code", "b", heard({"source_sha256": "b" * 64, "commit": "fedcba98765-dirty"}))
    assert found.status == "problem" and found.found == "commit fedcba9876 with changes, elsewhere commit 0123456789"
    copied = at("same code", "b", heard({"commit": None}))
    assert copied.status == "ok" and "no git" in copied.found


def test_unlike_hosts_are_a_warning() -> None:
    found = across.judge([Heard(one, (0, 0)) for one in (dgx1("a"), laptop("b"), dgx1("c"))])
    assert at("same hardware", "b", found).status == "warning" and "no GPU" in at("same hardware", "b", found).found


def test_a_name_that_leads_to_the_host_itself() -> None:
    first, second = dgx1("a"), dgx1("b")
    astray = replace(second, network=replace(second.network, resolved={"a": ["127.0.1.1"], "b": ["127.0.1.1"]}))
    found = at("names", "b", across.judge([Heard(first, (0, 0)), Heard(astray, (0, 0))]))
    assert found.status == "warning" and "a resolves to 127.0.1.1 there" in found.found


def slots(**numbers: int) -> Hostfile:
    return Hostfile(Path("nodes"), {host: tuple(range(number)) for host, number in numbers.items()})


def test_a_hostfile_with_loopback_doubles_and_unequal_slots() -> None:
    loop = hostfile.judge(slots(a=8, b=8), {"a": ["127.0.0.1"], "b": ["10.0.0.2"]})
    assert loop[0].status == "problem" and "a resolves to 127.0.0.1 here" in loop[0].found
    twice = hostfile.judge(slots(a=8, b=8), {"a": ["10.0.0.1"], "b": ["10.0.0.1"]})
    assert twice[0].status == "problem" and "a and b are the same host" in twice[0].found
    unequal = hostfile.judge(slots(a=8, b=4), {"a": [], "b": []})
    assert unequal[0].status == "warning" and "1 x slots=8, 1 x slots=4" in unequal[0].found
    good = hostfile.judge(slots(a=8, b=8), {"a": ["10.0.0.1"], "b": ["10.0.0.2"]})
    assert [finding.status for finding in good] == ["ok"] and "16 ranks" in good[0].found


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot read"), ("a slots=2\na slots=4\n", "stands twice"), ("a 8\n", "expected `name slots=N`")],
)
def test_a_hostfile_that_is_none_is_a_finding(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "nodes"
    if text is not None:
        path.write_text(text)
    hosts, found = hostfile.read(path)
    assert hosts is None and [finding.status for finding in found] == ["problem"]
    assert words in found[0].found and "slots=" in found[0].found + found[0].remedy
    assert ("only warns" in found[0].remedy) is (text is None)


def test_deepspeeds_own_hostfile_is_a_pitfall(tmp_path: Path) -> None:
    default = tmp_path / "hostfile"
    assert hostfile.without(default) == []
    default.write_text("a slots=8\n")
    assert hostfile.without(default)[0].status == "warning"


def on_suite(name: str, readings: list[Reading], hosts: Hostfile | None = None) -> list[Finding]:
    return judge_suite(load_suite(name), readings, hosts, Path("results"))


def test_the_reference_suite_fits_a_dgx1_but_for_its_largest_cells() -> None:
    found = on_suite("v100-8", [dgx1()])
    assert at("suite: cells", None, found).status == "ok" and "480 cells" in at("suite: cells", None, found).found
    memory = at("suite: memory", "worker-1", found)
    assert memory.status == "warning" and "gpt2-xl" in memory.found and "a GPU has 16 GiB" in memory.found
    roomy = {index: {"memory_bytes": 192 * GIB} for index in range(8)}
    assert at("suite: memory", "worker-1", on_suite("v100-8", [dgx1(gpus=roomy)])).status == "ok"


def test_a_suite_that_nothing_of_can_be_run_is_a_problem() -> None:
    found = on_suite("v100-8", [laptop()])
    assert [finding.status for finding in found] == ["problem"] and "fp16 is refused on CPU" in found[0].found


def test_ranks_on_cpu_share_the_memory_of_their_host(tmp_path: Path) -> None:
    tight = replace(laptop(), machine=replace(laptop().machine, available_bytes=2 * GIB))
    found = at("suite: memory", "laptop", on_suite("quick", [tight]))
    assert found.status == "warning" and "8 ranks" in found.found and "the host has free 2 GiB" in found.found
    (tmp_path / "nodes").write_text("".join(f"{host} slots=2\n" for host in ("a", "b", "c", "d")))
    spread = read_hostfile(tmp_path / "nodes")
    assert at("suite: memory", "laptop", on_suite("quick", [tight], spread)).status == "ok"
    full = replace(laptop(), machine=replace(laptop().machine, disk=replace(dgx1().machine.disk, free_bytes=10**6)))
    assert at("suite: disk", "laptop", on_suite("quick", [full])).status == "problem"


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "words"),
    [
        (1, "", "/usr/bin/python: No module named bench", "scalebench is not there"),
        (127, "", "env: '/opt/venv/bin/python': No such file or directory", "no Python at"),
        (3, "", "Traceback\nValueError: x", "status 3: ValueError: x"),
        (0, "Welcome!\n", "", "its answer is none that is known here"),
        (0, '{"host": "a", "schema_version": 1}', "", "its answer is none that is known here: started_at_s"),
    ],
)
def test_an_answer_that_is_none_is_a_finding(status: int, stdout: str, stderr: str, words: str) -> None:
    found = parsed(RemoteResult("a", status, stdout, stderr))
    assert isinstance(found, Finding) and found.status == "problem" and words in found.found, found
    assert found.host == "a" and found.remedy
