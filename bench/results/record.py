"""The versioned schema of what one launch measured. Raw figures only: whatever can be derived is derived later."""

from __future__ import annotations

import statistics
from typing import Annotated, Any, Literal

from pydantic import Field

from bench.plan.cell import Cell
from bench.results.corpus import Corpus
from bench.results.fitted_cost import FittedCost
from bench.results.metered import Attribution, Outline, RankAttribution
from bench.results.schema import Schema
from bench.results.synchronisation import Synchronisation
from bench.results.training import Trained

SCHEMA_VERSION: Literal[1] = 1

Outcome = Literal["ok", "invalid", "oom", "timeout", "crashed", "unreachable", "skipped"]
LaunchKind = Literal["timing", "attribution"]
KINDS: tuple[LaunchKind, LaunchKind] = ("timing", "attribution")


class Phases(Schema):
    """Seconds that one rank spent outside and inside the window, in order; `None` where nobody could know.

    `start_s` runs from the launcher's start to the rank program's first line and needs one clock for both, so it is
    `None` for a launch by hand and on other hosts. `build_s` holds the process group, the model and `prepare`.
    """

    start_s: float | None = None
    import_s: float
    build_s: float
    warmup_s: float
    window_s: float
    checks_s: float


class OptimizerSettings(Schema):
    """An optimizer's class and the settings of a group of its parameters; `None` for one that it does not have. Where the
    learning rate follows a schedule, `learning_rate` is what the schedule starts from."""

    name: str
    learning_rate: float | None
    weight_decay: float | None
    betas: list[float] | None
    eps: float | None
    momentum: float | None = None

    def __str__(self) -> str:
        settings = self.model_dump(exclude={"name"}, exclude_none=True)
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in settings.items())})"


class Witnessed(Schema):
    """What one rank was seen to do in warm-up, by hooks that are gone before the window: one entry a warm-up step.

    `tokens` went into the model, and beside them `padding` (positions without a target; empty in records older than
    it). `num_updates` counts how often the optimizer stepped on the same parameters (0 where `skipped`, with most
    optimizers: the loss scaler found an overflow). `grad_norms` is the L2 norm of the gradients that the optimizer was
    given here, `None` where it did not step. `optimizers` holds each optimizer and group of parameters whose settings
    differ; an optimizer that is not torch's is not seen. `learning_rates` are those that were stepped with, `None` where
    nothing was stepped; empty in older records.
    """

    tokens: list[int]
    num_updates: list[int]
    grad_norms: list[float | None]
    skipped: list[bool]
    parameter_dtypes: list[str]
    optimizers: list[OptimizerSettings]
    padding: list[int] = Field(default_factory=list)
    learning_rates: list[float | None] = Field(default_factory=list)


class RankRecord(Schema):
    """What one rank measured. `step_times_s` has one entry a step of the window, `losses` one a step from the first
    warm-up step on: the mean over this rank's tokens, and beside each the `tokens` and the `padding` that the rank was
    dealt, and what its sequences were reckoned to cost (`costs`: model FLOPs, or seconds of sleep). `input_times_s` are
    the seconds of the window's steps in which the rank waited for its batch. These four are empty in older records.
    `fitted_costs` are those by the record's `fitted_cost`, an entry a step from its `from_step` on; empty without one.
    `peak_memory_bytes` is the allocator's peak on CUDA (torch.cuda.max_memory_allocated) and the peak resident set on
    CPU, `base_memory_bytes` the same before the model was built. `launch_id` is the one that this rank was told. A server
    trains nothing: its steps, losses and tokens are empty. `num_warmup_steps` is the rank's own number where workers go at
    their own pace, None where it is the launch's."""

    launch_id: str | None = None
    rank: int
    role: Literal["worker", "server"] = "worker"
    local_rank: int
    hostname: str
    pid: int
    device: str
    threads: int
    affinity: list[int]
    num_warmup_steps: int | None = None
    step_times_s: list[float]
    losses: list[float]
    tokens: list[int] = Field(default_factory=list)
    padding: list[int] = Field(default_factory=list)
    costs: list[float] = Field(default_factory=list)
    fitted_costs: list[float] = Field(default_factory=list)
    input_times_s: list[float] = Field(default_factory=list)
    peak_memory_bytes: int
    base_memory_bytes: int
    phases: Phases
    witnessed: Witnessed | None = None
    attribution: RankAttribution | None = None


class Replicas(Schema):
    """How far the replicas' parameters are from rank 0's at the end: relative L2 distance, largest and mean over the
    other ranks. `num_params` counts the parameters compared: what a strategy shards has no replica."""

    largest: float
    mean: float
    num_params: int


class Work(Schema):
    """The work that the launch did, as counted by the rank program. `tokens_per_step` is the sum over the ranks of what went
    into the model in the last step of warm-up. `batch_tokens` are those of the global batch of each step from the first warm-up
    step on, whoever trains on them; empty where all sequences are equally long."""

    num_params: int
    flops_per_token: float
    tokens_per_step: int
    batch_tokens: list[int] = Field(default_factory=list)
    num_warmup_steps: int
    warmup_settled: bool
    num_steps: int
    num_skipped_steps: int
    replicas: Replicas | None


class Environment(Schema):
    """Where it was measured. `interconnect` is what joins the GPUs of a host; None on CPU, where it is unknown, and in records
    older than it."""

    device_type: Literal["cpu", "cuda"]
    device_names: list[str]
    device_memory_bytes: int | None
    driver: str | None
    cpu: str
    num_cores: int
    memory_bytes: int
    platform: str
    versions: dict[str, str]
    git_commit: str | None
    variables: dict[str, str]
    backend: str
    num_nodes: Annotated[int, Field(ge=1)]
    interconnect: str | None = None


class Record(Schema):
    """All that one launch measured, or why it measured nothing.

    `twin` marks a launch of the suite's A/A pair: one cell is launched as if it were two, and this belongs to the second, which
    shows how far equal cells differ and serves nothing else. `deepspeed_config` is the file as DeepSpeed got it, with every
    override applied. `hostname` and `affinity` are the host that started the launch, and the cores that its ranks there may
    use; `None` by hand. `rank_sha256` has, by rank, the digest of the file in which the rank kept its own part; empty in
    records older than these files, "" for a rank that was lost. `synchronisation` is how the replicas were kept together,
    None in records older than it. `training` is for a cell that is trained to a goal: its whole course is the window, without
    a warm-up before it. `fitted_cost`: what sequences were measured to cost, where any were dealt by it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    launch_id: str
    kind: LaunchKind = "timing"
    suite: str | None = None
    sequence: int | None = None
    twin: bool = False
    cell: Cell
    started_at: str
    launcher: str
    command: list[str] = Field(default_factory=list)
    hostname: str | None = None
    affinity: list[int] | None = None
    outcome: Outcome
    reason: str | None = None
    evidence: list[str] = Field(default_factory=list)
    wall_s: float | None = None
    work: Work | None = None
    environment: Environment | None = None
    deepspeed_config: dict[str, Any] | None = None
    attribution: Attribution | None = None
    outline: Outline | None = None
    corpus: Corpus | None = None
    training: Trained | None = None
    synchronisation: Synchronisation | None = None
    fitted_cost: FittedCost | None = None
    ranks: list[RankRecord] = Field(default_factory=list)
    rank_sha256: list[str] = Field(default_factory=list)

    @property
    def workers(self) -> list[RankRecord]:
        """The ranks that trained."""
        return [rank for rank in self.ranks if rank.role == "worker"]

    def first_step(self, rank: RankRecord) -> int:
        """The number of the rank's first step in the window: how many it took before."""
        if rank.num_warmup_steps is not None:
            return rank.num_warmup_steps
        return self.work.num_warmup_steps if self.work is not None else 0

    def mean_losses(self) -> list[float]:
        """Loss of each step from the first warm-up step on, the mean over the tokens of all workers. Steps that some worker lacks
        are left out.

        Workers that go at their own pace take unequal numbers of steps in the same time: then an entry is the mean of what each
        had come to at the same part of its way, as many entries as all would have with equal numbers.
        """
        if self.cell.own_pace and self.work is not None:
            number = self.work.num_warmup_steps + self.work.num_steps
            along = [[losses[place * len(losses) // number] for place in range(number)] for losses in self._losses()]
            return [sum(losses) / len(losses) for losses in zip(*along, strict=True)]
        by_step = zip(*self._losses(), strict=False)
        workers = self.workers
        if self.cell.equal_lengths or not all(rank.tokens for rank in workers):
            return [sum(losses) / len(losses) for losses in by_step]
        tokens = zip(*(rank.tokens for rank in workers), strict=False)
        return [
            sum(loss * number for loss, number in zip(losses, numbers, strict=True)) / sum(numbers)
            for losses, numbers in zip(by_step, tokens, strict=False)
        ]

    def _losses(self) -> list[list[float]]:
        return [rank.losses for rank in self.workers if rank.losses or not self.cell.own_pace]

    def tokens_per_step(self) -> float:
        """Tokens of a step over all ranks: those of the cell, or where lengths differ the median over the window's steps, as of
        step times."""
        counted = self.work.batch_tokens[self.work.num_warmup_steps :] if self.work is not None else []
        return statistics.median(counted) if counted and not self.cell.equal_lengths else self.cell.tokens_per_step

    def num_timed_steps(self) -> int:
        """Steps of the window that every worker timed; where workers go at their own pace, all of theirs over their number."""
        lengths = [len(rank.step_times_s) for rank in self.workers]
        if self.cell.own_pace:
            return sum(lengths) // self.cell.num_workers
        return min(lengths, default=0)

    def slowest_step_times_s(self) -> list[float]:
        """Seconds of each step of the window, the slowest rank's; of steps that some rank lacks none.

        Where ranks agree every H steps only, an entry a period: the slowest rank's mean step in it, because within a period
        nobody waits for another. Where they go at their own pace, one: the seconds in which together they took as many steps as
        all take in one.
        """
        times_s = [rank.step_times_s for rank in self.workers]
        every = self.cell.every_steps
        if self.cell.own_pace:
            number = self.num_timed_steps()
            return [max(map(sum, times_s)) / number] if number else []
        whole = min(map(len, times_s), default=0) // every * every
        return [max(sum(times[first : first + every]) / every for times in times_s) for first in range(0, whole, every)]
