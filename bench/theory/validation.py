"""How far the theory is from what others published: every usable row, predicted from one GPU's step and the machine alone."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.theory.baseline import fitted_naive, naive_efficiency
from bench.theory.machine import Machine, Quantity, load_machine
from bench.theory.published_rows import CLASSES, FOUR_CARDS, ONE_CARD, ONE_MACHINE, PublishedRow, published_rows
from bench.theory.step import exchange_of, step
from bench.theory.stragglers import expected_maximum, layers_ratio
from bench.theory.workload import from_numbers

FITTED = (0.5, 0.006)
"""`contention_frac` and `lateness_s` of the machines: the two constants that come from these rows. The mean error is flat
around its least, so they are rounded."""

_CONTENTIONS = np.linspace(0.0, 1.0, 11)
_LATENESSES_S = np.linspace(0.0, 0.015, 31)
_FITTED_ON = (ONE_MACHINE, ONE_CARD, FOUR_CARDS)


@dataclass(frozen=True)
class Score:
    """Absolute errors of efficiency of `rows` published rows. `theory_bias` is the median of predicted less published."""

    name: str
    rows: int
    theory_median: float
    theory_p90: float
    theory_bias: float
    naive_median: float
    naive_p90: float


@dataclass(frozen=True)
class CrossValidation:
    """Errors on rows that were left out of the fit, one group of them after the other; `constants` the range of the fits."""

    name: str
    left_out_by: str
    rows: int
    median: float
    p90: float
    contention_frac: tuple[float, float]
    lateness_s: tuple[float, float]


@cache
def predicted_efficiency(row: PublishedRow, constants: tuple[float, float] | None = None) -> float:
    """What the theory says of a row: from its one-GPU step, its size and precision, and the machine's file.

    `constants`: contention and lateness instead of the machine's own.
    """
    machine = load_machine(row.machine)
    if constants is not None:
        machine = _changed(machine, *constants)
    work = from_numbers(
        machine,
        num_params=row.num_params,
        grad_dtype=row.precision,
        step_time_1_s=row.step_time_1_s,
        grad_accum_steps=row.grad_accum_steps,
    )
    group = row.group(machine)
    return row.step_time_1_s / step(work, "ddp", group, exchange_of(work, "ddp", group)).step_time_s


def scores() -> list[Score]:
    """By class, with the families kept and with all; then by family and by machine. The naive model is fitted to the rows
    of each class that are counted: those kept, or all."""
    found = []
    by_class: dict[str, tuple[list[PublishedRow], NDArray[np.float64]]] = {}
    for kind in CLASSES:
        rows = [row for row in published_rows() if row.kind == kind]
        kept = [row for row in rows if row.kept]
        naive = _naive(kept)
        found.append(_score(f"{kind}, families kept", kept, naive))
        if len(kept) < len(rows):
            found.append(_score(f"{kind}, all families", rows, _naive(rows)))
        by_class[kind] = (rows, naive_efficiency(rows, fitted_naive(kept)))
    for name, key in _GROUPINGS:
        for kind, (rows, naive) in by_class.items():
            for value in sorted({key(row) for row in rows}):
                chosen = [
                    place for place, row in enumerate(rows) if key(row) == value and (row.kept or name == "family")
                ]
                if chosen:
                    part = [rows[place] for place in chosen]
                    kept_or_not = "" if name == "machine" or part[0].kept else " (left out)"
                    found.append(_score(f"{kind}: {value}{kept_or_not}", part, naive[chosen]))
    return found


KEPT_SCORES = Path(__file__).parent / "published" / "scores.csv"
"""What `scores` says by class, kept because it takes seconds (python -m bench.theory.validation; a test holds the two equal)."""


def class_scores() -> list[Score]:
    """The scores by class that every report shows, from KEPT_SCORES."""
    errors = [field.name for field in fields(Score)][2:]
    with KEPT_SCORES.open(newline="") as file:
        return [
            Score(row["name"], int(row["rows"]), *(float(row[name]) for name in errors)) for row in csv.DictReader(file)
        ]


def _keep_scores() -> None:
    with KEPT_SCORES.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Score)], lineterminator="\n")
        writer.writeheader()
        for score in scores():
            if ", families kept" in score.name or ", all families" in score.name:
                writer.writerow({name: _rounded(value) for name, value in asdict(score).items()})


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


@cache
def cross_validations() -> list[CrossValidation]:
    """The two fitted constants, fitted again without one family, and without one machine, and judged on what was left out."""
    rows = [row for row in published_rows() if row.kind in _FITTED_ON and row.kept]
    published = np.array([row.efficiency for row in rows])
    table = _table(rows)
    found = []
    for left_out_by, key in _GROUPINGS:
        labels = np.array([key(row) for row in rows])
        errors, chosen = np.zeros(len(rows)), []
        for label in sorted(set(labels)):
            rest = labels != label
            contention, lateness = _fit(table[:, :, rest], published[rest])
            chosen.append((contention, lateness))
            errors[~rest] = abs(table[contention, lateness][~rest] - published[~rest])
        ranges = [(float(axis[min(used)]), float(axis[max(used)])) for axis, used in _used(chosen)]
        for kind in _FITTED_ON:
            part = errors[[row.kind == kind for row in rows]]
            p90 = float(np.quantile(part, 0.9))
            found.append(
                CrossValidation(kind, left_out_by, len(part), float(np.median(part)), p90, ranges[0], ranges[1])
            )
    return found


def fitted_constants() -> tuple[float, float]:
    """Contention and lateness with the least mean absolute error over the rows that are kept, on a grid."""
    rows = [row for row in published_rows() if row.kind in _FITTED_ON and row.kept]
    contention, lateness = _fit(_table(rows), np.array([row.efficiency for row in rows]))
    return float(_CONTENTIONS[contention]), float(_LATENESSES_S[lateness])


def predictions() -> list[dict[str, Any]]:
    """Every row with its prediction, and the naive model's that is fitted to the rows kept of its class."""
    naive: dict[int, float] = {}
    for kind in CLASSES:
        rows = [row for row in published_rows() if row.kind == kind]
        constants = fitted_naive([row for row in rows if row.kept])
        naive.update(zip(map(id, rows), map(float, naive_efficiency(rows, constants)), strict=True))
    return [
        {
            **{
                name: getattr(row, name)
                for name in ("source", "family", "machine", "network", "precision", "world_size")
            },
            "class": row.kind,
            "kept": row.kept,
            "step_time_1_s": row.step_time_1_s,
            "efficiency": row.efficiency,
            "predicted_efficiency": predicted_efficiency(row),
            "naive_efficiency": naive[id(row)],
        }
        for row in published_rows()
    ]


def _changed(machine: Machine, contention_frac: float, lateness_s: float) -> Machine:
    changes = {
        "contention_frac": Quantity(value=contention_frac, source="tried in a fit"),
        "lateness_s": Quantity(value=lateness_s, source="tried in a fit"),
    }
    return machine.model_copy(update={"behaviour": machine.behaviour.model_copy(update=changes)})


def _table(rows: Sequence[PublishedRow]) -> NDArray[np.float64]:
    """Predicted efficiencies by contention, lateness and row. Lateness is added to a step, so it needs no new one."""
    step_1_s = np.array([row.step_time_1_s for row in rows])
    late = np.array([expected_maximum(row.world_size) * layers_ratio(row.num_params) for row in rows])
    found = []
    for contention in _CONTENTIONS:
        punctual = step_1_s / np.array([predicted_efficiency(row, (float(contention), 0.0)) for row in rows])
        found.append([step_1_s / (punctual + lateness * late) for lateness in _LATENESSES_S])
    return np.array(found)


def _fit(table: NDArray[np.float64], published: NDArray[np.float64]) -> tuple[int, int]:
    errors = abs(table - published).mean(axis=2)
    contention, lateness = np.unravel_index(int(errors.argmin()), errors.shape)
    return int(contention), int(lateness)


def _used(chosen: Iterable[tuple[int, int]]) -> list[tuple[NDArray[np.float64], list[int]]]:
    pairs = list(chosen)
    return [(_CONTENTIONS, [pair[0] for pair in pairs]), (_LATENESSES_S, [pair[1] for pair in pairs])]


def _naive(rows: Sequence[PublishedRow]) -> NDArray[np.float64]:
    return naive_efficiency(rows, fitted_naive(rows))


def _score(name: str, rows: Sequence[PublishedRow], naive: NDArray[np.float64]) -> Score:
    published = np.array([row.efficiency for row in rows])
    errors = np.array([predicted_efficiency(row) for row in rows]) - published
    naive_errors = abs(naive - published)

    def both(values: NDArray[np.float64]) -> tuple[float, float]:
        return float(np.median(values)), float(np.quantile(values, 0.9))

    return Score(name, len(rows), *both(abs(errors)), float(np.median(errors)), *both(naive_errors))


def _family(row: PublishedRow) -> str:
    return row.family


def _machine(row: PublishedRow) -> str:
    return row.machine


_GROUPINGS: tuple[tuple[str, Callable[[PublishedRow], str]], ...] = (("family", _family), ("machine", _machine))


if __name__ == "__main__":
    _keep_scores()
