"""Asks other hosts for their readings: by ssh, all at the same time, and what does not answer is a finding."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bench.doctor.examined import examined
from bench.doctor.finding import Finding, On
from bench.doctor.judges.across import Heard
from bench.doctor.reading import Reading
from bench.launch.remote import RemoteResult, is_this_host, on_host

MODULE = "bench.doctor.examined"
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 90.0
"""Enough for torch from a slow network file system; a host that does not answer at all is given up much sooner."""
_READING = TypeAdapter(Reading)


def here(host: str, folder: Path, names: Sequence[str]) -> Heard:
    """This machine's own reading, without a process of its own."""
    asked_at_s = time.time()
    reading = examined(host, folder, list(names))
    return Heard(reading, asked_at_s, time.time())


def ask_all(hosts: Sequence[str], folder: Path, over_ssh: bool) -> list[tuple[Heard | None, list[Finding]]]:
    """Each host's reading, or None, and what there is to say of the way to it. `over_ssh`: this machine's own entry through ssh
    too, as pdsh does; where that fails it is read directly."""
    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        return list(pool.map(lambda host: _ask(host, folder, hosts, over_ssh), hosts))


def _ask(host: str, folder: Path, hosts: Sequence[str], over_ssh: bool) -> tuple[Heard | None, list[Finding]]:
    on = On("ssh", host)
    mine = is_this_host(host)
    if mine and not over_ssh:
        return here(host, folder, hosts), [on.ok("this machine: not needed")]
    command = [
        sys.executable,
        "-m",
        MODULE,
        "--host",
        host,
        "--folder",
        str(folder.absolute()),
        "--resolve",
        ",".join(hosts),
    ]
    asked_at_s = time.time()
    result = on_host(host, command, TIMEOUT_S, environment={"PYTHONPATH": str(ROOT)}, always_ssh=True)
    answered_at_s = time.time()
    if result.trouble is not None:
        trouble = on.problem(result.trouble.found, result.trouble.hint)
        # This machine is known without ssh; pdsh, which goes through it, will fail.
        return (here(host, folder, hosts) if mine else None), [trouble]
    reached = on.ok(f"answers in {answered_at_s - asked_at_s:.1f} s, reading included")
    reading = parsed(result)
    if isinstance(reading, Finding):
        return None, [reached, reading]
    return Heard(reading, asked_at_s, answered_at_s), [reached]


def parsed(result: RemoteResult) -> Reading | Finding:
    """The reading in what a host printed; or what is wrong with its installation."""
    on, last = On("package", result.host), (result.stderr.strip().splitlines() or ["nothing"])[-1][:200]
    same = f"install it on {result.host} at the same path as here ({ROOT}), with the Python at {sys.executable}"
    if result.status in (126, 127):
        return on.problem(f"no Python at {sys.executable} ({last})", same)
    if "No module named" in last and MODULE.partition(".")[0] in last:
        return on.problem(f"package missing: {last}", same)
    if result.status != 0:
        return on.problem(f"reading it ended with status {result.status}: {last}", f"try there: python -m {MODULE}")
    # A login script may have said something before.
    line = next((line for line in reversed(result.stdout.splitlines()) if line.startswith("{")), "")
    try:
        return _READING.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        return on.problem(
            f"its answer is none that is known here: {where}: {first['msg']}", f"another version of it? {same}"
        )
