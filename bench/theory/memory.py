"""What each rank keeps in its device's memory: parameters, gradients, optimizer, buckets, activations, by strategy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bench.plan.strategies import STRATEGIES
from bench.theory.buckets import Exchange
from bench.theory.zero_settings import DTYPE_BYTES

FRAGMENTATION_FRAC = 0.05
"""Allowance for what torch's allocator holds in blocks that no tensor fills. Assumed: a step that allocates the same sizes
again and again leaves little; not in the model states, which are allocated once."""

# Bytes of float32 that Adam keeps: momentum and variance; and in half precision the master weights before them.
ADAM_STATE_BYTES, _MASTER = 8, 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank's device. `activations` is None where nothing is known of the model but its size."""

    parameters: float
    gradients: float
    optimizer: float
    buckets: float
    activations: float | None
    reserved: float
    fragmentation: float

    @property
    def states(self) -> float:
        """The model states of the ZeRO paper: parameters, gradients and optimizer."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def tensors(self) -> float:
        """What torch's allocator counts at its peak (torch.cuda.max_memory_allocated): no blocks without a tensor, and nothing
        that is not torch's."""
        return self.states + self.buckets + (self.activations or 0.0)

    @property
    def total_bytes(self) -> float:
        """All that is known: a lower bound where the activations are not."""
        known = self.states + self.buckets + self.reserved + self.fragmentation
        return known + (self.activations or 0.0)


def model_states(
    num_params: float,
    precision: str,
    stage: int,
    world_size: int,
    offload: str = "none",
    state_bytes: int = ADAM_STATE_BYTES,
) -> Memory:
    """Bytes of parameters, gradients and optimizer of one rank, nothing else.

    Half precision: 2 + 2 + 12 bytes a parameter, float32: 4 + 4 + 8. Stage 1 divides the optimizer by the ranks, 2 the
    gradients too, 3 the parameters too; stage 0 and DDP keep all. `offload`: `optimizer` moves the optimizer and the
    divided gradients to the host, `all` at stage 3 the parameters as well. Rajbhandari et al. 2020 (ZeRO), section 5 and
    table 1 (K = 12); Ren et al. 2021 (ZeRO-Offload), section 4. `state_bytes` a parameter are those of another optimizer
    than Adam.
    """
    item = DTYPE_BYTES[precision]
    per_param = state_bytes + (_MASTER if item == 2 else 0)
    share = [1.0 / world_size if stage >= at else 1.0 for at in (3, 2, 1)]
    parameters, gradients, optimizer = (
        num_params * item * share[0],
        num_params * item * share[1],
        num_params * per_param * share[2],
    )
    if offload != "none":
        optimizer = 0.0
        gradients = 0.0 if stage >= 2 else gradients
        parameters = 0.0 if offload == "all" and stage == 3 else parameters
    return Memory(parameters, gradients, optimizer, 0.0, None, 0.0, 0.0)


def memory(
    strategy: str,
    *,
    num_params: int,
    precision: str,
    world_size: int,
    exchange: Exchange,
    activation_bytes: float | None,
    reserved_bytes: float,
    num_layers: int,
    offload: str = "none",
    state_bytes: int = ADAM_STATE_BYTES,
    whole_gradients: bool = False,
) -> Memory:
    """Bytes of one rank while the backward pass begins: its peak.

    Buckets: DDP's are the gradients themselves (gradient_as_bucket_view). DeepSpeed's stages 1 to 3 keep two of their
    reduce buckets where reductions overlap, else one; stage 3 and FSDP2 beside them two gathered layers. `whole_gradients`: those
    of several micro-batches add up before they are reduced and divided (fsdp). The fragmentation allowance,
    FRAGMENTATION_FRAC, is on buckets and activations. Not counted: temporaries inside a kernel, the loss scaler, buffers.
    """
    stage = STRATEGIES[strategy].stage
    states = model_states(num_params, precision, stage, world_size, offload, state_bytes)
    buckets = 0.0
    if whole_gradients:
        states = dataclasses.replace(states, gradients=float(num_params * DTYPE_BYTES[precision]))
    if stage >= 1:
        largest = max(size for size, _ in exchange.buckets)
        buckets = largest * (2 if exchange.overlaps else 1)
    if stage == 3:
        buckets += 2 * num_params * DTYPE_BYTES[precision] / num_layers
    return Memory(
        states.parameters,
        states.gradients,
        states.optimizer,
        buckets,
        activation_bytes,
        reserved_bytes,
        FRAGMENTATION_FRAC * (buckets + (activation_bytes or 0.0)),
    )
