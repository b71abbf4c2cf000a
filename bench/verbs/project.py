"""scalebench project: what a step would take on a machine that is not here."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import ProjectionError, nearest
from bench.verbs.shared import Json, terminal

if TYPE_CHECKING:
    from bench.theory.machine import Machine
    from bench.theory.ways import Options
    from bench.theory.workload import Workload

_DTYPES = ("fp16", "bf16", "fp32")


def project(
    machine: Annotated[str | None, typer.Option(help="A known machine (dgx1-v100-16gb, ...) or a YAML file.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="One or several with commas: ddp, zero0 to zero3, zero2_offload, zero3_offload, fsdp, ddp_fp16, "
            "ddp_bf16, ddp_powersgd, local_sgd, diloco, param_server. [default: ddp; with --calibrate all measured]"
        ),
    ] = None,
    world_sizes: Annotated[str, typer.Option(help="Ranks, with commas.")] = "1,2,4,8",
    network: Annotated[str | None, typer.Option(help="Between nodes: edr-1x, eth-10g, ...")] = None,
    model: Annotated[str | None, typer.Option(help="A preset. Or give --num-params and --step-time-1.")] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="With --model: sequences per rank and pass. [default: 1]")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="With --model: fp16, bf16 or fp32. [default: fp16]")] = None,
    seq_len: Annotated[int | None, typer.Option(help="With --model. [default: the preset's longest]")] = None,
    activation_checkpointing: Annotated[bool, typer.Option("--activation-checkpointing", help="With --model.")] = False,
    num_params: Annotated[float | None, typer.Option(help="Parameters of a model known only by its numbers.")] = None,
    grad_dtype: Annotated[
        str | None, typer.Option(help="What its gradients travel in: fp16, bf16 or fp32. [default: fp16]")
    ] = None,
    step_time_1: Annotated[float | None, typer.Option(help="Seconds of its whole optimizer step on one rank.")] = None,
    backward_frac: Annotated[float | None, typer.Option(help="Backward's part of its passes. [default: 2/3]")] = None,
    num_layers: Annotated[int | None, typer.Option(help="Its layers. [default: 24]")] = None,
    grad_accum_steps: Annotated[int, typer.Option(help="Micro-batches per optimizer step.")] = 1,
    every_steps: Annotated[
        int | None, typer.Option(help="Steps between two exchanges. [default: local_sgd 8, diloco 100]")
    ] = None,
    outer_dtype: Annotated[str | None, typer.Option(help="diloco's differences: fp32, fp16, bf16, int8.")] = None,
    powersgd_rank: Annotated[int | None, typer.Option(help="Of ddp_powersgd. [default: 1]")] = None,
    staleness: Annotated[
        int | None, typer.Option(help="param_server: steps a worker may be ahead; 0: none. [default: any]")
    ] = None,
    num_servers: Annotated[int | None, typer.Option(help="Of param_server. [default: 1]")] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="A results folder: its constants are fitted, and its workloads projected with them."),
    ] = None,
    fit_world_sizes: Annotated[
        str | None, typer.Option(help="With --calibrate: fit to launches of these ranks alone. [default: all]")
    ] = None,
    validate: Annotated[bool, typer.Option("--validate", help="Hold the theory against every published row.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for charts and rows; not with --calibrate.")] = None,
    as_json: Json = False,
) -> None:
    """Project step time, efficiency and memory on a described machine, or by what was measured here, or hold the theory against
    what others published.

    Each rank does the same work whatever their number (weak scaling). Exits 0, or 2 for bad input.
    """
    if validate:
        from bench.verbs.validate import show_validation

        show_validation(as_json, output)
        return
    of_numbers = {"--grad-dtype": grad_dtype, "--backward-frac": backward_frac, "--num-layers": num_layers}
    of_presets = {"--micro-batch-size": micro_batch_size, "--precision": precision, "--seq-len": seq_len}
    if calibrate is not None:
        from bench.verbs.calibrated import show_calibrated

        of_ways = {
            **{"--every-steps": every_steps, "--outer-dtype": outer_dtype, "--powersgd-rank": powersgd_rank},
            **{"--staleness": staleness, "--num-servers": num_servers},
        }
        measured = {"--num-params": num_params, "--step-time-1": step_time_1, **of_numbers, **of_presets, **of_ways}
        _warn_of_unused(
            {**measured, "--grad-accum-steps": None if grad_accum_steps == 1 else grad_accum_steps, "--output": output},
            "not used with --calibrate",
        )
        show_calibrated(
            calibrate,
            machine=machine,
            network=network,
            model=model,
            strategies=None if strategy is None else [name.strip() for name in strategy.split(",")],
            world_sizes=_world_sizes("--world-sizes", world_sizes),
            fitted_to=None if fit_world_sizes is None else _world_sizes("--fit-world-sizes", fit_world_sizes),
            as_json=as_json,
        )
        return
    from bench.theory.machine import load_machine, load_network, machine_names
    from bench.theory.project import projections
    from bench.theory.ways import way_of

    if machine is None:
        raise ProjectionError("--machine: missing", hint=f"known: {', '.join(machine_names())}, or a YAML file")
    described = load_machine(machine)
    sizes = _world_sizes("--world-sizes", world_sizes)
    link = None if network is None else load_network(network)
    numbers = (num_params, step_time_1)
    if model is not None and numbers != (None, None):
        raise ProjectionError("--model: found beside --num-params or --step-time-1", hint="give one of the two")
    _warn_of_unused({"--fit-world-sizes": fit_world_sizes}, "not used without --calibrate")
    _warn_of_unused(
        of_presets if model is None else of_numbers,
        f"not used without {'--model' if model is None else '--num-params'}",
    )
    rows = []
    names = [name.strip() for name in (strategy or "ddp").split(",")]
    options = _options(names, every_steps, outer_dtype, powersgd_rank, staleness, num_servers)
    for name in names:
        way = way_of(name)
        if model is not None:
            from bench.theory.workload import from_preset

            _known("--precision", precision or "fp16")
            work = from_preset(
                described,
                model=model,
                micro_batch_size=1 if micro_batch_size is None else micro_batch_size,
                precision=precision or "fp16",
                strategy=way.base,
                seq_len=seq_len,
                grad_accum_steps=grad_accum_steps,
                activation_checkpointing=activation_checkpointing,
            )
        else:
            _known("--grad-dtype", grad_dtype or "fp16")
            work = _of_numbers(described, numbers, grad_dtype or "fp16", grad_accum_steps, backward_frac, num_layers)
        rows += projections(work, name, described, sizes, link, options)
    if output is not None:
        from bench.verbs.projected import write

        chart = write(output, rows, f"{model or f'{num_params:g} parameters'} on {described.name}")
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        return
    from bench.verbs.projected import bars, table

    terminal().print(table(rows))
    terminal().print(bars(rows))
    print("Projected, not measured. Intervals hold nine of ten published runs; README, Foresight, says how.")
    if unequal := [name for name in names if not way_of(name).equal_work]:
        print(f"Not the updates of plain training, so no step time without the loss: {', '.join(unequal)}.")
    if output is not None:
        print(f"chart: {chart}")


def _options(
    names: list[str],
    every_steps: int | None,
    outer_dtype: str | None,
    powersgd_rank: int | None,
    staleness: int | None,
    num_servers: int | None,
) -> Options:
    """How the ways are set; a flag that none of them reads is said to be unused."""
    from bench.theory.ways import Options

    readers = {
        "--every-steps": (every_steps, ("local_sgd", "diloco")),
        "--outer-dtype": (outer_dtype, ("diloco",)),
        "--powersgd-rank": (powersgd_rank, ("ddp_powersgd",)),
        "--staleness": (staleness, ("param_server",)),
        "--num-servers": (num_servers, ("param_server",)),
    }
    for flag, (value, read_by) in readers.items():
        if not set(read_by) & set(names):
            _warn_of_unused({flag: value}, f"not used without --strategy {' or '.join(read_by)}")
    return Options(
        every_steps=every_steps,
        outer_dtype="fp32" if outer_dtype is None else outer_dtype,
        powersgd_rank=1 if powersgd_rank is None else powersgd_rank,
        staleness=staleness,
        num_servers=1 if num_servers is None else num_servers,
    )


def _of_numbers(
    machine: Machine,
    numbers: tuple[float | None, float | None],
    grad_dtype: str,
    grad_accum_steps: int,
    backward_frac: float | None,
    num_layers: int | None,
) -> Workload:
    from bench.theory.workload import BACKWARD_FRAC, from_numbers

    num_params, step_time_1_s = numbers
    if num_params is None or step_time_1_s is None:
        missing = "--num-params" if num_params is None else "--step-time-1"
        raise ProjectionError(f"{missing}: missing", hint="give --num-params and --step-time-1, or --model")
    if not math.isfinite(num_params) or num_params != int(num_params):
        raise ProjectionError(f"--num-params: found {num_params}, expected a whole number")
    return from_numbers(
        machine,
        num_params=int(num_params),
        grad_dtype=grad_dtype,
        step_time_1_s=step_time_1_s,
        grad_accum_steps=grad_accum_steps,
        backward_frac=BACKWARD_FRAC if backward_frac is None else backward_frac,
        num_layers=num_layers,
    )


def _world_sizes(flag: str, text: str) -> list[int]:
    sizes = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise ProjectionError(f"{flag}: found {text!r}, expected whole numbers from 1 on, with commas")
        sizes.append(int(part))
    return sizes


def _warn_of_unused(given: Mapping[str, object], why: str) -> None:
    for flag, value in given.items():
        if value is not None:
            print(f"{flag}: {why}", file=sys.stderr)


def _known(flag: str, dtype: str) -> None:
    if dtype not in _DTYPES:
        raise ProjectionError(f"{flag}: found {dtype!r}", hint=nearest(dtype, _DTYPES))
