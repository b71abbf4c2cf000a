"""Continues a prompt with the model of a checkpoint. python -m bench.worker.generate, started by `scalebench generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.errors import CheckpointError
from bench.worker.answering import answer
from bench.worker.checkpoint import load_model
from bench.worker.data.tokenizer import Tokenizer
from bench.worker.sampling import generate, translate
from models.seq2seq import Seq2Seq


def generated(asked: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """`asked`: checkpoint, prompt, max_tokens, temperature, top_k, top_p, seed. Back comes the text that follows the prompt, its
    tokens, and why it ends ("end": the document's; "answered": it is as long as the prompt, which an encoder-decoder answers;
    "max_tokens"). `answers`: it answers the prompt, and does not go on with it. Without a tokenizer, prompt and text are
    `numbers` of tokens. Raises CheckpointError for a prompt that the model can't be given."""
    model, config, tokenizer = load_model(Path(asked["checkpoint"]), device)
    how = {name: asked[name] for name in ("max_tokens", "temperature", "top_k", "top_p", "seed")}
    if tokenizer is None:
        prompt = _numbers(asked["prompt"], model.vocab_size, config.corpus.name)
        stopped = "max_tokens"
        if isinstance(model, Seq2Seq):
            _check_length(prompt, config.cell.seq_len)
            found = translate(model, prompt, **how)
            stopped = "answered" if len(found) == len(prompt) else stopped
        else:
            found = generate(model, prompt, **how)
        text, answers = " ".join(map(str, found)), isinstance(model, Seq2Seq)
        return {"text": text, "tokens": found, "numbers": True, "answers": answers, "stopped": stopped}
    prompt = [tokenizer.start, *tokenizer.encode([asked["prompt"]])[0]]
    found = generate(model, prompt, end=tokenizer.end, never=_no_text(tokenizer, model.vocab_size), **how)
    ended = bool(found) and found[-1] == tokenizer.end
    return {
        "text": tokenizer.decode(found),
        "tokens": found,
        "numbers": False,
        "answers": False,
        "stopped": "end" if ended else "max_tokens",
    }


def _no_text(tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Tokens that no text has: the model may have more than the tokenizer."""
    return [tokenizer.start, tokenizer.padding, *range(tokenizer.vocab_size, vocab_size)]


def _check_length(prompt: list[int], longest: int) -> None:
    if len(prompt) > longest:
        raise CheckpointError(
            f"--prompt: found {len(prompt)} tokens, expected at most {longest}, the longest that the model was trained on",
            hint="give a shorter one, or train with a larger seq_len",
        )


def _numbers(prompt: str, vocab_size: int, corpus: str) -> list[int]:
    words = prompt.split()
    if not words or not all(word.isascii() and word.isdigit() and int(word) < vocab_size for word in words):
        raise CheckpointError(
            f"--prompt: found {prompt!r}, expected token numbers from 0 to {vocab_size - 1}",
            hint=f"the model was trained on `{corpus}`, which has no text: say --prompt '17 3 42'",
        )
    return [int(word) for word in words]


if __name__ == "__main__":
    answer(generated)
