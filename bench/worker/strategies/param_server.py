"""A parameter server: workers send what they trained to ranks that keep the weights, and fetch these anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bench.plan.cell import Cell
from bench.results.record import Replicas
from bench.results.synchronisation import Lost
from bench.worker.served.messages import END, PULL, PUSH, Wire, part
from bench.worker.served.server import Server
from bench.worker.served.shard import Shard
from bench.worker.strategies.averaging import share_of
from bench.worker.strategies.base import (
    MicroBatch,
    StepLoss,
    Strategy,
    build_cells_model,
    distance_to_rank_0,
    mean_loss,
)
from bench.worker.strategies.optimizer import MasterOptimizer


class ParamServer(Strategy):
    """The last `num_servers` ranks each keep an equal part of the weights, on the CPU; the others train. Over gloo, from one
    process to another.

    A worker fetches the weights, trains one step, and sends its gradient (`aggregate: gradients`), or what its own optimizer
    moved its weights by (`weights`). `mode` sync: the mean of all workers' messages is one update, and nobody goes on before
    it. async: each message is an update when it comes, and nobody waits. stale: as async, but nobody begins a step when more
    than `staleness` steps ahead of the slowest (Ho et al. 2013, stale synchronous parallel).

    At their own pace the workers share out the window's steps, `steps` x `num_workers` of them, as they come: a slow one
    takes fewer. Gradients are clipped by each worker's own norm then, where in mode sync the mean's would be; what the
    optimizer's momentum does is said in bench/worker/served/shard.py.

    Trained to a goal, the windows lie between evaluations: so `max_steps` and `evaluate_every` count steps of all workers, in
    which they train on as many tokens as with full synchronisation, whoever takes how many. At the end of a window workers
    wait for each other, which is in its seconds. What is evaluated then, and at the beginning, is what the servers keep:
    every message of every worker is applied, none is under way, and all workers fetch these weights (`catch_up`).
    """

    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        self._cell, self._device = cell, device
        model = build_cells_model(cell, device)
        parameters = list(model.parameters())
        # Over gloo also where the model is on GPUs: then messages go by way of the host.
        group = dist.group.WORLD if device.type == "cpu" else dist.new_group(backend="gloo")
        assert group is not None
        self._wire = Wire(group)
        self._servers = list(range(cell.num_workers, cell.world_size))
        self._lost: list[Lost] = []
        self._in_window = False
        rank = dist.get_rank()
        # Every rank is in one: torch names the groups that come later by how many there were before.
        of_workers = dist.new_group(list(range(cell.num_workers)))
        of_servers = dist.new_group(self._servers, backend="gloo")
        self._kin = of_workers if rank < cell.num_workers else of_servers
        self._server: Server | None = None
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        if rank >= cell.num_workers:
            number = rank - cell.num_workers
            shard = Shard(cell, flat[part(flat.numel(), number, cell.num_servers)], self._kin)
            self._server = Server(cell, shard, self._wire, hands_out_turns=number == 0)
            # The rest of the weights is others' business.
            model.to(device="meta")
            return model
        self._parameters = parameters
        self._flat = flat
        self._gradient = torch.zeros_like(flat)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.data = flat[start:end].view_as(parameter)
            parameter.grad = self._gradient[start:end].view_as(parameter)
            start = end
        self._model = model
        self._versions = [0] * len(self._servers)
        self._sends_weights = cell.options["aggregate"] == "weights"
        self._optimizer = MasterOptimizer(cell, parameters, device) if self._sends_weights else None
        self._host = torch.empty_like(flat, device="cpu") if device.type != "cpu" else None
        return model

    def begin(self, num_steps: int) -> None:
        super().begin(num_steps)
        self._in_window = True
        if self._server is not None:
            self._server.begin(num_steps)
        else:
            # What a worker fetched last may be older than the last messages of the others.
            self._pull()
        self._goes_on = num_steps > 0

    def goes_on(self, num_done: int) -> bool:
        return self._server is None and self._goes_on

    def step(self, micro_batches: Sequence[MicroBatch]) -> StepLoss:
        losses: list[Tensor] = []
        # Weights are each worker's own business until they are sent: the loss is the mean over its own tokens.
        share = share_of(micro_batches) if self._sends_weights else 1.0
        for tokens, targets, divisor in micro_batches:
            loss = self._model(tokens, targets)
            (loss / (divisor * share)).backward()
            losses.append(loss.detach())
        if self._optimizer is not None:
            fetched = self._flat.clone()
            self._optimizer.take()
            self._optimizer.step()
            self._push((self._flat - fetched) * share_of(micro_batches))
        else:
            if self._cell.max_grad_norm and self._cell.own_pace:
                clip_grad_norm_(self._parameters, self._cell.max_grad_norm)
            self._push(self._gradient)
        self._gradient.zero_()
        self._pull()
        return StepLoss(mean_loss(losses, micro_batches), skipped=False)

    def _push(self, flat: Tensor) -> None:
        """Send every server its part, and wait for the turn."""
        flat = flat.cpu()
        for number, server in enumerate(self._servers):
            self._wire.announce(PUSH, self._versions[number], server)
            self._wire.send(flat[part(flat.numel(), number, len(self._servers))], server)
        self._goes_on = bool(self._wire.announced(self._servers[0]).kind)

    def _pull(self) -> None:
        """The weights as every server has them now."""
        flat = self._flat if self._host is None else self._host
        for server in self._servers:
            self._wire.announce(PULL, 0, server)
        for number, server in enumerate(self._servers):
            self._versions[number] = self._wire.announced(server).version
            self._wire.receive(flat[part(flat.numel(), number, len(self._servers))], server)
        if self._host is not None:
            self._flat.copy_(self._host)
        if self._optimizer is not None:
            self._optimizer.take_over()

    def finish(self) -> None:
        """A server is done when every worker is; a worker, when the servers have its last message and those of all others.
        Outside a window nothing is under way."""
        if not self._in_window:
            return
        self._in_window = False
        if self._server is not None:
            self._server.finish()
            self._lost = list(self._server.lost)
            return
        for server in self._servers:
            self._wire.announce(END, 0, server)
        counts = torch.zeros(self._cell.num_workers, dtype=torch.int64)
        for server in self._servers:
            self._wire.receive(counts, server)
        self._lost = [
            Lost(rank=rank, num_updates=count, reason="told by the server")
            for rank, count in enumerate(counts.tolist())
            if count >= 0
        ]

    def catch_up(self) -> None:
        """A window without a step: workers fetch what the servers keep."""
        self.begin(0)
        self.finish()

    def replica_distance(self) -> Replicas | None:
        return distance_to_rank_0(self._parameters, self._kin) if self._server is None else None

    def synchronised(self) -> dict[str, Any]:
        if self._server is None:
            return {}
        return {
            "num_updates": self._server.num_updates,
            "staleness": self._server.staleness,
            "lead": self._server.lead,
            "lost": self._lost,
        }

    @property
    def lost(self) -> list[Lost]:
        return self._lost

    def regroup(self, control: dist.ProcessGroup) -> None:
        staying = dist.get_process_group_ranks(control)
        kin = [rank for rank in staying if (rank < self._cell.num_workers) == (self._server is None)]
        backend = None if self._server is None else "gloo"
        self._kin = dist.new_group(kin, backend=backend, use_local_synchronization=True)
