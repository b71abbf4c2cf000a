"""scalebench comm: how fast are this fabric's collectives?"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import LaunchError, nearest
from bench.verbs.hosts import (
    Asked,
    ExcludeOption,
    HostfileOption,
    IncludeOption,
    LauncherArgsOption,
    MasterOption,
    MultinodeOption,
    PlacementOption,
    chosen_hosts,
    from_one_host,
)
from bench.verbs.shared import DeviceOption, Json, LauncherOption, chosen_launcher, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from bench.comm import Found
    from bench.launch.hostfile import Hostfile
    from bench.launch.placement import Placement
    from bench.results.comm import CommPlan, CommRecord

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{unit}{end}": 2**shift for unit, shift in (("k", 10), ("m", 20), ("g", 30)) for end in ("ib", "")},
}
_PLAIN = dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"), "")
_SIZE = re.compile(r"(?P<number>\d{1,15})\s*(?P<unit>[a-zA-Z]*)")


def comm(
    world_size: Annotated[
        int | None,
        typer.Option("--world-size", help="Ranks, at least 2. [default: all GPUs or slots; on CPU the cores]"),
    ] = None,
    operations: Annotated[
        str | None,
        typer.Option(help="With commas: all_reduce, all_gather, reduce_scatter, broadcast, all_to_all. [default: all]"),
    ] = None,
    min_bytes: Annotated[
        str, typer.Option(help="Smallest size; sizes double from here on: 4096, 64KiB, 1MiB.")
    ] = "1KiB",
    max_bytes: Annotated[
        str | None, typer.Option(help="Largest size. [default: what memory and --budget-s allow]")
    ] = None,
    budget_s: Annotated[
        float, typer.Option(help="About so long is measured; without --max-bytes it ends the sizes.")
    ] = 60.0,
    output: Annotated[Path | None, typer.Option(help="Results folder. [default: results/comm]")] = None,
    launcher: LauncherOption = "deepspeed",
    device: DeviceOption = "auto",
    hostfile: HostfileOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    placement: PlacementOption = None,
    multinode_launcher: MultinodeOption = "pdsh",
    launcher_args: LauncherArgsOption = "",
    master_addr: MasterOption = None,
    record: Annotated[Path | None, typer.Option(help="Measure nothing: read this record of an earlier sweep.")] = None,
    write_machine: Annotated[
        Path | None,
        typer.Option(help="Write a machine file (YAML) with this fabric's constants, for project --machine."),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(help="With --write-machine: what it is made from. [default: cpu-gloo, or by the GPU's name]"),
    ] = None,
    timing: Annotated[
        Path | None,
        typer.Option(help="With --write-machine: a results folder whose launch on one rank tells the compute."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure collectives over sizes as nccl-tests does, compare every value, fit latency and bandwidth.

    Exits 0, 1 if a value was wrong or the launch failed, 2 for bad input.
    """
    if write_machine is None and (machine is not None or timing is not None):
        raise LaunchError(f"--{'timing' if machine is None else 'machine'}: not used without --write-machine")
    console = terminal(stderr=as_json)
    if record is not None:
        from bench.results.comm import read_comm

        measured, path = read_comm(record), record
    else:
        started_by = chosen_launcher(launcher, device)
        asked = Asked(started_by, multinode_launcher, launcher_args, master_addr, False, None, 0)
        hosts = chosen_hosts(hostfile, include, exclude, asked)
        fields = {
            "world_size": world_size,
            "operations": _operations(operations),
            "min_bytes": _size("--min-bytes", min_bytes),
            "max_bytes": None if max_bytes is None else _size("--max-bytes", max_bytes),
            "budget_s": budget_s,
        }
        folder = output or Path("results") / "comm"
        measured, path = _measure(fields, asked, hosts, placement, device, folder, console)
    from bench.comm import found, write

    sweep = found(measured)
    if record is None or output is not None:
        page = write(sweep, folder if record is None else Path(str(output)))
        console.print(f"page: {page}", markup=False, highlight=False)
    written = None
    if write_machine is not None and measured.outcome == "ok":
        from bench.fitted_machine import write_fitted

        written = write_fitted(write_machine, measured, machine, timing)
    _print(sweep, path, written, as_json, console)
    if measured.outcome != "ok":
        print(f"{measured.outcome}: {measured.reason}", file=sys.stderr)
        for line in measured.evidence[-3:]:
            print(f"    {line}", file=sys.stderr)
        raise typer.Exit(1)


def _measure(
    fields: dict[str, Any],
    asked: Asked,
    hosts: Hostfile | None,
    placement: str | None,
    device: str,
    folder: Path,
    console: Console,
) -> tuple[CommRecord, Path]:
    from bench.launch.comm import FOLDER_NAME, run_comm
    from bench.launch.engine import ThisHost
    from bench.launch.interrupt import Interrupted
    from bench.launch.machine import detect
    from bench.results.launch_file import record_path
    from bench.results.store import locked

    place = detect(device, None if hosts is None else hosts.num_slots)
    ranks = fields["world_size"] or _default_ranks(hosts, place.num_slots, place.device_type)
    plan = _plan({**fields, "world_size": ranks})
    where = _placed(hosts, plan.world_size, placement, asked.launcher)
    engine = ThisHost(asked.launcher, place) if where is None else from_one_host(asked, place)
    console.print(
        f"{plan.world_size} ranks{'' if where is None else f' ({where})'}, {', '.join(plan.operations)}; {place.description}",
        markup=False,
        highlight=False,
    )
    with locked(folder):
        try:
            measured = run_comm(plan, place, asked.launcher, engine, folder, where)
        except (Interrupted, KeyboardInterrupt) as stop:
            print(f"stopped ({stop or 'SIGINT'}): nothing was kept", file=sys.stderr)
            raise typer.Exit(130) from None
    return measured, record_path(folder / FOLDER_NAME / measured.launch_id)


def _placed(hosts: Hostfile | None, world_size: int, placement: str | None, launcher: str) -> Placement | None:
    """Where the ranks go; None where all are on this host, and nobody has to be asked."""
    if placement not in (None, "pack", "spread"):
        raise LaunchError(f"--placement: found {placement!r}", hint=nearest(placement, ("pack", "spread")))
    if hosts is None:
        return None
    found = hosts.place(world_size, "spread" if placement == "spread" else "pack")
    if found is None:
        raise LaunchError(
            f"--world-size: {hosts.path} has no even placement for {world_size} ranks (equally many on each host)"
        )
    from bench.launch.remote import is_this_host

    alone = found.num_nodes == 1 and is_this_host(found.first) and launcher != "slurm"
    return None if alone else found


def _default_ranks(hosts: Hostfile | None, num_slots: int, device_type: str) -> int:
    """As many as there are slots; on this host's CPU one a core, since ranks that wait for a core measure that."""
    import os

    if hosts is not None or device_type == "cuda":
        return num_slots
    return max(2, len(os.sched_getaffinity(0)))


def _plan(fields: dict[str, Any]) -> CommPlan:
    from pydantic import ValidationError

    from bench.results.comm import CommPlan

    try:
        return CommPlan.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-") if first["loc"] else "max-bytes"
        message = str(first["msg"]).removeprefix("Value error, ")
        value = fields[name.replace("-", "_")]
        raise LaunchError(f"--{name}: found {value!r}; {message}") from error


def _operations(text: str | None) -> tuple[str, ...]:
    from bench.results.comm import OPERATIONS

    if text is None:
        return OPERATIONS
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in OPERATIONS:
            raise LaunchError(f"--operations: found {name!r}", hint=nearest(name, OPERATIONS))
    return names


def _size(flag: str, text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    unit = None if match is None else _UNITS.get(match["unit"].lower())
    if match is None or unit is None:
        raise LaunchError(f"{flag}: found {text!r}, expected bytes, or a size like 64KiB, 1MiB or 2GiB")
    return int(int(match["number"]) * unit)


def _print(sweep: Found, path: Path, written: Path | None, as_json: bool, console: Console) -> None:
    from bench.comm import headline

    if as_json:
        files = {"record": str(path), "machine_file": None if written is None else str(written)}
        print(json.dumps({**sweep.as_json(), **files}))
        return
    from bench.printing import printable
    from reports import collectives

    for rows in (collectives.points_text(sweep.points), collectives.fits_text(sweep.fits)):
        if len(rows):
            titles = {str(title) for title in rows.columns}
            console.print(printable(rows, titles - {"operation", "place", "checked", "note"}, "operation", _PLAIN))
            console.print()
    console.print(f"{headline(sweep.record)}; record: {path}", markup=False, highlight=False)
    if written is not None:
        console.print(f"machine file: {written}", markup=False, highlight=False)
