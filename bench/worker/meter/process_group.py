"""The process group through which torch DDP, FSDP and DeepSpeed alike communicate while they are metered.

A c10d process group in Python around the real one (gloo or NCCL). It counts each collective, and carries it in one of
three ways, the arms of an attribution launch:

- `full`: the collective runs;
- `sync`: a one-element all-reduce of the same group runs in its place, so that ranks still wait for each other;
- `local`: nothing runs.

In `sync` and `local` the output is left or filled locally (see operations.py). A collective of at most SMALL_BYTES carries no
payload worth the name and runs for real in `sync` too: flags and norms by which ranks decide together (did the loss
scaler overflow?) must stay common, or ranks would call different things next.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.results.metered import Arm
from bench.worker.meter.ledger import Ledger
from bench.worker.meter.line import Line
from bench.worker.meter.operations import OPERATIONS, POINT_TO_POINT, Operation
from bench.worker.meter.timeline import Timeline
from bench.worker.meter.work import Done, InPlaceOf

BACKEND = "metered"
SMALL_BYTES = 64

# What a process group offers that is no communication. Whatever else a version of torch has is refused by its name.
_NOT_COMMUNICATION = frozenset(
    {
        *("rank", "size", "name", "boxed", "unbox", "group_name", "group_desc", "bound_device_id", "BackendType"),
        *("get_group_store", "abort", "shutdown", "use_pg_for_symm_mem_rendezvous", "_backend_id", "_device_types"),
        *("_enable_collectives_timing", "_get_backend", "_get_backend_name", "_get_sequence_number_for_group"),
        *("_has_hooks", "_id", "_register_backend", "_register_on_completion_hook", "_set_default_backend"),
        *("_set_group_desc", "_set_group_name", "_set_sequence_number_for_group", "_wait_for_pending_works"),
        *("_pybind11_conduit_v1_", "CUSTOM", "GLOO", "MPI", "NCCL", "UCC", "UNDEFINED", "XCCL", "set_timeout"),
        "_set_timeout",
    }
)


class Meter:
    """What all metering groups of one rank share: the arm, the ledger, what is injected, and the timeline if one is kept."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.arm: Arm = "full"
        self.ledger = Ledger()
        self.line: Line | None = None
        """Through which collectives complete while their delay or their moments matter."""
        self.timeline: Timeline | None = None
        self.withheld: tuple[int, dist.ProcessGroup | None] | None = None
        """Number, within the step, of the all-reduce from which one rank is left out, and the group of the others: None
        on the rank that is left out."""
        self._num_all_reduces = 0

    def begin_step(self) -> None:
        self.ledger.begin_step()
        self._num_all_reduces = 0

    def left_out(self, operation: Operation) -> tuple[bool, dist.ProcessGroup | None]:
        """Whether one rank is left out of this collective, and the group that goes on without it."""
        if operation.name != "all_reduce" or self.withheld is None:
            return False, None
        number, others = self.withheld
        self._num_all_reduces += 1
        return self._num_all_reduces - 1 == number, others


class MeteringGroup(dist.ProcessGroup):
    """One process group, metered. `inner` is torch's own, around the real backend.

    Its collectives are added below, one for each of OPERATIONS.
    """

    def __init__(self, inner: dist.ProcessGroup, rank: int, size: int, meter: Meter) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]
        self.inner = inner
        self.meter = meter
        # Made once: what runs in place of a collective must not cost an allocation. Its maximum, because sums would grow.
        self._one = torch.ones(1, device=meter.device)
        self._largest = dist.AllreduceOptions()
        self._largest.reduceOp = dist.ReduceOp.MAX  # type: ignore[assignment]
        self._coalesced: list[Tensor] | None = None
        self._name = self._description = ""

    # The names that C++ looks for. It keeps a group's own name with the backends, of which this group has none.

    def getBackendName(self) -> str:
        return BACKEND

    def getGroupName(self) -> str:
        return self._name

    def setGroupName(self, name: str) -> None:
        self._name = name

    def getGroupDesc(self) -> str:
        return self._description

    def setGroupDesc(self, description: str) -> None:
        self._description = description

    def carry(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> dist.Work | None:
        """One collective, in the arm that is on."""
        operation, meter = OPERATIONS[method], self.meter
        outputs = operation.outputs(arguments)
        payload_bytes = operation.payload_bytes(arguments, self.size())
        is_left_out, others = meter.left_out(operation)
        if is_left_out:
            if others is None:
                return Done(outputs, meter.device)
            meter.ledger.count(operation.name, others.size(), payload_bytes)
            return others.allreduce(*arguments, **named)
        meter.ledger.count(operation.name, self.size(), payload_bytes)
        run: Callable[..., dist.Work | None] = getattr(self.inner, _name_there(method))
        small = payload_bytes <= SMALL_BYTES and self._coalesced is None
        if meter.arm == "full" or (meter.arm == "sync" and small):
            passage = meter.timeline.launched(operation.name, payload_bytes) if meter.timeline is not None else None
            work = run(*arguments, **named)
            if meter.line is None or work is None or self._coalesced is not None:
                return work
            return meter.line.carry(work, outputs, passage)
        operation.fill(arguments, self.rank(), self.size())
        if self._coalesced is not None:
            self._coalesced += outputs
            return None
        if meter.arm == "local":
            return Done(outputs, meter.device)
        if method in POINT_TO_POINT:
            return InPlaceOf(run([self._one], *arguments[1:], **named), outputs)  # type: ignore[arg-type]
        return self._meeting(outputs)

    def _meeting(self, outputs: list[Tensor]) -> dist.Work:
        """The ranks of the group wait for each other, and exchange one element."""
        return InPlaceOf(self.inner.allreduce([self._one], self._largest), outputs)

    def monitored_barrier(self, *arguments: Any, **named: Any) -> None:
        self.meter.ledger.count("barrier", self.size(), 0)
        if self.meter.arm != "local":
            self.inner.monitored_barrier(*arguments, **named)  # type: ignore[attr-defined]

    def _start_coalescing(self, device: torch.device) -> None:
        """The collectives up to `_end_coalescing` complete together."""
        self._coalesced = []
        if self.meter.arm == "full":
            self.inner._start_coalescing(device)

    def _end_coalescing(self, device: torch.device) -> dist.Work:
        outputs, self._coalesced = self._coalesced or [], None
        if self.meter.arm == "full":
            return self.inner._end_coalescing(device)
        if self.meter.arm == "local":
            return Done(outputs, self.meter.device)
        return self._meeting(outputs)


def _name_there(method: str) -> str:
    """The method's name in this version of torch's own process group."""
    return method if hasattr(dist.ProcessGroup, method) else _OLD_NAMES[method]


_OLD_NAMES = {
    "all_gather_single": "_allgather_base",
    "all_gather_single_coalesced": "allgather_into_tensor_coalesced",
    "reduce_scatter_single": "_reduce_scatter_base",
    "reduce_scatter_single_coalesced": "reduce_scatter_tensor_coalesced",
    "all_to_all_single": "alltoall_base",
}


def _collective(method: str) -> Callable[..., dist.Work | None]:
    def collective(self: MeteringGroup, *arguments: Any, **named: Any) -> dist.Work | None:
        return self.carry(method, arguments, named)

    collective.__name__ = method
    return collective


def _refusal(method: str) -> Callable[..., None]:
    def refuse(self: MeteringGroup, *arguments: Any, **named: Any) -> None:
        raise NotImplementedError(
            f"the meter does not know ProcessGroup.{method} (torch {torch.__version__}): it would pass uncounted; "
            "measure this cell with timing launches alone"
        )

    refuse.__name__ = method
    return refuse


for _method in OPERATIONS:
    setattr(MeteringGroup, _method, _collective(_method))
for _method in dir(dist.ProcessGroup):
    if not _method.startswith("__") and _method not in _NOT_COMMUNICATION and _method not in vars(MeteringGroup):
        setattr(MeteringGroup, _method, _refusal(_method))


def register(meter: Meter) -> None:
    """Make "metered" a backend of torch.distributed, for this process: then `init_process_group("metered")` and every group
    made after it, DeepSpeed's own ones too, are metered."""

    def create(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> MeteringGroup:
        return MeteringGroup(_real_group(meter.device, store, rank, size, timeout), rank, size, meter)

    dist.Backend.register_backend(BACKEND, create, devices=[meter.device.type])


def _real_group(
    device: torch.device, store: Any, rank: int, size: int, timeout: datetime.timedelta
) -> dist.ProcessGroup:
    """A process group as `init_process_group` makes it: gloo on CPU, NCCL on CUDA."""
    group = dist.ProcessGroup(store, rank, size)
    kind = dist.ProcessGroup.BackendType
    if device.type == "cuda":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        group._set_default_backend(kind.NCCL)
        group._register_backend(device, kind.NCCL, dist.ProcessGroupNCCL(store, rank, size, options))
    else:
        group._set_default_backend(kind.GLOO)
        backend = dist.ProcessGroupGloo(store, rank, size, timeout=timeout)
        group._register_backend(torch.device("cpu"), kind.GLOO, backend)
    return group
