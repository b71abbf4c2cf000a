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
import socket  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
import uuid  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Literal  # noqa: E402

from pydantic import ValidationError  # noqa: E402

from bench.errors import ScalebenchError, SuiteError  # noqa: E402
from bench.plan.cell import Cell  # noqa: E402
from bench.plan.corpus_files import check_workload  # noqa: E402
from bench.plan.deepspeed_config import check_deepspeed_config, fill_from_config  # noqa: E402
from bench.results.launch_file import Failure, Launch, failure_path, log_path, process_path, read_launch  # noqa: E402
from bench.results.store import write_atomically  # noqa: E402
from bench.worker.guard import guard  # noqa: E402

BY_HAND = Path("results") / "by-hand"

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
    parser.add_argument("--output", type=Path, default=BY_HAND, help="folder for results (default: %(default)s)")
    parser.add_argument("--local-rank", "--local_rank", type=int, help="given by the deepspeed launcher; not used")
    for name, field in Cell.model_fields.items():
        if name == "world_size":
            continue
        flags = sorted({f"--{name}", f"--{name.replace('_', '-')}"})
        default = "" if field.is_required() or field.default is None else f" (default: {field.default})"
        parser.add_argument(*flags, dest=name, help=f"{name} of the cell{default}", default=argparse.SUPPRESS)
    parsed = vars(parser.parse_args(arguments))
    output, launch_path = parsed.pop("output"), parsed.pop("launch")
    parsed.pop("local_rank")
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


def _redirect_output(path: Path) -> None:
    """Send this process's output to its own file, below Python too: C++ aborts print there as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def main() -> None:
    """Entry of a rank. Exits 2 for a bad command line, 1 after a failure, which it leaves in a file for the sweep."""
    # A launcher sets these; without one this is the only rank.
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    rank = int(os.environ["RANK"])
    try:
        launch, folder, output = parse_arguments(sys.argv[1:], int(os.environ["WORLD_SIZE"]))
    except ScalebenchError as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if launch.cell.own_pace and rank < launch.cell.num_workers:
        guard()
    if folder is not None:
        _redirect_output(log_path(folder, rank))
        write_atomically(process_path(folder, rank), f"{socket.gethostname()} {os.getpid()}")
    try:
        from bench.worker.rank import Interval, measure

        imported_s = time.monotonic()
        started_s = launch.started_monotonic_s
        measure(
            launch,
            folder,
            output,
            Interval(
                start_s=None if started_s is None or not _same_clock(started_s) else _ENTERED_S - started_s,
                import_s=imported_s - _ENTERED_S,
            ),
        )
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, Exception) and folder is not None:
            _leave_failure(folder, rank, error)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: with peers gone, tearing down the process group in order can hang or abort.
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written and the process group is gone; taking torch apart would cost each rank 0.7 s of CPU.
    os._exit(0)


def _same_clock(started_s: float) -> bool:
    """Whether the launcher's monotonic clock can be this host's: not in its future, nor a day in its past."""
    return 0 <= _ENTERED_S - started_s < 86_400


def _leave_failure(folder: Path, rank: int, error: Exception) -> None:
    from bench.worker.finite import NotFinite
    from bench.worker.meter.memory import ran_out_of_memory

    outcome: Literal["oom", "crashed", "invalid"] = "invalid" if isinstance(error, NotFinite) else "crashed"
    failure = Failure(
        rank=rank,
        hostname=socket.gethostname(),
        outcome="oom" if ran_out_of_memory(error) else outcome,
        message=f"{type(error).__name__}: {error}"[:2000],
    )
    try:
        write_atomically(failure_path(folder, rank), failure.model_dump_json())
    except ScalebenchError as unwritten:
        print(f"rank {rank} could not leave its failure in a file: {unwritten}", file=sys.stderr)


if __name__ == "__main__":
    main()
