"""How well labels were told: the confusion table, and precision, recall and F1 of each."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def confusion(truth: Sequence[str], predicted: Sequence[str]) -> pd.DataFrame:
    """How often each true label (rows) was told as each label (columns); the same labels in the same order on both sides."""
    labels = sorted({*truth, *predicted})
    table = pd.crosstab(pd.Series(truth, name="truth"), pd.Series(predicted, name="predicted"))
    return table.reindex(index=labels, columns=labels, fill_value=0)


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """A row a label of a confusion table: number, precision, recall, f1 = 2 tp / (2 tp + fp + fn); 0 where that has no
    numerator, precision missing for a label that was never told, recall for one that is never true."""
    right = pd.Series({label: table.loc[label, label] for label in table.index}, dtype=float)
    told, true = table.sum(axis=0).astype(float), table.sum(axis=1).astype(float)
    return pd.DataFrame(
        {
            "number": true.astype(int),
            "precision": right / told.where(told > 0),
            "recall": right / true.where(true > 0),
            "f1": 2 * right / (told + true),
        }
    )
