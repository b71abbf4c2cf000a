"""A reading of which something is missing: whatever it is, nothing falls over, and nothing is called good that was not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter

from bench.doctor.diagnosis import _of_host
from bench.doctor.judges import across
from bench.doctor.judges.across import Heard
from bench.doctor.reading import Reading
from tests.synthetic_hosts import dgx1, laptop


def optional(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where something may be None in a reading."""
    hints = get_type_hints(type(value))
    for field in fields(value):
        inner = getattr(value, field.name)
        if type(None) in getattr(hints[field.name], "__args__", ()):
            yield (*path, field.name)
        if is_dataclass(inner):
            yield from optional(inner, (*path, field.name))


def without(value: Any, path: tuple[str, ...]) -> Any:
    name, rest = path[0], path[1:]
    return replace(value, **{name: without(getattr(value, name), rest) if rest else None})


PATHS = list(optional(dgx1()))
GPU_FIELDS = [path[0] for path in optional(dgx1().gpus.devices[0])]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_each_missing_item(path: tuple[str, ...]) -> None:
    for whole in (dgx1(), laptop()):
        reading = without(whole, path)
        found = _of_host(reading, None, True)
        assert len(found) == len(_of_host(whole, None, True))  # no topic fell over
        assert across.judge([Heard(reading, (0.0, 0.0)), Heard(whole, (0.0, 0.0))])


NEEDED_FOR = {
    **{"memory_used_bytes": "GPU memory", "links": "NVLink", "pcie_width": "PCIe", "max_pcie_width": "PCIe"},
    **{"slowdowns": "clocks", "ecc": "ECC", "ecc_errors": "ECC"},
}


@pytest.mark.parametrize("field", GPU_FIELDS)
def test_each_missing_item_of_a_gpu(field: str) -> None:
    found = {finding.check: finding for finding in _of_host(dgx1(gpus={5: {field: None}}), None, True)}
    assert len(found) == len(_of_host(dgx1(), None, True))
    unchecked = {check for check, finding in found.items() if finding.status == "not checked"}
    assert unchecked == ({NEEDED_FOR[field]} if field in NEEDED_FOR else set())
    assert all("GPU 5" in found[check].found for check in unchecked)


def test_a_reading_that_makes_no_sense_hides_nothing_else() -> None:
    strange = dgx1(gpus={0: {"capability": None}})
    found = _of_host(strange, None, True)
    unchecked = [finding for finding in found if finding.status == "not checked"]
    assert [finding.check for finding in unchecked] == ["kernels", "reference machine"]
    assert all("TypeError" in finding.found for finding in unchecked)
    assert len(found) == len(_of_host(dgx1(), None, True)) - 2  # of three on kernels


def test_a_reading_travels_as_json() -> None:
    adapter = TypeAdapter(Reading)
    for reading in (dgx1(), laptop()):
        assert adapter.validate_json(adapter.dump_json(reading)) == reading
