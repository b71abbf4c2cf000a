"""One rank of two that hold the metering group against torch's own, for test_process_group.py; writes what it saw.

Usage: RANK=.. WORLD_SIZE=2 MASTER_ADDR=.. MASTER_PORT=.. meter_rank.py OUT.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from bench.results.metered import ARMS
from bench.worker.meter.line import Line
from bench.worker.meter.process_group import BACKEND, Meter, MeteringGroup, register

N = 64  # elements of one rank's part: past the size below which `sync` runs the real thing


def own(rank: int, count: int = N) -> Tensor:
    return torch.arange(count, dtype=torch.float32) + 100.0 * (rank + 1)


def all_gather(group: Any, rank: int) -> list[Tensor]:
    outputs = [torch.empty(N) for _ in range(2)]
    dist.all_gather(outputs, own(rank), group=group)
    return outputs


def all_gather_flat(group: Any, rank: int) -> list[Tensor]:
    output = torch.empty(2 * N)
    dist.all_gather_into_tensor(output, own(rank), group=group)
    return [output]


def all_gather_in_place(group: Any, rank: int) -> list[Tensor]:
    """As ZeRO does: the input is a view of its own part of a fresh output."""
    output = torch.full((2 * N,), float("nan"))
    output[rank * N : (rank + 1) * N] = own(rank)
    dist.all_gather_into_tensor(output, output[rank * N : (rank + 1) * N], group=group)
    return [output]


def all_gather_coalesced(group: Any, rank: int) -> list[Tensor]:
    outputs = [torch.empty(2 * N), torch.empty(4 * N)]
    with dist._coalescing_manager(group=group):
        for output in outputs:
            dist.all_gather_into_tensor(output, own(rank, output.numel() // 2), group=group)
    return outputs


def reduce_scatter(group: Any, rank: int) -> list[Tensor]:
    output = torch.empty(N)
    dist.reduce_scatter(output, [own(rank), own(rank) * 2], group=group)
    return [output]


def reduce_scatter_flat(group: Any, rank: int) -> list[Tensor]:
    output = torch.empty(N)
    dist.reduce_scatter_tensor(output, own(rank, 2 * N), group=group)
    return [output]


def reduce_scatter_coalesced(group: Any, rank: int) -> list[Tensor]:
    outputs = [torch.empty(N), torch.empty(2 * N)]
    with dist._coalescing_manager(group=group):
        for output in outputs:
            dist.reduce_scatter_tensor(output, own(rank, 2 * output.numel()), group=group)
    return outputs


def all_reduce(group: Any, rank: int) -> list[Tensor]:
    tensor = own(rank)
    dist.all_reduce(tensor, group=group)
    return [tensor]


def all_reduce_coalesced(group: Any, rank: int) -> list[Tensor]:
    tensors = [own(rank), own(rank, 2 * N)]
    with dist._coalescing_manager(group=group):
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
    return tensors


def broadcast(group: Any, rank: int) -> list[Tensor]:
    tensor = own(rank)
    dist.broadcast(tensor, src=1, group=group)
    return [tensor]


def reduce(group: Any, rank: int) -> list[Tensor]:
    tensor = own(rank)
    dist.reduce(tensor, dst=0, group=group)
    return [tensor] if rank == 0 else []  # undefined elsewhere


def gather(group: Any, rank: int) -> list[Tensor]:
    outputs = [torch.empty(N) for _ in range(2)] if rank == 0 else None
    dist.gather(own(rank), outputs, dst=0, group=group)
    return outputs or []


def scatter(group: Any, rank: int) -> list[Tensor]:
    output = torch.empty(N)
    dist.scatter(output, [own(0), own(1)] if rank == 0 else None, src=0, group=group)
    return [output]


def all_to_all_flat(group: Any, rank: int) -> list[Tensor]:
    output = torch.empty(2 * N)
    dist.all_to_all_single(output, own(rank, 2 * N), group=group)
    return [output]


def all_to_all(group: Any, rank: int) -> list[Tensor]:
    outputs = [torch.empty(N) for _ in range(2)]
    dist.all_to_all(outputs, [own(rank), own(rank) * 3], group=group)
    return outputs


def point_to_point(group: Any, rank: int) -> list[Tensor]:
    tensor = own(rank)
    if rank == 0:
        dist.send(tensor, dst=1, group=group)
    else:
        dist.recv(tensor, src=0, group=group)
    return [tensor]


def batched_point_to_point(group: Any, rank: int) -> list[Tensor]:
    received = torch.empty(N)
    send = dist.P2POp(dist.isend, own(rank), 1 - rank, group=group)
    receive = dist.P2POp(dist.irecv, received, 1 - rank, group=group)
    for work in dist.batch_isend_irecv([send, receive]):
        work.wait()
    return [received]


def barrier(group: Any, rank: int) -> list[Tensor]:
    dist.barrier(group=group)
    return []


def from_cpp(group: Any, rank: int) -> list[Tensor]:
    """Functional collectives reach the group through C++."""
    summed = functional.all_reduce(own(rank), "sum", group)
    gathered = functional.all_gather_tensor(own(rank), 0, group)
    scattered = functional.reduce_scatter_tensor(own(rank, 2 * N), "sum", 0, group)
    return [functional.wait_tensor(tensor) for tensor in (summed, gathered, scattered)]


CASES: dict[str, tuple[Callable[[Any, int], list[Tensor]], dict[str, int]]] = {
    # Name: the calls, and what the ledger must hold afterwards (bytes of each operation).
    "all_gather": (all_gather, {"all_gather": 8 * N}),
    "all_gather flat": (all_gather_flat, {"all_gather": 8 * N}),
    "all_gather in place": (all_gather_in_place, {"all_gather": 8 * N}),
    "all_gather coalesced": (all_gather_coalesced, {"all_gather": 24 * N}),
    "reduce_scatter": (reduce_scatter, {"reduce_scatter": 8 * N}),
    "reduce_scatter flat": (reduce_scatter_flat, {"reduce_scatter": 8 * N}),
    "reduce_scatter coalesced": (reduce_scatter_coalesced, {"reduce_scatter": 24 * N}),
    "all_reduce": (all_reduce, {"all_reduce": 4 * N}),
    "all_reduce coalesced": (all_reduce_coalesced, {"all_reduce": 12 * N}),
    "broadcast": (broadcast, {"broadcast": 4 * N}),
    "reduce": (reduce, {"reduce": 4 * N}),
    "gather": (gather, {"gather": 8 * N}),
    "scatter": (scatter, {"scatter": 8 * N}),
    "all_to_all flat": (all_to_all_flat, {"all_to_all": 8 * N}),
    "all_to_all": (all_to_all, {"all_to_all": 8 * N}),
    "batched send and recv": (batched_point_to_point, {"send": 4 * N, "recv": 4 * N}),
    "barrier": (barrier, {"barrier": 0}),
    "functional": (from_cpp, {"all_reduce": 4 * N, "all_gather": 8 * N, "reduce_scatter": 8 * N}),
}


def attempt(call: Callable[[Any, int], list[Tensor]], group: Any, rank: int) -> tuple[list[Tensor], str | None]:
    try:
        return call(group, rank), None
    except (RuntimeError, ValueError) as error:
        return [], type(error).__name__


def compare(meter: Meter, metered: Any, plain: Any, rank: int) -> dict[str, Any]:
    """Each operation on the metering group in each arm, beside the same one on torch's own group."""
    seen: dict[str, Any] = {}
    for name, (call, _) in CASES.items():
        expected, error = attempt(call, plain, rank)
        entry: dict[str, Any] = {"error": error}
        for arm in ARMS:
            meter.ledger.begin_step()
            before = len(meter.ledger._steps)
            meter.arm = arm
            outputs, metered_error = attempt(call, metered, rank)
            meter.arm = "full"
            counted: dict[str, int] = {}
            for (operation, size, payload), count in meter.ledger._steps[before - 1].items():
                assert size == 2
                counted[operation] = counted.get(operation, 0) + payload * count
            entry[arm] = {
                "error": metered_error,
                "equal": len(outputs) == len(expected)
                and all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True)),
                "magnitude": max((float(tensor.abs().max()) for tensor in outputs), default=0.0),
                "finite": all(bool(torch.isfinite(tensor).all()) for tensor in outputs),
                "ledger": counted,
            }
        seen[name] = entry
    return seen


def waits(meter: Meter, group: Any, rank: int) -> dict[str, float]:
    """Seconds that rank 0 spends in one all-reduce which rank 1 enters 0.3 s later, by arm."""
    spent: dict[str, float] = {}
    for arm in ARMS:
        dist.barrier()
        meter.arm = arm
        if rank == 1:
            time.sleep(0.3)
        started = time.perf_counter()
        dist.all_reduce(torch.ones(N), group=group)
        spent[arm] = time.perf_counter() - started
        meter.arm = "full"
    return spent


def delayed(meter: Meter, group: Any) -> dict[str, float]:
    """Seconds of three collectives that pass a line one after the other: waited for one by one, and begun together."""
    meter.line = Line(meter.device)
    meter.line.delay_s = 0.1
    started = time.perf_counter()
    for _ in range(3):
        dist.all_reduce(torch.ones(N), group=group)
    serial_s = time.perf_counter() - started
    started = time.perf_counter()
    works = [dist.all_reduce(torch.ones(N), group=group, async_op=True) for _ in range(3)]
    time.sleep(0.25)
    for work in works:
        work.wait()
    overlapped_s = time.perf_counter() - started
    future = dist.all_reduce(torch.full((N,), 2.0), group=group, async_op=True).get_future()
    value = future.wait()
    meter.line.close()
    meter.line = None
    return {"serial": serial_s, "overlapped": overlapped_s, "future": float(value[0][0])}


def trains(meter: Meter, rank: int) -> dict[str, Any]:
    """Losses of three steps, each in another arm, under what else torch trains with."""
    seen: dict[str, Any] = {}
    torch.manual_seed(0)
    hooks: dict[str, tuple[Any, Any]] = {
        "ddp_fp16": (None, default_hooks.fp16_compress_hook),
        "ddp_powersgd": (powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2), powerSGD_hook.powerSGD_hook),
    }
    for name in ("fsdp", "ddp", *hooks):
        model: Any = nn.Sequential(nn.Linear(N, N), nn.ReLU(), nn.Linear(N, N))
        if name == "fsdp":
            for layer in (model[0], model[2], model):
                fully_shard(layer)
        else:
            model = DistributedDataParallel(model)
            if name in hooks:
                model.register_comm_hook(*hooks[name])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        operations: list[list[str]] = []
        for arm in ("full", "full", "full", *ARMS, "full"):
            meter.ledger.begin_step()
            meter.arm = arm  # type: ignore[assignment]
            loss = model(own(rank).unsqueeze(0) / 100).pow(2).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.arm = "full"
            losses.append(float(loss.detach()))
            operations.append(sorted({call[0] for call in meter.ledger._steps[-1]}))
        seen[name] = {"losses": losses, "operations": operations[-1], "in every arm": operations[-4:-1]}
    return seen


def main() -> None:
    torch.set_num_threads(1)
    meter = Meter(torch.device("cpu"))
    register(meter)
    dist.init_process_group(BACKEND)
    rank = dist.get_rank()
    group = dist.group.WORLD
    assert isinstance(group, MeteringGroup)
    plain = dist.new_group(backend="gloo")
    seen: dict[str, Any] = {"operations": compare(meter, group, plain, rank)}
    seen["sub-group"] = type(dist.new_group([0, 1])).__name__
    objects: list[Any] = [None, None]
    dist.all_gather_object(objects, {"rank": rank})
    seen["objects"] = objects
    one_way = point_to_point(group, rank)
    seen["one way"] = float(one_way[0][0])
    seen["waits"] = waits(meter, group, rank)
    dist.barrier(plain)
    seen["delayed"] = delayed(meter, group)
    dist.barrier(plain)
    seen["trains"] = trains(meter, rank)
    try:
        group.split_group([0, 1])
    except NotImplementedError as error:
        seen["refused"] = str(error)
    # Alone, while the other rank is elsewhere: `local` must need nobody.
    meter.arm = "local"
    if rank == 0:
        dist.all_reduce(torch.ones(N))
        dist.barrier()
        group.monitored_barrier()
    meter.arm = "full"
    dist.barrier(plain)
    Path(sys.argv[1]).write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
