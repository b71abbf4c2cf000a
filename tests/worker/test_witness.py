"""The witness counts what happens, and leaves no hook behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from bench.plan.cell import Cell
from bench.worker.meter.witness import Witness
from bench.worker.strategies.optimizer import MasterOptimizer

CELL = Cell(model="gpt-nano", strategy="ddp", world_size=1, seq_len=8)


class Model(nn.Module):
    """Its loss is the mean of the weights at the tokens, times a factor."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, dtype=dtype))

    def forward(self, tokens: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        return self.weight[tokens].float().mean() * factor


def test_tokens_updates_and_norms_by_step() -> None:
    model, results = Model(), []
    optimizer = MasterOptimizer(CELL, list(model.parameters()), torch.device("cpu"))
    witness = Witness(model, results)
    with witness.watching():
        for num_micro_batches, num_updates in ((1, 1), (3, 1), (2, 0), (1, 2)):
            for _ in range(num_micro_batches):
                optimizer.backward(model(tokens=torch.tensor([[0, 1, 2, 3]])))
            for _ in range(num_updates - 1):
                optimizer.optimizer.step()
            if num_updates:
                optimizer.step()
            results.append(SimpleNamespace(skipped=False))
    found = witness.witnessed()
    assert found.tokens == [4, 12, 8, 4]
    assert found.num_updates == [1, 1, 0, 2]
    # Each micro-batch adds a gradient of 1/4 for each of four weights: an L2 norm of 1/2. What was not stepped on stays.
    assert found.grad_norms[:3] == [0.5, 1.5, None]
    assert found.grad_norms[3] == pytest.approx(2**0.5 * 1.5)
    assert found.parameter_dtypes == ["float32"]
    assert [str(settings) for settings in found.optimizers] == [
        "AdamW(learning_rate=0.0003, weight_decay=0.01, betas=[0.9, 0.999], eps=1e-08)"
    ]


def test_padding_is_no_token() -> None:
    class Causal(Model):
        def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return super().forward(tokens)

    model, results = Causal(), []
    witness = Witness(model, results)
    with witness.watching():
        model(torch.tensor([[0, 1, 2, 3]] * 2), torch.tensor([[1, 2, 3, 0], [1, -100, -100, -100]]))
        results.append(SimpleNamespace(skipped=False))
    found = witness.witnessed()
    assert (found.tokens, found.padding) == ([5], [3])


def test_nothing_is_left_behind() -> None:
    model, results = Model(), []
    optimizer = MasterOptimizer(CELL, list(model.parameters()), torch.device("cpu"))
    witness = Witness(model, results)

    def step() -> None:
        optimizer.backward(model(torch.tensor([1])))
        optimizer.step()
        results.append(SimpleNamespace(skipped=False))

    with pytest.raises(RuntimeError), witness.watching():
        step()
        raise RuntimeError
    before = witness.witnessed()
    assert not model._forward_pre_hooks and not torch_optimizer._global_optimizer_post_hooks
    step()
    assert witness.witnessed().tokens == [*before.tokens, 0]


def test_partitions_updated_one_after_the_other_are_one_update() -> None:
    """As ZeRO-3 does with its sub-groups, and ZeRO-1 and 2 with their groups of parameters."""
    parts = [torch.ones(2, requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.AdamW(parts)
    results: list[Any] = []
    witness = Witness(Model(), results)
    with witness.watching():
        for part in parts:
            part.grad = torch.tensor([3.0, 4.0])
            optimizer.param_groups[0]["params"] = [part]
            optimizer.step()
        results.append(SimpleNamespace(skipped=False))
    found = witness.witnessed()
    assert found.num_updates == [1]
    assert found.grad_norms == pytest.approx([75**0.5])


def test_a_step_that_the_loss_scaler_skips_is_no_update() -> None:
    half = CELL.model_copy(update={"precision": "fp16"})
    model, results = Model(torch.float16), []
    optimizer = MasterOptimizer(half, list(model.parameters()), torch.device("cpu"))
    witness = Witness(model, results)
    with witness.watching():
        for factor in (1e3, 1.0):
            optimizer.backward(model(torch.tensor([1]), factor))
            optimizer.take()
            results.append(SimpleNamespace(skipped=optimizer.step()))
    found = witness.witnessed()
    assert found.skipped == [True, False]
    assert found.num_updates == [0, 1]
    # What the optimizer is given is unscaled, and in float32.
    assert found.grad_norms == [None, 1.0]
    assert found.parameter_dtypes == ["float16"]
