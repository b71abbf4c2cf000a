"""Which strategy was fastest, where that can be said, and what did not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.analysis.comparison import Rule, aa_spread_frac
from bench.analysis.measured import Measured
from bench.analysis.statistics import Estimate, Noise, mean

# Below this, one launch of each is taken not to tell two cells apart. Assumed, because one launch a cell can't show how
# far two launches of the same cell differ; on a busy machine that is more, which the A/A pair may show.
RESOLUTION_FRAC = 0.05

# Any difference that is sure counts, however small.
RULE = Rule(confidence=0.99, least_effect_frac=0.0)

GROUP = ["model", "scaling", "setting", "grad_accum_steps", "world_size"]
RANKING_COLUMNS = [
    *GROUP,
    *("fastest", "step_time_s", "tokens_per_s", "unresolved", "slower", "runner_up", "lead", "lead_lo", "lead_hi"),
    *("slowest", "slowest_ratio", "slowest_ratio_lo", "slowest_ratio_hi", "num_ok", "num_cells", "min_launches"),
    *("resolution_frac", "oversubscribed", "paced", "other_work"),
]
NOT_OK_COLUMNS = [
    *("model", "strategy", "scaling", "world_size", "grad_accum_steps", "micro_batch_size", "outcome", "reason"),
    *("evidence", "wall_s", "cell_id", "launch_id", "kind"),
]


def ranking(scaling: pd.DataFrame, measured: Sequence[Measured]) -> pd.DataFrame:
    """Which contender was fastest in each group of comparable cells: one row a group, columns RANKING_COLUMNS.

    `scaling`: rows of `scaling_table`; `measured`: the launches behind them. Comparable are ok cells of equal model, scaling,
    setting, accumulation and world size. `unresolved` and `slower` name the others, fastest first. With several launches of
    both, one is slower where the 99 % interval of the ratio of step times leaves out 1 and the ratio is beyond the spread of the
    A/A pair; the noise of all cells together says how far launches differ. With one launch of either, where it is more than
    5 % behind, or than that spread or that between launches of one cell, where they are wider. resolution_frac is the margin
    that was applied beside the interval. lead = the step time of `runner_up`, the second, over the fastest's; slowest_ratio
    the same of the slowest; their `_lo` and `_hi` are 99 % intervals. A group without any ok cell has no row.

    Cells that don't do equal work (delayed, asynchronous or lossy synchronisation) are in no ranking: a step time says nothing
    of how far they train. `other_work` names them.
    """
    launches = {one.cell.id: one.launch_step_times_s for one in measured}
    noise = Noise.of([times for one in measured for times in (one.launch_step_times_s, one.twin_step_times_s)])
    spread = aa_spread_frac(measured) or 0.0
    rows: list[dict[str, Any]] = []
    for values, group in scaling.groupby(GROUP, sort=False, dropna=False):
        figures = group[group["outcome"] == "ok"].sort_values("tokens_per_s", ascending=False, kind="stable")
        ok = figures[figures["equal_work"].astype(bool)]
        if ok.empty:
            continue
        first, others = ok.iloc[0], ok.iloc[1:]
        times = [mean(launches[cell_id], noise) for cell_id in ok["cell_id"]]
        ratios = [other / times[0] for other in times[1:]]
        single = bool((ok["launches"] == 1).any())
        margin = max(RESOLUTION_FRAC, spread, ok["launch_spread_frac"].fillna(0.0).max()) if single else spread
        behind = [_behind(ratio, margin, spread) for ratio in ratios]
        row = dict(
            zip(GROUP, values, strict=True),
            fastest=first["contender"],
            step_time_s=first["step_time_s"],
            tokens_per_s=first["tokens_per_s"],
            unresolved=", ".join(others["contender"][[not slower for slower in behind]]),
            slower=", ".join(others["contender"][behind]),
            num_ok=len(ok),
            num_cells=len(group),
            other_work=", ".join(figures.loc[~figures["equal_work"].astype(bool), "contender"]),
            min_launches=ok["launches"].min(),
            resolution_frac=margin,
            oversubscribed=bool(ok["oversubscribed"].any()),
            paced=bool(ok["paced"].any()),
        )
        if ratios:
            row.update(runner_up=others["contender"].iloc[0], slowest=others["contender"].iloc[-1])
            for name, ratio in (("lead", ratios[0]), ("slowest_ratio", ratios[-1])):
                low, high = RULE.interval(ratio) or (None, None)
                row.update({name: ratio.value, f"{name}_lo": low, f"{name}_hi": high})
        rows.append(row)
    return pd.DataFrame(rows, columns=RANKING_COLUMNS)


def _behind(ratio: Estimate, margin: float, spread: float) -> bool:
    """Whether a cell is slower than the fastest, beyond what the figures leave open."""
    if ratio.error_frac is None:
        return ratio.value > 1 + margin
    return RULE.verdict(ratio, spread)[0] == "slower"


def not_ok(launches: pd.DataFrame) -> pd.DataFrame:
    """The launches that gave no figure, each with its outcome, reason and evidence: columns NOT_OK_COLUMNS."""
    return launches.loc[launches["outcome"] != "ok", NOT_OK_COLUMNS].reset_index(drop=True)
