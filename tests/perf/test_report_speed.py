"""How long a report over a thousand launches takes, and how much memory: at most 15 s and 1 GiB on two cores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import synthetic

MAX_RESIDENT_BYTES = 2**30

# The parent's own peak and each drawing process's, as if no page were shared: more than is really resident.
_REPORT = """
import json, os, resource, sys
from pathlib import Path
from bench.examine import examine
from bench.publish import publish
publish(examine(Path(sys.argv[1])))
# Not this process's ru_maxrss: that holds the peak of the process it was started from.
status = Path("/proc/self/status").read_text().split()
own = int(status[status.index("VmHWM:") + 1]) * 1024
drawing = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"own_bytes": own, "resident_bytes": own + drawing * min(4, os.cpu_count() or 1)}))
"""


@pytest.fixture(scope="module")
def thousand_launches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than asked for: over 1,000 launches of 8 ranks x 100 steps, beside the reference suite's smaller world sizes."""
    one_each = synthetic.reference(steps=100)
    eight = [record for record in one_each if record.cell.world_size == 8]
    records = one_each + [
        record.model_copy(update={"launch_id": f"again-{number}-{record.launch_id}"})
        for number in range(9)
        for record in eight
        if record.outcome == "ok"
    ]
    assert sum(len(record.ranks) == 8 and len(record.ranks[0].step_times_s) == 100 for record in records) >= 1000
    return synthetic.write_fast(tmp_path_factory.mktemp("thousand"), records)


@pytest.mark.slow
def test_report_over_a_thousand_launches(benchmark: Any, thousand_launches: Path) -> None:
    def report() -> str:
        command = [sys.executable, "-c", _REPORT, str(thousand_launches)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        return done.stdout

    output = benchmark.pedantic(report, rounds=3, iterations=1, warmup_rounds=0)
    resident = json.loads(output)
    benchmark.extra_info.update(resident)
    assert resident["resident_bytes"] <= MAX_RESIDENT_BYTES
