"""Memory, cores, disk, shared memory and limits of this host."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from bench.doctor.reading import Disk, Host, Leftover
from bench.doctor.reads.asked import asked

SHM = Path("/dev/shm")
LEFTOVERS = "deepspeed_*"
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine(folder: Path) -> Host:
    """The host's own figures, with the disk that `folder` is on or would be on."""
    unread: dict[str, str] = {}
    memory = asked(unread, "memory", _memory) or {}
    shm = asked(unread, "shm", lambda: shutil.disk_usage(SHM))
    return Host(
        num_cores=os.cpu_count() or 1,
        usable_cores=len(os.sched_getaffinity(0)),
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        limit_bytes=asked(unread, "limit", lambda: _limit(memory["MemTotal"])),
        disk=asked(unread, "disk", lambda: _disk(folder)),
        shm_total_bytes=None if shm is None else shm.total,
        shm_free_bytes=None if shm is None else shm.free,
        leftovers=asked(unread, "leftovers", leftovers) or [],
        open_files=_soft(resource.RLIMIT_NOFILE),
        locked_memory_bytes=_soft(resource.RLIMIT_MEMLOCK),
        processes=_soft(resource.RLIMIT_NPROC),
        is_root=os.geteuid() == 0,
        unread=unread,
    )


def _memory() -> dict[str, int]:
    """Bytes of /proc/meminfo by name."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found


def _limit(memory_bytes: int) -> int | None:
    """What the container may take; None where it may take all."""
    for path in _CGROUPS:
        if path.exists():
            text = path.read_text().strip()
            return int(text) if text != "max" and int(text) < memory_bytes else None
    return None


def _disk(folder: Path) -> Disk:
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    usage = shutil.disk_usage(there)
    return Disk(str(there), usage.total, usage.free, os.access(there, os.W_OK), _rotational(os.stat(there).st_dev))


def _rotational(device: int) -> bool | None:
    """Whether the disk turns; None where the kernel knows no disk under the file system (network, overlay)."""
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # A partition's queue is its disk's.
    for folder in (block, block.resolve().parent):
        queue = folder / "queue" / "rotational"
        if queue.is_file():
            return queue.read_text().strip() == "1"
    return None


def leftovers(shm: Path = SHM, proc: Path = Path("/proc")) -> list[Leftover]:
    """DeepSpeed's files in shared memory. Who has them mapped is seen of one's own processes, by root of all."""
    files = sorted(path for path in shm.glob(LEFTOVERS) if path.is_file())
    if not files:
        return []
    mapped = set()
    for maps in proc.glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="replace")
        except OSError:
            continue  # another's process, or one that ended meanwhile
        mapped |= {path for path in files if str(path) in text}
    return [Leftover(path.name, path.stat().st_size, path in mapped) for path in files]


def _soft(limit: int) -> int | None:
    soft, _ = resource.getrlimit(limit)
    return None if soft == resource.RLIM_INFINITY else soft
