"""scalebench prove: is the meter right on this machine?"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.shared import DeviceOption, Json, LauncherOption, chosen_launcher, terminal


def prove(
    world_size: Annotated[int, typer.Option("--world-size", help="Ranks, at least 2.")] = 4,
    output: Annotated[Path | None, typer.Option(help="Results folder. [default: results/prove]")] = None,
    launcher: LauncherOption = "deepspeed",
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Which ranks are slow, and the order of blocks.")] = 0,
    as_json: Json = False,
) -> None:
    """Prove the meter on this machine: inject known delays, a slow rank and a missing payload, and get them back.

    Exits 0 if everything injected was recovered, 1 if one was missed, 2 for bad input.
    """
    from bench import prove as proof
    from bench.launch.interrupt import Interrupted
    from bench.launch.machine import detect
    from bench.progress import SweepProgress
    from bench.results.store import locked

    chosen = chosen_launcher(launcher, device)
    tasks = proof.plan(world_size, seed)
    folder = output or proof.FOLDER
    machine = detect(device, None)
    with locked(folder):
        try:
            with SweepProgress(terminal(stderr=as_json)) as progress:
                found, records = proof.prove(tasks, machine, chosen, folder, progress)
        except (Interrupted, KeyboardInterrupt) as stop:
            print(f"stopped ({stop or 'SIGINT'}): nothing was proved", file=sys.stderr)
            raise typer.Exit(130) from None
    missed = [finding for finding in found if not finding.ok]
    broken = [record for record in records if record.outcome != "ok"]
    if as_json:
        print(json.dumps([{**dataclasses.asdict(finding), "ok": finding.ok} for finding in found]))
    else:
        terminal().print(proof.table(found))
        print(f"{len(found) - len(missed)} of {len(found)} recovered; {machine.description}; records: {folder}")
    for record in broken:
        print(f"{record.outcome}: {record.cell.id}: {record.reason}", file=sys.stderr)
    if missed or broken:
        raise typer.Exit(1)
