"""The collectives of c10d as the meter sees them: their names, their payload, and what stands in for their result.

Where a collective does not run, its output must still hold finite values of normal magnitude, because NaN and denormal
numbers change how long the arithmetic that follows takes. So what would come from other ranks is taken from this one: a
reduction keeps this rank's own summand, a gather repeats this rank's own part. Filling costs the host (or the device) one
pass over the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Arguments = Sequence[Any]


@dataclass(frozen=True)
class Operation:
    """One collective.

    `name` is the ledger's; `payload_bytes` gives the bytes of the full array from the arguments and the group's size (as
    nccl-tests counts: for a gather what one rank ends up with, for a reduce-scatter what one rank brings); `fill` writes
    what stands in for the result, given rank and size of the group; `outputs` are the tensors that the result is in.
    """

    name: str
    payload_bytes: Callable[[Arguments, int], int]
    fill: Callable[[Arguments, int, int], None]
    outputs: Callable[[Arguments], list[Tensor]]


def flat(argument: Any) -> list[Tensor]:
    """The tensors of an argument, which is one, a list, or a list of lists."""
    if isinstance(argument, Tensor):
        return [argument]
    return [tensor for part in argument for tensor in flat(part)]


def num_bytes(argument: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in flat(argument))


def _first(arguments: Arguments) -> list[Tensor]:
    return flat(arguments[0])


def _keep(arguments: Arguments, rank: int, size: int) -> None:
    """Reduced or broadcast in place: the tensor's own content will do."""


def _zero(arguments: Arguments, rank: int, size: int) -> None:
    for tensor in _first(arguments):
        tensor.zero_()


def _gather_flat(arguments: Arguments, rank: int, size: int) -> None:
    """Each output is one tensor of `size` parts. The input may be a view of its own part of the output."""
    for output, own in zip(flat(arguments[0]), flat(arguments[1]), strict=True):
        for place, part in enumerate(output.reshape(-1).chunk(size)):
            if place != rank or part.data_ptr() != own.data_ptr():
                part.copy_(own.reshape(-1))


def _gather_lists(arguments: Arguments, rank: int, size: int) -> None:
    """Outputs are a tensor for each rank and input; on ranks other than a gather's root there are none."""
    outputs, inputs = flat(arguments[0]), flat(arguments[1])
    for place, output in enumerate(outputs):
        output.copy_(inputs[place % len(inputs)].view_as(output))


def _scatter_lists(arguments: Arguments, rank: int, size: int) -> None:
    """Outputs are one tensor an input list; on ranks other than a scatter's root there are no inputs."""
    inputs = flat(arguments[1])
    if not inputs:
        _zero(arguments, rank, size)
        return
    for place, output in enumerate(flat(arguments[0])):
        output.copy_(inputs[place * size + rank].view_as(output))


def _scatter_flat(arguments: Arguments, rank: int, size: int) -> None:
    """Each input is one tensor of `size` parts, of which the output is this rank's."""
    for output, whole in zip(flat(arguments[0]), flat(arguments[1]), strict=True):
        part = whole.reshape(-1).chunk(size)[rank]
        if part.data_ptr() != output.data_ptr():
            output.reshape(-1).copy_(part)


def _exchange(arguments: Arguments, rank: int, size: int) -> None:
    """All-to-all: the outputs get this rank's own inputs, as far as they reach."""
    outputs, inputs = flat(arguments[0]), flat(arguments[1])
    for output, own in zip(outputs, inputs, strict=True):
        count = min(output.numel(), own.numel())
        output.zero_()
        output.reshape(-1)[:count].copy_(own.reshape(-1)[:count])


def _of_outputs(arguments: Arguments, size: int) -> int:
    return num_bytes(arguments[0])


def _of_inputs(arguments: Arguments, size: int) -> int:
    return num_bytes(arguments[1])


def _of_all_parts(part: int) -> Callable[[Arguments, int], int]:
    return lambda arguments, size: num_bytes(arguments[part]) * size


_ALL_REDUCE = Operation("all_reduce", _of_outputs, _keep, _first)
_GATHER_FLAT = Operation("all_gather", _of_outputs, _gather_flat, _first)
_GATHER_LISTS = Operation("all_gather", _of_outputs, _gather_lists, _first)
_SCATTER_FLAT = Operation("reduce_scatter", _of_inputs, _scatter_flat, _first)

OPERATIONS: dict[str, Operation] = {
    "allreduce": _ALL_REDUCE,
    "allreduce_coalesced": _ALL_REDUCE,
    "broadcast": Operation("broadcast", _of_outputs, _keep, _first),
    "reduce": Operation("reduce", _of_outputs, _keep, _first),
    "allgather": _GATHER_LISTS,
    "allgather_coalesced": _GATHER_LISTS,
    # Old and new name of one method (torch 2.13 renamed them).
    "_allgather_base": _GATHER_FLAT,
    "all_gather_single": _GATHER_FLAT,
    "allgather_into_tensor_coalesced": _GATHER_FLAT,
    "all_gather_single_coalesced": _GATHER_FLAT,
    "reduce_scatter": Operation("reduce_scatter", _of_inputs, _scatter_lists, _first),
    "_reduce_scatter_base": _SCATTER_FLAT,
    "reduce_scatter_single": _SCATTER_FLAT,
    "reduce_scatter_tensor_coalesced": _SCATTER_FLAT,
    "reduce_scatter_single_coalesced": _SCATTER_FLAT,
    "alltoall_base": Operation("all_to_all", _of_inputs, _exchange, _first),
    "all_to_all_single": Operation("all_to_all", _of_inputs, _exchange, _first),
    "alltoall": Operation("all_to_all", _of_inputs, _exchange, _first),
    "gather": Operation("gather", _of_all_parts(1), _gather_lists, _first),
    "scatter": Operation("scatter", _of_all_parts(0), _scatter_lists, _first),
    "send": Operation("send", _of_outputs, _keep, _first),
    "recv": Operation("recv", _of_outputs, _zero, _first),
    "recv_anysource": Operation("recv", _of_outputs, _zero, _first),
    "barrier": Operation("barrier", lambda arguments, size: 0, _keep, lambda arguments: []),
}
"""By the name of the process group's method."""

POINT_TO_POINT = frozenset({"send", "recv", "recv_anysource"})
