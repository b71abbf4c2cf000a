"""Which settings to train with: candidates in order, what binds the best, what the others lose, and which can't be told apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProjectionError
from bench.theory.candidates import SEARCHED, Candidates, Steps
from bench.theory.collectives import Group
from bench.theory.machine import Machine, Network

ORDERS = ("step_time", "cost", "energy")

COMPUTE, LATENESS, MEMORY = "compute", "host lateness", "memory"
# Parts of a step that are a rank's own work, the slowest device's beyond a typical one's included.
_OWN = ("forward_s", "backward_s", "update_s", "copy_s", "variation_s")
# A setting that does not fit is told of where it would gain so much.
_LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Choice:
    """One setting and what it comes to. `loses_frac`: how much more of what is ranked by it takes than the best. `resolved`:
    whether that is more than the theory may be wrong by; None for the best itself. `binds`: which part of the step is largest,
    `losing_to`: which part grew most against the best. `cost_per_step` in the unit of the price, `energy_per_step_j` in
    joule; None without a price, without watts. `fits` None: the activations are not known."""

    strategy: str
    world_size: int
    nodes: int
    micro_batch_size: int
    grad_accum_steps: int
    activation_checkpointing: bool
    step_time_s: float
    step_time_lo_s: float
    step_time_hi_s: float
    tokens_per_s: float
    memory_bytes: float
    fits: bool | None
    cost_per_step: float | None
    energy_per_step_j: float | None
    loses_frac: float
    resolved: bool | None
    compute_frac: float
    exposed_comm_frac: float
    lateness_frac: float
    binds: str
    losing_to: str | None


@dataclass(frozen=True)
class Advice:
    """The best setting, those that follow, and what stands between it and a better one.

    `choices`: the best micro-batch of each strategy, world size and checkpointing, in order. `unresolved`: candidates beside
    the best that can't be told from it. `too_large`: a setting that would be better and does not fit, None where there is none.
    `link`: what carries the best one's communication.
    """

    by: str
    num_candidates: int
    num_fitting: int
    unresolved: int
    choices: tuple[Choice, ...]
    too_large: Choice | None
    link: str

    @property
    def best(self) -> Choice:
        return self.choices[0]

    @property
    def binds(self) -> list[str]:
        """What binds the best, the first thing to change first: memory where a better setting does not fit, then the largest part
        of the step."""
        return [*([MEMORY] if self.too_large is not None else []), self.best.binds]


def advise(
    found: Candidates,
    taken: Steps,
    machine: Machine,
    *,
    by: str = "step_time",
    tokens_per_step: float,
    network: Network | None = None,
    price_per_gpu_hour: float | None = None,
    watts_per_gpu: float | None = None,
    most: int = 10,
) -> Advice:
    """Rank the candidates that fit by seconds, cost or energy of a step; all do the same work, so by those of a token too.

    Cost: ranks x price x hours of the step; energy: ranks x watts x seconds: of the GPUs that are used, not of whole nodes. Of
    equals fewer ranks come first, then the plainer strategy. Two settings are resolved where their intervals do not meet:
    of the scaling alone where micro-batch and checkpointing are the same, so that one rank's own work is too and its error
    cancels, else with that error. Raises ProjectionError where nothing fits, and where a price or watts are missing.
    """
    for name, given, flag in (
        ("cost", price_per_gpu_hour, "--price-per-gpu-hour"),
        ("energy", watts_per_gpu, "--watts-per-gpu"),
    ):
        if by == name and given is None:
            raise ProjectionError(f"--by {name}: {flag} is missing", hint=f"give {flag}")
    if not taken.fits.any():
        place = int(np.argmin(taken.memory_bytes))
        raise ProjectionError(
            f"{machine.name}: nothing fits: the least is {taken.memory_bytes[place] / 2**30:.1f} GiB a rank "
            f"({SEARCHED[found.strategy[place]]} on {found.world_size[place]} ranks), "
            f"a device has {machine.device.memory_bytes.value / 2**30:.1f}",
            hint="allow more ranks (--max-world-size, --network), or look at scalebench project --strategy zero3_offload",
        )
    ranks = found.world_size.astype(np.float64)
    weight = np.ones_like(ranks) if by == "step_time" else ranks
    value = weight * taken.step_time_s
    order = np.lexsort((found.activation_checkpointing, found.strategy, found.world_size, value))
    fitting = order[taken.fits[order]]
    best = int(fitting[0])
    resolved = _resolved(found, taken, weight, best)

    def choice(place: int) -> Choice:
        group = Group(machine, int(found.world_size[place]), network)
        whole = float(taken.step_time_s[place])
        seconds, now = _parts(taken, place), _parts(taken, best)
        off = taken.compute_error_frac
        growth = {name: weight[place] * seconds[name] - weight[best] * now[name] for name in seconds}
        link = link_of(group)
        called = {COMPUTE: COMPUTE, "link": link, LATENESS: LATENESS}
        own = place == best
        gpu_hours = ranks[place] * whole / 3600
        return Choice(
            strategy=SEARCHED[found.strategy[place]],
            world_size=group.world_size,
            nodes=group.num_nodes,
            micro_batch_size=int(found.micro_batch_size[place]),
            grad_accum_steps=int(found.grad_accum_steps[place]),
            activation_checkpointing=bool(found.activation_checkpointing[place]),
            step_time_s=whole,
            step_time_lo_s=float((1 - off) * taken.scaling_lo_s[place]),
            step_time_hi_s=float((1 + off) * taken.scaling_hi_s[place]),
            tokens_per_s=tokens_per_step / whole,
            memory_bytes=float(taken.memory_bytes[place]),
            fits=bool(taken.fits[place]) if taken.activations_known or not taken.fits[place] else None,
            cost_per_step=None if price_per_gpu_hour is None else float(price_per_gpu_hour * gpu_hours),
            energy_per_step_j=None if watts_per_gpu is None else float(watts_per_gpu * 3600 * gpu_hours),
            loses_frac=float(value[place] / value[best] - 1),
            resolved=None if own else bool(resolved[place]),
            compute_frac=seconds[COMPUTE] / whole,
            exposed_comm_frac=seconds["link"] / whole,
            lateness_frac=seconds[LATENESS] / whole,
            binds=called[max(seconds, key=lambda name: seconds[name])],
            losing_to=None if own else called[max(growth, key=lambda name: growth[name])],
        )

    better = order[: int(np.flatnonzero(order == best)[0])]
    better = better[value[better] < (1 - _LEAST_GAIN) * value[best]]
    return Advice(
        by=by,
        num_candidates=len(found),
        num_fitting=len(fitting),
        unresolved=int((~resolved[fitting]).sum()) - 1,
        choices=tuple(choice(place) for place in _one_of_each(found, fitting)[:most]),
        too_large=choice(int(better[0])) if len(better) else None,
        link=link_of(Group(machine, int(found.world_size[best]), network)),
    )


def link_of(group: Group) -> str:
    """What carries most of a group's communication in its time: the network where the nodes' cards are the slowest part."""
    if group.num_nodes > 1 and group.between is not None and group.between.node_bytes_per_s <= group.bus_bytes_per_s:
        return "network"
    if group.machine.node.backend == "gloo":
        return "loop-back"
    return "NVLink" if group.uses_links else "PCIe"


def _resolved(found: Candidates, taken: Steps, weight: NDArray[np.float64], best: int) -> NDArray[np.bool_]:
    """For each candidate, whether it differs from the best by more than the theory may be wrong."""
    alike = (found.micro_batch_size == found.micro_batch_size[best]) & (
        found.activation_checkpointing == found.activation_checkpointing[best]
    )
    off = np.where(alike, 0.0, taken.compute_error_frac)
    low, high = weight * (1 - off) * taken.scaling_lo_s, weight * (1 + off) * taken.scaling_hi_s
    of_best = [weight[best] * ends[best] for ends in (taken.scaling_lo_s, taken.scaling_hi_s)]
    return np.asarray((low > (1 + off) * of_best[1]) | (high < (1 - off) * of_best[0]))


def _parts(taken: Steps, place: int) -> dict[str, float]:
    return {
        COMPUTE: sum(float(getattr(taken, name)[place]) for name in _OWN),
        "link": float(taken.exposed_comm_s[place]),
        LATENESS: float(taken.lateness_s[place]),
    }


def _one_of_each(found: Candidates, ordered: NDArray[np.intp]) -> list[int]:
    """The first of each strategy, world size and checkpointing."""
    keys = zip(
        found.strategy[ordered].tolist(),
        found.world_size[ordered].tolist(),
        found.activation_checkpointing[ordered].tolist(),
        strict=True,
    )
    firsts: dict[tuple[int, int, bool], int] = {}
    for key, place in zip(keys, ordered.tolist(), strict=True):
        firsts.setdefault(key, place)
    return list(firsts.values())
