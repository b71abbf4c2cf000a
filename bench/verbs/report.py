"""scalebench report: tables, charts and one page of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.shared import Json, show, terminal


def report(
    folder: Annotated[Path, typer.Argument(help="A results folder that `scalebench run` wrote.")],
    machine: Annotated[
        str | None,
        typer.Option(
            help="A described machine, or a YAML file: cells are projected by it, from one rank's step. [default: by "
            "what the two smallest world sizes tell, on CPUs]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write FOLDER/report: tables, charts, and one self-contained page."""
    from bench.examine import examine

    show(examine(folder, machine), terminal(), report=True, as_json=as_json, more={})
