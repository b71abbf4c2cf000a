"""What dropout drops: the same masks wherever the same rank of the same split takes the same step."""

from __future__ import annotations

import numpy as np
import torch

from bench.plan.cell import Cell

_STREAM = 0x6D61736B
"""Keeps the masks' numbers apart from those of weights and data, which are drawn from the seed too."""


def draw_masks_of(cell: Cell, step: int, rank: int) -> None:
    """Set torch's generators to where (seed, step, rank) has them; nothing for a cell without dropout.

    Called before each optimizer step: so masks don't depend on what was drawn before, and a run that is taken up again at a
    step draws what it would have drawn.
    """
    if cell.dropout:
        [state] = np.random.SeedSequence([cell.seed, step, rank, _STREAM]).generate_state(1, np.uint64)
        torch.manual_seed(int(state >> np.uint64(1)))
