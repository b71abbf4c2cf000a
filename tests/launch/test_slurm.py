"""Slurm: the script that is submitted, and real ranks that it starts through stand-ins for Slurm's programs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench.errors import LaunchError
from bench.launch.machine import Machine
from bench.launch.slurm import Slurm, job_script
from bench.plan.cell import Cell
from bench.results.launch_file import Launch
from bench.results.store import read_records
from tests.command_line import ROOT, Scalebench, command, command_environment
from tests.launch.slurm_programs import write_programs

CELL = Cell(model="paced-nano", strategy="ddp", world_size=4)
LAUNCH = Launch(
    launch_id="0123456789ab",
    cell=CELL,
    started_at="now",
    launcher="slurm",
    timeout_s=90,
    hosts={"a": [0, 1], "b": [0, 1]},
    port=1234,
)
PLANTED = "$(touch planted) `touch planted`; touch planted '\" \\"

SUITE = """
aa_pair: false
defaults: {strategy: ddp, world_size: 2, max_warmup_steps: 3}
grids:
  - {model: paced-nano, model_options: {num_layers: 1, forward_s: 0.01, backward_s: 0.02}, steps: 3, timeout_s: 150}
  - {model: paced-nano, model_options: {num_layers: 1, forward_s: 1.0, backward_s: 2.0}, steps: 90, timeout_s: 12}
"""


def test_the_script_asks_for_the_hosts_and_starts_the_ranks(tmp_path: Path) -> None:
    script = job_script(LAUNCH, tmp_path, Machine("cuda", 8, ("GPU",) * 8))
    options = {line for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=2", "#SBATCH --nodelist=a,b"} <= options
    assert {"#SBATCH --gpus-per-node=2", "#SBATCH --time=4", "#SBATCH --job-name=scalebench-0123456789ab"} <= options
    assert "timeout --kill-after=15 90 srun " in script and "--ntasks=4 --ntasks-per-node=2" in script
    assert "export MASTER_ADDR MASTER_PORT=1234\n" in script
    assert "--gpus-per-node" not in job_script(LAUNCH, tmp_path, Machine("cpu", 8))
    with pytest.raises(LaunchError, match="blanks"):
        job_script(LAUNCH, tmp_path / "a b", Machine("cpu", 8))
    own = Slurm(Machine("cpu", 8), "--partition=gpu --comment 'two words'").command(LAUNCH, tmp_path)
    assert own[:6] == ["sbatch", "--wait", "--parsable", "--partition=gpu", "--comment", "two words"]
    with pytest.raises(LaunchError, match="--launcher-args"):
        Slurm(Machine("cpu", 8), "'").command(LAUNCH, tmp_path)


def test_no_variable_is_executed_by_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script is run by bash, without the ranks: each variable arrives as it is."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", PLANTED)
    monkeypatch.chdir(tmp_path)
    script, _, _ = job_script(LAUNCH, tmp_path, Machine("cpu", 8)).partition("MASTER_ADDR=")
    script += 'printf %s "$GLOO_SOCKET_IFNAME"\n'
    environment = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == PLANTED and not (tmp_path / "planted").exists()


def test_a_dry_run_prints_the_script(tmp_path: Path, scalebench: Scalebench) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=2\nb slots=2\n")
    arguments = ("quick", "--launcher", "slurm", "--dry-run", "--hostfile", hosts, "--placement", "spread")
    done = scalebench("run", *arguments)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodelist=a,b" in done.stdout and "sbatch --wait --parsable" in done.stdout
    plan = json.loads(scalebench("run", *arguments, "--json").stdout)
    assert any("#SBATCH --ntasks-per-node=2" in (entry["script"] or "") for entry in plan)


@pytest.mark.slow
def test_ranks_that_srun_starts_do_the_job_and_a_late_one_is_a_timeout(tmp_path: Path) -> None:
    (programs := tmp_path / "bin").mkdir()
    write_programs(programs)
    suite, hosts, results = tmp_path / "suite.yaml", tmp_path / "hosts", tmp_path / "results"
    suite.write_text(SUITE)
    hosts.write_text("localhost slots=2\n")
    environment = command_environment()
    environment["PATH"] = os.pathsep.join([str(programs), environment["PATH"]])
    arguments = ("--output", results, "--hostfile", hosts, "--launcher", "slurm", "--no-report", "--no-reference")
    done = subprocess.run(
        command("run", suite, *arguments),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    fast, slow = sorted(read_records(results), key=lambda record: record.cell.steps)
    assert fast.outcome == "ok" and fast.launcher == "slurm" and fast.command[:3] == ["sbatch", "--wait", "--parsable"]
    assert [rank.local_rank for rank in fast.ranks] == [0, 1] and fast.environment is not None
    assert slow.outcome == "timeout" and slow.reason == "still running after 12 s, ended"
    assert f"--name=scalebench-{slow.launch_id}" in (programs / "cancelled").read_text()
