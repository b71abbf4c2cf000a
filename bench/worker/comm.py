"""The rank program of a sweep of collectives. Started by a launcher, once a rank, with the launch file of `scalebench comm`.

torchrun --nproc_per_node 2 --module bench.worker.comm --from-launch results/comm/launches/0123456789ab/launch.json
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.errors import ScalebenchError
from bench.results.comm import CommLaunch, read_comm_launch
from bench.worker.rank_process import announce, leave, leave_failed
from bench.worker.started import name_ranks_as_torch_does


def main() -> None:
    """Entry of a rank. Exits 2 for a bad command line, 1 after a failure, which it leaves in a file for who started it."""
    parser = argparse.ArgumentParser(prog="bench.worker.comm", description="One rank of a sweep of collectives.")
    told = parser.add_mutually_exclusive_group(required=True)
    told.add_argument("--from-launch", dest="launch", type=Path, help="launch file written by `scalebench comm`")
    told.add_argument("--launch-text", help="the same as one word, for ranks on other hosts")
    parser.add_argument("--local-rank", "--local_rank", type=int, help="given by the deepspeed launcher; not used")
    parsed = parser.parse_args()
    name_ranks_as_torch_does()
    try:
        if parsed.launch_text is not None:
            launch, folder = CommLaunch.read_told(parsed.launch_text)
        else:
            launch, folder = read_comm_launch(parsed.launch), parsed.launch.parent
    except ScalebenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    rank = int(os.environ["RANK"])
    announce(folder, rank)
    try:
        from bench.worker.comm_sweep import sweep

        sweep(launch, folder)
    except BaseException as error:
        leave_failed(folder, rank, error)
    leave(0)


if __name__ == "__main__":
    main()
