"""How sure a whole run is, in plain sentences: intervals, the A/A pair, drift of the machine, outliers, and what is not known."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports import units

_MORE = "launches: 3 in the suite, or scalebench run SUITE --launches auto"


def sentences(certainty: pd.DataFrame) -> list[str]:
    """A sentence or two a question; where the answer is not known, why, and what to type to know it.

    `certainty`: a row a quantity, as in tables/certainty.csv.
    """
    if certainty.empty:
        return ["Not known: no cell gave a figure."]
    told = [_intervals(certainty), *_pairs(certainty), *_noise(certainty), f"Drift: {drift(certainty)}"]
    return [*told, _outliers(certainty)]


def drift(certainty: pd.DataFrame) -> str:
    """Whether the machine changed while the run lasted: one sentence, without a capital."""
    found = _row(certainty, "drift_frac")
    if found is None:
        single = (most := _row(certainty, "launches_most")) is None or most["value"] == 1
        why = (
            "no cell was launched more than once"
            if single
            else "the records don't say in which order launches ran, or too few cells have several"
        )
        return f"not known, because {why}."
    if found["verdict"] != "drift":
        return (
            "none seen; from the first to the last launch a step changed by "
            f"{units.fraction_between(found['lo'], found['hi'])} (99 % interval)."
        )
    shorter = found["value"] < 0
    low, high = (-found["hi"], -found["lo"]) if shorter else (found["lo"], found["hi"])
    return (
        f"from the first to the last launch a step became {units.fraction(abs(found['value']))} "
        f"{'shorter' if shorter else 'longer'} (99 % interval {units.fraction_between(low, high)}): figures of early and late "
        "launches belong to different machines, for clocks, heat or other work changed."
    )


def _row(certainty: pd.DataFrame, quantity: str) -> dict[Any, Any] | None:
    rows = certainty[certainty["quantity"] == quantity].to_dict("records")
    return rows[0] if rows else None


def _value(certainty: pd.DataFrame, quantity: str) -> float:
    found = _row(certainty, quantity)
    return 0.0 if found is None else float(found["value"])


def _intervals(certainty: pd.DataFrame) -> str:
    least, most = (int(_value(certainty, f"launches_{end}")) for end in ("least", "most"))
    if most == 1:
        return (
            "Intervals: none is known, because each cell was measured by one launch, and however many steps that has, they "
            f"don't say how far another launch is from it. To know it: {_MORE}."
        )
    widest, median = _row(certainty, "widest_interval_frac"), _value(certainty, "median_interval_frac")
    assert widest is not None, "a cell of several launches has an interval"
    number = str(most) if least == most else f"{least} to {most}"
    text = (
        f"Intervals: over {number} launches a cell, the 95 % interval of step time is {units.fraction(median)} wide from end to "
        f"end in the median, and {_percent(widest['value'])} at the widest ({widest['cell_id']})."
    )
    if least == 1:
        text += f" A cell of one launch has none. To know it: {_MORE}."
    elif least == 2:
        text += (
            " Of equal noise, an interval over two launches is 3.6 times as wide as one over three, and 7 times as wide as one "
            "over five."
        )
    return text


def _pairs(certainty: pd.DataFrame) -> list[str]:
    spreads = certainty[certainty["quantity"] == "aa_spread_frac"].to_dict("records")
    ratios = {row["cell_id"]: row for row in certainty[certainty["quantity"] == "aa_ratio"].to_dict("records")}
    if not spreads:
        return [
            "A/A pair: none gave a figure, so that how far equal cells are apart is not known, and no difference was held to it. "
            "A suite runs a pair unless it says aa_pair: false."
        ]
    told = []
    for spread in spreads:
        ratio = ratios[spread["cell_id"]]
        sure = (
            "one launch of either has no interval"
            if units.is_unknown(ratio["lo"])
            else f"95 % interval {units.ratio_between(ratio['lo'], ratio['hi'])}"
        )
        text = (
            f"A/A pair: {spread['cell_id']} and its twin, which is the same cell launched as if it were another, are "
            f"{units.fraction(spread['value'])} apart (ratio of step times {units.ratio(ratio['value'])}, {sure}). A difference "
            "inside that spread is not resolved."
        )
        if ratio["verdict"] == "apart":
            text += (
                " The interval leaves out 1: that happens to one pair in twenty by chance; else launches here differ by more "
                "than chance, and other cells' may too."
            )
        told.append(text)
    return told


def _noise(certainty: pd.DataFrame) -> list[str]:
    found = _row(certainty, "noise_frac")
    if found is not None:
        return [
            f"Noise between launches: a standard deviation of {units.fraction(found['value'])} of the step time, typical of all "
            "cells; by that, as well as by their own launches, strategies are told apart."
        ]
    if _value(certainty, "launches_most") == 1:
        return []
    return [
        "Noise between launches: what is typical of all cells is not known, for fewer than six have several launches."
    ]


def _outliers(certainty: pd.DataFrame) -> str:
    counts = [_value(certainty, f"{kind}_outliers") for kind in ("mild", "severe")]
    text = (
        f"Outliers: of {units.count(_value(certainty, 'num_timed_steps'))} timed steps {units.count(counts[0])} are mild and "
        f"{units.count(counts[1])} severe, beyond 1.5 and 3 interquartile ranges of their launch's quartiles"
    )
    if _row(certainty, "launch_mild_outliers") is not None:
        counts = [_value(certainty, f"launch_{kind}_outliers") for kind in ("mild", "severe")]
        text += (
            f"; of the launches of cells with at least four, {units.count(counts[0])} and {units.count(counts[1])} are, in "
            "the same sense"
        )
    return f"{text}. They are counted and kept: none is dropped from a figure."


def _percent(fraction: float) -> str:
    return units.fraction(fraction) if fraction < 100 else "over 10,000 %"
