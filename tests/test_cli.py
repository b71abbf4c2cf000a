"""The command as a user types it: plans, and errors of one line with exit 2."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from bench.plan.suite import load_suite
from tests import synthetic
from tests.command_line import Scalebench


def test_dry_run_prints_exact_commands_and_runs_nothing(tmp_path: Path, scalebench: Scalebench) -> None:
    output = tmp_path / "out"
    done = scalebench("run", "quick", "--dry-run", "--json", "--device", "cpu", "--output", output)
    assert done.returncode == 0 and not output.exists()
    plan = json.loads(done.stdout)
    assert len(plan) == 30 and all(entry["outcome"] is None for entry in plan)
    [twin] = [entry for entry in plan if entry["twin"]]
    assert twin["kind"] == "timing" and sum(entry["cell"] == twin["cell"] for entry in plan) == 3
    for entry in plan:
        words = shlex.split(entry["command"])
        assert words[0].endswith("deepspeed") or words[1:3] == ["-m", "deepspeed.launcher.runner"]
        assert words[words.index("--module") + 1] == "bench.worker.train"
        assert words[words.index("--num_gpus") + 1] in entry["cell"].split("_w")[1].split("_")[0]


def test_launches_of_every_timed_cell_can_be_asked_for(scalebench: Scalebench) -> None:
    run = ("run", "quick", "--dry-run", "--device", "cpu")
    plan = json.loads(scalebench(*run, "--json", "--launches", "2").stdout)
    # 23 cells and the twin twice, the attribution launches as the suite says.
    assert len(plan) == 2 * (23 + 1) + 6
    shown = scalebench(*run, "--launches", "auto", "--target-interval", "0.05", "--budget-minutes", "7").stdout
    assert "126 launches, then more by need (to 5 %, at most 7 min), 0 cells skipped" in shown


def test_dry_run_shows_plain_training_unless_it_is_not_wanted(tmp_path: Path, scalebench: Scalebench) -> None:
    run = ("run", "quick", "--dry-run", "--device", "cpu", "--output", tmp_path / "out")
    shown = scalebench(*run).stdout
    assert shown.count(" (A/A twin)\n") == 1
    # Global batches of 4, 8 and 32 sequences of gpt-nano, of 1, 2, 4 and 8 of the paced model.
    assert "plain training of 7 global batches" in shown
    assert f"-m bench.worker.reference {tmp_path / 'out'}" in shown
    assert "plain training" not in scalebench(*run, "--no-reference").stdout


def test_cells_that_cannot_run_here_are_skipped_with_the_reason(scalebench: Scalebench) -> None:
    done = scalebench("run", "v100-8", "--dry-run", "--json", "--device", "cpu")
    plan = json.loads(done.stdout)
    assert len(plan) == 480 and {entry["outcome"] for entry in plan} == {"skipped"}
    assert all("fp16 is refused on CPU" in entry["reason"] for entry in plan)
    done = scalebench("run", "quick", "--dry-run", "--json", "--device", "cpu", "--slots", "2")
    skipped = [entry for entry in json.loads(done.stdout) if entry["outcome"] == "skipped"]
    assert len(skipped) == 4
    assert all("there are 2" in entry["reason"] for entry in skipped)


def test_a_run_of_which_nothing_can_be_launched_fails_and_says_so(tmp_path: Path, scalebench: Scalebench) -> None:
    suite = tmp_path / "half.yaml"
    suite.write_text("grids:\n  - {model: gpt-nano, strategy: [ddp, zero1], world_size: 1, precision: fp16}")
    done = scalebench("run", suite, "--device", "cpu", "--output", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "every cell was skipped" in done.stderr
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "fp16 is refused on CPU" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "qick"], "did you mean 'quick'"),
        (["run", "absent.yaml"], "neither a file nor a shipped suite"),
        (["run", "quick", "--launcher", "slurmm"], "--launcher: found 'slurmm'"),
        (["run", "quick", "--device", "tpu"], "--device: found 'tpu'"),
        (["run", "quick", "--device", "cuda"], "--device cuda"),
        (["run", "quick", "--hostfile", "absent", "--dry-run"], "cannot read hostfile absent"),
        (
            ["run", "quick", "--launches", "many"],
            "--launches: found 'many', expected a whole number from 1 to 1000, or auto",
        ),
        (["run", "quick", "--launches", "0"], "--launches: found '0'"),
        (
            ["run", "quick", "--launches", "auto", "--target-interval", "0"],
            "--target-interval: found 0.0, expected a number",
        ),
        (
            ["run", "quick", "--launches", "auto", "--budget-minutes", "nan"],
            "--budget-minutes: found nan, expected a number",
        ),
        (["run", "quick", "--budget-minutes", "5"], "no cell of quick has `launches: auto`; add --launches auto"),
        (["run", "quick", "--node-rank", "1", "--dry-run"], "--node-rank: found no --hostfile, which it needs"),
        (
            ["run", "quick", "--hostfile", "hostfile", "--master-addr", "a b;", "--dry-run"],
            "--master-addr: found 'a b;', expected a host's name or address",
        ),
        (["train", "markof"], "no training 'markof': neither a file nor a shipped training; did you mean 'markov'"),
        (["train", "markov", "--log", "tensorbored"], "--log: found 'tensorbored'; did you mean 'tensorboard'"),
        (["evaluate", "absent"], "absent is no checkpoint"),
        (["generate", "absent", "--prompt", "a"], "absent is no checkpoint"),
        (["doctor", "--suite", "qick"], "did you mean 'quick'"),
        (["comm", "--operations", "allreduce"], "--operations: found 'allreduce'; did you mean 'all_reduce'"),
        (["comm", "--placement", "wide"], "--placement: found 'wide'; allowed: pack, spread"),
        (["report", "absent"], "absent is not a folder"),
        (["run", "--nonsense"], "nonsense"),
        (["rum"], "rum"),
    ],
)
def test_bad_input_exits_2(scalebench: Scalebench, arguments: list[str], words: str) -> None:
    done = scalebench(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_training_is_never_quietly_put_on_this_host_instead_of_others(tmp_path: Path, scalebench: Scalebench) -> None:
    (tmp_path / "nodes").write_text("node1 slots=2\nnode2 slots=2\n")
    done = scalebench("train", "markov", "--hostfile", tmp_path / "nodes", "--output", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "--hostfile: found node1, node2, expected this host alone: training runs on one host" in done.stderr


def test_nothing_of_a_suite_reaches_a_shell(tmp_path: Path, scalebench: Scalebench) -> None:
    evil = "$(touch pwned);`touch pwned`"
    folder = tmp_path / evil.replace("/", "")
    folder.mkdir()
    suite = folder / "evil.yaml"
    suite.write_text(
        f"description: '{evil}'\ngrids:\n  - {{model: 'hf:{evil}', strategy: ddp, world_size: 1, seq_len: 8, timeout_s: 60}}"
    )
    done = scalebench("run", suite, "--device", "cpu", "--output", folder / "out", cwd=Path(__file__).parents[1])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "crashed" in done.stderr
    assert not list(tmp_path.rglob("pwned")) and not (Path(__file__).parents[1] / "pwned").exists()


def test_help_has_examples(scalebench: Scalebench) -> None:
    for verb in ("run", "report", "compare"):
        done = scalebench(verb, "--help")
        assert done.returncode == 0 and f"Example: scalebench {verb}" in " ".join(done.stdout.split())


def test_a_broken_record_is_named_by_every_verb_that_reads_it(tmp_path: Path, scalebench: Scalebench) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("name: mine\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}")
    folder = synthetic.write(
        tmp_path / "results", [synthetic.launch(planned.cell) for planned in load_suite(str(suite)).cells]
    )
    (folder / "suite.json").write_text('{"schema_version": 1, "suite": "mine", "device_type": "cpu"}')
    run = ("run", suite, "--output", folder, "--device", "cpu", "--json", "--no-reference")
    whole = scalebench(*run)
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["launches"][0]["outcome"] == "ok"
    [record] = folder.glob("*/*/record.json")
    record.write_bytes(record.read_bytes()[:-100])
    for arguments in (("report", folder), run):
        done = scalebench(*arguments)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
        assert f"{record} is not a whole JSON file" in done.stderr
