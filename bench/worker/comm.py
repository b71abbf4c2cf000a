"""The rank program of a sweep of collectives. Started by a launcher, once a rank, with the launch file of `scalebench comm`.

torchrun --nproc_per_node 2 --module bench.worker.comm --from-launch results/comm/launches/0123456789ab/launch.json
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.errors import ScalebenchError
from bench.results.comm import read_comm_launch
from bench.worker.rank_process import announce, leave, leave_failed


def main() -> None:
    """Entry of a rank. Exits 2 for a bad command line, 1 after a failure, which it leaves in a file for who started it."""
    parser = argparse.ArgumentParser(prog="bench.worker.comm", description="One rank of a sweep of collectives.")
    parser.add_argument("--from-launch", dest="launch", type=Path, required=True, help="written by `scalebench comm`")
    parser.add_argument("--local-rank", "--local_rank", type=int, help="given by the deepspeed launcher; not used")
    path: Path = parser.parse_args().launch
    try:
        launch = read_comm_launch(path)
    except ScalebenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    rank = int(os.environ["RANK"])
    announce(path.parent, rank)
    try:
        from bench.worker.comm_sweep import sweep

        sweep(launch, path.parent)
    except BaseException as error:
        leave_failed(path.parent, rank, error)
    leave(0)


if __name__ == "__main__":
    main()
