"""How figures are written for people."""

from __future__ import annotations

import math

import pytest

from reports import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.2345e-6, "1.23 µs"),
        (0.0123456, "12.3 ms"),
        (0.9999, "1.00 s"),
        (0.99949, "999 ms"),
        (1.0, "1.00 s"),
        (59.0, "59.0 s"),
        (90.0, "1.50 min"),
        (7200.0, "2.00 h"),
        (0, "0 µs"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert units.seconds(value) == text


def test_memory_is_in_powers_of_two() -> None:
    assert units.memory(2**30) == "1.00 GiB"
    assert units.memory(1.5 * 2**20) == "1.50 MiB"
    assert units.memory(1023.9 * 2**20) == "1.00 GiB"


def test_rates_fractions_ratios_counts() -> None:
    assert units.rate(12_345) == "12.3 k"
    assert units.rate(711.1) == "711"
    assert units.fraction(0.9345) == "93.5 %"
    assert units.ratio(1.6) == "1.60x"
    assert units.count(12345.0) == "12,345"
    assert units.number(7.123456) == "7.123"
    assert units.number(0.000123456) == "0.0001235"


@pytest.mark.parametrize(
    "write",
    [units.seconds, units.rate, units.memory, units.fraction, units.ratio, units.count, units.number, units.text],
)
def test_unknown_is_an_en_dash_and_never_zero(write: object) -> None:
    assert callable(write)
    assert [write(value) for value in (None, math.nan)] == ["–", "–"]
