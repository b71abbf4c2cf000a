"""scalebench generate: what a trained model writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import CheckpointError
from bench.verbs.shared import DeviceOption, Json


def generate(
    checkpoint: Annotated[
        Path, typer.Argument(help="What `scalebench train` wrote: its folder, or a checkpoints/step_N.")
    ],
    prompt: Annotated[
        str, typer.Option(help="What to continue, or what a seq2seq model is to answer; without text, token numbers.")
    ],
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens to write at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most likely token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Draw among the K most likely.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw among the fewest that have this probability.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What is drawn.")] = 0,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Continue a prompt with a checkpoint's model; an encoder-decoder answers it, with as many tokens. Greedy, unless
    --temperature is above 0.

    Exits 0, or 2 for bad input.
    """
    from bench.asking import ask
    from bench.results.checkpoint import find_checkpoint

    if top_p is not None and not 0 < top_p <= 1:
        raise CheckpointError(f"--top-p: found {top_p:g}, expected a number above 0, at most 1")
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise CheckpointError("--top-k and --top-p draw, but --temperature is 0", hint="add --temperature 1")
    asked = {
        "checkpoint": str(find_checkpoint(checkpoint).resolve()),
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    found = ask("bench.worker.generate", device, asked)
    if as_json:
        print(json.dumps({**asked, **found}))
        return
    # Token numbers need a blank between them, pieces of text have their own.
    between = " " if found["numbers"] else ""
    print(found["text"] if found["answers"] else f"{prompt}{between}{found['text']}")
