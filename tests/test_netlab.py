"""The hosts that other tests run on are what they claim to be: reachable, apart, and as fast as their links are said to be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.netlab import Lab, hosts, within

pytestmark = pytest.mark.hosts

# Payload bytes per second, from the receiver's first read to its last.
RECEIVE = """
import socket, time
listener = socket.create_server(("", 9000))
print("listening", flush=True)
link, _ = listener.accept()
seen = len(link.recv(1 << 20))
begun, total = time.perf_counter(), 0
while data := link.recv(1 << 20):
    total += len(data)
print(total / (time.perf_counter() - begun))
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 9000)) as link:
    link.sendall(bytes(int(sys.argv[2])))
"""


def bytes_per_s(lab: Lab, source: str, sink: str, num_bytes: int) -> float:
    receiver = lab.start(sink, [sys.executable, "-c", RECEIVE])
    assert receiver.stdout is not None and receiver.stdout.readline() == "listening\n"
    sent = lab.run(source, [sys.executable, "-c", SEND, sink, str(num_bytes)])
    assert sent.returncode == 0, sent.stderr
    return float(receiver.communicate(timeout=30)[0])


@pytest.mark.parametrize("mbit_per_s", [100, 400])
@pytest.mark.parametrize("which", ["sender", "receiver", "both"])
def test_a_transfer_recovers_the_rate_of_the_link(lab: Lab, mbit_per_s: float, which: str) -> None:
    for host, part in (("node-1", "sender"), ("node-2", "receiver")):
        if which in (part, "both"):
            lab.shape(host, mbit_per_s)
    # The fastest of three: neighbours on this machine's cores only ever take from it.
    rate = max(bytes_per_s(lab, "node-1", "node-2", round(mbit_per_s * 1e6 / 8 * 0.5)) for _ in range(3))
    assert rate * 8 / 1e6 == pytest.approx(mbit_per_s, rel=0.05)


def test_a_link_without_a_rate_is_fast(lab: Lab) -> None:
    assert bytes_per_s(lab, "node-1", "node-2", 200_000_000) * 8 / 1e6 > 2000


def test_every_host_reaches_every_other_and_has_its_own_name(lab: Lab) -> None:
    for host in lab.names:
        done = lab.run(host, ["pdsh", "-S", "-w", ",".join(lab.names), "hostname"])
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == [f"{name}: {name}" for name in lab.names]
    assert lab.run("node-2", ["hostname"]).stdout.strip() == "node-2"
    # Without any variable: what a program that knows nothing of the lab does.
    assert lab.run("node-1", ["env", "-i", "/usr/bin/ssh", "node-2", "hostname"]).stdout.strip() == "node-2"


def test_hosts_see_their_own_processes_and_shared_memory_alone(lab: Lab) -> None:
    sleeper = lab.start("node-1", ["sleep", "60"])
    inside = within(sleeper)
    assert [process.pid for process in lab.processes("node-1")] == [inside.pid]
    assert lab.processes("node-2") == []
    assert "sleep" in lab.run("node-1", ["ps", "ax"]).stdout
    assert "sleep" not in lab.run("node-2", ["ps", "ax"]).stdout
    lab.run("node-1", ["touch", "/dev/shm/of-node-1"])
    assert lab.run("node-2", ["ls", "/dev/shm"]).stdout == ""
    assert not Path("/dev/shm/of-node-1").exists()
    lab.run("node-1", ["rm", "/dev/shm/of-node-1"])
    inside.kill()
    assert sleeper.wait(timeout=10) == -9


def reached(lab: Lab, host: str) -> bool:
    return lab.run("node-1", ["ssh", "-o", "ConnectTimeout=2", "-o", "BatchMode=yes", host, "true"]).returncode == 0


def test_what_is_done_to_a_host_holds_until_it_is_mended(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lab.cut("node-2")
    assert not reached(lab, "node-2")
    lab.restore("node-2")
    assert reached(lab, "node-2")
    lab.lock_out("node-2")
    assert not reached(lab, "node-2")
    lab.mend()
    assert reached(lab, "node-2")
    lab.resolve("node-2", "node-2", "127.0.0.1")
    lab.hide("node-2", tmp_path)
    seen = ["sh", "-c", f"getent hosts node-2; ls {tmp_path}"]
    assert lab.run("node-2", seen).stdout.split() == ["127.0.0.1", "node-2"]
    assert lab.run("node-1", seen).stdout.split() == ["10.77.0.2", "node-2", "file"]
    lab.mend()
    assert lab.run("node-2", seen).stdout.split() == ["10.77.0.2", "node-2", "file"]


def test_two_labs_stand_side_by_side_and_leave_nothing(lab: Lab, tmp_path: Path) -> None:
    mounts, links = Path("/proc/mounts").read_text(), Path("/proc/net/dev").read_text().count(":")
    with hosts(2, private=[tmp_path / "own"]) as other:
        other.run("node-1", ["touch", str(tmp_path / "own" / "file")])
        assert other.run("node-1", ["ls", str(tmp_path / "own")]).stdout == "file\n"
        assert other.run("node-2", ["ls", str(tmp_path / "own")]).stdout == ""
        sleeper = within(other.start("node-2", ["sleep", "60"]))
        assert other.processes("node-2") == [sleeper]
        assert lab.run("node-1", ["ssh", "node-2", "hostname"]).stdout == "node-2\n"
        folder = other.folder
    assert not psutil.pid_exists(sleeper.pid)
    assert not folder.exists()
    assert not any(
        str(folder) in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    )
    assert Path("/proc/mounts").read_text() == mounts
    assert Path("/proc/net/dev").read_text().count(":") == links
    assert os.listdir(tmp_path / "own") == []


def test_a_lab_ends_with_the_process_that_made_it(lab: Lab, tmp_path: Path) -> None:
    """However that ends: SIGKILL gives it no chance to clean up."""
    code = "import time; from tests.netlab import hosts\nwith hosts(1) as lab:\n    print(lab.folder, flush=True); time.sleep(60)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert maker.stdout is not None
    folder = maker.stdout.readline().strip()
    maker.kill()
    maker.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while left := [p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or [])]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
