"""Small collectives, one after the other, of ranks that do nothing else: what a call costs on a host, for tests/sync_links.py."""

from __future__ import annotations

import statistics
import time

NUM_BYTES, NUM_CALLS = 4096, 500


def small_all_reduce_s() -> float:
    """Median seconds of an all-reduce of NUM_BYTES. To be forked (tests/forked.py)."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    array, times_s = torch.zeros(NUM_BYTES // 4), []
    for _ in range(NUM_CALLS):
        begun_s = time.perf_counter()
        dist.all_reduce(array)
        times_s.append(time.perf_counter() - begun_s)
    dist.barrier()
    dist.destroy_process_group()
    # Connections are made in the first calls.
    return statistics.median(times_s[NUM_CALLS // 5 :])
