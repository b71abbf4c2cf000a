"""Tokens per second of our GPT's training step against transformers' GPT-2 of the same size and arithmetic.

    python -m pytest tests/perf/test_model_speed.py --benchmark-only -rP

Takes some minutes, most of them to compile, so that it is left out without that flag. The two take turns, step by step, on one
thread; what counts is CPU time, which other processes on the machine do not lengthen by waiting for them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import models
from models.build import LanguageModel, build_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Sequences and their length: short ones, so that a step of gpt2-small takes a second or two.
BATCHES = {"gpt-nano": (4, 128), "gpt2-small": (1, 128)}
ROUNDS = {"gpt-nano": 20, "gpt2-small": 10}


def transformers_options(name: str) -> dict[str, int | float | str]:
    """The fields of a GPT2Config with the sizes of our preset."""
    sizes = models.PRESETS[name][1]
    fields = {"num_layers": "n_layer", "num_heads": "n_head", "hidden_size": "n_embd", "max_seq_len": "n_positions"}
    return {**{field: sizes[size] for size, field in fields.items()}, "vocab_size": sizes["vocab_size"]}


def training_step(model: LanguageModel, tokens: Tensor, targets: Tensor, *, compiled: bool) -> Callable[[], float]:
    """Forward, backward and AdamW's update; returns the loss, and so waits for it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        loss: Tensor = forward(tokens, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", BATCHES)
def test_no_slower_than_transformers(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, name: str, precision: str, compiled: bool
) -> None:
    if not request.config.getoption("--benchmark-only"):
        pytest.skip("minutes long: give --benchmark-only to run it")
    torch.set_num_threads(1)
    num_sequences, seq_len = BATCHES[name]
    build = {"seq_len": seq_len, "seed": 0, "device": "cpu", "dtype": DTYPES[precision]}
    ours = build_model(name, {}, **build)  # type: ignore[arg-type]
    theirs = build_model("hf:gpt2", transformers_options(name), **build)  # type: ignore[arg-type]
    assert ours.num_params() == theirs.num_params()
    assert ours.flops_per_token(seq_len) == theirs.flops_per_token(seq_len)
    sequences = torch.randint(ours.vocab_size, (num_sequences, seq_len + 1), generator=torch.Generator().manual_seed(0))
    batch = sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()
    our_step = training_step(ours, *batch, compiled=compiled)
    their_step = training_step(theirs, *batch, compiled=compiled)
    for _ in range(3):
        our_loss, their_loss = our_step(), their_step()
    # The same arithmetic from other weights: both learn the batch by heart.
    assert our_loss == pytest.approx(their_loss, rel=0.1)
    their_times_s: list[float] = []

    def their_turn() -> None:
        began_s = time.process_time()
        their_step()
        their_times_s.append(time.process_time() - began_s)

    benchmark.pedantic(our_step, setup=their_turn, rounds=ROUNDS[name], iterations=1)
    our_times_s = benchmark.stats.stats.data
    ratios = sorted(b / a for a, b in zip(our_times_s, their_times_s, strict=True))
    low, high = median_interval(ratios)
    tokens = num_sequences * seq_len
    benchmark.extra_info["transformers_median_s"] = statistics.median(their_times_s)
    benchmark.extra_info["times_transformers"] = statistics.median(ratios)
    print(
        f"{name} {precision} {'compiled' if compiled else 'eager'}, {num_sequences} x {seq_len} tokens: "
        f"{tokens / statistics.median(our_times_s):,.0f} tokens/s of CPU time, transformers "
        f"{tokens / statistics.median(their_times_s):,.0f}: {statistics.median(ratios):.3f} times "
        f"({low:.3f} to {high:.3f})"
    )
    assert high >= 1.0, "slower than transformers, and not by chance"


def median_interval(ordered: list[float]) -> tuple[float, float]:
    """A 95 % interval of the median by the sign test: no assumption but that rounds are independent."""
    from scipy.stats import binom

    below = int(binom.ppf(0.025, len(ordered), 0.5))
    place = max(0, below - 1)
    return ordered[place], ordered[-1 - place]
