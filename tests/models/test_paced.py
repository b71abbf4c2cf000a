"""Paced models take the time that they state, where they state it, and no CPU to speak of."""

import time

import pytest
import torch

from models.build import build_model
from models.layers import IGNORED
from models.paced import PacedLM

FORWARD_S, BACKWARD_S = 0.03, 0.05


def _model() -> PacedLM:
    model = build_model(
        "paced-nano",
        {"num_layers": 3, "forward_s": FORWARD_S, "backward_s": BACKWARD_S},
        seq_len=128,
        seed=0,
        device="cpu",
        dtype=torch.float32,
    )
    assert isinstance(model, PacedLM)
    model(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64)).backward()  # first-call costs
    return model


def _batch(batch: int, seq: int) -> torch.Tensor:
    return torch.arange(batch * seq).view(batch, seq) % 512


@pytest.mark.alone
@pytest.mark.parametrize(("batch", "seq", "share"), [(2, 128, 1.0), (4, 128, 2.0), (3, 100, 300 / 256)])
def test_forward_and_backward_take_the_stated_seconds(batch: int, seq: int, share: float) -> None:
    model, tokens = _model(), _batch(batch, seq)
    started, cpu_started = time.perf_counter(), time.process_time()
    loss = model(tokens, tokens)
    middle = time.perf_counter()
    loss.backward()
    ended, cpu_s = time.perf_counter(), time.process_time() - cpu_started
    assert model.paced_seconds(tokens.numel()) == pytest.approx(3 * (FORWARD_S + BACKWARD_S) * share)
    assert middle - started >= 3 * FORWARD_S * share
    assert ended - middle >= 3 * BACKWARD_S * share
    assert cpu_s < 0.9 * model.paced_seconds(tokens.numel())


def test_padding_is_not_slept_for_where_it_may_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = _model(), _batch(2, 128)
    targets = tokens.clone()
    targets[1, 32:] = IGNORED
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for skips, num_tokens in ((False, 256), (True, 160)):
        slept.clear()
        model.skips_padding = skips
        model(tokens, targets).backward()
        assert sum(slept) == pytest.approx(model.paced_seconds(num_tokens))
    slept.clear()
    model.slow_down(0.5)
    model(tokens, targets).backward()
    # What a sequence is reckoned to cost is not changed by it: nobody was told.
    assert (
        sum(slept) == pytest.approx(1.5 * model.paced_seconds(160)) == pytest.approx(240 * model.sequence_cost(256)[0])
    )


def test_gradients_become_ready_block_by_block_with_a_sleep_before_each() -> None:
    """So that a bucket's reduction can overlap with the sleeps of the blocks below."""
    model, tokens = _model(), _batch(2, 128)
    ready_at: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _, name=name: ready_at.__setitem__(name, time.perf_counter())
        )
    loss = model(tokens, tokens)
    previous = time.perf_counter()
    loss.backward()
    for index in reversed(range(3)):
        times = [at for name, at in ready_at.items() if name.startswith(f"blocks.{index}.")]
        assert len(times) == 4
        assert min(times) - previous >= BACKWARD_S
        previous = max(times)


def test_the_preset_sleeps_360_ms_a_micro_batch() -> None:
    model = build_model("paced-nano", {}, seq_len=256, seed=0, device="cpu", dtype=torch.float32)
    assert isinstance(model, PacedLM)
    assert model.paced_seconds(256) == pytest.approx(0.36)


def test_checkpointing_is_refused() -> None:
    with pytest.raises(ValueError, match="activation_checkpointing"):
        build_model(
            "paced-nano", {}, seq_len=8, seed=0, device="cpu", dtype=torch.float32, activation_checkpointing=True
        )
