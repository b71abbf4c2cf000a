"""scalebench advise: which settings to train a model with on a described machine, by theory; and the first of them measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import ProjectionError, nearest
from bench.verbs.shared import Json, terminal

_PRECISIONS = ("fp16", "bf16", "fp32")
# Nodes that are searched where a network joins them and nobody says how many there are.
_NODES = 8


def advise(
    model: Annotated[str, typer.Option(help="A preset, say gpt2-xl.")],
    machine: Annotated[str, typer.Option(help="A known machine (dgx1-v100-16gb, ...) or a YAML file.")],
    global_batch_size: Annotated[int, typer.Option(help="Sequences of an optimizer step, over all ranks.")],
    by: Annotated[str, typer.Option(help="What is to be least: step_time, cost or energy.")] = "step_time",
    network: Annotated[str | None, typer.Option(help="Between nodes: edr-1x, eth-10g, ... [default: one node]")] = None,
    max_world_size: Annotated[
        int | None, typer.Option(help="Ranks at most. [default: one node, eight with --network]")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp16, bf16 or fp32. [default: fp16; on CPU fp32]")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a sequence. [default: the preset's longest]")] = None,
    price_per_gpu_hour: Annotated[float | None, typer.Option(help="What a GPU costs an hour, in any currency.")] = None,
    watts_per_gpu: Annotated[float | None, typer.Option(help="What a GPU and its share of the node draw.")] = None,
    verify: Annotated[int, typer.Option(min=0, help="Measure so many of the first choices here.")] = 0,
    output: Annotated[Path | None, typer.Option(help="With --verify. [default: results/advice-MODEL]")] = None,
    as_json: Json = False,
) -> None:
    """Search strategy, micro-batch, accumulation, activation checkpointing and ranks for the best way to train one global batch.

    Nothing is measured unless --verify says so. Exits 0, 1 if what --verify asks for can't run here or fails, 2 for bad input.
    """
    from bench.theory.advice import ORDERS
    from bench.theory.advice import advise as advised
    from bench.theory.candidates import candidates, check_batch, searched, steps, world_sizes
    from bench.theory.machine import load_machine, load_network
    from bench.theory.transformer import preset_shape

    if by not in ORDERS:
        raise ProjectionError(f"--by: found {by!r}", hint=nearest(by, ORDERS))
    for flag, value in (("--price-per-gpu-hour", price_per_gpu_hour), ("--watts-per-gpu", watts_per_gpu)):
        if value is not None and not 0 < value < float("inf"):
            raise ProjectionError(f"{flag}: found {value}, expected a number above 0")
    if max_world_size is not None and max_world_size < 1:
        raise ProjectionError(f"--max-world-size: found {max_world_size}, expected a whole number from 1 on")
    described = load_machine(machine)
    link = None if network is None else load_network(network)
    dtype = precision or ("fp32" if described.node.backend == "gloo" else "fp16")
    if dtype not in _PRECISIONS:
        raise ProjectionError(f"--precision: found {dtype!r}", hint=nearest(dtype, _PRECISIONS))
    most = max_world_size or described.node.num_devices * (1 if link is None else _NODES)
    shape = preset_shape(model)
    check_batch(global_batch_size)
    sizes = world_sizes(described, global_batch_size, most, link)
    # A model without activations to speak of has nothing to recompute.
    found = candidates(global_batch_size, sizes, searched(described), shape.num_heads is not None)
    taken = steps(found, described, model=model, precision=dtype, seq_len=seq_len, network=link)
    length = shape.max_seq_len if seq_len is None else seq_len
    advice = advised(
        found,
        taken,
        described,
        by=by,
        tokens_per_step=float(global_batch_size * length),
        network=link,
        price_per_gpu_hour=price_per_gpu_hour,
        watts_per_gpu=watts_per_gpu,
    )
    from bench.verbs.advised import sentences, table

    words = sentences(advice, described.device.memory_bytes.value)
    if as_json:
        content = {**dataclasses.asdict(advice), "binds": advice.binds, "sentences": words}
        print(json.dumps(content, indent=1))
    else:
        console = terminal()
        for sentence in words:
            console.print(sentence, markup=False, highlight=False)
        console.print(table(advice))
        names = ", ".join(searched(described))
        print(f"Projected, not measured. Searched: {names}, all GPUs alike; README, Foresight, says how.")
    if verify:
        from bench.verbs.verify import measure

        chosen = advice.choices[:verify]
        measure(chosen, described, model=model, precision=dtype, seq_len=length, output=output, as_json=as_json)
