"""What theory says beside what was measured, as tables for people."""

from __future__ import annotations

import pandas as pd

from reports import units
from reports.columns import Column, table, without_empty
from reports.tables import CELL


def memory(memory: pd.DataFrame) -> pd.DataFrame:
    """Peak memory of the fullest rank, predicted and measured; `memory`: rows of `bench.analysis.memory.memory_table`."""
    columns: list[Column] = [
        *CELL,
        ("micro_batch_size", "micro-batch", units.count),
        ("base_memory_bytes", "before the model", units.memory),
        ("parameter_bytes", "parameters", units.memory),
        ("gradient_bytes", "gradients", units.memory),
        ("optimizer_bytes", "optimizer", units.memory),
        ("bucket_bytes", "buckets", units.memory),
        ("activation_bytes", "activations", units.memory),
        ("predicted_bytes", "predicted", units.memory),
        ("measured_bytes", "measured", units.memory),
        ("error_frac", "error", units.fraction),
        ("outcome", "outcome", units.text),
        ("unknown_because", "why there is no theory", units.text),
    ]
    return without_empty(table(memory, columns), "setting", "why there is no theory")
