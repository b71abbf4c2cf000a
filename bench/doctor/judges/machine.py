"""Memory, disk, shared memory and limits of a host."""

from __future__ import annotations

from bench.doctor.finding import Finding, On
from bench.doctor.reading import Reading
from bench.doctor.words import gib, listed, plural

_LEAST_DISK, _LITTLE_DISK = 2**30, 10 * 2**30
# DeepSpeed warns below it, and NCCL keeps its buffers between ranks there (Docker's default is 64 MiB).
_LEAST_SHM = 512 * 2**20
_LEAST_FILES, _LEAST_PROCESSES = 1024, 1024
_LITTLE_MEMORY_FRAC = 0.25


def judge(reading: Reading) -> list[Finding]:
    """All of this topic."""
    return [_memory(reading), _disk(reading), _shm(reading), _leftovers(reading), _limits(reading)]


def _memory(reading: Reading) -> Finding:
    on, host = On("memory", reading.host), reading.machine
    if host.memory_bytes is None or host.available_bytes is None:
        return on.unchecked(host.unread.get("memory", "/proc/meminfo says nothing"))
    all_of = host.limit_bytes or host.memory_bytes
    said = f"{gib(all_of)}{' (limit of the container)' if host.limit_bytes else ''}, {gib(host.available_bytes)} free"
    if host.available_bytes < _LITTLE_MEMORY_FRAC * all_of:
        return on.warning(said, "others take most of it: end them, or expect outcomes `oom`")
    cores = f"{host.num_cores} cores"
    if host.usable_cores < host.num_cores:
        cores = f"{host.usable_cores} of {host.num_cores} cores usable"
    return on.ok(f"{said}; {cores}")


def _disk(reading: Reading) -> Finding:
    on, disk = On("disk", reading.host), reading.machine.disk
    if disk is None:
        return on.unchecked(reading.machine.unread.get("disk", "no folder for results"))
    said = f"{gib(disk.free_bytes)} of {gib(disk.total_bytes)} free at {disk.folder}"
    if not disk.writable:
        return on.problem(f"{disk.folder} can't be written to", "give another folder: --output DIR")
    if disk.free_bytes < _LEAST_DISK:
        return on.problem(said, "make room, or give another folder: --output DIR")
    if disk.free_bytes < _LITTLE_DISK:
        return on.warning(said, "a suite takes megabytes, but compiled ops and caches more: make room")
    return on.ok(said)


def _shm(reading: Reading) -> Finding:
    on, host = On("/dev/shm", reading.host), reading.machine
    if host.shm_total_bytes is None or host.shm_free_bytes is None:
        return on.unchecked(host.unread.get("shm", "there is none"))
    said = f"{gib(host.shm_free_bytes)} of {gib(host.shm_total_bytes)} free"
    if host.shm_free_bytes < _LEAST_SHM:
        return on.warning(said, "ranks of a host talk through it: start the container with --shm-size=1g or --ipc=host")
    return on.ok(said)


def _leftovers(reading: Reading) -> Finding:
    on, files = On("leftovers", reading.host), reading.machine.leftovers
    stale = [file for file in files if not file.in_use]
    if stale:
        size = gib(sum(file.size_bytes for file in stale))
        unused = (
            "nobody uses" if reading.machine.is_root else "no process of yours uses (others' are seen by root alone)"
        )
        return on.warning(
            f"{plural(len(stale), 'file')} of DeepSpeed's in /dev/shm that {unused}, {size}: "
            f"{listed([file.name for file in stale], 2)}",
            "if no launch runs: rm /dev/shm/deepspeed_*",
        )
    return on.ok(
        f"{plural(len(files), 'file')} in /dev/shm, in use: a launch is running" if files else "none in /dev/shm"
    )


def _limits(reading: Reading) -> Finding:
    on, host = On("limits", reading.host), reading.machine
    said = (
        f"{_limit(host.open_files)} open files, {_limit(host.processes)} processes, "
        f"{'unlimited' if host.locked_memory_bytes is None else gib(host.locked_memory_bytes)} locked memory"
    )
    few = []
    if host.open_files is not None and host.open_files < _LEAST_FILES:
        few.append(f"ulimit -n {4 * _LEAST_FILES}")
    if host.processes is not None and host.processes < _LEAST_PROCESSES:
        few.append(f"ulimit -u {16 * _LEAST_PROCESSES}")
    if reading.network.infiniband and host.locked_memory_bytes is not None:
        few.append("ulimit -l unlimited (InfiniBand locks its buffers)")
    if few:
        return on.warning(said, f"{', '.join(few)}; for good in /etc/security/limits.conf")
    return on.ok(said)


def _limit(value: int | None) -> str:
    return "unlimited" if value is None else str(value)
