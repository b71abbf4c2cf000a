"""What one rank has to do in a step: known from a preset and a machine, or from nothing but some numbers."""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import ProjectionError
from bench.theory.flops import peak_flops_per_s
from bench.theory.machine import Machine
from bench.theory.transformer import preset_shape
from bench.theory.zero_settings import DTYPE_BYTES

BACKWARD_FRAC = 2 / 3
"""The backward pass multiplies twice as much as the forward pass (Kaplan et al. 2020, section 2.1)."""

MOST_PARAMS = 10**13
"""More than any model has; a timeline visits every bucket, 25 MiB each."""

# Layers among which the gradients of an unknown model become ready; GPT-2's and BERT's sizes have 12 to 48.
_USUAL_LAYERS = 24

# What Adam moves for a parameter: in float32 it reads weight, gradient, momentum and variance and writes three of them; in
# half precision it reads a half gradient and three floats, and writes three floats and a half weight.
ADAM_BYTES_PER_PARAM = 28
# Of a step that is known as a whole, the update is at most this part: small models are not bound by memory.
_MOST_UPDATE_FRAC = 0.2

# Of BERT-Large on one V100, four implementations reach 33.7 to 51.2 TFLOP/s (DeepSpeed's BERT post), a fifth around the middle;
# the models here were not among them. A paced model's real arithmetic comes on top of its sleeps: assumed.
_COMPUTE_ERROR_FRAC, _PACED_ERROR_FRAC = 0.25, 0.1

# Gradients are copied into a bucket, divided, and copied out: each reads and writes them once (torch's reducer.cpp without
# gradient_as_bucket_view, apex's distributed.py, Horovod's fusion buffer). With that flag they are divided where they lie.
_COPY_PASSES, _VIEW_PASSES = 6, 2


@dataclass(frozen=True)
class Workload:
    """One rank's work. Seconds are those of a typical device alone: `forward_s` and `backward_s` of a micro-batch, `update_s`
    of the whole optimizer. `last_frac`: the part of the gradients that is ready only at the end of the backward pass.
    `copied_bytes`: what the engine moves in device memory for each reduction of all gradients. `tokens_per_step` of one
    rank, `activation_bytes`: None where unknown. `compute_error_frac`: how far the seconds may be off, 0 where they were
    measured. `tensors`: elements of each in the order in which their gradients are ready, empty where they are not known."""

    num_params: int
    num_layers: int
    precision: str
    grad_accum_steps: int
    forward_s: float
    backward_s: float
    update_s: float
    copied_bytes: float
    profile: str
    last_frac: float
    tokens_per_step: float | None
    activation_bytes: float | None
    compute_error_frac: float
    tensors: tuple[int, ...] = ()

    @property
    def gradient_bytes(self) -> int:
        return DTYPE_BYTES[self.precision]

    @property
    def step_1_s(self) -> float:
        """Seconds of a step on one rank."""
        return self.grad_accum_steps * (self.forward_s + self.backward_s) + self.update_s


def from_numbers(
    machine: Machine,
    *,
    num_params: int,
    grad_dtype: str,
    step_time_1_s: float,
    grad_accum_steps: int = 1,
    backward_frac: float = BACKWARD_FRAC,
    num_layers: int | None = None,
) -> Workload:
    """A workload known only by its numbers: `step_time_1_s` is the whole optimizer step of one rank, accumulation included.

    The update is what Adam has to move, 28 bytes a parameter over the memory's bandwidth, a fifth of the step at most; the
    rest is `grad_accum_steps` forward and backward passes, `backward_frac` of it backward. Gradients travel in `grad_dtype`,
    through an engine that copies them into buckets and back. Raises ProjectionError for numbers that can't be.
    """
    for name, value in (
        ("--num-params", num_params),
        ("--grad-accum-steps", grad_accum_steps),
        ("--num-layers", num_layers),
    ):
        if value is not None and value < 1:
            raise ProjectionError(f"{name}: found {value}, expected a whole number from 1 on")
    if num_params > MOST_PARAMS:
        raise ProjectionError(f"--num-params: found {num_params}, expected at most {MOST_PARAMS}")
    if not 0 < step_time_1_s < float("inf"):
        raise ProjectionError(f"--step-time-1: found {step_time_1_s}, expected seconds above 0")
    if not 0 < backward_frac < 1:
        raise ProjectionError(f"--backward-frac: found {backward_frac}, expected a fraction between 0 and 1")
    adam_s = min(update_s(machine, num_params), _MOST_UPDATE_FRAC * step_time_1_s)
    micro_s = (step_time_1_s - adam_s) / grad_accum_steps
    return Workload(
        num_params=num_params,
        num_layers=num_layers or _USUAL_LAYERS,
        precision=grad_dtype,
        grad_accum_steps=grad_accum_steps,
        forward_s=micro_s * (1 - backward_frac),
        backward_s=micro_s * backward_frac,
        update_s=adam_s,
        copied_bytes=float(_COPY_PASSES * num_params * DTYPE_BYTES[grad_dtype]),
        profile="tuned",
        last_frac=0.0,
        tokens_per_step=None,
        activation_bytes=None,
        compute_error_frac=0.0,
    )


def from_preset(
    machine: Machine,
    *,
    model: str,
    micro_batch_size: int,
    precision: str,
    strategy: str,
    seq_len: int | None = None,
    grad_accum_steps: int = 1,
    activation_checkpointing: bool = False,
    profile: str = "matched",
) -> Workload:
    """A preset on a machine: FLOPs over the sustained part of the peak, and what each layer costs besides arithmetic.

    A third of the FLOPs is forward, and recomputation is backward. A paced model sleeps what it is built to. Raises
    ProjectionError where the machine has no peak at that precision: then only a measured step tells.
    """
    shape = preset_shape(model)
    length = shape.max_seq_len if seq_len is None else seq_len
    for name, value, most in (
        ("--micro-batch-size", micro_batch_size, None),
        ("--grad-accum-steps", grad_accum_steps, None),
        ("--seq-len", length, shape.max_seq_len),
    ):
        if value < 1 or (most is not None and value > most):
            raise ProjectionError(f"{name}: found {value}, expected 1 to {most or 'any'}")
    tokens = micro_batch_size * length
    if shape.paced_s_per_token is not None:
        forward_s, backward_s = (tokens * second for second in shape.paced_s_per_token)
    else:
        rate = sustained_flops_per_s(machine, precision)
        if rate is None:
            raise ProjectionError(
                f"--precision {precision}: {machine.name} has no known peak in it",
                hint="give --num-params, --grad-dtype and --step-time-1 instead of --model, or another precision",
            )
        overhead_s = shape.num_layers * machine.device.layer_latency_s.value
        forward_s = tokens * shape.flops_per_token(length) / 3 / rate + overhead_s * (1 - BACKWARD_FRAC)
        whole = tokens * shape.flops_per_token(length, activation_checkpointing)
        backward_s = whole / rate + overhead_s - forward_s
    return Workload(
        num_params=shape.num_params,
        num_layers=shape.num_layers,
        precision=precision,
        grad_accum_steps=grad_accum_steps,
        forward_s=forward_s,
        backward_s=backward_s,
        update_s=update_s(machine, shape.num_params),
        copied_bytes=copied(strategy, shape.num_params, precision),
        profile=profile,
        last_frac=shape.embedding_params / shape.num_params,
        tokens_per_step=float(tokens * grad_accum_steps),
        activation_bytes=shape.activation_bytes(micro_batch_size, length, precision, activation_checkpointing),
        compute_error_frac=_PACED_ERROR_FRAC if shape.paced_s_per_token is not None else _COMPUTE_ERROR_FRAC,
    )


def sustained_flops_per_s(machine: Machine, precision: str) -> float | None:
    """FLOP/s that a large batch of a transformer reaches: the machine's own figure, else its part of the device's peak; None
    where neither is known."""
    own = machine.device.sustained_flops_per_s.get(precision)
    if own is not None:
        return own.value
    peak, part = peak_flops_per_s(machine.device.name, precision), machine.device.sustained_frac.get(precision)
    return None if peak is None or part is None else peak * part.value


def update_s(machine: Machine, num_params: int) -> float:
    """Seconds in which Adam moves what it has to of so many parameters."""
    return ADAM_BYTES_PER_PARAM * num_params / machine.device.memory_bytes_per_s.value


def copied(strategy: str, num_params: int, precision: str) -> float:
    """Bytes that this project's engines move in device memory to reduce all gradients once: DDP has them as views of buckets."""
    passes = _VIEW_PASSES if strategy == "ddp" else _COPY_PASSES
    return float(passes * num_params * DTYPE_BYTES[precision])
