"""Real launches on several hosts (tests/netlab.py), by pdsh and without ssh, each with its own results folder: equal losses and
whole records; and what goes wrong with a host is a typed outcome within a minute that names it, never a smaller run."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.results.record import Record
from bench.results.store import rank_path, read_records
from tests.command_line import ROOT, command, command_environment
from tests.netlab import Lab, Unavailable, end_with_children, hosts

pytestmark = pytest.mark.hosts

SOON_S = 60.0
DEFAULTS = """
aa_pair: false
defaults:
  model: gpt-nano
  model_options: {hidden_size: 64, num_layers: 2, vocab_size: 512}
  seq_len: 32
  steps: 3
  max_warmup_steps: 3
  learning_rate: 0.001
  placement: spread
  timeout_s: 120
grids:
"""
ALL_ON_FOUR = """
  - {strategy: [ddp, zero1, zero2, zero3], world_size: 4}
  - {strategy: ddp, world_size: 2, micro_batch_size: 2}
  - {strategy: ddp, world_size: 5}
"""
ALL_ON_TWO = """
  - {strategy: [ddp, zero1, zero2, zero3], world_size: 2, micro_batch_size: 2}
  - {strategy: ddp, world_size: 4}
  - {strategy: ddp, world_size: 5}
"""
# The first host has a slot more than the others.
SLOTS = (2, 1, 1, 1)


@pytest.fixture(scope="module")
def four_hosts() -> Iterator[Lab]:
    try:
        with hosts(4) as made:
            yield made
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))


class Place:
    """Folders of a run: the suite is seen by all hosts, the results of each by itself alone."""

    def __init__(self, lab: Lab, folder: Path, grids: str) -> None:
        self.lab = lab
        self.suite, self.results = folder / "suite.yaml", folder / "own" / "results"
        self.suite.write_text(DEFAULTS + grids)
        self.results.parent.mkdir()
        for host in lab.names[1:]:
            lab.hide(host, self.results.parent)

    def words(self, hostfile: Path, *more: str) -> list[str]:
        told = ("run", self.suite, "--output", self.results, "--device", "cpu", "--no-report", "--no-reference")
        return command(*told, "--hostfile", hostfile, *more)

    def run(self, hostfile: Path, *more: str, timeout_s: float = 550) -> subprocess.CompletedProcess[str]:
        return self.lab.run(
            "node-1", self.words(hostfile, *more), environment=command_environment(), cwd=ROOT, timeout_s=timeout_s
        )

    def nothing_is_left(self) -> None:
        for host in self.lab.names:
            deadline = time.monotonic() + 5
            while left := [" ".join(process.cmdline()) for process in self.lab.processes(host)]:
                assert time.monotonic() < deadline, (host, left)
                time.sleep(0.1)
            assert self.lab.run(host, ["ls", "/dev/shm"]).stdout == ""
        for host in self.lab.names[1:]:
            # What is kept on the first host, the others need not keep.
            assert list(self.lab.seen_by(host, self.results).rglob("*.json")) == []


@pytest.fixture(scope="module")
def by_pdsh(four_hosts: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, list[Record]]]:
    place = Place(four_hosts, tmp_path_factory.mktemp("pdsh"), ALL_ON_FOUR)
    done = place.run(four_hosts.hostfile(SLOTS))
    assert done.returncode == 0, done.stdout + done.stderr
    yield place, read_records(place.results)
    four_hosts.mend()


@pytest.fixture(scope="module")
def without_ssh(four_hosts: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, list[Record]]]:
    """The same command on every host; none of them lets another in."""
    place = Place(four_hosts, tmp_path_factory.mktemp("no-ssh"), ALL_ON_TWO)
    hostfile = four_hosts.hostfile(SLOTS)
    for host in four_hosts.names:
        four_hosts.lock_out(host)
    started = {
        host: four_hosts.start(
            host,
            place.words(hostfile, "--no-ssh", "--node-rank", str(number)),
            environment=command_environment(),
            cwd=ROOT,
        )
        for number, host in reversed(list(enumerate(four_hosts.names)))
    }
    try:
        for host, process in started.items():
            output, errors = process.communicate(timeout=550)
            assert process.returncode == 0, f"{host}: {output}{errors}"
    finally:
        for process in started.values():
            end_with_children(process.pid)
    yield place, read_records(place.results)
    four_hosts.mend()


@pytest.fixture(params=["by_pdsh", "without_ssh"])
def ran(request: pytest.FixtureRequest) -> tuple[Place, list[Record]]:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_all_strategies_do_equal_work_on_two_and_four_hosts(ran: tuple[Place, list[Record]]) -> None:
    place, records = ran
    measured = [record for record in records if record.outcome == "ok"]
    assert len(measured) == 5 and {record.cell.world_size for record in measured} == {2, 4}
    expected = measured[0].mean_losses()
    for record in measured:
        assert record.mean_losses() == pytest.approx(expected, rel=1e-4), record.cell.id
        assert record.environment is not None and record.environment.num_nodes == record.cell.world_size
        assert [rank.hostname for rank in record.ranks] == place.lab.names[: record.cell.world_size]
        assert [rank.local_rank for rank in record.ranks] == [0] * record.cell.world_size


def test_every_ranks_file_is_brought_to_the_first_host(ran: tuple[Place, list[Record]]) -> None:
    place, records = ran
    for record in records:
        for rank in record.ranks:
            assert rank_path(place.results / record.cell.id / record.launch_id, rank.rank).exists()
    place.nothing_is_left()


def test_ranks_that_the_hosts_can_not_hold_evenly_are_skipped_and_never_fewer(ran: tuple[Place, list[Record]]) -> None:
    [skipped] = [record for record in ran[1] if record.outcome != "ok"]
    assert (skipped.outcome, skipped.cell.world_size) == ("skipped", 5)
    assert skipped.reason is not None and "no even placement for 5 ranks" in skipped.reason


ONE = """
  - {strategy: ddp, world_size: 2}
"""


@pytest.mark.parametrize(
    ("wrong", "outcome", "words"),
    [
        ("unreachable", "unreachable", ["node-2 can't be used by ssh: nothing answers there"]),
        ("key", "unreachable", ["node-2 can't be used by ssh: it does not accept our ssh key"]),
        ("package", "crashed", ["node-2 has no scalebench at"]),
        ("loopback here", "unreachable", ["node-1 resolves to 127.0.0.1 here", "--master-addr ADDRESS"]),
        ("loopback of the other", "unreachable", ["node-2 resolves to 127.0.0.1 here"]),
    ],
)
def test_a_host_that_can_not_be_used_is_named_soon(
    lab: Lab, tmp_path: Path, wrong: str, outcome: str, words: list[str]
) -> None:
    place = Place(lab, tmp_path, ONE)
    if wrong == "unreachable":
        lab.cut("node-2")
    elif wrong == "key":
        lab.lock_out("node-2")
    elif wrong == "package":
        lab.hide("node-2", ROOT / "bench")
    elif wrong == "loopback here":
        lab.resolve("node-1", "node-1", "127.0.0.1")
    else:
        lab.resolve("node-1", "node-2", "127.0.0.1")
    begun_s = time.monotonic()
    done = place.run(lab.hostfile())
    took_s = time.monotonic() - begun_s
    assert took_s < SOON_S
    assert done.returncode == 1, done.stdout + done.stderr
    [record] = read_records(place.results)
    assert record.outcome == outcome and record.ranks == []
    for text in words:
        assert text in str(record.reason), record.reason
        assert text in done.stderr and "Traceback" not in done.stderr
    lab.restore("node-2")
    place.nothing_is_left()


CUT = """
  - model: paced-nano
    model_options: {num_layers: 2, forward_s: 0.1, backward_s: 0.2}
    seq_len: 256
    strategy: ddp
    world_size: 2
    steps: 100
  - {strategy: ddp, world_size: 2}
"""


def received_bytes(lab: Lab, host: str) -> int:
    [line] = [line for line in lab.run(host, ["cat", "/proc/net/dev"]).stdout.splitlines() if "eth0:" in line]
    return int(line.split(":")[1].split()[0])


def test_a_link_cut_in_the_middle_is_named_soon_and_the_suite_goes_on(lab: Lab, tmp_path: Path) -> None:
    """On hosts whose own names are loopback addresses to themselves, as on Debian: the ranks meet where they are told to."""
    place = Place(lab, tmp_path, CUT)
    for host in lab.names:
        lab.resolve(host, host, "127.0.1.1")
    words = place.words(lab.hostfile(), "--master-addr", lab.addresses["node-1"])
    process = lab.start("node-1", words, environment=command_environment(), cwd=ROOT)
    try:
        # Gradients of several steps, of which each host gets a megabyte a step; starting takes a tenth of that.
        wait_until(lambda: received_bytes(lab, "node-1") > 5_000_000, 120)
        lab.cut("node-2")
        begun_s = time.monotonic()
        wait_until(lambda: any(is_of("paced", path) for path in place.results.glob("*/*/record.json")), SOON_S)
        assert time.monotonic() - begun_s < SOON_S
        lab.restore("node-2")
        output, errors = process.communicate(timeout=200)
    finally:
        end_with_children(process.pid)
    assert process.returncode == 1, output + errors
    records = {record.cell.model: record for record in read_records(place.results)}
    cut, after = records["paced-nano"], records["gpt-nano"]
    assert cut.outcome == "unreachable" and "node-2" in str(cut.reason) and cut.ranks == []
    assert f"unreachable: {cut.cell.id}" in errors and "Traceback" not in errors
    assert after.outcome == "ok" and [rank.hostname for rank in after.ranks] == lab.names
    place.nothing_is_left()


def is_of(model: str, path: Path) -> bool:
    return path.parent.parent.name.startswith(model)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


HOSTILE = """
  - {model: paced-nano, model_options: {num_layers: 1}, seq_len: 16, strategy: ddp, world_size: 2}
  - {model: "hf:$(touch pwned)", model_options: {vocab_size: "`touch pwned`"}, seq_len: 8, strategy: ddp, world_size: 2}
"""
SHELL_WORDS = "$(touch pwned)`touch pwned`;touch pwned;'touch pwned'\"&&touch pwned"


@pytest.mark.parametrize("by", ["pdsh", "ssh"])
def test_no_word_is_read_by_a_shell_on_any_host(lab: Lab, tmp_path: Path, by: str) -> None:
    """Of a folder's name, a suite and, where the launcher quotes, a variable; where it does not, the variable is refused."""
    place = Place(lab, tmp_path, HOSTILE)
    place.suite.write_text(place.suite.read_text() + f"description: {json.dumps(SHELL_WORDS)}\n")
    place.results = place.results.parent / f"results {SHELL_WORDS}"
    environment = {**command_environment(), "NCCL_NOTE": SHELL_WORDS}
    words = place.words(lab.hostfile(), "--multinode-launcher", by)
    done = lab.run("node-1", words, environment=environment, cwd=tmp_path, timeout_s=400)
    if by == "pdsh":
        assert done.returncode == 2 and "variable NCCL_NOTE" in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and not list(place.results.glob("*/*/*.json"))
        done = lab.run("node-1", words, environment=command_environment(), cwd=tmp_path, timeout_s=400)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    outcomes = {record.cell.model: record.outcome for record in read_records(place.results)}
    assert outcomes == {"paced-nano": "ok", "hf:$(touch pwned)": "crashed"}, done.stderr
    for folder in (tmp_path, place.results, place.results.parent, ROOT, Path.home()):
        assert not list(folder.glob("pwned*"))
    place.nothing_is_left()
