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
from bench.results.checkout import ROOT

MODULE = "bench.doctor.examined"
TRIAL_S = 20.0
TIMEOUT_S = 90.0
"""Enough for torch from a slow network file system; a host that does not answer at all is given up much sooner."""
_READING = TypeAdapter(Reading)
Answer = tuple[Heard | None, list[Finding]]
"""A host's reading, or None; and what there is to say of the way to it."""


def here(host: str, folder: Path, names: Sequence[str]) -> Heard:
    """This machine's own reading, without a process of its own."""
    return Heard(examined(host, folder, list(names)), (0.0, 0.0))


def ask_all(hosts: Sequence[str], folder: Path, over_ssh: bool) -> list[Answer]:
    """The answer of each host, in that order. `over_ssh`: this machine's own entry through ssh too, as pdsh does; where that
    fails it is read directly."""
    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        return list(pool.map(lambda host: _ask(host, folder, hosts, over_ssh), hosts))


def _ask(host: str, folder: Path, hosts: Sequence[str], over_ssh: bool) -> Answer:
    on, mine = On("ssh", host), is_this_host(host)
    if mine and not over_ssh:
        return here(host, folder, hosts), [on.ok("this machine: not needed")]
    # A short command first: it says in a second whether the host can be used, and tells its clock better than a long one.
    trial, asked_at_s, answered_at_s = _timed(host, ["date", "+%s.%N"], TRIAL_S)
    if trial.trouble is not None:
        # Without ssh here nobody knows; ranks may still be started by --no-ssh.
        judged = on.unchecked if trial.trouble.kind == "no-ssh" else on.problem
        trouble = judged(trial.trouble.found, trial.trouble.hint)
        # This machine is known without ssh; pdsh, which goes through it, will fail.
        return (here(host, folder, hosts) if mine else None), [trouble]
    reached = on.ok(f"answers in {answered_at_s - asked_at_s:.1f} s")
    command = [sys.executable, "-m", MODULE, "--host", host, "--folder", str(folder.absolute())]
    result, started_at_s, ended_at_s = _timed(host, [*command, "--resolve", ",".join(hosts)], TIMEOUT_S)
    if result.trouble is not None:
        return None, [on.problem(result.trouble.found, result.trouble.hint)]
    reading = parsed(result)
    if isinstance(reading, Finding):
        return None, [reached, reading]
    # It looked at its clock after it was asked and before it had answered, both times.
    bounds = [(reading.ended_at_s - ended_at_s, reading.started_at_s - started_at_s)]
    told_s = _seconds(trial.stdout)
    if told_s is not None:
        bounds.append((told_s - answered_at_s, told_s - asked_at_s))
    ahead_s = (max(low for low, _ in bounds), min(high for _, high in bounds))
    return Heard(reading, ahead_s), [reached, On("package", host).ok(f"at {ROOT}")]


def _timed(host: str, command: Sequence[str], timeout_s: float) -> tuple[RemoteResult, float, float]:
    """What the command came to, and when it was asked for and there, by this machine's clock."""
    asked_at_s = time.time()
    result = on_host(host, command, timeout_s, environment={"PYTHONPATH": str(ROOT)}, always_ssh=True)
    return result, asked_at_s, time.time()


def _seconds(said: str) -> float | None:
    """What `date` said, after whatever a login script said before it; None if that is no number."""
    try:
        return float((said.split() or [""])[-1])
    except ValueError:
        return None


def parsed(result: RemoteResult) -> Reading | Finding:
    """The reading in what a host printed; or what is wrong with its installation."""
    on, last = On("package", result.host), (result.stderr.strip().splitlines() or ["nothing"])[-1][:300]
    same = f"install it on {result.host} at the same path as here ({ROOT}), with the Python at {sys.executable}"
    if result.status in (126, 127):
        return on.problem(f"no Python at {sys.executable} ({last})", same)
    missing = last.find("No module named")
    if missing >= 0:
        return on.problem(f"scalebench is not there, or an older one is: {last[missing:].rstrip(')')}", same)
    if result.status != 0:
        return on.problem(f"reading it ended with status {result.status}: {last}", f"try there: python -m {MODULE}")
    line = next((line for line in reversed(result.stdout.splitlines()) if line.startswith("{")), "")
    try:
        return _READING.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        return on.problem(f"its answer is none that is known here: {where}: {first['msg']}", f"another version? {same}")
