"""Training to a goal: in stretches, with evaluations and checkpoints between them, ended by all ranks at the same step."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
import torch.distributed as dist

from bench.results.checkpoint import FOLDER_NAME, CheckpointConfig, read_checkpoint
from bench.results.progress_log import LOG_NAME
from bench.results.training import Evaluation, Keeping, Stop, Trained
from bench.worker.checkpoint import clear_unfinished, load_state, write_checkpoint
from bench.worker.data.held_out import held_out
from bench.worker.evaluation import score
from bench.worker.finite import Guard

if TYPE_CHECKING:
    from bench.worker.trainer import Trainer

STRETCH_S = 2.0
"""Seconds after which ranks tell each other, and who watches, how far they are."""
WATCHED_STEPS = 3
"""Steps at the beginning that are watched by hooks: what a rank really does."""


class Course:
    """One rank's course of a training. All ranks make the same decisions: whatever these depend on is agreed on `control`.

    Servers, where there are any, take part in every decision and train and evaluate nothing. What is evaluated is each rank's
    model after `Strategy.catch_up`. Workers that send to servers go from one evaluation to the next in one stretch, at the end
    of which nothing is under way.
    """

    def __init__(self, trainer: Trainer, keeping: Keeping | None) -> None:
        cell = trainer.cell
        self._trainer, self._keeping, self._cell = trainer, keeping, cell
        self._held_out = held_out(cell, trainer.model.vocab_size, "validation", cell.evaluation_sequences)
        self._step_times_s: list[float] = []
        self._step, self._tokens = 0, 0
        self._wall_s, self._evaluation_s, self._checkpoint_s = 0.0, 0.0, 0.0
        self._evaluations: list[Evaluation] = []
        self._since: tuple[float, float] = (0.0, 0.0)  # nats and tokens since the last evaluation
        self._kept_step: int | None = None
        self._diverged = False
        self._stopped: Stop | None = None
        self._log: TextIO | None = None
        self._open = ExitStack()
        if keeping is not None:
            # A training that is kept ends at the first step that is not finite; one whose time is compared doesn't wait for that.
            trainer.guard = Guard(cell, trainer.control)
            self._open.enter_context(trainer.guard.watching())
            if dist.get_rank() == 0:
                clear_unfinished(self._checkpoints)
            if keeping.resume_from is not None:
                self._resume(Path(keeping.resume_from))
            if dist.get_rank() == 0:
                log = (Path(keeping.folder) / LOG_NAME).open("a", encoding="utf-8")
                self._log = self._open.enter_context(log)
        self._first_step = trainer.first_step = self._step

    @property
    def _checkpoints(self) -> Path:
        assert self._keeping is not None
        return Path(self._keeping.folder) / FOLDER_NAME

    def begin(self) -> None:
        """Evaluate what training starts with."""
        self._tell(
            kind="start",
            step=self._step,
            max_steps=self._cell.max_steps,
            target_loss=self._cell.target_loss,
            entropy_floor_nats=self._held_out.corpus.entropy_floor_nats,
            tokens_per_byte=self._held_out.tokens_per_byte,
            resumable=self._trainer.strategy.resumable,
        )
        if not self._evaluations:
            self._evaluate()

    def first_steps(self) -> tuple[int, bool]:
        """Train the steps that are watched. As a warm-up would, says how many steps are no part of the window: none, by rule."""
        self._train(min(WATCHED_STEPS, self._steps_to_boundary()))
        return 0, True

    def finish(self) -> list[float]:
        """Train to the end. Seconds of every step, the watched ones included."""
        while True:
            self._at_boundary()
            if (stopped := self._stop()) is not None:
                break
            self._train(min(self._steps_to_boundary(), self._stretch()))
        self._trainer.strategy.finish()  # where stretches are drained, nothing is left
        if self._evaluations[-1].step != self._step:
            self._evaluate()
            stopped = self._stop() or stopped
        if self._keeping is not None and self._kept_step != self._step:
            self._keep()
        self._tell(kind="end", step=self._step, stopped=stopped)
        self._stopped = stopped
        self._open.close()
        return self._step_times_s

    def trained(self) -> Trained:
        """What training came to; asked for at its end."""
        assert self._stopped is not None
        return Trained(
            first_step=self._first_step,
            evaluations=self._evaluations,
            stopped=self._stopped,
            evaluation_s=self._evaluation_s,
            checkpoint_s=self._checkpoint_s,
            num_evaluation_tokens=self._held_out.num_tokens,
            tokens_per_byte=self._held_out.tokens_per_byte,
        )

    def _at_boundary(self) -> None:
        # The last step too, so that the checkpoint of it knows how good it is.
        due = self._step % self._cell.evaluation_interval == 0 or self._step == self._cell.max_steps
        if due and self._evaluations[-1].step != self._step:
            self._evaluate()
        every = self._keeping.checkpoint_every if self._keeping is not None else None
        due = every is not None and self._step % every == 0 and self._step > self._first_step
        if due and self._kept_step != self._step:
            self._keep()

    def _stop(self) -> Stop | None:
        """Why training is over at this step; None while it is not."""
        cell, evaluations = self._cell, self._evaluations
        assert cell.max_steps is not None
        if self._diverged or not math.isfinite(evaluations[-1].loss):
            return "diverged"
        if cell.target_loss is not None and evaluations[-1].loss <= cell.target_loss:
            return "target"
        if self._step >= cell.max_steps:
            return "max_steps"
        losses = [evaluation.loss for evaluation in evaluations]
        if cell.patience is not None and len(losses) - 1 - losses.index(min(losses)) >= cell.patience:
            return "patience"
        return "budget" if self._left_s() <= 0 else None

    def _left_s(self) -> float:
        if self._keeping is None or self._keeping.budget_s is None:
            return math.inf
        return self._keeping.budget_s - self._wall_s - self._evaluation_s - self._checkpoint_s

    def _steps_to_boundary(self) -> int:
        """Steps until something is to be done besides training."""
        assert self._cell.max_steps is not None
        every = [self._cell.evaluation_interval]
        if self._keeping is not None and self._keeping.checkpoint_every is not None:
            every.append(self._keeping.checkpoint_every)
        return min(self._cell.max_steps - self._step, *(number - self._step % number for number in every))

    def _stretch(self) -> int:
        """Steps that take about STRETCH_S, or what is left of the budget. Workers of servers don't wait for each other so often:
        theirs go on to where something is to be done."""
        if self._cell.num_servers:
            return self._steps_to_boundary()
        step_s = self._wall_s / self._step if self._step else STRETCH_S
        return max(1, int(min(STRETCH_S, self._left_s()) / step_s))

    def _train(self, num_steps: int) -> None:
        trainer = self._trainer
        first = len(trainer.results)
        times_s = trainer.timed_steps(num_steps, drain=self._cell.num_servers > 0)
        self._step_times_s += times_s
        steps = range(self._step, self._step + num_steps)
        losses = [float(result.loss) for result in trainer.results[first:]]
        tokens = [batch.num_tokens for batch in trainer.feed.fed[first:]]
        sums = torch.tensor([sum(map(_product, losses, tokens)), sum(tokens)], dtype=torch.float64)
        dist.all_reduce(sums, group=trainer.control)
        self._wall_s += self._slowest(sum(times_s))
        self._step += num_steps
        self._tokens += sum(trainer.feed.num_tokens(step) for step in steps)
        nats, number = sums.tolist()
        self._since = (self._since[0] + nats, self._since[1] + number)
        self._diverged = not math.isfinite(nats)
        self._tell(kind="train", step=self._step, tokens=self._tokens, wall_s=self._wall_s, loss=nats / number)

    def _evaluate(self) -> None:
        trainer = self._trainer
        started_s = time.perf_counter()
        if self._step > self._first_step:
            trainer.sample()
        trainer.strategy.catch_up()
        # ZeRO-3 and other sharded models hook the bare model's own forward pass.
        found = score(
            *(trainer.model, trainer.model, self._held_out.micro_batches, trainer.device, trainer.control),
            num_servers=self._cell.num_servers,
        )
        trainer.feed.forget_forward_passes()
        nats, number = self._since
        evaluation = Evaluation(
            step=self._step,
            tokens=self._tokens,
            wall_s=self._wall_s,
            train_loss=nats / number if number else None,
            loss=found.loss,
            accuracy=found.accuracy,
        )
        self._since = (0.0, 0.0)
        self._evaluations.append(evaluation)
        self._evaluation_s += self._slowest(time.perf_counter() - started_s)
        self._tell(kind="evaluation", **evaluation.model_dump())

    def _keep(self) -> None:
        started_s = time.perf_counter()
        tokenizer = self._held_out.tokenizer
        config = CheckpointConfig(
            cell=self._cell,
            step=self._step,
            tokens=self._tokens,
            wall_s=self._wall_s,
            evaluation_s=self._evaluation_s,
            checkpoint_s=self._checkpoint_s,
            evaluations=self._evaluations,
            corpus=self._held_out.corpus,
            tokens_per_byte=self._held_out.tokens_per_byte,
            tokenizer_sha256=None if tokenizer is None else tokenizer.sha256,
            resumable=self._trainer.strategy.resumable,
            nats_since=self._since[0],
            tokens_since=self._since[1],
        )
        write_checkpoint(
            self._checkpoints, config, self._trainer.strategy, self._trainer.model, tokenizer, self._trainer.control
        )
        self._kept_step = self._step
        self._checkpoint_s += self._slowest(time.perf_counter() - started_s)
        self._tell(kind="checkpoint", step=self._step)

    def _resume(self, path: Path) -> None:
        config = read_checkpoint(path)
        load_state(path, self._trainer.strategy)
        self._trainer.feed.forget_forward_passes()
        self._step = self._kept_step = config.step
        self._tokens, self._wall_s = config.tokens, config.wall_s
        self._evaluation_s, self._checkpoint_s = config.evaluation_s, config.checkpoint_s
        self._evaluations = list(config.evaluations)
        self._since = (config.nats_since, config.tokens_since)

    def _slowest(self, seconds: float) -> float:
        slowest = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX, group=self._trainer.control)
        return float(slowest)

    def _tell(self, **said: Any) -> None:
        """A line of the log, whole: whoever reads it may do so at any time."""
        if self._log is not None:
            self._log.write(json.dumps(said) + "\n")
            self._log.flush()


def _product(loss: float, number: int) -> float:
    return loss * number
