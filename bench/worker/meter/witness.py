"""What this rank really does: tokens, optimizer updates, gradients, precision, seen from outside the strategy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.optimizer import register_optimizer_step_post_hook

from bench.results.record import OptimizerSettings, Witnessed
from bench.worker.data.micro_batch import IGNORED


class _Result(Protocol):
    @property
    def skipped(self) -> bool: ...


class Witness:
    """Counts by hooks on the bare model and on every torch optimizer of this process: nothing is asked of the strategy.

    `results` grows by one a step, so that its length is the number of the step under way.
    """

    def __init__(self, model: nn.Module, results: Sequence[_Result]) -> None:
        self._model = model
        self._results = results
        self._inputs: Counter[int] = Counter()
        # These two are read after warm-up: reading one would synchronise the device.
        self._padding: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._updates: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self._norms: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._optimizers: list[OptimizerSettings] = []
        self._learning_rates: dict[int, float] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks are there while the block runs, and none is left after it."""
        hooks = [
            self._model.register_forward_pre_hook(self._forward, with_kwargs=True),
            register_optimizer_step_post_hook(self._updated),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _forward(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
        self._inputs[len(self._results)] += tensors[0].numel()
        # Tokens come first, their targets behind them.
        self._padding[len(self._results)] += [(targets == IGNORED).sum() for targets in tensors[1:2]]

    def _updated(self, optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> None:
        """DeepSpeed steps its inner torch optimizer too, once for each partition of the parameters that it works on: so what
        is counted is how often the same parameter is updated."""
        step = len(self._results)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._updates[step].update(map(id, parameters))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            self._norms[step].append(get_total_norm(gradients))
        for group in optimizer.param_groups:
            # The first that steps is the cell's; DiLoCo's outer one comes after it.
            self._learning_rates.setdefault(step, float(group["lr"]))
            if (settings := optimizer_settings(optimizer, group)) not in self._optimizers:
                self._optimizers.append(settings)

    def witnessed(self) -> Witnessed:
        """What was seen so far: an entry a step."""
        steps = range(len(self._results))
        padding = [sum(int(number) for number in self._padding[step]) for step in steps]
        return Witnessed(
            tokens=[self._inputs[step] - padding[step] for step in steps],
            padding=padding,
            num_updates=[max(self._updates[step].values(), default=0) for step in steps],
            grad_norms=[_root_of_squares(self._norms[step]) for step in steps],
            skipped=[result.skipped for result in self._results],
            parameter_dtypes=sorted({str(p.dtype).removeprefix("torch.") for p in self._model.parameters()}),
            optimizers=self._optimizers,
            learning_rates=[self._learning_rates.get(step) for step in steps],
        )


def optimizer_settings(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> OptimizerSettings:
    """The class of an optimizer, and the settings of one of its groups of parameters."""

    def number(name: str) -> float | None:
        return None if group.get(name) is None else float(group[name])

    return OptimizerSettings(
        name=type(optimizer).__name__,
        learning_rate=number("initial_lr" if "initial_lr" in group else "lr"),
        weight_decay=number("weight_decay"),
        betas=[float(beta) for beta in group["betas"]] if "betas" in group else None,
        eps=number("eps"),
        momentum=number("momentum"),
    )


def _root_of_squares(norms: list[Tensor]) -> float | None:
    return sum(float(norm) ** 2 for norm in norms) ** 0.5 if norms else None
