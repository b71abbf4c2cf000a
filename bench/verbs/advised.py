"""Advice as people read it: what is best and why in sentences, and the choices in a table."""

from __future__ import annotations

from rich.table import Table

from bench.theory.advice import COMPUTE, LATENESS, Advice, Choice
from reports import units

_BEST = {"step_time": "Fastest", "cost": "Cheapest", "energy": "Least energy"}
_NEARLY_FULL = 0.9
_LESS = {"step_time": "time", "cost": "money", "energy": "energy"}


def sentences(advice: Advice, device_bytes: float) -> list[str]:
    """The best setting, what binds it, and how many others can't be told from it. `device_bytes`: a device's memory."""
    best = advice.best
    between = units.seconds_between(best.step_time_lo_s, best.step_time_hi_s)
    found = [
        f"{_BEST[advice.by]}: {setting(best)}: {units.seconds(best.step_time_s)} a step (nine of ten: {between}), "
        f"{units.rate(best.tokens_per_s)} tokens/s{_price(best)}; {units.memory(best.memory_bytes)} a rank."
    ]
    shares = {COMPUTE: best.compute_frac, advice.link: best.exposed_comm_frac, LATENESS: best.lateness_frac}
    parts = ", ".join(f"{name} {units.fraction(share)}" for name, share in shares.items())
    found.append(f"What binds it: {' and '.join(advice.binds)}; of the step: {parts}.")
    if advice.too_large is not None:
        large = advice.too_large
        found.append(
            f"Memory: {setting(large)} would take {units.fraction(-large.loses_frac)} less {_LESS[advice.by]}, but needs "
            f"{units.memory(large.memory_bytes)} a rank{'' if large.resolved else '; the theory may be wrong by more than that'}."
        )
    if best.memory_bytes > _NEARLY_FULL * device_bytes:
        found.append(
            f"It fills {units.fraction(best.memory_bytes / device_bytes)} of a device by theory, which has not been held to "
            "measured GPUs: have the next smaller micro-batch ready."
        )
    if best.fits is None:
        found.append("Whether it fits is not known: of this model's activations there is no theory.")
    found.append(
        f"{units.count(advice.num_candidates)} candidates, {units.count(advice.num_fitting)} fit; "
        f"{units.count(advice.unresolved)} of these can't be told from the best: the theory may be wrong by more than what sets "
        "them apart (not resolved)."
    )
    return found


def setting(choice: Choice) -> str:
    """A setting in words."""
    checkpointing = "with" if choice.activation_checkpointing else "no"
    nodes = f" of {choice.nodes} nodes" if choice.nodes > 1 else ""
    return (
        f"{choice.strategy} on {units.ranks(choice.world_size)}{nodes}, micro-batch {choice.micro_batch_size}, "
        f"accumulation {choice.grad_accum_steps}, {checkpointing} activation checkpointing"
    )


def table(advice: Advice) -> Table:
    """A line a choice, the best first."""
    found = Table("strategy", "ranks", "nodes", "micro-batch", "accum", "checkpointing", "step time", "nine of ten")
    for name in ("cost a step", "energy a step", "memory", "loses", "to", "resolved"):
        found.add_column(name)
    for choice in advice.choices:
        found.add_row(
            choice.strategy,
            units.count(choice.world_size),
            units.count(choice.nodes),
            units.count(choice.micro_batch_size),
            units.count(choice.grad_accum_steps),
            "yes" if choice.activation_checkpointing else "no",
            units.seconds(choice.step_time_s),
            units.seconds_between(choice.step_time_lo_s, choice.step_time_hi_s),
            units.UNKNOWN if choice.cost_per_step is None else units.significant(choice.cost_per_step),
            units.UNKNOWN if choice.energy_per_step_j is None else f"{units.rate(choice.energy_per_step_j)}J",
            units.memory(choice.memory_bytes),
            units.UNKNOWN if choice.resolved is None else units.fraction(choice.loses_frac),
            units.text(choice.losing_to),
            {True: "yes", False: "not resolved", None: units.UNKNOWN}[choice.resolved],
        )
    for column, kept in (("cost a step", advice.best.cost_per_step), ("energy a step", advice.best.energy_per_step_j)):
        if kept is None:
            found.columns = [one for one in found.columns if one.header != column]
    return found


def _price(best: Choice) -> str:
    words = ""
    if best.cost_per_step is not None:
        tokens = best.tokens_per_s * best.step_time_s
        words += f", {units.significant(1e6 * best.cost_per_step / tokens)} for a million tokens"
    if best.energy_per_step_j is not None:
        tokens = best.tokens_per_s * best.step_time_s
        words += f", {units.significant(best.energy_per_step_j / tokens)} J a token"
    return words
