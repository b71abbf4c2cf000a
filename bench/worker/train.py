"""The rank program: trains one cell and measures it. Started by a launcher, once a rank, or by hand.

    deepspeed --num_gpus 8 --module bench.worker.train --model gpt2-small --deepspeed_config ds_configs/zero2.json

This module reads the command line and holds what goes wrong; bench.worker.rank, imported once the time is taken, measures.
"""

from __future__ import annotations

import time

_ENTERED_S = time.monotonic()

import argparse  # noqa: E402
import datetime  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import uuid  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from pydantic import ValidationError  # noqa: E402

from bench.errors import ScalebenchError, SuiteError  # noqa: E402
from bench.plan.cell import Cell  # noqa: E402
from bench.plan.corpus_files import check_workload  # noqa: E402
from bench.plan.deepspeed_config import check_deepspeed_config, fill_from_config  # noqa: E402
from bench.results.launch_file import Launch, read_launch  # noqa: E402
from bench.worker.guard import guard  # noqa: E402
from bench.worker.rank_process import announce, leave, leave_failed  # noqa: E402
from bench.worker.started import name_ranks_as_torch_does  # noqa: E402

BY_HAND = Path("results") / "by-hand"

ALARM_S = 60
"""Beyond its cell's time-out, after which a rank on several hosts ends in any case."""

_BOOLEAN = {"true": True, "false": False}


def parse_arguments(arguments: list[str], world_size: int) -> tuple[Launch, Path | None, Path]:
    """The launch that the command line asks for, the folder that a sweep made for it (None by hand), and the
    folder for results. Raises SuiteError or ConfigError for a cell that can't be."""
    parser = argparse.ArgumentParser(
        prog="bench.worker.train",
        description="Trains one cell and writes its record. Flags may be written with - or _.",
        epilog="example: deepspeed --num_gpus 8 --module bench.worker.train --model gpt2-small "
        "--deepspeed_config ds_configs/zero2.json",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--from-launch",
        dest="launch",
        type=Path,
        help="launch file written by `scalebench run`; excludes all other flags",
    )
    parser.add_argument(
        "--launch-text", help="the same as one word, for ranks on other hosts; excludes all other flags"
    )
    parser.add_argument("--output", type=Path, default=BY_HAND, help="folder for results (default: %(default)s)")
    parser.add_argument("--local-rank", "--local_rank", type=int, help="given by the deepspeed launcher; not used")
    for name, field in Cell.model_fields.items():
        if name == "world_size":
            continue
        flags = sorted({f"--{name}", f"--{name.replace('_', '-')}"})
        default = "" if field.is_required() or field.default is None else f" (default: {field.default})"
        parser.add_argument(*flags, dest=name, help=f"{name} of the cell{default}", default=argparse.SUPPRESS)
    parsed = vars(parser.parse_args(arguments))
    output, launch_path, launch_text = parsed.pop("output"), parsed.pop("launch"), parsed.pop("launch_text")
    parsed.pop("local_rank")
    if launch_text is not None:
        return *Launch.read_told(launch_text), output
    if launch_path is not None:
        return read_launch(launch_path), launch_path.parent, output
    fields = {name: _value(name, text) for name, text in parsed.items()}
    fields = {"strategy": "ddp", **fields} if "deepspeed_config" not in fields else fields
    try:
        cell = Cell(**{**fill_from_config(fields), "world_size": world_size})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "cell"
        found = "missing" if first["type"] == "missing" else f"found {first['input']!r}; {first['msg']}"
        raise SuiteError(f"--{name}: {found}", hint="see --help") from error
    check_deepspeed_config(cell)
    check_workload(cell)
    launch = Launch(
        launch_id=uuid.uuid4().hex[:12],
        cell=cell,
        started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        launcher="by-hand",
        command=sys.argv,
    )
    return launch, None, output


def _value(name: str, text: str) -> Any:
    """A flag's text as the type of the cell's field."""
    if name in ("model_options", "strategy_options"):
        pairs = (pair.partition("=") for pair in text.split(","))
        return {key: _BOOLEAN.get(value, _number(value)) for key, _, value in pairs}
    if name == "mixture":
        try:
            return json.loads(text)
        except ValueError:
            return text
    annotation = str(Cell.model_fields[name].annotation)
    if "bool" in annotation:
        return _BOOLEAN.get(text.lower(), text)
    return _number(text) if "int" in annotation or "float" in annotation else text


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main() -> None:
    """Entry of a rank. Exits 2 for a bad command line, 1 after a failure, which it leaves in a file for the sweep."""
    name_ranks_as_torch_does()
    rank = int(os.environ["RANK"])
    try:
        launch, folder, output = parse_arguments(sys.argv[1:], int(os.environ["WORLD_SIZE"]))
    except ScalebenchError as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if launch.hosts:
        # Where nobody can end this rank any more, because its host is cut off, the kernel does.
        signal.alarm(int(launch.timeout_s) + ALARM_S)
    if launch.cell.own_pace and rank < launch.cell.num_workers:
        guard()
    if folder is not None:
        announce(folder, rank)
    try:
        from bench.worker.rank import Interval, measure

        imported_s = time.monotonic()
        started_s = launch.started_monotonic_s
        measure(
            launch,
            folder,
            output,
            Interval(
                start_s=None if started_s is None or not _same_clock(launch) else _ENTERED_S - started_s,
                import_s=imported_s - _ENTERED_S,
            ),
        )
    except BaseException as error:
        leave_failed(folder, rank, error)
    leave(0)


def _same_clock(launch: Launch) -> bool:
    """Whether the launcher's monotonic clock is this host's: its host is this, its start not in the future nor a day past."""
    same_host = not launch.hosts or launch.hostname == socket.gethostname()
    return same_host and 0 <= _ENTERED_S - (launch.started_monotonic_s or 0.0) < 86_400


if __name__ == "__main__":
    main()
