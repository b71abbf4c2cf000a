"""Links of known rates between two hosts: what a step loses to communication is what its bytes take at that rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.analysis.arms import Seconds, block_times
from bench.results.metered import Arm
from bench.results.record import Record
from bench.results.store import read_records
from tests.command_line import ROOT, command, command_environment
from tests.netlab import Lab

pytestmark = pytest.mark.hosts

# A table that costs nothing to read makes one bucket of nearly all gradients, and it is ready last: nothing overlaps.
PACED = """
aa_pair: false
grids:
  - model: paced-nano
    model_options: {num_layers: 1, hidden_size: 64, max_seq_len: ROWS, forward_s: 0.05, backward_s: 0.05}
    seq_len: 256
    strategy: ddp
    world_size: 2
    placement: spread
    steps: 8
    max_warmup_steps: 3
    launches: 0
    attribution_launches: 1
    timeout_s: 180
"""


@pytest.mark.parametrize(("mbit_per_s", "rows"), [(400, 120_000), (100, 30_000)])
def test_exposed_communication_is_bytes_over_rate(lab: Lab, tmp_path: Path, mbit_per_s: float, rows: int) -> None:
    """A ring of two hosts sends each byte of the gradients once in each direction, both at the same time."""
    suite, results = tmp_path / "paced.yaml", tmp_path / "results"
    suite.write_text(PACED.replace("ROWS", str(rows)))
    for host in lab.names:
        lab.shape(host, mbit_per_s)
    words = (
        "run",
        suite,
        "--output",
        results,
        "--device",
        "cpu",
        "--hostfile",
        lab.hostfile(),
        "--no-report",
        "--no-reference",
    )
    done = lab.run("node-1", command(*words), environment=command_environment(), cwd=ROOT, timeout_s=200)
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = read_records(results)
    assert record.environment is not None and record.environment.num_nodes == 2
    attribution = record.ranks[0].attribution
    assert attribution is not None
    assert {line.operation for line in attribution.ledger} == {"all_reduce"}
    num_bytes = (
        sum(line.payload_bytes * line.count * len(line.steps) for line in attribution.ledger) / record.cell.steps
    )
    assert record.work is not None and num_bytes == 4 * record.work.num_params > 256 * rows
    # Medians: on a busy machine single steps of 30 MB took seconds, for a reason that was not found (nothing was dropped).
    full_s, local_s = (float(np.median(slowest_rank(record, arm))) for arm in ("full", "local"))
    assert full_s - local_s == pytest.approx(num_bytes * 8 / (mbit_per_s * 1e6), rel=0.1)


def slowest_rank(record: Record, arm: Arm) -> Seconds:
    """Seconds of every kept step of an arm, those of its slowest rank."""
    return np.concatenate([block.max(axis=0) for block in block_times(record, arm)])
