"""Which cells changed between two runs, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import pandas as pd

from bench.analysis.measured import Measured
from bench.analysis.statistics import Estimate, Noise, mean
from bench.analysis.validity import LOSS_TOLERANCE

Verdict = Literal["faster", "slower", "same", "not resolved", "missing", "new", "not comparable"]
VERDICTS: tuple[Verdict, ...] = ("slower", "missing", "faster", "new", "not comparable", "not resolved", "same")

COLUMNS = [
    *("model", "strategy", "scaling", "world_size", "grad_accum_steps", "micro_batch_size", "precision", "profile"),
    *("verdict", "ratio", "ratio_lo", "ratio_hi", "base_step_time_s", "new_step_time_s", "base_launches"),
    *("new_launches", "aa_spread_frac", "counters", "why", "differs", "cell_id"),
]
_FLOATS = ["ratio", "ratio_lo", "ratio_hi", "base_step_time_s", "new_step_time_s", "aa_spread_frac"]

# Where a cell of the one run is looked for in the other if its work is not the same there.
_PLACE = ("model", "strategy", "scaling", "world_size", "grad_accum_steps", "profile")

_Key = TypeVar("_Key", bound=Hashable)


# Of the errors that a confidence leaves, the part that may call slower, and the part that may call faster, what is neither. Not
# equal, because a gate that misses a slow-down lets it in, while a gain that is missed is still there; and not all of
# them, because the noise, being estimated from few launches, makes up to a sixth more.
_SHARES = (0.6, 0.25)


@dataclass(frozen=True)
class Rule:
    """When a difference counts: its interval of that `confidence` leaves out 1, and it is beyond `least_effect_frac` and beyond
    the spread of the A/A pairs. At 0.99, at most 1 % of unchanged cells are called slower or faster."""

    confidence: float = 0.99
    least_effect_frac: float = 0.03

    def interval(self, ratio: Estimate) -> tuple[float, float] | None:
        """The interval of a ratio of step times that decides; None from one launch of either."""
        return ratio.interval(self.confidence, _SHARES)

    def verdict(self, ratio: Estimate, aa_spread_frac: float | None = None) -> tuple[Verdict, str | None]:
        """What a ratio of step times, new over base, comes to; and why, where it is not resolved."""
        interval = self.interval(ratio)
        if interval is None:
            return "not resolved", "one launch has no interval: launch both at least twice"
        low, high = interval
        least = 1 + self.least_effect_frac
        if not low <= 1 <= high:
            effect = max(ratio.value, 1 / ratio.value)
            if effect > max(least, 1 + (aa_spread_frac or 0.0)):
                return ("slower" if low > 1 else "faster"), None
            if effect > least:
                return "not resolved", "inside the spread of the A/A pair"
        if low > 1 / least and high < least:
            return "same", None
        return "not resolved", "the interval is too wide: more launches narrow it"


def compare(base: Sequence[Measured], new: Sequence[Measured], rule: Rule) -> pd.DataFrame:
    """One row a cell that either run has, columns COLUMNS: its verdict, and the ratio of step times, new over base.

    `ratio` is the mean over launches of each launch's median step, new over base, with the interval of `rule.confidence`; the
    noise of all cells together says how far launches differ (`Noise`). `counters` says whether losses and collectives are the
    same: "equal", or what differs. `differs` names the settings that are not equal. `why` explains every verdict but faster,
    slower and same. Cells of equal work are compared; a cell that has a namesake of other work, or was measured on other
    hardware, is not comparable, one that has a figure in one run alone is missing or new. Cells without a figure in both are
    left out.
    """
    noise = Noise.of([times for one in (*base, *new) for times in (one.launch_step_times_s, one.twin_step_times_s)])
    spread = aa_spread_frac([*base, *new])
    pairs = _pairs(base, new)
    rows = [_row(before, after, rule, noise, spread) for before, after in pairs]
    table = pd.DataFrame([row for row in rows if row is not None], columns=COLUMNS)
    return table.astype({**dict.fromkeys(_FLOATS, float), "why": object, "differs": object, "counters": object})


def aa_spread_frac(cells: Iterable[Measured]) -> float | None:
    """How far a cell and its twin, which are the same, are apart: the largest of all pairs; None where there is no pair."""
    return max((found for one in cells if (found := spread_of_pair(one)) is not None), default=None)


def spread_of_pair(one: Measured) -> float | None:
    """The larger over the smaller mean step time of a cell and its twin, minus 1."""
    if not one.twin_step_times_s or not one.launch_step_times_s:
        return None
    ratio = mean(one.launch_step_times_s).value / mean(one.twin_step_times_s).value
    return max(ratio, 1 / ratio) - 1


def counters(base: Measured, new: Measured) -> str | None:
    """ "equal" if two runs of a cell trained the same losses and called the same collectives, else what differs; None where
    there is nothing to compare.

    Losses are compared exactly where those of each run repeat exactly, else with the tolerance of the precision; and not at all
    where workers go at their own pace, because they follow the order in which messages came.
    """
    compared = False
    shared = 0 if new.cell.own_pace else min(len(base.losses), len(new.losses))
    if shared:
        compared = True
        exact = base.losses_repeat and new.losses_repeat
        tolerance = 0.0 if exact else LOSS_TOLERANCE[new.cell.precision]
        for step, (before, after) in enumerate(zip(base.losses[:shared], new.losses[:shared], strict=True)):
            # Not a > comparison: a loss that is not a number would pass it.
            if not abs(after - before) <= tolerance * abs(before):
                return f"loss of step {step} is {after:.9g}, was {before:.9g}"
    if base.calls is not None and new.calls is not None:
        compared = True
        for operation in sorted(base.calls.keys() | new.calls.keys()):
            before_calls, after_calls = (calls.get(operation, (0.0, 0.0)) for calls in (base.calls, new.calls))
            if before_calls != after_calls:
                counts, sizes = zip(before_calls, after_calls, strict=True)
                return (
                    f"{operation} is called {counts[1]:g} times with {sizes[1]:.0f} bytes a step, was {counts[0]:g} times with "
                    f"{sizes[0]:.0f} bytes"
                )
    return "equal" if compared else None


def differing(base: dict[str, str], new: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The names whose values differ, with both values; "unknown" for one that only the other has."""
    names = [*base, *(name for name in new if name not in base)]
    pairs = {name: (base.get(name, "unknown"), new.get(name, "unknown")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def environment_differences(base: Sequence[Measured], new: Sequence[Measured]) -> pd.DataFrame:
    """What differs between the places of two runs: one row a property, columns property, base, new.

    Values that several cells of a run have stand side by side; a property that only follows the cell differs only where the
    runs hold other values.
    """
    rows = []
    sides = [_values(base), _values(new)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        before, after = (", ".join(sorted(side.get(name, {"unknown"}))) for side in sides)
        if before != after:
            rows.append((name, before, after))
    return pd.DataFrame(rows, columns=["property", "base", "new"])


def _values(cells: Sequence[Measured]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in cells:
        for name, value in one.environment.items():
            found.setdefault(name, set()).add(value)
    return found


def _pairs(base: Sequence[Measured], new: Sequence[Measured]) -> list[tuple[Measured | None, Measured | None]]:
    """Cells of the two runs that belong together: of equal id, else of equal work, else the only ones at one place."""
    left, right = list(base), list(new)
    pairs: list[tuple[Measured | None, Measured | None]] = []
    for key in (lambda one: one.cell.id, lambda one: one.work, _place):
        before, after = _only(left, key), _only(right, key)
        for name in before.keys() & after.keys():
            pairs.append((before[name], after[name]))
            left.remove(before[name])
            right.remove(after[name])
    pairs += [(one, None) for one in left] + [(None, one) for one in right]
    order = {one.cell.id: place for place, one in enumerate([*new, *base])}
    return sorted(pairs, key=lambda pair: min(order[one.cell.id] for one in pair if one is not None))


def _only(cells: list[Measured], key: Callable[[Measured], _Key]) -> dict[_Key, Measured]:
    """The cells by key, those left out that share theirs with another."""
    found: dict[_Key, list[Measured]] = {}
    for one in cells:
        found.setdefault(key(one), []).append(one)
    return {name: group[0] for name, group in found.items() if len(group) == 1}


def _place(one: Measured) -> tuple[object, ...]:
    return tuple(getattr(one.cell, name) for name in _PLACE)


def _row(
    base: Measured | None, new: Measured | None, rule: Rule, noise: Noise | None, spread: float | None
) -> dict[str, object] | None:
    one = new or base
    assert one is not None
    times = [side.launch_step_times_s if side is not None else [] for side in (base, new)]
    if not times[0] and not times[1]:
        return None
    means = [mean(side, noise) if side else None for side in times]
    row: dict[str, object] = {
        **one.cell.model_dump(include={name for name in COLUMNS if name in type(one.cell).model_fields}),
        "cell_id": one.cell.id,
        "base_launches": len(times[0]),
        "new_launches": len(times[1]),
        **{
            f"{side}_step_time_s": found.value if found is not None else None
            for side, found in zip(("base", "new"), means, strict=True)
        },
        "aa_spread_frac": spread,
    }
    before, after = means
    if base is not None and new is not None:
        if before is not None and after is not None:
            return {**row, **_compared(base, new, after / before, rule, spread)}
        other = _other_work(base, new)
        if other is not None:
            return {**row, "verdict": "not comparable", "why": other}
    verdict: Verdict = "missing" if after is None else "new"
    return {**row, "verdict": verdict, "why": _absent(base if verdict == "new" else new, verdict)}


def _absent(side: Measured | None, verdict: Verdict) -> str:
    run = "the new run" if verdict == "missing" else "the base"
    if side is None:
        return f"{run} has no such cell"
    return f"{run} has no figure: {side.outcome}" + (f" ({side.reason})" if side.reason else "")


def _other_work(base: Measured, new: Measured) -> str | None:
    if base.work == new.work:
        return None
    fields = [{name: str(value) for name, value in side.cell.model_dump().items()} for side in (base, new)]
    return f"other work: {_told(differing(*fields))}"


def _compared(base: Measured, new: Measured, ratio: Estimate, rule: Rule, spread: float | None) -> dict[str, object]:
    other_hardware = differing(base.hardware, new.hardware)
    why = _other_work(base, new) or (f"other hardware: {_told(other_hardware)}" if other_hardware else None)
    if why is not None:
        return {"verdict": "not comparable", "why": why}
    verdict, reason = rule.verdict(ratio, spread)
    low, high = rule.interval(ratio) or (None, None)
    measuring = [
        {name: str(getattr(side.cell, name)) for name in ("steps", "max_warmup_steps")} for side in (base, new)
    ]
    settings = differing({**measuring[0], **base.settings}, {**measuring[1], **new.settings})
    return {
        "verdict": verdict,
        "why": reason,
        "ratio": ratio.value,
        "ratio_lo": low,
        "ratio_hi": high,
        "counters": counters(base, new),
        "differs": _told(settings) or None,
    }


def _told(differences: dict[str, tuple[str, str]]) -> str:
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in differences.items())
