"""Tables as a terminal shows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


_VERDICTS = {"slower": "red", "faster": "green", "same": "", "not resolved": ""}


def comparison_table(cells: pd.DataFrame, confidence: float = 0.99) -> Table:
    """What changed between two runs: a row a cell. `cells`: rows of `bench.analysis.comparison.compare`, whose intervals are of
    that confidence."""
    from reports import comparison

    shown = comparison.rows(cells, confidence)
    words = {"model", "strategy", "cell", "verdict", "why", *comparison.VARYING.values()}
    return printable(shown, {str(title) for title in shown.columns} - words, "verdict", _VERDICTS)


def printable(shown: pd.DataFrame, figures: Collection[str], by: str, styles: Mapping[str, str]) -> Table:
    """The table of these texts: columns of `figures` to the right and in one line, as is the column `by`, after whose value each
    row has its style: yellow where `styles` has none."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in shown.columns:
        table.add_column(title, justify="right" if title in figures else "left", no_wrap=title in {*figures, by})
    for row, key in zip(shown.itertuples(index=False, name=None), shown[by], strict=True):
        # Text, because a name in square brackets would be read as markup.
        table.add_row(*(Text(str(value)) for value in row), style=styles.get(key, "yellow"))
    return table
