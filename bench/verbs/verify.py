"""The first choices of an advice, measured here: a suite of them is written, and run as scalebench run runs it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
import yaml

from bench.launch.machine import Machine as Here
from bench.launch.machine import detect
from bench.plan.presets import preset_sizes
from bench.plan.workload import REVERSE
from bench.theory.advice import Choice
from bench.theory.machine import Machine
from bench.writing import write_text


def measure(
    chosen: Sequence[Choice],
    machine: Machine,
    *,
    model: str,
    precision: str,
    seq_len: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write OUTPUT.yaml and run it into OUTPUT; or say in one line why this machine can't, and exit 1."""
    from bench.verbs.run import run

    here = detect("auto", None)
    reason = refusal(chosen, machine, here)
    if reason is not None:
        print(f"--verify: {reason}; nothing was measured", file=sys.stderr)
        raise typer.Exit(1)
    folder = output or Path("results") / f"advice-{model}"
    suite = folder.with_name(f"{folder.name}.yaml")
    suite.parent.mkdir(parents=True, exist_ok=True)
    write_text(suite, suite_text(chosen, model=model, precision=precision, seq_len=seq_len, name=folder.name))
    # Beside the advice as JSON, stdout has no room for a second document.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        run(suite=str(suite), output=folder)


def refusal(chosen: Sequence[Choice], machine: Machine, here: Here) -> str | None:
    """Why the choices for `machine` can't be measured here; None if they can."""
    wanted = machine.device.name
    if (here.device_type == "cpu") != (machine.node.backend == "gloo"):
        return f"{machine.name} has {wanted or 'CPUs'}, this machine is {here.description}"
    if wanted is not None and not all(name.endswith(wanted) for name in here.names):
        return f"{machine.name} has {wanted}, this machine {here.description}"
    largest = max(choice.world_size for choice in chosen)
    if largest > here.num_slots:
        return f"{largest} ranks are asked for, this machine takes {here.num_slots} ({here.description})"
    return None


def suite_text(chosen: Sequence[Choice], *, model: str, precision: str, seq_len: int, name: str) -> str:
    """The suite: a grid a choice, three launches each, so that there are intervals."""
    defaults = {"model": model, "precision": precision, "seq_len": seq_len, "launches": 3}
    if preset_sizes(model)[0] == "Seq2Seq":
        defaults["corpus"] = REVERSE
    content = {
        "name": name,
        "description": f"the first {len(chosen)} choices of scalebench advise",
        "defaults": defaults,
        "grids": [
            {
                "strategy": choice.strategy,
                "world_size": choice.world_size,
                "micro_batch_size": choice.micro_batch_size,
                "grad_accum_steps": choice.grad_accum_steps,
                "activation_checkpointing": choice.activation_checkpointing,
            }
            for choice in chosen
        ],
    }
    return yaml.safe_dump(content, sort_keys=False)
