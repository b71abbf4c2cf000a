"""The first host's run and its followers, over real sockets, without ranks: who is taken, what is told, who is missed."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.launch import head as head_module
from bench.launch.ended import Ended, end_here
from bench.launch.engine import HostLost
from bench.launch.head import Head
from bench.launch.launcher import free_port
from bench.launch.machine import Machine
from bench.launch.presence import Presence, presence
from bench.launch.several import Several
from bench.launch.wire import Bye, Channel, End, Forget, Gone, Greeting, Left, Message, Refusal, Start, Status, Tick
from bench.plan.cell import Cell
from bench.results.launch_file import Launch
from tests.command_line import ROOT, command, command_environment

HOSTS = {"10.9.0.1": [0, 1], "10.9.0.2": [0, 1], "10.9.0.3": [0, 1]}
LAUNCH = Launch(
    launch_id="0123456789ab",
    cell=Cell(model="gpt-nano", strategy="ddp", world_size=6),
    suite="mine",
    started_at="now",
    launcher="deepspeed",
    hosts=HOSTS,
    port=1234,
)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    for name in ("FIRST_CALL_S", "CALL_AGAIN_S", "LINGER_S"):
        monkeypatch.setattr(head_module, name, 0.5)
    monkeypatch.setattr(head_module, "LEFT_S", 2.0)
    made = Head(Several("deepspeed", master_addr="127.0.0.1"), Machine("cpu", 6), HOSTS, "mine", free_port(), print)
    made.open()
    yield made
    made.close()


def call(head: Head, node_rank: int, **changes: object) -> Channel:
    channel = Channel(socket.create_connection(("127.0.0.1", head._port)))
    told = {"node_rank": node_rank, "hosts": HOSTS, "suite": "mine", "presence": presence("127.0.0.1", 1), **changes}
    channel.send(Greeting.model_validate(told))
    return channel


def next_of(channel: Channel, timeout_s: float = 5.0) -> Message:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        message = channel.receive(0.1)
        if message is not None and not isinstance(message, Tick):
            return message
    raise AssertionError("nothing came")


def test_followers_that_do_not_call_are_named(head: Head) -> None:
    unusable = head.unusable(LAUNCH)
    assert unusable is not None and unusable.outcome == "unreachable"
    assert "10.9.0.2 did not call" in unusable.reason and "--node-rank 2" in unusable.reason


def test_a_follower_of_another_installation_suite_or_hostfile_is_refused(head: Head) -> None:
    other = Presence(**{**presence("127.0.0.1", 1).model_dump(), "version": "0.0.9"})
    for changes, words in (
        ({"presence": other}, "has scalebench 0.0.9"),
        ({"suite": "yours"}, "runs the suite yours"),
        ({"hosts": {"10.9.0.1": [0]}}, "another hostfile"),
    ):
        refusal = next_of(call(head, 1, **changes))
        assert isinstance(refusal, Refusal) and words in refusal.reason
    unusable = head.unusable(LAUNCH)
    assert unusable is not None and "another hostfile" in unusable.reason


def test_what_is_no_message_ends_the_connection(head: Head) -> None:
    for text in (b"rm -rf /\n", b'{"kind": "start", "launch": {}}\n', b"\xff\xfe\n", b'{"kind": "bye"}\n'):
        connection = socket.create_connection(("127.0.0.1", head._port))
        connection.sendall(text)
        connection.settimeout(5)
        assert connection.recv(1) == b""


def test_a_launch_is_told_and_what_followers_have_is_kept(head: Head, tmp_path: Path) -> None:
    one, two = call(head, 1), call(head, 2)
    while head.unusable(LAUNCH) is not None:
        time.sleep(0.05)
    head.began(LAUNCH, tmp_path)
    starts = [next_of(one), next_of(two)]
    assert all(isinstance(start, Start) and start.launch == LAUNCH and start.master == "127.0.0.1" for start in starts)
    head.check()
    two.send(Status(launch_id=LAUNCH.launch_id, status=3))
    with pytest.raises(HostLost, match=r"10\.9\.0\.3 ended with exit status 3"):
        until = time.monotonic() + 5
        while time.monotonic() < until:
            head.check()
            time.sleep(0.02)
    planted = {"../planted": "", "/tmp/planted-absolute": "", "rank_1.json": base64.b64encode(b"{}").decode()}

    def follow(channel: Channel, files: dict[str, str]) -> None:
        assert next_of(channel) == End(launch_id=LAUNCH.launch_id)
        channel.send(Left(launch_id=LAUNCH.launch_id, ended=Ended(shared=False, files=files)))

    followers = [threading.Thread(target=follow, args=(one, planted)), threading.Thread(target=follow, args=(two, {}))]
    for follower in followers:
        follower.start()
    assert head.ended(LAUNCH, tmp_path / "launch", ok=False) == {}
    for follower in followers:
        follower.join()
    assert [path.name for path in (tmp_path / "launch").iterdir()] == ["rank_1.json"]
    assert not (tmp_path / "planted").exists() and not Path("/tmp/planted-absolute").exists()
    assert next_of(one) == Forget(launch_id=LAUNCH.launch_id)
    head.close()
    assert next_of(one) == Bye()


def test_a_follower_that_drops_out_is_named(head: Head, tmp_path: Path) -> None:
    one, two = call(head, 1), call(head, 2)
    while head.unusable(LAUNCH) is not None:
        time.sleep(0.05)
    head.began(LAUNCH, tmp_path)
    two.close()
    with pytest.raises(HostLost, match=r"10\.9\.0\.3 dropped out"):
        until = time.monotonic() + 5
        while time.monotonic() < until:
            head.check()
            time.sleep(0.02)
    threading.Thread(target=lambda: (next_of(one), next_of(one))).start()
    wrong = head.ended(LAUNCH, tmp_path, ok=False)
    assert "dropped out" in wrong["10.9.0.3"]
    unusable = head.unusable(LAUNCH)
    assert unusable is not None and "10.9.0.3 is gone" in unusable.reason


@pytest.mark.slow
def test_a_follower_does_nothing_but_its_part_of_its_own_suite(tmp_path: Path) -> None:
    """The command as a user gives it on the second host; this test is the first host."""
    suite, hosts = tmp_path / "mine.yaml", tmp_path / "hosts"
    suite.write_text("grids:\n  - {model: gpt-nano, strategy: ddp, world_size: 2}\n")
    hosts.write_text("first slots=1\nsecond slots=1\n")
    told = {"first": [0], "second": [0]}
    wrong = (
        {"launch_id": "../../planted"},
        {"suite": "yours"},
        {"hosts": {"second": [0], "first": [0]}},
        {"hosts": {"first": [0], "second": [7]}},
    )
    good = {"launch_id": "0123456789ab", "suite": "mine", "hosts": told}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        flags = ("--no-ssh", "--node-rank", "1", "--master-addr", "127.0.0.1", "--control-port", str(port))
        for changes in wrong:
            follower = subprocess.Popen(
                command("run", suite, "--hostfile", hosts, "--output", tmp_path / "results", "--device", "cpu", *flags),
                env=command_environment(),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            while True:  # the follower tries once whether we can be reached at all
                channel = Channel(listener.accept()[0])
                try:
                    greeting = next_of(channel)
                    break
                except (Gone, AssertionError):
                    continue
            assert isinstance(greeting, Greeting) and greeting.hosts == told and greeting.node_rank == 1
            launch = LAUNCH.model_copy(update={**good, **changes})
            channel.send(Start(launch=launch, master="127.0.0.1"))
            _, errors = follower.communicate(timeout=30)
            assert follower.returncode == 2 and len(errors.strip().splitlines()) == 1, errors
            assert "none of this suite and these hosts" in errors
    assert not (tmp_path / "results").exists() and not list(tmp_path.glob("**/planted*"))


def test_a_host_hands_over_what_only_it_has(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank_1.log").write_text("x" * 100_000 + "end")
    (tmp_path / "rank_1.json").write_text(json.dumps({"a": 1}))
    left = end_here("0123456789ab", tmp_path, None)
    assert not left.shared and sorted(left.files) == ["logs/rank_1.log", "rank_1.json"]
    assert len(base64.b64decode(left.files["logs/rank_1.log"])) == 65_536
    left.keep(tmp_path / "kept")
    assert (tmp_path / "kept" / "rank_1.json").read_text() == '{"a": 1}'
    (tmp_path / "launch.json").write_text("{}")
    assert end_here("0123456789ab", tmp_path, None) == Ended(shared=True)
