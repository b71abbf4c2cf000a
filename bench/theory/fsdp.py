"""What FSDP2 (`fully_shard`) sends in an optimizer step: groups of parameters, gathered and reduced whole."""

from __future__ import annotations

from collections import Counter, defaultdict

from bench.plan.cell import Cell
from bench.results.metered import Outline
from bench.theory.zero3 import Call, padded
from bench.theory.zero_settings import DTYPE_BYTES, UnknownTraffic

_FLOAT32 = 4


def fsdp_calls(cell: Cell, outline: Outline) -> Counter[Call]:
    """Every collective of a step of fsdp. Each block of the model is a group, what is left the root's.

    In each micro-batch a group is gathered for its forward pass, and again for the backward pass if it was resharded, which the
    root never is. Gradients are reduce-scattered once a step, or after each micro-batch. A parameter is cut along its first
    dimension, which is padded to equal parts. Clipping adds up the squared norms of all parameters in one call, the loss scaler
    tells of an overflow in one. On one rank nothing is called. Source: torch/distributed/fsdp/_fully_shard/
    _fsdp_param_group.py and _fsdp_collectives.py; torch/distributed/tensor/_dispatch.py, found_inf_reduce_handler. Raises
    UnknownTraffic where shapes are not known.
    """
    calls: Counter[Call] = Counter()
    if cell.world_size == 1:
        return calls
    times = cell.grad_accum_steps
    reductions = times if cell.options["sync_every_micro_batch"] else 1
    for group, size in _group_bytes(cell, outline).items():
        gathers = 2 if group and cell.options["reshard_after_forward"] else 1
        calls["all_gather", size] += gathers * times
        calls["reduce_scatter", size] += reductions
    if cell.max_grad_norm:
        calls["all_reduce", len(outline.parameters) * _FLOAT32] += 1
    if cell.precision == "fp16":
        calls["all_reduce", _FLOAT32] += 1
    return calls


def _group_bytes(cell: Cell, outline: Outline) -> dict[str, int]:
    """Bytes of each group's parameters, padded; the root's under ""."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for parameter in outline.parameters:
        if parameter.num_rows is None:
            raise UnknownTraffic(
                "the record does not hold the parameters' shapes: it was written by an older scalebench"
            )
        row = parameter.num_elements // parameter.num_rows
        whole = padded(parameter.num_rows, cell.world_size) * row
        sizes[block_of(parameter.name)] += whole * DTYPE_BYTES[cell.precision]
    return sizes


def block_of(name: str) -> str:
    """The block that a parameter belongs to, by its name: up to the first part that is a number, which is its place in the
    outermost list of modules ("blocks.3.qkv.weight" -> "blocks.3"); "" for the root."""
    parts = name.split(".")
    numbered = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return "" if numbered is None else ".".join(parts[: numbered + 1])
