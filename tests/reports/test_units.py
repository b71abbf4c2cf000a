"""How figures are written for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


@pytest.mark.parametrize(
    ("write", "low", "high", "text"),
    [
        (units.seconds_between, 0.0982, 0.10187, "98.2 to 101.9 ms"),
        (units.seconds_between, 0.096, 0.104, "96 to 104 ms"),
        (units.seconds_between, 0.0998, 0.1002, "99.80 to 100.20 ms"),
        (units.seconds_between, 1.0, 1.0, "1.00 to 1.00 s"),
        (units.seconds_between, 0.004, 41.0, "over 100x either way"),
        (units.seconds_between, 0.4, 41.0, "0.40 to 41 s"),
        (units.seconds_between, 0.1, 1e304, "over 100x either way"),
        (units.seconds_between, -0.012, 0.004, "-12 to 4 ms"),
        (units.rate_between, 6310, 6520, "6.31 to 6.52 k"),
        (units.fraction_between, 0.781, 0.82, "78.1 to 82.0 %"),
        (units.fraction_between, -0.0061, 0.0198, "-0.6 to 2.0 %"),
        (units.fraction_between, -0.00001, 0.2, "0.0 to 20.0 %"),
        (units.ratio_between, 1.547, 1.652, "1.55 to 1.65x"),
        (units.ratio_between, 0.9921, 1.0021, "0.992 to 1.002x"),
        (units.ratio_between, 0.2, 4.2, "0.20 to 4.2x"),
        (units.seconds_between, None, 1.0, "–"),
        (units.fraction_between, 0.5, math.nan, "–"),
    ],
)
def test_intervals(write: Callable[[Any, Any], str], low: float | None, high: float, text: str) -> None:
    assert write(low, high) == text


def test_an_interval_as_part_of_its_figure_is_its_wider_side() -> None:
    assert units.either_way(100.0, 98.0, 102.1) == "±2.1 %"
    assert units.either_way(100.0, 99.9, 100.05) == "±0.10 %"
    assert units.either_way(100.0, 10.0, 1000.0) == "over ±100 %"
    assert units.either_way(100.0, math.nan, math.nan) == "–"


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
