"""scalebench run: launches what is missing of a suite."""

from __future__ import annotations

import json
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.verbs.hosts import (
    CONTROL_PORT,
    AnyLauncherOption,
    Asked,
    ControlPortOption,
    ExcludeOption,
    HostfileOption,
    IncludeOption,
    LauncherArgsOption,
    MasterOption,
    MultinodeOption,
    NodeRankOption,
    NoSshOption,
    PlacementOption,
    chosen_hosts,
    engine_for,
    follow,
)
from bench.verbs.shared import LAUNCHERS, DeviceOption, Json, chosen_launcher, show, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from bench.launch.hostfile import Hostfile
    from bench.launch.machine import Machine
    from bench.launch.sweep import Sweep
    from bench.progress import SweepProgress


def run(
    suite: Annotated[str, typer.Argument(help="A shipped suite (quick, synchronise, v100-8, ...) or a YAML file.")],
    output: Annotated[Path | None, typer.Option(help="Results folder. [default: results/SUITE]")] = None,
    launcher: AnyLauncherOption = "deepspeed",
    device: DeviceOption = "auto",
    slots: Annotated[
        int | None, typer.Option(min=1, help="Ranks that fit here. [default: GPUs; on CPU 8 or the cores]")
    ] = None,
    hostfile: HostfileOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    placement: PlacementOption = None,
    multinode_launcher: MultinodeOption = "pdsh",
    launcher_args: LauncherArgsOption = "",
    master_addr: MasterOption = None,
    no_ssh: NoSshOption = False,
    node_rank: NodeRankOption = None,
    control_port: ControlPortOption = CONTROL_PORT,
    launches: Annotated[
        str | None, typer.Option(help="Timing launches of each cell: a number, or auto (as many as it needs).")
    ] = None,
    target_interval: Annotated[
        float | None, typer.Option(help="Width of the 95 % interval that auto aims at, over the step time, say 0.02.")
    ] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="Minutes that auto may add to the launches.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells and commands, run nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Measure failed cells again.")] = False,
    reference: Annotated[
        bool, typer.Option(help="At the end, train the same batches plainly in one process: what losses are held to.")
    ] = True,
    report: Annotated[bool, typer.Option(help="Write the report at the end.")] = True,
    as_json: Json = False,
) -> None:
    """Launch what is missing of a suite. Ctrl-C is safe; the same command goes on from there.

    Exits 0 if every launched cell is ok, 1 if one is not (and says which), 2 for bad input.
    """
    from bench.launch.interrupt import Interrupted
    from bench.launch.machine import detect, elsewhere
    from bench.launch.reference import forget_failed_references, make_references
    from bench.launch.sweep import Sweep
    from bench.plan.flags import with_flags
    from bench.plan.suite import load_suite
    from bench.results.store import locked

    started_by = chosen_launcher(launcher, device, (*LAUNCHERS, "slurm"))
    chosen = with_flags(load_suite(suite), launches, target_interval, budget_minutes, placement)
    asked = Asked(started_by, multinode_launcher, launcher_args, master_addr, no_ssh, node_rank, control_port)
    hosts = chosen_hosts(hostfile, include, exclude, asked)
    num_slots = slots or (hosts.num_slots if hosts is not None else None)
    machine = elsewhere(device, num_slots) if num_slots and launcher == "slurm" else detect(device, num_slots)
    folder = output or Path("results") / chosen.name
    if node_rank and hosts is not None and not dry_run:
        _follow(asked, hosts, machine, chosen.name, folder)
        return
    sweep = Sweep(chosen, machine, started_by, folder, hosts, engine_for(asked, hosts, machine, chosen.name))
    if dry_run:
        _print_plan(sweep, as_json, reference)
        return
    from bench.progress import SweepProgress

    console = terminal(stderr=as_json)
    with locked(folder):
        sweep.prepare_folder()
        for trouble in sweep.clear_leftovers():
            print(f"warning: ranks of a run that was killed may still be at it: {trouble}", file=sys.stderr)
        if retry_failed:
            sweep.forget_failed()
            forget_failed_references(folder)
        total, missing = len(sweep.tasks), len(sweep.missing())
        done = f", {total - missing} done before" if missing < total else ""
        console.print(
            f"{chosen.name}: {total} launches{done}{_by_need(sweep)}, {len(sweep.skipped)} cells skipped; "
            f"{machine.description}; {folder}",
            markup=False,
            highlight=False,
        )
        try:
            with SweepProgress(console) as progress:
                sweep.run(progress)
                # Before launches are added: a cell whose losses are wrong gets none.
                if reference:
                    make_references(folder, machine, progress)
                reached = _add_by_need(sweep, progress)
        except (Interrupted, KeyboardInterrupt) as stop:
            left = len(sweep.missing())
            added = ", and all that were added" if sweep.by_need else ""
            print(
                f"stopped ({stop or 'SIGINT'}): {total - left} of {total} launches are done and kept{added}; to go on: "
                f"{shlex.join(['scalebench', *sys.argv[1:]])}",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
        finally:
            sweep.close()
    if reached is not None:
        console.print(reached, markup=False, highlight=False)
    failed = _finish(folder, sweep, console, report, as_json)
    if failed:
        raise typer.Exit(1)


def _follow(asked: Asked, hosts: Hostfile, machine: Machine, suite: str, folder: Path) -> None:
    """Do what the first host's run says, to its end."""
    from bench.launch.interrupt import Interrupted

    try:
        follow(asked, hosts, machine, suite, folder)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"stopped ({stop or 'SIGINT'}): this host's part of the launch was ended", file=sys.stderr)
        raise typer.Exit(130) from None


def _by_need(sweep: Sweep) -> str:
    """What follows the planned launches of a suite with cells of `launches: auto`, in words; empty for another suite."""
    if not sweep.by_need:
        return ""
    suite = sweep.suite
    return f", then more by need (to {100 * suite.target_interval_frac:g} %, at most {suite.budget_minutes:g} min)"


def _add_by_need(sweep: Sweep, progress: SweepProgress) -> str | None:
    """Make the launches that `launches: auto` asks for beyond the planned ones; in one line what was reached."""
    if not sweep.by_need:
        return None  # before pandas is imported
    from bench.replicate import Addition, replicate

    def add(addition: Addition) -> None:
        progress.adding(str(addition))
        sweep.launch([addition.task], progress)

    reached = replicate(sweep, add)
    return None if reached is None else str(reached)


def _print_plan(sweep: Sweep, as_json: bool, reference: bool) -> None:
    from bench.launch.reference import one_of_each, reference_command

    plan: list[dict[str, Any]] = []
    for task in sweep.tasks:
        # What only its start can know, and what no reader can read, by name.
        command = re.sub(r"(--master_port[ =])0\b", r"\1FREE_PORT", shlex.join(sweep.command(task)))
        command = re.sub(r"(--launch-text )\S+", r"\1LAUNCH", command)
        known = {"cell": task.cell.id, "kind": task.kind, "twin": task.twin, "outcome": None, "reason": None}
        plan.append({**known, "command": command, "script": sweep.script(task)})
    for cell, reason in sweep.skipped:
        known = {"cell": cell.id, "kind": None, "twin": False, "outcome": "skipped", "reason": reason}
        plan.append({**known, "command": None, "script": None})
    if as_json:
        print(json.dumps(plan, indent=1))
        return
    for entry in plan:
        print(f"{entry['cell']}{_mark(entry['twin'])}\n    {entry['command'] or 'skipped: ' + entry['reason']}")
        if entry["script"] is not None:
            print(textwrap.indent(entry["script"], " " * 8))
    if reference and sweep.tasks:
        number = len(one_of_each([task.cell for task in sweep.tasks]))
        print(f"plain training of {number} global batches\n    {shlex.join(reference_command(sweep.folder))}")
    print(
        f"{len(sweep.tasks)} launches{_by_need(sweep)}, {len(sweep.skipped)} cells skipped; {sweep.machine.description}; "
        "nothing was run"
    )


def _mark(twin: bool) -> str:
    return " (A/A twin)" if twin else ""


def _finish(folder: Path, sweep: Sweep, console: Console, report: bool, as_json: bool) -> bool:
    """Say what a sweep that is through came to; whether a launch of it failed or is not valid."""
    from bench.examine import examine
    from bench.writing import json_rows

    findings = examine(folder)
    wanted = {task.cell.id for task in sweep.tasks} | {cell.id for cell, _ in sweep.skipped}
    launches = findings.launches[findings.launches["cell_id"].isin(wanted)]
    failed = launches[~launches["outcome"].isin(["ok", "skipped"])]
    brief = launches[["cell_id", "launch_id", "twin", "outcome", "reason"]]
    show(findings, console, report, as_json, {"launches": json_rows(brief)})
    for cell_id, _, twin, outcome, reason in brief.loc[failed.index].itertuples(index=False, name=None):
        print(f"{outcome}: {cell_id}{_mark(twin)}: {reason}", file=sys.stderr)
    if not sweep.tasks:
        print("nothing could be run here: every cell was skipped", file=sys.stderr)
    return bool(len(failed)) or not sweep.tasks
