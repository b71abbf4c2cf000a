"""Where a set of launches was measured, and whether that was one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from bench.results.record import Record

COLUMNS = ["property", "value", "launches", "differs"]

# These follow the cell, so that a suite holds several values of them without being from several places.
_FOLLOW_THE_CELL = frozenset({"nodes", "hosts", "devices"})


def environment(records: list[Record]) -> pd.DataFrame:
    """What the launches ran on: one row a property and value, with the number of launches that had it.

    Columns COLUMNS. `differs` marks a property that should be one for all launches and is not: figures of such launches
    are not comparable without a thought. A property that a launch does not know counts as none.
    """
    seen: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in properties(record):
            seen.setdefault(name, Counter())[value] += 1
    rows = [
        (name, value, launches, len(values) > 1 and name not in _FOLLOW_THE_CELL)
        for name, values in seen.items()
        for value, launches in values.most_common()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def properties(record: Record) -> Iterator[tuple[str, str]]:
    """Name and value of each property of a launch's place, as text; none of a launch that got no further."""
    place = record.environment
    if place is None:
        return
    yield "device type", place.device_type
    if place.device_names:
        counts = Counter(place.device_names)
        yield "devices", ", ".join(f"{count} x {name}" for name, count in counts.items())
    if place.device_memory_bytes is not None:
        yield "device memory, bytes", str(place.device_memory_bytes)
    if place.driver is not None:
        yield "driver", place.driver
    if place.interconnect is not None:
        yield "interconnect", place.interconnect
    yield "CPU", place.cpu
    yield "cores", str(place.num_cores)
    yield "memory, bytes", str(place.memory_bytes)
    if record.ranks:
        yield "threads per rank", str(max(rank.threads for rank in record.ranks))
    yield "nodes", str(place.num_nodes)
    if place.num_nodes > 1:
        yield "hosts", ", ".join(dict.fromkeys(rank.hostname for rank in record.ranks))
    yield "platform", place.platform
    yield "backend", place.backend
    yield "launcher", record.launcher
    if place.git_commit is not None:
        yield "git commit", place.git_commit
    for name, version in sorted(place.versions.items()):
        yield f"version of {name}", version
    for name, value in sorted(place.variables.items()):
        yield f"variable {name}", value
