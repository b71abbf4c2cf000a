"""What a launch costs beside the window that it measures."""

from __future__ import annotations

import pandas as pd

PHASES = ["start_s", "import_s", "build_s", "warmup_s", "window_s", "checks_s", "rest_s"]
COLUMNS = [
    *("model", "strategy", "scaling", "world_size", "grad_accum_steps", "outcome", *PHASES, "outside_s", "wall_s"),
    *("outside_frac", "num_warmup_steps", "warmup_settled", "cell_id", "launch_id", "kind"),
]


def phases(launches: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each launch by phase, rank 0's: one row a launch that wrote any, columns COLUMNS.

    `launches`: rows of `to_frame`. rest_s = wall_s - all known phases (the launcher's own work, tearing down; where
    start_s is unknown, that too); outside_s = wall_s - window_s; outside_frac = outside_s / wall_s.
    """
    known = launches[launches["window_s"].notna()].copy()
    measured = [name for name in PHASES if name != "rest_s"]
    # Clocks of two processes meet here; a rest of a few microseconds below zero is none.
    known["rest_s"] = (known["wall_s"].astype(float) - known[measured].astype(float).sum(axis=1)).clip(lower=0.0)
    known["outside_frac"] = known["outside_s"].astype(float) / known["wall_s"].astype(float)
    return known[COLUMNS].reset_index(drop=True)
