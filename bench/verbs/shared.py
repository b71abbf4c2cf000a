"""What several verbs share: their common options, where their text goes, and how they show what a folder comes to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bench.errors import LaunchError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from bench.examine import Findings
    from bench.launch.launcher import LauncherName

LAUNCHERS = ("deepspeed", "torchrun")

LauncherOption = Annotated[str, typer.Option(help="Who starts the ranks: deepspeed or torchrun.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text.")]


def chosen_launcher(launcher: str, device: str, launchers: tuple[str, ...] = LAUNCHERS) -> LauncherName:
    """The launcher of that name. Raises LaunchError where it, or the device, is none."""
    for flag, value, allowed in (("--launcher", launcher, launchers), ("--device", device, ("auto", "cpu", "cuda"))):
        if value not in allowed:
            raise LaunchError(f"{flag}: found {value!r}", hint=nearest(value, allowed))
    return cast("LauncherName", launcher)


def terminal(stderr: bool = False) -> Console:
    """Where text goes. A pipe has no width of its own; the tables need 120 columns."""
    from rich.console import Console

    console = Console(stderr=stderr, soft_wrap=True)
    return console if console.is_terminal else Console(stderr=stderr, soft_wrap=True, width=max(120, console.width))


def show(findings: Findings, console: Console, report: bool, as_json: bool, more: dict[str, Any]) -> None:
    """Write the report if it is wanted, then print the headline table and the report's path, or both as JSON."""
    from bench.publish import headline, publish

    page = publish(findings) if report else None
    if as_json:
        print(json.dumps({"folder": str(findings.folder), "report": None if page is None else str(page), **more}))
        return
    console.print(headline(findings))
    if page is not None:
        console.print(f"report: {page}", markup=False, highlight=False)
