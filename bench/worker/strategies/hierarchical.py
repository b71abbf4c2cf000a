"""Gradients averaged inside a node at every step, weights across nodes every H steps."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState

from bench.plan.cell import Cell
from bench.worker.strategies.averaging import share_of
from bench.worker.strategies.base import MicroBatch
from bench.worker.strategies.local_sgd import LocalSGD


class Hierarchical(LocalSGD):
    """Local SGD whose local worker is a node: `ranks_per_node` ranks one after the other, or as many as the launcher started on
    this host (LOCAL_WORLD_SIZE).

    The replicas of a node are equal, so that the average over all ranks, which a ring sends once through each node's link, is
    the one over nodes. Raises ValueError where nodes are unequal.
    """

    def _gradient_group(self, cell: Cell) -> PostLocalSGDState:
        size = int(cell.options["ranks_per_node"]) or int(os.environ.get("LOCAL_WORLD_SIZE", cell.world_size))
        if cell.world_size % size:
            raise ValueError(f"{size} ranks on this node, expected a divisor of world_size, {cell.world_size}")
        self._node, _ = dist.new_subgroups(size)  # type: ignore[no-untyped-call]
        return PostLocalSGDState(dist.group.WORLD, self._node, 0, post_local_gradient_allreduce=True)  # type: ignore[no-untyped-call]

    def _share(self, micro_batches: Sequence[MicroBatch]) -> float:
        """The mean over the node's ranks, so that their mean gradient is the one over the node's tokens."""
        if not self._weigh:
            return 1.0
        total = torch.tensor([share_of(micro_batches)], dtype=torch.float64, device=self._parameters[0].device)
        dist.all_reduce(total, group=self._node)
        return float(total) / dist.get_world_size(self._node)
