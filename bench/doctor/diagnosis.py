"""All findings of one examination: here, on every host, and across them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.doctor.asking import ask_all, here
from bench.doctor.finding import Finding, On, Status, worst
from bench.doctor.judges import across, gpus, hostfile, kernels, machine, network, reference, software, variables
from bench.doctor.reading import EnvironmentFile, Reading
from bench.doctor.reads.asked import asked
from bench.doctor.reads.variables import environment_files
from bench.doctor.reads.variables import variables as set_here
from bench.doctor.wanted import Wanted, wanted
from bench.errors import LaunchError
from bench.launch.hostfile import Hostfile
from bench.launch.remote import is_this_host
from bench.launch.variables import env_file_text

if TYPE_CHECKING:
    from bench.plan.suite import Suite

HERE = "here"
"""What this machine is called where no hostfile names it."""


@dataclass(frozen=True)
class Diagnosis:
    """`hosts` in the order of the hostfile, this machine first where that does not name it."""

    hosts: list[str]
    findings: list[Finding]

    @property
    def status(self) -> Status:
        return worst(self.findings)


def diagnose(hosts_from: Path | None, suite: Suite | None, folder: Path) -> Diagnosis:
    """Read and judge this machine and every host of the hostfile. Raises nothing for what a host lacks: that is a finding."""
    hosts, findings = hostfile.read(hosts_from) if hosts_from is not None else (None, hostfile.without())
    unread: dict[str, str] = {}
    files = asked(unread, "files", environment_files)
    several = hosts is not None and len(hosts.slots) > 1
    refused = asked(unread, "refused", _refused)
    findings.append(variables.judge_files(files, unread.get("files", ""), refused, set_here(), several))
    if hosts is None or hosts.is_this_host:
        name = HERE if hosts is None else next(iter(hosts.slots))
        own = here(name, folder, [])
        findings += _of_host(own.reading, hosts, False)
        alone = "no other host was asked, so neither ssh, clocks nor versions elsewhere"
        findings.append(On("other hosts", name).unchecked(alone, "--hostfile FILE examines them too"))
        return Diagnosis([name], [*findings, *_of_suite(suite, [own.reading], hosts, folder)])
    names = list(hosts.slots)
    outside = not any(is_this_host(host) for host in names)
    with ThreadPoolExecutor(1) as pool:
        own_reading = pool.submit(here, HERE, folder, names) if outside else None
        answers = ask_all(names, folder, over_ssh=several)
    if several:
        findings.append(_pdsh())
    if own_reading is not None:
        findings += _of_host(own_reading.result().reading, None, False)
    sent = _sent(files or [])
    for answer, way in answers:
        findings += way
        if answer is not None:
            findings += _of_host(answer.reading, hosts, several, sent)
    heard = [answer for answer, _ in answers if answer is not None]
    findings += _judged("hosts together", None, lambda: across.judge(heard))
    findings += _of_suite(suite, [one.reading for one in heard], hosts, folder)
    return Diagnosis([HERE, *names] if outside else names, findings)


def _of_host(
    reading: Reading, hosts: Hostfile | None, several: bool, sent: dict[str, str] | None = None
) -> list[Finding]:
    asks, why_not = _wanted()
    slots = None if hosts is None else len(hosts.slots.get(reading.host, ())) or None
    topics: dict[str, Callable[[], list[Finding]]] = {
        "software": lambda: software.judge(reading, asks, why_not),
        "GPUs": lambda: gpus.judge(reading, slots),
        "kernels": lambda: kernels.judge(reading),
        "machine": lambda: machine.judge(reading),
        "network": lambda: network.judge(reading, several, sent),
        "variables": lambda: variables.judge(reading),
        "reference machine": lambda: [reference.judge(reading)],
    }
    return [finding for topic, judge in topics.items() for finding in _judged(topic, reading.host, judge)]


def _judged(topic: str, host: str | None, judge: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of a topic. A reading that nobody thought of must not hide all the others."""
    unread: dict[str, str] = {}
    judged = asked(unread, topic, judge)
    return [On(topic, host).unchecked(unread[topic])] if judged is None else judged


@cache
def _wanted() -> tuple[Wanted | None, str]:
    try:
        return wanted(), ""
    except (LookupError, OSError, ValueError) as error:
        return None, str(error)


def _sent(files: Sequence[EnvironmentFile]) -> dict[str, str]:
    """Variables that ranks on other hosts get from here: of DeepSpeed's file, and over them of this environment."""
    of_files = {name: value for file in files for name, value in file.values.items()}
    return {**of_files, **{name: value for name, value in set_here().items() if name.startswith(("GLOO_", "NCCL_"))}}


def _refused() -> str | None:
    """Why scalebench would not start ranks on several hosts with the user's `.deepspeed_env`; None if it would."""
    try:
        env_file_text({})
    except LaunchError as error:
        return str(error)
    return None


def _pdsh() -> Finding:
    on = On("pdsh", None)
    if shutil.which("pdsh") is None:
        return on.warning(
            "there is none here, and DeepSpeed's launcher starts ranks on several hosts by it",
            "apt-get install pdsh, or scalebench run --multinode-launcher ssh",
        )
    return on.ok("there")


def _of_suite(suite: Suite | None, readings: Sequence[Reading], hosts: Hostfile | None, folder: Path) -> list[Finding]:
    if suite is None:
        return []
    if not readings:
        return [On("suite: cells", None).unchecked("no host was read")]
    # pandas takes half a second to import, which a doctor without a suite does not need.
    from bench.doctor.judges.suite import judge

    return _judged("suite", None, lambda: judge(suite, readings, hosts, folder))
