"""An encoder-decoder that was trained to reverse, asked for answers from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.errors import CheckpointError
from bench.plan.cell import Cell
from bench.results.checkpoint import FOLDER_NAME, checkpoints
from bench.results.training import Keeping
from bench.worker.generate import generated
from bench.worker.sampling import translate
from models.seq2seq import Seq2Seq
from tests import forked

CPU = torch.device("cpu")
GREEDY = {"max_tokens": 64, "temperature": 0.0, "top_k": None, "top_p": None, "seed": 0}


def test_it_answers_what_it_was_trained_to_answer(tmp_path: Path) -> None:
    cell = Cell(
        model="seq2seq-nano",
        model_options={"hidden_size": 32, "num_layers": 1, "num_heads": 4, "vocab_size": 8, "initialization": "xavier"},
        strategy="ddp",
        world_size=2,
        micro_batch_size=16,
        seq_len=6,
        corpus="reverse",
        batching="padded",
        median_len=5,
        length_spread=0.4,
        learning_rate=1e-2,
        schedule="cosine",
        schedule_steps=300,
        schedule_warmup_steps=20,
        max_steps=300,
        evaluate_every=300,
    )
    record = forked.train(cell, folder=tmp_path / "out", keeping=Keeping(folder=str(tmp_path)))
    assert record.training is not None and record.training.evaluations[-1].loss < 0.1
    [checkpoint] = checkpoints(tmp_path / FOLDER_NAME)

    def answer(prompt: str, **how: object) -> dict[str, object]:
        return generated({"checkpoint": str(checkpoint), "prompt": prompt, **GREEDY, **how}, CPU)

    for prompt in ("1 2 3 4 5", "7 0 0 3", "6 5 4 3 2 1"):
        found = answer(prompt)
        assert found["text"] == " ".join(reversed(prompt.split()))
        assert (found["numbers"], found["answers"], found["stopped"]) == (True, True, "answered")
    cut = answer("1 2 3 4 5", max_tokens=2)
    assert (cut["tokens"], cut["stopped"]) == ([5, 4], "max_tokens")
    drawn = [answer("1 2 3 4 5", temperature=30.0, seed=seed)["tokens"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(CheckpointError, match="found 7 tokens, expected at most 6"):
        answer("1 2 3 4 5 6 7")
    with pytest.raises(CheckpointError, match="from 0 to 7; the model was trained on `reverse`"):
        answer("1 8")


@torch.no_grad()
def test_greedy_is_the_likeliest_token_after_those_before_it() -> None:
    """Against the forward pass that training uses, where the whole answer is there at once."""
    model = Seq2Seq(2, 4, 32, 40, 16, initialization="xavier").eval()
    source = [3, 17, 25, 0, 39, 8, 8]
    found = translate(model, source, 64)
    assert len(found) == len(source)
    logits = model.logits(torch.tensor([source]), torch.tensor([found]))[0]
    assert found == logits.argmax(dim=-1).tolist()
