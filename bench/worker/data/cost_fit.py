"""What a sequence costs, from how long forward passes took."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

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


@dataclass(frozen=True)
class Fit:
    """`constants` >= 0, one a column; by group how much longer it takes than the mean of all (`slowness`); the median of the
    absolute errors."""

    constants: list[float]
    slowness: list[float]
    error: float


def fitted(groups: Sequence[tuple[Sequence[Row], Sequence[float]]]) -> Fit:
    """The constants x, and a slowness for each group, with slowness x (row . x) nearest to what was wanted of each row.

    Groups are ranks: where one is slow and is dealt less, its passes would say of all together that length costs nothing. A pass
    that took longer because the machine did something else bends the fit no more than one that is off by _NEAR times the median
    error: Huber's weights, by least squares again and again, of constants and slowness in turns (Huber and Ronchetti 2009,
    section 7.8), until neither moves.
    """
    rows = [row for group, _ in groups for row in group]
    wanted = [value for _, values in groups for value in values]
    ends = [0]
    for group, _ in groups:
        ends.append(ends[-1] + len(group))
    spans = [range(begin, end) for begin, end in pairwise(ends)]
    slowness, weights = [1.0] * len(groups), [1.0] * len(rows)
    for number in range(_MOST_ROUNDS):
        scales = [weights[place] * slow for span, slow in zip(spans, slowness, strict=True) for place in span]
        constants = non_negative(
            [tuple(scale * value for value in row) for scale, row in zip(scales, rows, strict=True)],
            [weight * value for weight, value in zip(weights, wanted, strict=True)],
        )
        told = [_dot(row, constants) for row in rows]
        before = slowness
        slowness = [_ratio(span, told, wanted, weights) for span in spans]
        mean = math.fsum(slowness) / len(slowness)
        slowness = [slow / mean for slow in slowness]
        errors = [
            abs(slow * mean * told[place] - wanted[place])
            for span, slow in zip(spans, slowness, strict=True)
            for place in span
        ]
        error = statistics.median(errors)
        weights = [min(1.0, math.sqrt(_NEAR * error / one)) if one else 1.0 for one in errors]
        constants = [mean * value for value in constants]
        moved = max(abs(slow - old) for slow, old in zip(slowness, before, strict=True))
        if moved < _STILL and number >= _LEAST_ROUNDS:
            break
    return Fit(constants, slowness, error)


def _ratio(span: range, told: Sequence[float], wanted: Sequence[float], weights: Sequence[float]) -> float:
    """How often what is told goes into what was wanted, by least squares; 1 where nothing is told."""
    whole = math.fsum((weights[place] * told[place]) ** 2 for place in span)
    if whole <= 0:
        return 1.0
    return max(_STILL, math.fsum(weights[place] ** 2 * told[place] * wanted[place] for place in span) / whole)


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


_LEAST_ROUNDS, _MOST_ROUNDS = 20, 200
_STILL = 1e-6
# 1.345 standard deviations, of a normal error 1.4826 medians each: 95 % as efficient where nothing interrupts.
_NEAR = 1.345 * 1.4826
# Of a column's square that is left when the others are taken out of it: below that it is rounding.
_SAME = 1e-10
