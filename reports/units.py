"""How a figure in SI units is written for people. Inside everything is SI; only here is it scaled.

Memory is counted in GiB = 2^30 bytes, everything else in powers of ten. What is unknown is written as an en dash.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

UNKNOWN = "–"

_SECONDS = [(1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h")]
_RATES = [(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")]
_BYTES = [(1.0, "B"), (2.0**10, "KiB"), (2.0**20, "MiB"), (2.0**30, "GiB"), (2.0**40, "TiB")]
_SCALES = {"seconds": _SECONDS, "rate": _RATES, "bytes": _BYTES}


# Ends of an interval further apart than this are no figures any more.
_WIDEST = 1e4


def is_unknown(value: Any) -> bool:
    """True for None, NaN and NA, which stand for what was not measured."""
    return value is None or bool(pd.isna(value))


def scale(largest: float, kind: str) -> tuple[float, str]:
    """The divisor and unit in which a set of values up to `largest` reads best; `kind` is seconds, rate or bytes."""
    steps = _SCALES[kind]
    # 0.9995, because 999.6 ms would be printed as "1000 ms".
    fitting = [step for step in steps if abs(largest) >= step[0] * 0.9995]
    return fitting[-1] if fitting else steps[0]


def significant(value: float, digits: int = 3) -> str:
    """The number with that many significant digits, never in exponents, thousands parted by commas."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    # Rounding 9.996 up makes it one digit longer.
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, decimals)}f}"


def _scaled(value: Any, kind: str) -> str:
    if is_unknown(value):
        return UNKNOWN
    divisor, unit = scale(float(value), kind)
    return f"{significant(float(value) / divisor)} {unit}".rstrip()


def seconds(value: Any) -> str:
    """Seconds as "12.3 ms"."""
    return _scaled(value, "seconds")


def rate(value: Any) -> str:
    """Something per second as "12.3 k"."""
    return _scaled(value, "rate")


def memory(value: Any) -> str:
    """Bytes of memory as "1.23 GiB" (2^30 bytes)."""
    return _scaled(value, "bytes")


def fraction(value: Any) -> str:
    """A fraction of one as "93.4 %"."""
    # + 0.0, because a little below zero would be written "-0.0 %".
    return UNKNOWN if is_unknown(value) else f"{round(100 * float(value), 1) + 0.0:.1f} %"


def ratio(value: Any) -> str:
    """A ratio as "3.74x"."""
    return UNKNOWN if is_unknown(value) else f"{float(value):.2f}x"


def count(value: Any) -> str:
    """A whole number as "12,345"."""
    return UNKNOWN if is_unknown(value) else f"{int(value):,}"


def ranks(size: Any) -> str:
    """A world size as "8 ranks"."""
    return "1 rank" if size == 1 else f"{count(size)} ranks"


def exact(value: Any) -> str:
    """A number that should be whole, every digit of it, as "12,345"; with decimals where it is not whole."""
    return UNKNOWN if is_unknown(value) else f"{float(value):,.10g}" if float(value) % 1 else count(value)


def number(value: Any) -> str:
    """A number without unit, to four significant digits."""
    return UNKNOWN if is_unknown(value) else significant(float(value), 4)


def text(value: Any) -> str:
    """Text as it is, an en dash for none."""
    return UNKNOWN if is_unknown(value) or value == "" else str(value)


def _between(low: Any, high: Any, divisor: float, unit: str, decimals: int = 0) -> str:
    """`decimals`: the fewest that both ends get."""
    if is_unknown(low) or is_unknown(high):
        return UNKNOWN
    if low > 0 and high > low * _WIDEST:
        return "over 100x either way"
    if low > 0 and high > low * 3:
        # Ends of unequal size: each has its own decimals.
        ends = [significant(float(end) / divisor, 2) for end in (low, high)]
    else:
        half = (high - low) / 2 / divisor
        # As many decimals as half its width has one or two digits in: more are noise, fewer make both ends one figure.
        digits = min(4, -math.floor(math.log10(half / 3))) if half > 0 else 2
        # + 0.0, because a little below zero would be written "-0.0".
        ends = [
            f"{round(float(end) / divisor, max(decimals, digits)) + 0.0:,.{max(decimals, digits)}f}"
            for end in (low, high)
        ]
    return f"{ends[0]} to {ends[1]} {unit}".rstrip()


def _scaled_between(low: Any, high: Any, kind: str) -> str:
    return _between(low, high, *scale(0.0 if is_unknown(high) else float(high), kind))


def seconds_between(low: Any, high: Any) -> str:
    """An interval of seconds as "98.2 to 101.9 ms"."""
    return _scaled_between(low, high, "seconds")


def rate_between(low: Any, high: Any) -> str:
    """An interval of something per second as "6.31 to 6.52 k"."""
    return _scaled_between(low, high, "rate")


def fraction_between(low: Any, high: Any) -> str:
    """An interval of a fraction of one as "78.1 to 82.0 %"."""
    return _between(low, high, 0.01, "%", 1)


def ratio_between(low: Any, high: Any) -> str:
    """An interval of a ratio as "1.55 to 1.65x"."""
    return _between(low, high, 1.0, "x", 2).replace(" x", "x")


def either_way(value: Any, low: Any, high: Any) -> str:
    """An interval as "±2.1 %" of its figure, by its wider side."""
    if is_unknown(low) or is_unknown(high):
        return UNKNOWN
    half = max(high / value - 1, 1 - low / value)
    return "over ±100 %" if half > 1 else f"±{significant(100 * half, 2)} %"
