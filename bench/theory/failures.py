"""How much of the time of many nodes is useful where nodes fail and training goes on from the last checkpoint."""

from __future__ import annotations

import math

from bench.errors import ProjectionError


def checkpoint_interval_s(mtbf_s: float, checkpoint_s: float) -> float:
    """Seconds of work between two checkpoints that lose the least.

    sqrt(2 d M) (1 + 1/3 sqrt(d / 2M) + 1/9 (d / 2M)) - d for d < 2 M, else M; d the seconds of a checkpoint, M the mean time
    between failures of all nodes together. Daly 2006 (Future Generation Computer Systems 22), equation 37; its first term is
    Young's (1974).
    """
    if checkpoint_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = checkpoint_s / (2 * mtbf_s)
    return math.sqrt(2 * checkpoint_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_s


def useful_frac(
    num_nodes: int, node_mtbf_s: float, checkpoint_s: float, restart_s: float, interval_s: float | None = None
) -> float:
    """The part of the wall time in which training goes on, checkpoints, lost work and restarts taken off.

    t / (M e^(R / M) (e^((t + d) / M) - 1)), M = `node_mtbf_s` / `num_nodes`, t the interval, by default the best. Failures come
    at random, any node's stops all, and may come in a restart too. Daly 2006, equation 20. Raises ProjectionError for
    numbers that can't be.
    """
    for name, value in (("num_nodes", num_nodes), ("node_mtbf_s", node_mtbf_s), ("checkpoint_s", checkpoint_s)):
        if not 0 < value < float("inf"):
            raise ProjectionError(f"{name}: found {value}, expected a number above 0")
    mtbf_s = node_mtbf_s / num_nodes
    work_s = checkpoint_interval_s(mtbf_s, checkpoint_s) if interval_s is None else interval_s
    exponent = (work_s + checkpoint_s) / mtbf_s
    if exponent + restart_s / mtbf_s > 700:
        return 0.0  # e^700 is the largest that a float holds
    return work_s / (mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1(exponent))
