"""Training in several places that a slow link joins: each place is one replica, and what bandwidth keeps it busy."""

from __future__ import annotations

from dataclasses import dataclass

from bench.theory.collectives import Group
from bench.theory.machine import Behaviour, Device, Fabric, Host, Machine, Network, Node, Positive, Quantity
from bench.theory.ways import DEFAULTS, Options, step_of
from bench.theory.workload import BACKWARD_FRAC, Workload

GBIT = 1e9 / 8
"""Bytes/s of one Gbit/s."""

_LOW_BYTES_PER_S, _HIGH_BYTES_PER_S = 1e3, 1e15


@dataclass(frozen=True)
class Training:
    """What each place trains: `step_s` of its inner step with all that happens inside the place, `num_params` exchanged with
    the others in `item_bytes` each."""

    num_params: int
    num_layers: int
    step_s: float
    dtype: str = "bf16"


def utilisation(
    training: Training, strategy: str, bytes_per_s: float, places: int = 2, options: Options = DEFAULTS
) -> float:
    """The part of the time in which a place computes, `bytes_per_s` being what each sends at once while it receives as much.

    The same step as `scalebench project`, on a machine that is nothing but its link: no place is slower or later than
    another, nothing stands still beside a transfer, the link has NCCL's own latency and no more.
    """
    group = Group(place(), places, link(bytes_per_s))
    work = work_of(training)
    return work.step_1_s / step_of(work, strategy, group, options).step_time_s


def bandwidth_bytes_per_s(
    training: Training, strategy: str, wanted: float, places: int = 2, options: Options = DEFAULTS
) -> float:
    """The least bandwidth at which that part of the time is computing: by halving, since more never lowers it."""
    low, high = _LOW_BYTES_PER_S, _HIGH_BYTES_PER_S
    while high > low * 1.0005:
        middle = (low * high) ** 0.5
        if utilisation(training, strategy, middle, places, options) >= wanted:
            high = middle
        else:
            low = middle
    return high


def work_of(training: Training) -> Workload:
    """A place's step as a workload: the update is inside the place's step, and is no part of what is overlapped."""
    return Workload(
        num_params=training.num_params,
        num_layers=training.num_layers,
        precision=training.dtype,
        grad_accum_steps=1,
        forward_s=(1 - BACKWARD_FRAC) * training.step_s,
        backward_s=BACKWARD_FRAC * training.step_s,
        update_s=0.0,
        copied_bytes=0.0,
        profile="tuned",
        last_frac=0.0,
        tokens_per_step=None,
        activation_bytes=None,
        compute_error_frac=0.0,
    )


def link(bytes_per_s: float) -> Network:
    """What joins the places: so many bytes/s of each, in and out at once."""
    none = Quantity(value=0.0, source="assumed: NCCL's own latency and no more")
    one = Positive(value=1.0, source="one link a place")
    return Network(cards=one, card_bytes_per_s=Positive(value=bytes_per_s, source="asked for"), added_latency_s=none)


def place(host: Host | None = None) -> Machine:
    """One place as a machine of one device, with the host that a parameter server would run on."""
    endless = Positive(value=1e18, source="assumed: what happens inside a place is in its step")
    none = Quantity(value=0.0, source="assumed: places are equal and punctual, a transfer takes nothing from compute")
    return Machine(
        name="place",
        description="One replica, whatever it is made of",
        device=Device(
            name=None, memory_bytes=endless, memory_bytes_per_s=endless, layer_latency_s=none, sustained_frac={}
        ),
        node=Node(num_devices=1, backend="nccl", fabric=Fabric(kind="host", host_path_bytes_per_s=endless)),
        behaviour=Behaviour(device_variation_frac=none, lateness_s=none, contention_frac=none, reserved_bytes=none),
        host=host,
    )
