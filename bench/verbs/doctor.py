"""scalebench doctor: what is here and on every host of a hostfile, whether it is good, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.shared import Json


def doctor(
    hostfile: Annotated[
        Path | None, typer.Option(help="DeepSpeed hostfile: every host of it is examined, by ssh, side by side.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="A shipped suite or a YAML file: does what it needs fit here?")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The results folder whose disk is looked at. [default: results/SUITE]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Examine this machine, or every host of a hostfile, without changing anything. Each finding: ok, warning, problem or not
    checked, what was found, what to do.

    Exits 0 if there is no problem, 1 if there is one, 2 for bad input.
    """
    from bench.doctor.diagnosis import diagnose
    from bench.doctor.shown import as_json as content
    from bench.doctor.shown import shown
    from bench.plan.suite import load_suite

    chosen = load_suite(suite) if suite is not None else None
    folder = output or (Path("results") / chosen.name if chosen is not None else Path("results"))
    diagnosis = diagnose(hostfile, chosen, folder)
    if as_json:
        print(json.dumps(content(diagnosis), indent=1))
    else:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            # A pipe has no width of its own.
            console = Console(width=max(120, console.width))
        console.print(shown(diagnosis, console.width))
    if diagnosis.status == "problem":
        raise typer.Exit(1)
