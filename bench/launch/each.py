"""One command on each host of a launch, all at once: what pdsh does, without it, and with every word quoted.

    python -m bench.launch.each --include a:0,1@b:0,1 --export OMP_NUM_THREADS -- torchrun --nnodes 2 --node_rank %n ...

`%n` in the command is the number of the host. Ends when all have ended, or soon after one has failed, with its exit status. What
runs on other hosts is not ended with it: bench.launch.ended does that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from typing import IO

from bench.launch.remote import is_this_host, ssh_command

GRACE_S = 3.0
"""How long the other hosts may go on after one has failed, to say what they saw."""
ENDED = "exit status"


def each_command(include: str, exported: list[str], visible_devices: bool, command: list[str]) -> list[str]:
    """The command line of this module. `visible_devices`: CUDA_VISIBLE_DEVICES of each host are its slots."""
    words = [sys.executable, "-m", "bench.launch.each", "--include", include]
    words += [word for name in exported for word in ("--export", name)]
    return [*words, *(["--visible-devices"] if visible_devices else []), "--", *command]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.launch.each", description=__doc__, allow_abbrev=False)
    parser.add_argument("--include", required=True)
    parser.add_argument("--export", action="append", default=[])
    parser.add_argument("--visible-devices", action="store_true")
    parser.add_argument("command", nargs="+")
    parsed = parser.parse_args()
    variables = {name: os.environ[name] for name in parsed.export if name in os.environ}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for number, node in enumerate(parsed.include.split("@")):
        host, _, slots = node.partition(":")
        own = {**variables, **({"CUDA_VISIBLE_DEVICES": slots} if parsed.visible_devices else {})}
        command = [word.replace("%n", str(number)) for word in parsed.command]
        processes[host] = _start(host, command, own)
    sys.exit(_wait(processes))


def _start(host: str, command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    direct = is_this_host(host)
    process = subprocess.Popen(
        command if direct else ssh_command(host, command, variables),
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    threading.Thread(target=_show, args=(host, process.stdout), daemon=True).start()
    return process


def _show(host: str, output: IO[bytes]) -> None:
    """Pass on what a host prints, whole lines with its name first."""
    for line in output:
        sys.stdout.buffer.write(f"{host}: ".encode() + line.rstrip(b"\n") + b"\n")
        sys.stdout.buffer.flush()


def _wait(processes: dict[str, subprocess.Popen[bytes]]) -> int:
    failed: int | None = None
    failed_at = 0.0
    running = dict(processes)
    while running and (failed is None or time.monotonic() - failed_at < GRACE_S):
        for host, process in list(running.items()):
            if (status := process.poll()) is not None:
                del running[host]
                print(f"each: {host}: {ENDED} {status}", flush=True)
                if status != 0 and failed is None:
                    failed, failed_at = (status if status > 0 else 1), time.monotonic()
        time.sleep(0.1)
    for process in running.values():
        process.kill()
    return failed or 0


if __name__ == "__main__":
    main()
