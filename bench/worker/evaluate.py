"""Judges the model of a checkpoint. python -m bench.worker.evaluate, started by `scalebench evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.errors import CheckpointError
from bench.results.checkpoint import TOKENIZER_NAME
from bench.worker.answering import answer
from bench.worker.checkpoint import load_model
from bench.worker.data.held_out import held_out
from bench.worker.data.tokenizer import Tokenizer
from bench.worker.evaluation import score
from bench.worker.sampling import next_logits
from models.build import LanguageModel


def evaluated(asked: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """`asked`: checkpoint, split, sequences (None: all), and prompts and labels for a probe (None: none).

    Back come the score on the split and, for each prompt, the label that is the most likely to follow it. The tokenizer is the
    checkpoint's own; `corpus_changed` where the text is not the one that was trained on.
    """
    path = Path(asked["checkpoint"])
    model, config, tokenizer = load_model(path, device)
    if asked["prompts"] is not None:
        if tokenizer is None:
            raise CheckpointError(f"--labels: {path} was trained on `{config.corpus.name}`, which has no text")
        return {"predicted": [chosen(model, tokenizer, prompt, asked["labels"], device) for prompt in asked["prompts"]]}
    cell = config.cell
    if tokenizer is not None:
        cell = cell.model_copy(update={"tokenizer": f"path:{path / TOKENIZER_NAME}"})
    data = held_out(cell, model.vocab_size, asked["split"], asked["sequences"])
    found = score(model, model, data.micro_batches, device)
    return {
        "loss": found.loss,
        "accuracy": found.accuracy,
        "num_tokens": found.num_tokens,
        "tokens_per_byte": data.tokens_per_byte,
        "entropy_floor_nats": data.corpus.entropy_floor_nats,
        "corpus": data.corpus.name,
        "corpus_changed": data.corpus.sha256 != config.corpus.sha256,
    }


@torch.no_grad()
def chosen(model: LanguageModel, tokenizer: Tokenizer, prompt: str, labels: list[str], device: torch.device) -> str:
    """The label that most likely follows the prompt: the one whose tokens' log-probabilities, each after those before it, add up
    to most. Label and prompt are tokenized apart; of a long prompt the model sees the end."""
    first, *numbers = tokenizer.encode([prompt, *labels])
    sums = []
    for label, own in zip(labels, numbers, strict=True):
        if not own:
            raise CheckpointError(f"--labels: found the label {label!r}, which has no tokens")
        tokens = [tokenizer.start, *first, *own]
        seen = tokens[:-1][-(model.max_seq_len or len(tokens)) :]
        if len(seen) < len(own):
            raise CheckpointError(f"--labels: {label!r} has {len(own)} tokens, more than the model can see")
        logits = next_logits(model, torch.tensor([seen], device=device))
        chances = torch.log_softmax(logits.double(), dim=-1)[-len(own) :]
        sums.append(float(chances.gather(1, torch.tensor(own)[:, None]).sum()))
    return labels[max(range(len(labels)), key=sums.__getitem__)]


if __name__ == "__main__":
    answer(evaluated)
