"""What a sequence costs, from how long forward passes took."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations

Row = tuple[float, ...]


def non_negative(rows: Sequence[Row], wanted: Sequence[float]) -> list[float]:
    """x >= 0 with the least sum of (row . x - wanted)^2, for few columns: the best of all choices of which are above 0.

    Plain IEEE arithmetic in one order, and sums that are rounded once (math.fsum): on any processor the same rows give the same
    bits, so that ranks of unlike hosts deal alike, which no BLAS promises. Columns that can't be told apart count as one.
    """
    size = len(rows[0])
    scales = [max(abs(row[column]) for row in rows) or 1.0 for column in range(size)]
    columns = [[row[column] / scales[column] for row in rows] for column in range(size)]
    gram = [[_dot(one, other) for other in columns] for one in columns]
    with_wanted = [_dot(column, wanted) for column in columns]
    # No column at all, to begin with: an error of wanted . wanted, of which each choice takes some away.
    best, least = [0.0] * size, 0.0
    for count in range(1, size + 1):
        for chosen in combinations(range(size), count):
            found = _solved([[gram[i][j] for j in chosen] for i in chosen], [with_wanted[i] for i in chosen])
            if found is None or min(found) < 0:
                continue
            error = -_dot(found, [with_wanted[i] for i in chosen])
            if error < least:
                best, least = [0.0] * size, error
                for place, value in zip(chosen, found, strict=True):
                    best[place] = value
    return [value / scale for value, scale in zip(best, scales, strict=True)]


def robust(rows: Sequence[Row], wanted: Sequence[float]) -> tuple[list[float], float]:
    """As `non_negative`, and the median of the absolute errors: where a pass took longer because the machine did something else,
    it bends the fit no more than one that is off by _NEAR times that median.

    Huber's weights, by least squares again and again (Huber and Ronchetti 2009, section 7.8).
    """
    found = non_negative(rows, wanted)
    for _ in range(_ROUNDS):
        errors = [abs(_dot(row, found) - value) for row, value in zip(rows, wanted, strict=True)]
        near = _NEAR * statistics.median(errors)
        weights = [1.0 if error <= near else math.sqrt(near / error) for error in errors]
        weighted = [tuple(weight * value for value in row) for weight, row in zip(weights, rows, strict=True)]
        found = non_negative(weighted, [weight * value for weight, value in zip(weights, wanted, strict=True)])
    return found, statistics.median(abs(_dot(row, found) - value) for row, value in zip(rows, wanted, strict=True))


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _solved(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """By Gauss elimination with the largest pivot; None where columns say the same."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for place in range(size):
        pivot = max(range(place, size), key=lambda row: abs(rows[row][place]))
        rows[place], rows[pivot] = rows[pivot], rows[place]
        if abs(rows[place][place]) < _SAME * abs(matrix[place][place]):
            return None
        for below in range(place + 1, size):
            share = rows[below][place] / rows[place][place]
            rows[below] = [a - share * b for a, b in zip(rows[below], rows[place], strict=True)]
    found = [0.0] * size
    for place in reversed(range(size)):
        known = math.fsum(rows[place][later] * found[later] for later in range(place + 1, size))
        found[place] = (rows[place][size] - known) / rows[place][place]
    return found


_ROUNDS = 20
# 1.345 standard deviations, of a normal error 1.4826 medians each: 95 % as efficient where nothing interrupts.
_NEAR = 1.345 * 1.4826
# Of a column's square that is left when the others are taken out of it: below that it is rounding.
_SAME = 1e-10
