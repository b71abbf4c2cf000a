"""Costs of sequences come back from sleeps that are known, and sequences are dealt by them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.plan.cell import Cell
from bench.plan.workload import MEASURED_FROM_STEP
from bench.results.fitted_cost import FittedCost
from bench.worker.data.micro_batch import IGNORED, RankBatch
from tests import forked

pytestmark = pytest.mark.slow

# A token sleeps 0.16 ms forward, in one piece, so that a busy machine is late once; there is next to no arithmetic beside it.
SIZES = {"num_layers": 1, "forward_s": 0.040, "backward_s": 0.0001, "hidden_size": 32, "vocab_size": 64}
TOKEN_S = 0.040 / 256
# As much again for a sequence of 64 tokens, four times as much for one of 256.
PAIR_S = TOKEN_S / 64
FIRST_STEP, NUM_STEPS = 100, MEASURED_FROM_STEP + 2


def cell(**fields: Any) -> Cell:
    padded = {"batching": "padded", "length_spread": 0.8, "partition": "karmarkar_karp", "partition_cost": "measured"}
    paced = {"model": "paced-nano", "model_options": SIZES, "strategy": "ddp", "world_size": 2}
    return Cell(**{**paced, **padded, "micro_batch_size": 4, "grad_accum_steps": 2, **fields})


@dataclass(frozen=True)
class Seen:
    """`lengths` of this rank's sequences, by step."""

    fitted: FittedCost | None
    fed: list[RankBatch]
    lengths: list[list[int]]
    num_tokens: list[int]


def trained(ways: list[tuple[Cell, float]]) -> list[Seen]:
    """What this rank measured and was dealt, where the model sleeps so long for each pair of tokens besides."""
    import torch.distributed as dist

    from bench.worker.trainer import Trainer

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    control = dist.new_group(backend="gloo")
    found = []
    for one, pair_s in ways:
        trainer = Trainer(one, torch.device("cpu"), control)
        # As one that was resumed: it measures anew.
        trainer.first_step = FIRST_STEP
        lengths: list[list[int]] = []
        plain = trainer.model.forward

        def forward(
            tokens: torch.Tensor, targets: torch.Tensor, plain: Any = plain, pair_s: float = pair_s, seen: Any = lengths
        ) -> Any:
            rows = (targets != IGNORED).sum(dim=1).tolist()
            seen[-1] += rows
            time.sleep(pair_s * sum(row**2 for row in rows))
            return plain(tokens, targets)

        trainer.model.forward = forward
        for _ in range(NUM_STEPS):
            lengths.append([])
            trainer.step()
        num_tokens = [trainer.feed.num_tokens(FIRST_STEP + step) for step in range(NUM_STEPS)]
        found.append(Seen(trainer.feed.fitted_cost, trainer.feed.fed, lengths, num_tokens))
    dist.barrier(control)
    dist.destroy_process_group()
    return found


def test_what_sleeps_take_comes_back_and_deals(tmp_path: Path) -> None:
    by_rank = forked.run(2, trained, [(cell(), 0.0), (cell(), PAIR_S)], folder=tmp_path)
    for way, pair_s in enumerate((0.0, PAIR_S)):
        ranks = [rank[way] for rank in by_rank]
        fitted = ranks[0].fitted
        assert fitted is not None and fitted == ranks[1].fitted
        # Eight steps of two passes on both ranks.
        assert (fitted.num_passes, fitted.from_step) == (32, MEASURED_FROM_STEP)
        # A pass sleeps 50 ms and more. Where the machine is busy it ends some ms late, and sometimes many.
        for length in (32, 64, 128, 256):
            expected = TOKEN_S * length + pair_s * length**2
            assert fitted.per_token_s * length + fitted.per_pair_s * length**2 == pytest.approx(
                expected, rel=0.2, abs=0.005
            ), length
        for step in range(NUM_STEPS):
            fed = [rank.fed[step] for rank in ranks]
            assert sum(batch.num_tokens for batch in fed) == ranks[0].num_tokens[step]
            loads = [
                [sum(fitted.per_token_s * n + fitted.per_pair_s * n**2 for n in rank.lengths[step]) for rank in ranks],
                [sum(rank.lengths[step]) for rank in ranks],
            ]
            balances = [np.mean(load) / max(load) for load in loads]
            if step < MEASURED_FROM_STEP:
                # By what the model says of itself: its tokens.
                assert balances[1] > 0.97 and all(batch.fitted_cost is None for batch in fed)
            else:
                assert balances[0] > 0.97
                assert [batch.fitted_cost for batch in fed] == pytest.approx(loads[0])
