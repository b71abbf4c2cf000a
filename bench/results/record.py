"""The versioned schema of what one launch measured. Raw figures only: whatever can be derived is derived later."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.plan.cell import Cell

SCHEMA_VERSION: Literal[1] = 1

Outcome = Literal["ok", "invalid", "oom", "timeout", "crashed", "unreachable", "skipped"]
LaunchKind = Literal["timing", "attribution"]
KINDS: tuple[LaunchKind, LaunchKind] = ("timing", "attribution")
Arm = Literal["full", "sync", "local"]
ARMS: tuple[Arm, ...] = ("full", "sync", "local")
"""How the meter carries collectives: they run; a one-element all-reduce runs in their place; nothing runs."""


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="constants")


class Phases(_Schema):
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


SpanKind = Literal["step", "compute", "collective"]


class LedgerLine(_Schema):
    """`count` calls of one collective in each of `steps` (numbered from the window's first). `payload_bytes` is the full
    array of one call, as nccl-tests counts: for all-gather what one rank ends up with, for reduce-scatter what one
    rank brings."""

    operation: str
    group_size: int
    payload_bytes: int
    count: int
    steps: list[int]


class Span(_Schema):
    """Something that took time in one step of one rank, on the host's monotonic clock in seconds: computing (forward,
    backward, optimizer), a collective from its launch to its completion, or the whole step. `waited_s` is when the host
    began to wait for the collective; None if it did so inside C++, as DDP does after the backward pass."""

    name: str
    kind: SpanKind
    start_s: float
    end_s: float
    payload_bytes: int | None = None
    waited_s: float | None = None


class Injection(_Schema):
    """A known disturbance, measured in blocks of its own in `arms`.

    `delay`: every collective of every rank completes `seconds` late. `slow_rank`: `rank` sleeps `seconds` once in each
    micro-batch (`input`: in each step), in the part that `where` names. `withhold`: `rank` is left out of the all-reduce
    with number `collective` of each step, which the others carry without it.
    """

    name: str
    kind: Literal["delay", "slow_rank", "withhold"]
    seconds: float = 0.0
    rank: int | None = None
    where: Literal["forward", "backward", "input"] | None = None
    collective: int | None = None
    arms: list[Arm] = ["full"]


class Block(_Schema):
    """Consecutive steps of an attribution launch in one arm, under the injection of that name or none."""

    arm: Arm
    injection: str | None = None


class Attribution(_Schema):
    """How the arms were interleaved: the blocks in the order in which they ran, drawn from `seed`. The first
    `num_dropped_steps` steps of each block are not in the figures."""

    seed: int
    num_dropped_steps: int
    blocks: list[Block]
    injections: list[Injection] = []


class RankAttribution(_Schema):
    """What one rank measured in an attribution launch.

    `block_times_s`: seconds of each kept step of each block. `ledger`: the collectives of the window, which ran in `full`
    before any other arm; `injected_ledgers`: those of the blocks under an injection that changes what is sent.
    `timeline`: one step in `full`; the ranks of a host share one clock, and `barrier_s` is when this rank left the barrier
    before that step. `finite`: all losses of all blocks were. `num_skipped_steps`: steps of blocks whose update the loss
    scaler skipped.
    """

    block_times_s: list[list[float]]
    ledger: list[LedgerLine]
    injected_ledgers: dict[str, list[LedgerLine]] = {}
    timeline: list[Span] = []
    barrier_s: float | None = None
    finite: bool = True
    num_skipped_steps: int = 0


class OptimizerSettings(_Schema):
    """An optimizer's class and the settings of a group of its parameters; `None` for one that it does not have."""

    name: str
    learning_rate: float | None
    weight_decay: float | None
    betas: list[float] | None
    eps: float | None

    def __str__(self) -> str:
        settings = self.model_dump(exclude={"name"}, exclude_none=True)
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in settings.items())})"


class Witnessed(_Schema):
    """What one rank was seen to do in warm-up, by hooks that are gone before the window: one entry a warm-up step.

    `tokens` went into the model. `num_updates` counts how often the optimizer stepped on the same parameters (0 where
    `skipped`, with most optimizers: the loss scaler found an overflow). `grad_norms` is the L2 norm of the gradients that
    the optimizer was given here, `None` where it did not step. `optimizers` holds each optimizer and group of parameters
    whose settings differ; an optimizer that is not torch's is not seen.
    """

    tokens: list[int]
    num_updates: list[int]
    grad_norms: list[float | None]
    skipped: list[bool]
    parameter_dtypes: list[str]
    optimizers: list[OptimizerSettings]


class RankRecord(_Schema):
    """What one rank measured. `step_times_s` has one entry a step of the window, `losses` one a step from the first
    warm-up step on: the mean over this rank's tokens. `peak_memory_bytes` is the allocator's peak on CUDA
    (torch.cuda.max_memory_allocated) and the peak resident set on CPU, `base_memory_bytes` the same before the model
    was built. `launch_id` is the one that this rank was told."""

    launch_id: str | None = None
    rank: int
    local_rank: int
    hostname: str
    pid: int
    device: str
    threads: int
    affinity: list[int]
    step_times_s: list[float]
    losses: list[float]
    peak_memory_bytes: int
    base_memory_bytes: int
    phases: Phases
    witnessed: Witnessed | None = None
    attribution: RankAttribution | None = None


VisitKind = Literal["enter_forward", "leave_forward", "enter_backward", "leave_backward"]


class ParameterOutline(_Schema):
    """A parameter by its name (the first, if it is tied) and its size before any sharding."""

    name: str
    num_elements: int


class ModuleOutline(_Schema):
    """A module that a micro-batch calls, and the parameters that it owns directly, tied ones too, by their place."""

    name: str
    parameters: list[int]


class Outline(_Schema):
    """What one micro-batch does with the model's parameters, as rank 0 saw the first one: what theory needs of a model.

    `parameters`: each once, in the order of `model.parameters()`, in which DeepSpeed lays them out. `ready`: their places in
    the order in which backward finished their gradients; torch DDP (after its first step) and ZeRO fill their buckets in
    that order, which is autograd's business and in no closed form. `modules` and `visits`: which modules were entered and
    left, in order, in the forward and the backward pass; at each of these moments ZeRO-3 gathers or frees parameters.
    A backward pass enters a module at its result's gradient and leaves it when all its inputs have theirs; a module whose
    inputs need none (an embedding) is never left. Recomputation (activation checkpointing) enters modules forward again.
    Under strategies without ZeRO-3's own hooks, modules that share a tensor may be entered and left in another order.
    `num_buffers`: torch DDP broadcasts them. `own_rules`: modules that ZeRO-3 treats in a way of their own, gathered whole with
    their children (experts) or using parameters of others.
    """

    parameters: list[ParameterOutline]
    modules: list[ModuleOutline]
    visits: list[tuple[VisitKind, int]]
    ready: list[int]
    num_buffers: int = 0
    own_rules: list[str] = []


class Replicas(_Schema):
    """How far the replicas' parameters are from rank 0's at the end: relative L2 distance, largest and mean over the
    other ranks. `num_params` counts the parameters compared: what a strategy shards has no replica."""

    largest: float
    mean: float
    num_params: int


class Work(_Schema):
    """The work that the launch did, as counted by the rank program. `tokens_per_step` is the sum over the ranks of what went
    into the model in the last step of warm-up."""

    num_params: int
    flops_per_token: float
    tokens_per_step: int
    num_warmup_steps: int
    warmup_settled: bool
    num_steps: int
    num_skipped_steps: int
    replicas: Replicas | None


class Environment(_Schema):
    """Where it was measured. `deepspeed_config` is the file as DeepSpeed got it, with every override applied."""

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
    num_nodes: int


class Record(_Schema):
    """All that one launch measured, or why it measured nothing.

    `hostname` and `affinity` are the host that started the launch, and the cores that its ranks there may use; `None` by
    hand. `rank_sha256` has, by rank, the digest of the file in which the rank kept its own part; empty in records older
    than these files.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    launch_id: str
    kind: LaunchKind = "timing"
    suite: str | None = None
    sequence: int | None = None
    cell: Cell
    started_at: str
    launcher: str
    command: list[str] = []
    hostname: str | None = None
    affinity: list[int] | None = None
    outcome: Outcome
    reason: str | None = None
    evidence: list[str] = []
    wall_s: float | None = None
    work: Work | None = None
    environment: Environment | None = None
    deepspeed_config: dict[str, Any] | None = None
    attribution: Attribution | None = None
    outline: Outline | None = None
    ranks: list[RankRecord] = Field(default_factory=list)
    rank_sha256: list[str] = []

    def mean_losses(self) -> list[float]:
        """Loss of each step from the first warm-up step on, the mean over ranks (which have equally many tokens)."""
        return [sum(losses) / len(losses) for losses in zip(*(rank.losses for rank in self.ranks), strict=True)]

    def slowest_step_times_s(self) -> list[float]:
        """Seconds of each step of the window, the slowest rank's."""
        return [max(times_s) for times_s in zip(*(rank.step_times_s for rank in self.ranks), strict=True)]
