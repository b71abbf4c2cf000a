"""The schema of what training came to, and what a launch is told that trains."""

from __future__ import annotations

import math
from typing import Literal

from bench.results.schema import Schema

Stop = Literal["target", "max_steps", "patience", "budget", "diverged"]


class Evaluation(Schema):
    """How far training was after `step` optimizer steps: `tokens` trained on, `wall_s` seconds of training on the slowest rank
    (evaluations and checkpoints are not in it), `train_loss` the mean over the tokens since the evaluation before it (None
    at the first), `loss` and `accuracy` on the validation split: nats a token, and the fraction of tokens that were the most
    likely."""

    step: int
    tokens: int
    wall_s: float
    train_loss: float | None
    loss: float
    accuracy: float


class Trained(Schema):
    """A whole training, launches before a resumption included: `first_step` is where this launch began. `evaluation_s` and
    `checkpoint_s` are seconds beside those of training. `tokens_per_byte` of the validation split's text turns a loss into bits
    per byte; None without a text."""

    first_step: int
    evaluations: list[Evaluation]
    stopped: Stop
    evaluation_s: float
    checkpoint_s: float
    num_evaluation_tokens: int
    tokens_per_byte: float | None

    @property
    def num_steps(self) -> int:
        """Optimizer steps of this launch."""
        return self.evaluations[-1].step - self.first_step


class Keeping(Schema):
    """What a launch of `scalebench train` keeps beside its record: in `folder` a log of its progress and, every
    `checkpoint_every` steps and at its end, a checkpoint (None: at its end alone). It goes on from the checkpoint `resume_from`,
    and ends after `budget_s` seconds, those before a resumption included."""

    folder: str
    checkpoint_every: int | None = None
    resume_from: str | None = None
    budget_s: float | None = None


def perplexity(loss: float) -> float:
    """e to the loss, which is in nats a token."""
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte(loss: float, tokens_per_byte: float | None) -> float | None:
    """A loss in nats a token as bits for each byte of the text that the tokens are of: what tokenizers can be compared by."""
    return None if tokens_per_byte is None else loss / math.log(2) * tokens_per_byte
