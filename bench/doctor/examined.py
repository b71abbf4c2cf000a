"""Reads this host and prints what it read, as one JSON object. Runs on every host: python -m bench.doctor.examined."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.doctor.reading import Reading
from bench.doctor.reads.gpus import gpus
from bench.doctor.reads.machine import machine
from bench.doctor.reads.network import network
from bench.doctor.reads.software import software
from bench.doctor.reads.variables import variables


def examined(host: str, folder: Path, names: list[str]) -> Reading:
    """The reading of this host. `host`: what it is called in the hostfile; `folder`: where results would go; `names`: hosts of
    which to ask what they resolve to here."""
    started_at_s = time.time()
    with ThreadPoolExecutor(4) as pool:
        parts = (pool.submit(software), pool.submit(gpus), pool.submit(machine, folder), pool.submit(network, names))
        have = (parts[0].result(), parts[1].result(), parts[2].result(), parts[3].result())
    return Reading(host, started_at_s, time.time(), *have, variables())


def main() -> None:
    """Print the reading; nothing else goes to stdout."""
    parser = argparse.ArgumentParser(prog="python -m bench.doctor.examined", description=__doc__)
    parser.add_argument("--host", default="")
    parser.add_argument("--folder", type=Path, default=Path("results"))
    parser.add_argument("--resolve", default="", help="names of hosts, separated by commas")
    given = parser.parse_args()
    names = [name for name in given.resolve.split(",") if name]
    print(json.dumps(dataclasses.asdict(examined(given.host, given.folder, names))))
    sys.stdout.flush()
    # A name server that hangs must not keep its thread, and so this process, alive.
    os._exit(0)


if __name__ == "__main__":
    main()
