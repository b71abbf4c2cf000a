"""When training ends: of a cell that is trained to a loss, and not only timed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import SuiteError

Steps = Annotated[int, Field(ge=1)]

EVALUATION_SEQUENCES = 64
_EVALUATIONS = 10


class Goal(BaseModel):
    """A cell with `max_steps` is trained: for that many optimizer steps, or until its validation loss is `target_loss` (nats a
    token) or less, or has not fallen below its least for `patience` evaluations. Without, it is timed.

    Every `evaluate_every` steps (a tenth of `max_steps` by default), before the first and after the last, the loss is taken on
    `evaluation_sequences` sequences of the validation split, the same each time. No time of that is counted. Workers at their
    own pace share out `max_steps` x `num_workers` steps, whoever takes how many: the tokens of as many steps of all together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    max_steps: Steps | None = None
    target_loss: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    evaluate_every: Steps | None = None
    evaluation_sequences: Steps = EVALUATION_SEQUENCES
    patience: Steps | None = None

    @model_validator(mode="after")
    def _ends(self) -> Goal:
        if self.max_steps is not None:
            return self
        for name in GOAL_FIELDS:
            if getattr(self, name) != Goal.model_fields[name].default:
                raise SuiteError(
                    f"{name}: found no max_steps beside it, and a cell without is timed, not trained",
                    hint="add max_steps, the most optimizer steps that it may take",
                )
        return self

    @property
    def is_trained(self) -> bool:
        """Whether the cell is trained to a goal; one that is not is timed."""
        return self.max_steps is not None

    @property
    def evaluation_interval(self) -> int:
        """Optimizer steps from one evaluation to the next."""
        return self.evaluate_every or max(1, (self.max_steps or 0) // _EVALUATIONS)


GOAL_FIELDS = tuple(Goal.model_fields)
"""Which fields say when training ends; they change no loss on the way."""
