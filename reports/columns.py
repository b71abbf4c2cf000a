"""How a table for people is made of a frame: a heading and a way of writing for each column, and what says nothing left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from reports import units

Column = tuple[str, str, Callable[[Any], str]]
"""Name in the frame, heading, and how a value is written."""

# Figures with an interval, and how that is written.
_BETWEEN = {
    "step_time_s": units.seconds_between,
    "tokens_per_s": units.rate_between,
    "speedup": units.ratio_between,
    "efficiency": units.fraction_between,
    "global_efficiency": units.fraction_between,
    "exposed_comm_s": units.seconds_between,
    "accumulation_gain": units.ratio_between,
    "slowest_ratio": units.ratio_between,
    "ratio": units.ratio_between,
}
_MARK = " %"


def table(frame: pd.DataFrame, columns: list[Column]) -> pd.DataFrame:
    """The frame as text."""
    return pd.DataFrame(
        {title: [write(value) for value in frame[name]] for name, title, write in columns}, dtype=object
    )


def with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with NAME_between, as text, for each figure that has an interval; an en dash for a cell against itself."""
    return frame.assign(
        **{
            f"{name}_between": [
                units.UNKNOWN if low == high else write(low, high)
                for low, high in zip(frame[f"{name}_lo"], frame[f"{name}_hi"], strict=True)
            ]
            for name, write in _BETWEEN.items()
            if f"{name}_lo" in frame
        }
    )


def interval(name: str, title: str, confidence: float = 0.95) -> Column:
    """The column of a figure's interval; `title` is the figure's."""
    return (f"{name}_between", f"{title}, {100 * confidence:g}{_MARK}", units.text)


def without_empty(table: pd.DataFrame, *titles: str) -> pd.DataFrame:
    """The table without those of its columns that say nothing in any row."""
    return table.drop(columns=[title for title in titles if bool((table[title] == units.UNKNOWN).all())])


def without_unknown_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the columns of intervals that no row has."""
    return without_empty(table, *(str(title) for title in table.columns if str(title).endswith(_MARK)))
