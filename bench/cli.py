"""The command line: scalebench. Every verb reads its arguments, calls one room, and prints."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bench.errors import LaunchError, ScalebenchError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from bench.examine import Findings
    from bench.launch.launcher import LauncherName
    from bench.launch.sweep import Sweep

LAUNCHERS = ("deepspeed", "torchrun")

app = typer.Typer(
    name="scalebench",
    help="Which way of training a GPT-style model data-parallel is fastest on these machines, and how well it scales.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

LauncherOption = Annotated[str, typer.Option(help="Who starts the ranks: deepspeed or torchrun.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text.")]


def _version(asked: bool) -> None:
    if asked:
        import bench

        print(f"scalebench {bench.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command(
    epilog="Example: scalebench run quick    or: scalebench run my-suite.yaml --device cuda --launcher torchrun"
)
def run(
    suite: Annotated[str, typer.Argument(help="A shipped suite (quick, v100-8, accumulation) or a YAML file.")],
    output: Annotated[Path | None, typer.Option(help="Results folder. [default: results/SUITE]")] = None,
    launcher: LauncherOption = "deepspeed",
    device: DeviceOption = "auto",
    slots: Annotated[
        int | None, typer.Option(min=1, help="Ranks that fit here. [default: GPUs; on CPU 8 or the cores]")
    ] = None,
    hostfile: Annotated[Path | None, typer.Option(help="DeepSpeed hostfile: `name slots=N` lines.")] = None,
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
    from bench.launch.hostfile import read_hostfile
    from bench.launch.interrupt import Interrupted
    from bench.launch.machine import detect
    from bench.launch.reference import forget_failed_references, make_references
    from bench.launch.sweep import Sweep
    from bench.plan.suite import load_suite
    from bench.results.store import locked

    started_by = _launcher(launcher, device)
    chosen = load_suite(suite)
    hosts = read_hostfile(hostfile) if hostfile is not None else None
    machine = detect(device, slots or (hosts.num_slots if hosts is not None else None))
    folder = output or Path("results") / chosen.name
    sweep = Sweep(chosen, machine, started_by, folder, hosts)
    if dry_run:
        _print_plan(sweep, as_json, reference)
        return
    from bench.progress import SweepProgress

    console = _console(stderr=as_json)
    with locked(folder):
        sweep.prepare_folder()
        sweep.clear_leftovers()
        if retry_failed:
            sweep.forget_failed()
            forget_failed_references(folder)
        total, missing = len(sweep.tasks), len(sweep.missing())
        done = f", {total - missing} done before" if missing < total else ""
        console.print(
            f"{chosen.name}: {total} launches{done}, {len(sweep.skipped)} cells skipped; {machine.description}; {folder}",
            markup=False,
            highlight=False,
        )
        try:
            with SweepProgress(console) as progress:
                sweep.run(progress)
                if reference:
                    make_references(folder, machine, progress)
        except (Interrupted, KeyboardInterrupt) as stop:
            left = len(sweep.missing())
            print(
                f"stopped ({stop or 'SIGINT'}): {total - left} of {total} launches are done and kept; to go on: "
                f"{shlex.join(['scalebench', *sys.argv[1:]])}",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
    failed = _finish(folder, sweep, console, report, as_json)
    if failed:
        raise typer.Exit(1)


def _launcher(launcher: str, device: str) -> LauncherName:
    """The launcher of that name. Raises LaunchError where it, or the device, is none."""
    for flag, value, allowed in (("--launcher", launcher, LAUNCHERS), ("--device", device, ("auto", "cpu", "cuda"))):
        if value not in allowed:
            raise LaunchError(f"{flag}: found {value!r}", hint=nearest(value, allowed))
    return cast("LauncherName", launcher)


def _console(stderr: bool = False) -> Console:
    """Where text goes. A pipe has no width of its own; the tables need 120 columns."""
    from rich.console import Console

    console = Console(stderr=stderr, soft_wrap=True)
    return console if console.is_terminal else Console(stderr=stderr, soft_wrap=True, width=max(120, console.width))


def _print_plan(sweep: Sweep, as_json: bool, reference: bool) -> None:
    from bench.launch.reference import one_of_each, reference_command

    plan: list[dict[str, Any]] = []
    for task in sweep.tasks:
        command = shlex.join(sweep.command(task)).replace("--master_port 0", "--master_port FREE_PORT")
        plan.append({"cell": task.cell.id, "kind": task.kind, "outcome": None, "reason": None, "command": command})
    for cell, reason in sweep.skipped:
        plan.append({"cell": cell.id, "kind": None, "outcome": "skipped", "reason": reason, "command": None})
    if as_json:
        print(json.dumps(plan, indent=1))
        return
    for entry in plan:
        print(f"{entry['cell']}\n    {entry['command'] or 'skipped: ' + entry['reason']}")
    if reference and sweep.tasks:
        number = len(one_of_each([task.cell for task in sweep.tasks]))
        print(f"plain training of {number} global batches\n    {shlex.join(reference_command(sweep.folder))}")
    print(
        f"{len(sweep.tasks)} launches, {len(sweep.skipped)} cells skipped; {sweep.machine.description}; nothing was run"
    )


def _finish(folder: Path, sweep: Sweep, console: Console, report: bool, as_json: bool) -> bool:
    """Say what a sweep that is through came to; whether a launch of it failed or is not valid."""
    from bench.examine import examine

    findings = examine(folder)
    wanted = {task.cell.id for task in sweep.tasks} | {cell.id for cell, _ in sweep.skipped}
    launches = findings.launches[findings.launches["cell_id"].isin(wanted)]
    failed = launches[~launches["outcome"].isin(["ok", "skipped"])]
    brief = launches[["cell_id", "launch_id", "outcome", "reason"]].astype(object)
    _show(findings, console, report, as_json, {"launches": brief.where(brief.notna(), None).to_dict("records")})
    for cell_id, _, outcome, reason in brief.loc[failed.index].itertuples(index=False, name=None):
        print(f"{outcome}: {cell_id}: {reason}", file=sys.stderr)
    if not sweep.tasks:
        print("nothing could be run here: every cell was skipped", file=sys.stderr)
    return bool(len(failed)) or not sweep.tasks


def _show(findings: Findings, console: Console, report: bool, as_json: bool, more: dict[str, Any]) -> None:
    """Write the report if it is wanted, then print the headline table and the report's path, or both as JSON."""
    from bench.publish import headline, publish

    page = publish(findings) if report else None
    if as_json:
        print(json.dumps({"folder": str(findings.folder), "report": None if page is None else str(page), **more}))
        return
    console.print(headline(findings))
    if page is not None:
        console.print(f"report: {page}", markup=False, highlight=False)


@app.command(epilog="Example: scalebench prove --world-size 4")
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

    chosen = _launcher(launcher, device)
    tasks = proof.plan(world_size, seed)
    folder = output or proof.FOLDER
    machine = detect(device, None)
    with locked(folder):
        try:
            with SweepProgress(_console(stderr=as_json)) as progress:
                found, records = proof.prove(tasks, machine, chosen, folder, progress)
        except (Interrupted, KeyboardInterrupt) as stop:
            print(f"stopped ({stop or 'SIGINT'}): nothing was proved", file=sys.stderr)
            raise typer.Exit(130) from None
    missed = [finding for finding in found if not finding.ok]
    broken = [record for record in records if record.outcome != "ok"]
    if as_json:
        print(json.dumps([{**dataclasses.asdict(finding), "ok": finding.ok} for finding in found]))
    else:
        _console().print(proof.table(found))
        print(f"{len(found) - len(missed)} of {len(found)} recovered; {machine.description}; records: {folder}")
    for record in broken:
        print(f"{record.outcome}: {record.cell.id}: {record.reason}", file=sys.stderr)
    if missed or broken:
        raise typer.Exit(1)


@app.command(epilog="Example: scalebench report results/quick")
def report(
    folder: Annotated[Path, typer.Argument(help="A results folder that `scalebench run` wrote.")],
    as_json: Json = False,
) -> None:
    """Write FOLDER/report: tables, charts, and one self-contained page."""
    from bench.examine import examine

    _show(examine(folder), _console(), report=True, as_json=as_json, more={})


def main() -> None:
    """Entry of the command: errors for users are one line, exit 2."""
    try:
        app()
    except ScalebenchError as error:
        print(f"scalebench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
