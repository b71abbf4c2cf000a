"""Two real ranks of DeepSpeed ZeRO-3: the weights, and the losses, are those of one process without it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.launch.launcher import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("zero3_rank.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("zero3") / "out.json"
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"),
            *("--master_addr=127.0.0.1", f"--master_port={free_port()}", str(PROGRAM), str(out)),
        ],
        env={
            **os.environ,
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # DeepSpeed calls ninja by name
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-4000:]
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("case", ["gpt", "gpt checkpointed", "paced", "seq2seq", "gpt bf16"])
def test_weights_built_under_zero_init_are_bit_identical(results: dict[str, Any], case: str) -> None:
    result = results[case]
    assert result["num_partitioned"] == result["num_parameters"]
    assert result["different"] == []
    assert result["num_params_agree"]


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [("gpt", 1e-5), ("gpt checkpointed", 1e-5), ("paced", 1e-5), ("seq2seq", 1e-5), ("gpt bf16", 0.02)],
)
def test_losses_are_those_of_one_process(results: dict[str, Any], case: str, tolerance: float) -> None:
    result = results[case]
    assert result["losses"] == pytest.approx(result["expected_losses"], abs=tolerance)
    assert result["losses"][-1] < result["losses"][0]
