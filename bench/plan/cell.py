"""One measured configuration: the cell of a suite."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import models
from bench.errors import SuiteError, nearest
from bench.plan.goal import Goal
from bench.plan.model_options import check_model, check_model_options
from bench.plan.strategies import STRATEGIES, OptionValue, num_servers
from bench.plan.strategy_options import check_strategy_options
from bench.plan.synchronisation import check_synchronisation
from bench.plan.training import Training
from bench.plan.workload import MARKOV, MEASURED_FROM_STEP, PAIRS, Workload

Precision = Literal["fp32", "bf16", "fp16"]
Scaling = Literal["weak", "strong"]
Profile = Literal["matched", "tuned"]
PlacementName = Literal["pack", "spread"]

Count = Annotated[int, Field(ge=1)]

EQUAL_WORK = (
    *("model", "model_options", "seq_len", "global_batch_size", "seed", "corpus", "learning_rate", "weight_decay"),
    *("precision", "data", "training", "masks"),
)
"""What settles the losses: cells that are equal in these train alike, whatever the strategy and however many the ranks."""


class Cell(Workload, Training, Goal):
    """What is trained, how, and on how many ranks. Frozen and validated; unknown keys and wrong types are errors.

    Two launches of equal cells do equal work. `seq_len` defaults to the preset's longest sequence. `steps` counts the
    optimizer steps inside the measured window; warm-up comes before and ends by rule, after `max_warmup_steps` at the
    latest. `threads_per_rank` is torch's intra-op thread count, `None` for torch's own choice (one thread on CPU). What is
    trained on, and which rank trains on what, is the `Workload`'s part, the optimizer that of `Training`, and when training
    ends that of `Goal`. `strategy_options` are the strategy's own settings (bench/plan/strategies.py). `placement`: of the
    hosts that there are, as few as can be (`pack`), or as many (`spread`).
    """

    model: str
    model_options: dict[str, OptionValue] = Field(default={})
    strategy: str
    strategy_options: dict[str, OptionValue] = Field(default={})
    world_size: Count
    micro_batch_size: Count = 1
    grad_accum_steps: Count = 1
    seq_len: Count
    precision: Precision = "fp32"
    scaling: Scaling = "weak"
    profile: Profile = "matched"
    activation_checkpointing: bool = False
    deepspeed_config: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Count = 20
    max_warmup_steps: Count = 30
    threads_per_rank: Count | None = None
    placement: PlacementName = "pack"

    @model_validator(mode="before")
    @classmethod
    def _sequence_length_of_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("model"), str):
            return data
        check_model(data["model"])
        if data.get("seq_len") is None and data["model"] in models.PRESETS and _is_mapping(data.get("model_options")):
            sizes = {**models.PRESETS[data["model"]][1], **(data.get("model_options") or {})}
            return {**data, "seq_len": sizes["max_seq_len"]}
        return data

    @model_validator(mode="after")
    def _names_exist(self) -> Cell:
        if self.strategy not in STRATEGIES:
            raise SuiteError(
                f"strategy: found {self.strategy!r}, expected a known strategy",
                hint=nearest(self.strategy, STRATEGIES),
            )
        check_strategy_options(self.strategy, self.strategy_options)
        check_synchronisation(self)
        check_model_options(self.model, self.model_options, self.seq_len)
        if self.deepspeed_config is not None and STRATEGIES[self.strategy].deepspeed_config is None:
            raise SuiteError(
                f"deepspeed_config: {self.strategy} does not use DeepSpeed",
                hint="take the key out, or choose a zero strategy",
            )
        if self.slow_rank_frac and not self.paced:
            raise SuiteError(
                f"slow_rank_frac: {self.model} computes at its own speed, expected a paced model",
                hint="take the key out, or choose paced-nano",
            )
        if (self.corpus in PAIRS) != self.translates:
            expected = " or ".join(PAIRS) if self.translates else f"a seq2seq model for it, or {MARKOV} or a text"
            raise SuiteError(f"corpus: found {self.corpus} for {self.model}, expected {expected}")
        if self.dealt_by_measurement and self.dropout:
            found = "partition: dynamic" if self.partition == "dynamic" else "partition_cost: measured"
            raise SuiteError(
                f"{found} deals by measured seconds, so that no two launches drop the same out",
                hint="choose karmarkar_karp with partition_cost flops, or take dropout out of model_options",
            )
        return self

    @property
    def options(self) -> dict[str, OptionValue]:
        """The strategy's settings: those of the cell, defaults for the others."""
        return {**STRATEGIES[self.strategy].options, **self.strategy_options}

    @property
    def equal_work(self) -> bool:
        """True if the losses are those of full synchronisation, so that step times alone may be compared."""
        return STRATEGIES[self.strategy].equal_work or self._as_if_synchronous

    @property
    def drifting(self) -> bool:
        """True if replicas differ at the end of a step by design."""
        return STRATEGIES[self.strategy].drifting and not self._as_if_synchronous

    @property
    def _as_if_synchronous(self) -> bool:
        asked = STRATEGIES[self.strategy].equal_with
        return bool(asked) and all(self.options[name] == value for name, value in asked.items())

    @property
    def every_steps(self) -> int:
        """Optimizer steps from one exchange between all ranks to the next: what is measured is whole periods of them."""
        return int(self.options.get("every_steps", 1))

    @property
    def least_warmup_steps(self) -> int:
        """Optimizer steps before the strategy does what it is there for, and costs are measured: no measured window begins
        earlier."""
        own = int(self.options.get("start_iter", self.options.get("freeze_step", 1)))
        return max(own, MEASURED_FROM_STEP) if self.partition_cost == "measured" else own

    @property
    def own_pace(self) -> bool:
        """True if no worker waits for the others at each step: then they take unequal numbers of steps in the same time."""
        return self.options.get("mode") in ("async", "stale")

    @property
    def num_servers(self) -> int:
        """Ranks that keep parameters and train nothing: the last ones."""
        return num_servers(self.strategy, self.strategy_options)

    @property
    def may_be_lost(self) -> frozenset[int]:
        """Ranks whose end does not end the launch: workers at their own pace."""
        return frozenset(range(self.num_workers)) if self.own_pace else frozenset()

    @property
    def num_workers(self) -> int:
        """Ranks that train: the first ones, all but the servers."""
        return self.world_size - self.num_servers

    @property
    def unmetered_because(self) -> str | None:
        """Why no attribution launch can be made of this cell; None where one can."""
        if self.num_servers:
            return (
                f"{self.strategy} is not metered: without its messages a worker has no weights to go on with, so that the arms "
                "sync and local would measure something else"
            )
        return None

    @property
    def strategy_words(self) -> str:
        """The strategy's own settings in words; "" where all are at their default."""
        return ", ".join(f"{name} {value}" for name, value in sorted(self.strategy_options.items()))

    @property
    def contender(self) -> str:
        """The strategy as tables and charts name it: with its settings and DeepSpeed file where the cell has its own."""
        words = ", ".join(filter(None, (self.strategy_words, self.deepspeed_config)))
        return f"{self.strategy} ({words})" if words else self.strategy

    @property
    def global_batch_size(self) -> int:
        """Sequences per optimizer step over all workers."""
        return self.micro_batch_size * self.grad_accum_steps * self.num_workers

    @property
    def tokens_per_step(self) -> int:
        """Tokens per optimizer step over all ranks, if every sequence has `seq_len`: the most that a step can have where
        lengths differ."""
        return self.global_batch_size * self.seq_len

    @property
    def translates(self) -> bool:
        """True if the model reads one sequence and writes another, instead of going on with one."""
        return self.model in models.PRESETS and models.PRESETS[self.model][0] == models.SEQ2SEQ

    @property
    def dropout(self) -> float:
        """The part of the activations that the model leaves out at random. transformers' models are built without."""
        value = self.model_options.get("dropout", 0.0) if self.model in models.PRESETS else 0.0
        return 0.0 if isinstance(value, str) else float(value)

    @property
    def masks(self) -> str:
        """What settles what is dropped out, besides the seed: how ranks share out the global batch; "" without dropout."""
        if not self.dropout:
            return ""
        split = f"{self.world_size} ranks x {self.grad_accum_steps} x {self.micro_batch_size} sequences"
        return f"{split}, {self.partition}"

    @property
    def paced(self) -> bool:
        """True if the model sleeps instead of computing, so that its step time is known by construction."""
        return self.model.startswith("paced-")

    @property
    def paced_token_s(self) -> float | None:
        """Seconds that a paced model sleeps for each token, forward and backward. None for all others.

        num_layers x (forward_s + backward_s) / reference_tokens (models/paced.py); on the last rank (1 + slow_rank_frac) times
        as long.
        """
        if not self.paced:
            return None
        sizes: dict[str, Any] = {**models.PRESETS[self.model][1], **self.model_options}
        return float(sizes["num_layers"] * (sizes["forward_s"] + sizes["backward_s"]) / sizes["reference_tokens"])

    @property
    def paced_step_s(self) -> float | None:
        """Seconds that every rank of a paced model sleeps in one optimizer step on sequences of `seq_len`: its floor. None for
        all others."""
        token_s = self.paced_token_s
        return None if token_s is None else token_s * self.micro_batch_size * self.grad_accum_steps * self.seq_len

    @property
    def work(self) -> dict[str, Any]:
        """What of the cell settles its losses: by the names of EQUAL_WORK, `model_options` as JSON ("" without any)."""
        options = json.dumps(self.model_options, sort_keys=True) if self.model_options else ""
        return {name: options if name == "model_options" else getattr(self, name) for name in EQUAL_WORK}

    @property
    def id(self) -> str:
        """Readable, stable name of the cell, safe as a folder name; its last part digests every field.

        Fields at their default are left out of the digest, so that a field added later does not rename old cells.
        """
        digest = hashlib.sha256(
            json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True).encode("utf-8")
        ).hexdigest()[:8]
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in self.model)
        return (
            f"{name}_{self.strategy}_w{self.world_size}_g{self.grad_accum_steps}_b{self.micro_batch_size}"
            f"_s{self.seq_len}_{self.precision}_{self.scaling}_{digest}"
        )


def _is_mapping(options: Any) -> bool:
    return options is None or isinstance(options, dict)
