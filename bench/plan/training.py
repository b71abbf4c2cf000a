"""How a cell's gradients become updates: optimizer, schedule of the learning rate, clipping."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import SuiteError

Optimizer = Literal["adamw", "adam", "adagrad", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Training(BaseModel):
    """What every strategy does with the gradient of a global batch.

    `optimizer` is torch's of that name, `momentum` is for `sgd`. `weight_decay` is decoupled in `adamw`, and added to the
    gradient as an L2 term in the others; `l1` adds its part of each weight's sign there. Neither is in the loss that is
    reported. `max_grad_norm` clips the gradient of the global batch by its L2 norm over all parameters, before these are
    added; 0 does not clip.

    `schedule`: the learning rate rises linearly over the first `schedule_warmup_steps` optimizer steps (none of the steps that
    a timing launch takes to settle, which are `max_warmup_steps` at most), and then stays, or falls to 0 at `schedule_steps`,
    along a line or half a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-4
    weight_decay: Amount = 0.01
    optimizer: Optimizer = "adamw"
    momentum: Fraction = 0.0
    l1: Amount = 0.0
    max_grad_norm: Amount = 0.0
    schedule: Schedule = "constant"
    schedule_steps: Annotated[int, Field(ge=1)] | None = None
    schedule_warmup_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _trains_one_way(self) -> Training:
        if self.momentum and self.optimizer != "sgd":
            raise SuiteError(
                f"momentum: {self.optimizer} has no use for it, expected optimizer sgd",
                hint="take the key out, or write `optimizer: sgd`",
            )
        if (self.schedule == "constant") != (self.schedule_steps is None):
            raise SuiteError(
                f"schedule_steps: found {'none' if self.schedule_steps is None else self.schedule_steps} with schedule "
                f"{self.schedule}, expected the step at which `linear` and `cosine` end, and none for `constant`"
            )
        if self.schedule_steps is not None and self.schedule_steps <= self.schedule_warmup_steps:
            raise SuiteError(
                f"schedule_steps: found {self.schedule_steps}, expected more than schedule_warmup_steps, "
                f"{self.schedule_warmup_steps}"
            )
        return self

    @property
    def training(self) -> str:
        """What of this settles the losses besides learning rate and weight decay, in words; "" where nothing is asked for."""
        asked = self.model_dump(exclude_defaults=True, include=set(_TRAINING))
        return ", ".join(f"{name} {asked[name]}" for name in _TRAINING if name in asked)

    @property
    def optimizer_class(self) -> str:
        """The name of the optimizer's class in torch.optim."""
        return _CLASSES[self.optimizer]

    @property
    def optimizer_settings(self) -> dict[str, Any]:
        """What the optimizer's class is given beside learning rate and weight decay: the same under every strategy."""
        if self.optimizer == "sgd":
            return {"momentum": self.momentum}
        return {"eps": 1e-10} if self.optimizer == "adagrad" else {"betas": [0.9, 0.999], "eps": 1e-8}

    @property
    def optimizer_state_bytes(self) -> int:
        """What the optimizer keeps of each parameter, in float32: two moments, a sum of squares, a velocity, or nothing."""
        if self.optimizer == "sgd":
            return 4 if self.momentum else 0
        return 4 if self.optimizer == "adagrad" else 8

    @property
    def changes_learning_rate(self) -> bool:
        """Whether some step has another learning rate than `learning_rate`."""
        return self.schedule != "constant" or self.schedule_warmup_steps > 0

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of that optimizer step, counted from 0."""
        warmup = self.schedule_warmup_steps
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if self.schedule_steps is None:
            return self.learning_rate
        passed = min(1.0, (step - warmup) / (self.schedule_steps - warmup))
        left = 1 - passed if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * passed))
        return self.learning_rate * left


_TRAINING = (*("optimizer", "momentum", "l1", "max_grad_norm", "schedule", "schedule_steps", "schedule_warmup_steps"),)
_CLASSES: dict[str, str] = {"adamw": "AdamW", "adam": "Adam", "adagrad": "Adagrad", "sgd": "SGD"}
