"""The schema of what the meter adds to a record: arms, the ledger, the timeline, disturbances, and the model's outline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench.results.schema import Schema

Arm = Literal["full", "sync", "local"]
ARMS: tuple[Arm, ...] = ("full", "sync", "local")
"""How the meter carries collectives: they run; a one-element all-reduce runs in their place; nothing runs."""


SpanKind = Literal["step", "compute", "collective"]


class LedgerLine(Schema):
    """`count` calls of one collective in each of `steps` (numbered from the window's first). `payload_bytes` is the full
    array of one call, as nccl-tests counts: for all-gather what one rank ends up with, for reduce-scatter what one
    rank brings."""

    operation: str
    group_size: int
    payload_bytes: int
    count: int
    steps: list[int]


class Span(Schema):
    """Something that took time in one step of one rank, on the host's monotonic clock in seconds: computing (forward,
    backward, optimizer), a collective from its launch to its completion, or the whole step. `waited_s` is when the host
    began to wait for the collective; None if it did so inside C++, as DDP does after the backward pass."""

    name: str
    kind: SpanKind
    start_s: float
    end_s: float
    payload_bytes: int | None = None
    waited_s: float | None = None


class Injection(Schema):
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
    arms: tuple[Arm, ...] = ("full",)


class Block(Schema):
    """Consecutive steps of an attribution launch in one arm, under the injection of that name or none."""

    arm: Arm
    injection: str | None = None


class Attribution(Schema):
    """How the arms were interleaved: the blocks in the order in which they ran, drawn from `seed`. The first
    `num_dropped_steps` steps of each block are not in the figures."""

    seed: int
    num_dropped_steps: int
    blocks: list[Block]
    injections: list[Injection] = Field(default_factory=list)


class RankAttribution(Schema):
    """What one rank measured in an attribution launch.

    `block_times_s`: seconds of each kept step of each block. `ledger`: the collectives of the window, which ran in
    `full` before any other arm; `injected_ledgers`: those of the blocks under an injection that changes what is sent.
    `timeline`: one step in `full`; the ranks of a host share one clock, and `barrier_s` is when this rank left the
    barrier before that step. `block_tokens` and `block_costs`: tokens of this rank in each kept step of a block, the
    same in all blocks, and what they were reckoned to cost; empty in older records. `block_fitted_costs`: the same by the
    measured cost, where batches were dealt by it. `finite`: all losses of all blocks were. `num_skipped_steps`: steps of blocks
    whose update the loss scaler skipped.
    """

    block_times_s: list[list[float]]
    ledger: list[LedgerLine]
    injected_ledgers: dict[str, list[LedgerLine]] = Field(default_factory=dict)
    timeline: list[Span] = Field(default_factory=list)
    barrier_s: float | None = None
    block_tokens: list[int] = Field(default_factory=list)
    block_costs: list[float] = Field(default_factory=list)
    block_fitted_costs: list[float] = Field(default_factory=list)
    finite: bool = True
    num_skipped_steps: int = 0


VisitKind = Literal["enter_forward", "leave_forward", "enter_backward", "leave_backward"]


class ParameterOutline(Schema):
    """A parameter by its name (the first, if it is tied), its size and the length of its first dimension before any sharding;
    `num_rows` is None in older records."""

    name: str
    num_elements: int
    num_rows: int | None = None


class ModuleOutline(Schema):
    """A module that a micro-batch calls, and the parameters that it owns directly, tied ones too, by their place."""

    name: str
    parameters: list[int]


class Outline(Schema):
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
    own_rules: list[str] = Field(default_factory=list)
