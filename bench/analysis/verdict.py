"""Which strategy was fastest, where that can be said, and what did not run."""

from __future__ import annotations

from typing import Any

import pandas as pd

# Below this, one launch of each is taken not to tell two cells apart. Assumed, because one launch a cell can't show how
# far two launches of the same cell differ; on a busy machine that is more.
RESOLUTION_FRAC = 0.05

GROUP = ["model", "scaling", "setting", "grad_accum_steps", "world_size"]
RANKING_COLUMNS = [
    *GROUP,
    *("fastest", "step_time_s", "tokens_per_s", "unresolved", "slower", "slowest", "slowest_ratio", "num_ok"),
    "num_cells",
    *("min_launches", "resolution_frac", "oversubscribed", "paced"),
]
NOT_OK_COLUMNS = [
    *("model", "strategy", "scaling", "world_size", "grad_accum_steps", "micro_batch_size", "outcome", "reason"),
    *("evidence", "wall_s", "cell_id", "launch_id", "kind"),
]


def ranking(scaling: pd.DataFrame) -> pd.DataFrame:
    """Which contender was fastest in each group of comparable cells: one row a group, columns RANKING_COLUMNS.

    `scaling`: rows of `scaling_table`. Comparable are ok cells of equal model, scaling, setting, accumulation and world
    size. `unresolved` and `slower` name the others, fastest first, split at resolution_frac behind the fastest: 5 %, or
    the widest spread between launches of one cell in the group where that is known and wider. slowest_ratio = the
    fastest's tokens/s over the slowest's. A group without any ok cell has no row.
    """
    rows: list[dict[str, Any]] = []
    for values, group in scaling.groupby(GROUP, sort=False, dropna=False):
        ok = group[group["outcome"] == "ok"].sort_values("tokens_per_s", ascending=False, kind="stable")
        if ok.empty:
            continue
        first, last = ok.iloc[0], ok.iloc[-1]
        spread = ok["launch_spread_frac"].max()
        resolution = RESOLUTION_FRAC if pd.isna(spread) else max(RESOLUTION_FRAC, spread)
        others = ok.iloc[1:]
        near = others["tokens_per_s"] >= first["tokens_per_s"] / (1 + resolution)
        rows.append(
            dict(
                zip(GROUP, values, strict=True),
                fastest=first["contender"],
                step_time_s=first["step_time_s"],
                tokens_per_s=first["tokens_per_s"],
                unresolved=", ".join(others.loc[near, "contender"]),
                slower=", ".join(others.loc[~near, "contender"]),
                slowest=last["contender"] if len(others) else None,
                slowest_ratio=first["tokens_per_s"] / last["tokens_per_s"] if len(others) else None,
                num_ok=len(ok),
                num_cells=len(group),
                min_launches=ok["launches"].min(),
                resolution_frac=resolution,
                oversubscribed=bool(ok["oversubscribed"].any()),
                paced=bool(ok["paced"].any()),
            )
        )
    return pd.DataFrame(rows, columns=RANKING_COLUMNS)


def not_ok(launches: pd.DataFrame) -> pd.DataFrame:
    """The launches that gave no figure, each with its outcome, reason and evidence: columns NOT_OK_COLUMNS."""
    return launches.loc[launches["outcome"] != "ok", NOT_OK_COLUMNS].reset_index(drop=True)
