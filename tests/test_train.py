"""scalebench train, evaluate and generate as a user runs them: real ranks by the deepspeed launcher, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.results.store import read_records
from tests.command_line import Scalebench

pytestmark = pytest.mark.slow

TRAINING = """
model: gpt-nano
model_options: {{hidden_size: 32, num_layers: 2, num_heads: 2, vocab_size: 300}}
strategy: zero2
world_size: 2
micro_batch_size: 8
seq_len: 32
corpus: "path:{folder}/text.txt"
documents: line
tokenizer: char
batching: padded
learning_rate: 0.02
max_steps: {max_steps}
evaluate_every: 10
checkpoint_every: 20
evaluation_sequences: 32
timeout_s: 240
"""


def test_train_go_on_evaluate_and_generate(scalebench: Scalebench, tmp_path: Path) -> None:
    """Lines that all begin alike: what follows what is soon known."""
    (tmp_path / "text.txt").write_text(
        "\n".join(f"the train of {number} leaves at {number % 7}" for number in range(600))
    )
    file, output = tmp_path / "mine.yaml", tmp_path / "output"
    file.write_text(TRAINING.format(folder=tmp_path, max_steps=20))
    arguments = ("train", file, "--output", output, "--device", "cpu")
    first = scalebench(*arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "step      0 of 20" in first.stdout and "bits/byte" in first.stdout and "max_steps are taken" in first.stdout
    refused = scalebench(*arguments)
    assert refused.returncode == 2 and "has a checkpoint of step 20; add --resume" in refused.stderr

    file.write_text(TRAINING.format(folder=tmp_path, max_steps=60) + "target_loss: 0.05\n")
    resumed = scalebench(*arguments, "--resume", "--json")
    # The target is missed, which is told by the status.
    assert resumed.returncode == 1, resumed.stdout + resumed.stderr
    found = json.loads(resumed.stdout)
    assert (found["steps"], found["target_reached"], found["stopped"]) == (60, False, "max_steps")
    records = read_records(output)
    assert {record.outcome for record in records} == {"ok"}
    [last] = [record.training for record in records if record.training is not None and record.training.first_step == 20]
    assert [one.step for one in last.evaluations] == [0, 10, 20, 30, 40, 50, 60]
    assert last.evaluations[-1].loss < last.evaluations[2].loss < last.evaluations[0].loss
    assert [path.name for path in sorted((output / "checkpoints").iterdir())] == ["step_00000040", "step_00000060"]

    judged = scalebench("evaluate", output, "--split", "validation", "--json", "--device", "cpu")
    assert judged.returncode == 0, judged.stderr
    score = json.loads(judged.stdout)
    assert score["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=0.2) and not score["corpus_changed"]

    written = [
        scalebench("generate", output, "--prompt", "the tr", "--max-tokens", "12", "--device", "cpu") for _ in range(2)
    ]
    assert written[0].stdout == written[1].stdout and written[0].stdout.startswith("the train of"), written[0].stderr

    probe = tmp_path / "probe.csv"
    probe.write_text("prompt,label\n" + "the train of 5 l,e\nthe train of 77 leaves a,t\nthe train o,f\nthe t,f\n")
    told = scalebench("evaluate", output, "--labels", probe, "--json", "--device", "cpu")
    assert told.returncode == 0, told.stderr
    answers = json.loads(told.stdout)
    assert answers["predicted"][2] == "f" and answers["confusion"]["f"]["f"] == 1
    assert sum(label["number"] for label in answers["labels"]) == 4
