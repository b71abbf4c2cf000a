"""Real launches of rank programs that are really broken, and real results that were really tampered with: each is found
invalid, with the reason, and the sound ones beside them are not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.examine import Findings, examine
from bench.results.record import RankRecord, Record
from bench.results.store import rank_path, read_records, read_sealed
from tests.command_line import ROOT, command, command_environment

pytestmark = pytest.mark.slow

SABOTAGE = Path(__file__).parent / "sabotage"

# By the cell's steps, which change nothing of the work: so every launch of gpt-nano is held to the same plain training.
BROKEN = {
    4: "skips_a_micro_batch",
    5: "other_data_on_rank_1",
    6: "not_a_number",
    7: "another_optimizer",
    8: "half_precision_of_one_rank",
    9: "elsewhere",
    10: "gradients_that_deepspeed_skips",
    11: "sleeps_half_as_long",
    12: "arms_without_sense",
    13: "ends_before_its_record",
    14: "no_meter",
}
SUITE = """
aa_pair: false
defaults:
  model: gpt-nano
  model_options: {hidden_size: 64, num_layers: 2, vocab_size: 512}
  seq_len: 32
  strategy: ddp
  world_size: 2
  grad_accum_steps: 2
  max_warmup_steps: 3
  timeout_s: 120
grids:
  - {steps: 3, attribution_launches: 1}
  - {steps: [4, 5, 6, 7, 8, 9, 13]}
  - {steps: 10, strategy: zero1}
  - {steps: 11, model: paced-nano, model_options: {forward_s: 0.01, backward_s: 0.01}, seq_len: 256, world_size: 1}
  - {steps: [12, 14], attribution_launches: 1}
"""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Sixteen launches, most of them broken."""
    folder = tmp_path_factory.mktemp("broken")
    suite, results = folder / "broken.yaml", folder / "results"
    suite.write_text(SUITE)
    environment = command_environment()
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(SABOTAGE)])
    environment["SCALEBENCH_SABOTAGE"] = json.dumps(BROKEN)
    run = ("run", suite, "--output", results, "--device", "cpu", "--launcher", "torchrun", "--no-report")
    done = subprocess.run(
        command(*run), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return examine(results)


def outcome(findings: Findings, steps: int, kind: str = "timing") -> tuple[str, str]:
    launches = findings.launches
    [row] = launches[(launches["steps"] == steps) & (launches["kind"] == kind)].to_dict("records")
    return str(row["outcome"]), str(row["reason"])


def test_sound_launches_pass_every_gate(findings: Findings) -> None:
    for steps, kind in ((3, "timing"), (3, "attribution"), (12, "timing")):
        assert outcome(findings, steps, kind)[0] == "ok", outcome(findings, steps, kind)


@pytest.mark.parametrize(
    ("steps", "reasons"),
    [
        (4, ["rank 0 trained on 32 tokens in warm-up step 0, expected 64", "losses leave those of equal work: step 0"]),
        (5, ["losses leave those of equal work: step 0", "plain training has"]),
        (6, ["gradient norm of rank 1 in warm-up step 2 is nan", "loss of step 3 is nan", "replicas differ by inf"]),
        (
            7,
            [
                "rank 0 updated its parameters 2 times in warm-up step 0, expected once",
                "optimizer of rank 1 is AdamW(learning_rate=0.0006, weight_decay=0.01, betas=[0.9, 0.999], eps=1e-08), "
                "expected learning_rate 0.0003",
                "replicas differ by",
                "losses leave those of equal work",
            ],
        ),
        (8, ["parameters of rank 0 are bfloat16, expected float32", "records of 1 ranks, expected world_size 2"]),
        (
            9,
            [
                "rank 1 is of launch 0123456789ab, expected",
                "rank 0 ran with 2 threads, expected 1",
                "8 steps in the window (num_timed_steps), expected 9",
            ],
        ),
        (
            10,
            [
                "rank 0 skipped 1 optimizer steps in warm-up, expected none in fp32",
                "1 optimizer steps were skipped inside the window",
            ],
        ),
        (11, ["impossible: step 0 of rank 0 took", "expected at least the 0.24 s that the model sleeps"]),
    ],
    ids=lambda value: BROKEN[value] if isinstance(value, int) else "",
)
def test_a_broken_launch_is_invalid_with_its_reasons(findings: Findings, steps: int, reasons: list[str]) -> None:
    found, reason = outcome(findings, steps)
    assert found == "invalid"
    for words in reasons:
        assert words in reason
    assert "\n" not in reason


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a rank can't be confined to fewer than one core")
def test_a_rank_confined_to_one_core_is_invalid(findings: Findings) -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert f"rank 1 may use cores {cores[0]}, expected {','.join(map(str, cores))}" in outcome(findings, 9)[1]


def test_arms_that_leave_no_sense_behind_are_invalid(findings: Findings) -> None:
    found, reason = outcome(findings, 12, "attribution")
    assert found == "invalid"
    assert "a loss of rank 0 is not finite in the arms" in reason


def test_no_broken_launch_has_a_figure(findings: Findings) -> None:
    scaling = findings.scaling.set_index("steps")
    broken = scaling.loc[[steps for steps in BROKEN if steps < 12]]
    assert broken["tokens_per_s"].isna().all() and set(broken["outcome"]) == {"invalid"}
    assert scaling.loc[[3, 12], "tokens_per_s"].notna().all()


def test_what_ranks_measured_is_not_lost_with_the_record(findings: Findings) -> None:
    assert outcome(findings, 13)[0] == "crashed"
    [record] = [r for r in read_records(findings.folder) if r.cell.steps == 13]
    assert record.ranks == []
    for number in range(2):
        path = rank_path(findings.folder / record.cell.id / record.launch_id, number)
        rank = read_sealed(path, "rank", RankRecord, "")
        assert (rank.rank, rank.launch_id, len(rank.step_times_s)) == (number, record.launch_id, 13)
        assert rank.witnessed is not None and rank.witnessed.tokens[-1] == 64


def sound(folder: Path) -> Record:
    [record] = [r for r in read_records(folder) if r.cell.steps == 3 and r.kind == "timing"]
    return record


@pytest.fixture
def copied(findings: Findings, tmp_path: Path) -> Path:
    return Path(shutil.copytree(findings.folder, tmp_path / "results"))


def reason_after(folder: Path, launch_folder: Path) -> str:
    launches = examine(folder).launches
    [row] = launches[(launches["steps"] == 3) & (launches["outcome"] == "invalid")].to_dict("records")
    assert launch_folder.name in str(row["reason"]) or row["launch_id"] == launch_folder.name
    return str(row["reason"])


@pytest.mark.parametrize("what", ["removed", "of another launch", "edited"])
def test_a_rank_file_that_is_not_there_or_another_is_found(copied: Path, what: str) -> None:
    record = sound(copied)
    folder = copied / record.cell.id / record.launch_id
    path = folder / "rank_1.json"
    if what == "removed":
        path.unlink()
        assert reason_after(copied, folder) == "the file of rank 1 is missing (rank_1.json)"
    elif what == "of another launch":
        [other] = (r for r in read_records(copied) if r.cell.steps == 12 and r.kind == "timing")
        shutil.copy(copied / other.cell.id / other.launch_id / "rank_1.json", path)
        assert f"not what rank 1 measured in this launch (it is of launch {other.launch_id})" in reason_after(
            copied, folder
        )
    else:
        path.write_text(path.read_text().replace('"threads":1', '"threads":2'))
        assert "the file of rank 1 was changed after it was written" in reason_after(copied, folder)


def test_a_record_of_another_run_is_found(copied: Path) -> None:
    """A record put into the folder of another launch, and a launch's folder copied as if it were a second launch."""
    record = sound(copied)
    folder = copied / record.cell.id / record.launch_id
    [other] = (r for r in read_records(copied) if r.cell.steps == 4)
    there = copied / other.cell.id / other.launch_id
    shutil.copy(folder / "record.json", there / "record.json")
    shutil.copytree(folder, folder.with_name("feedfeedfeed"))
    launches = examine(copied).launches
    strays = launches[(launches["steps"] == 3) & (launches["kind"] == "timing")]
    assert sorted(strays["outcome"]) == ["invalid", "invalid", "ok"]
    for name in ("feedfeedfeed", other.launch_id):
        assert strays["reason"].str.contains(f"a record of another run: .*{name}").sum() == 1


def test_a_timing_launch_carries_no_meter(findings: Findings) -> None:
    assert outcome(findings, 14)[0] == "ok"
    found, reason = outcome(findings, 14, "attribution")
    # Both ranks raise it, and either may be first.
    assert (found, reason.removeprefix("rank 0").removeprefix("rank 1")) == (
        "crashed",
        ": AssertionError: this launch carries a meter",
    )
