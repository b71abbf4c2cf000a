"""Which launches may be believed: the gates that a launch passes before any figure of it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.plan.cell import EQUAL_WORK
from bench.results.reference import Reference

# Relative L2 distance between replicas that synchronise at every step. They start equal and add equal gradients, so that
# only a backend that sums in another order on each rank leaves any distance at all; half precision rounds coarser.
REPLICA_TOLERANCE = {"fp32": 1e-6, "bf16": 1e-3, "fp16": 1e-3}

# Relative difference of two losses of equal work: order of summation only.
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}

COMPARED_STEPS = 50
"""So many losses of a training are held to others of equal work: after that, sums in another order have parted them."""

# What the gates look at.
_ASKED = [
    *("strategy", "precision", "world_size", "num_ranks", "steps", "num_steps", "num_timed_steps", "losses"),
    *("num_skipped_steps", "replica_distance", "optimizer", "skipped_warmup_steps", "corpus_sha256", "batch_tokens"),
    *("drifting", "lost", "max_steps"),
]


def judge(
    launches: pd.DataFrame,
    reasons: Mapping[str, Sequence[str]] | None = None,
    references: Sequence[Reference] = (),
) -> pd.DataFrame:
    """The launches, with outcome "invalid" and a reason for each that is ok but may not be believed.

    Takes and returns the columns of `bench.results.frame.to_frame`; the input is left as it was. A launch that fails
    several gates names them all. `reasons`, by launch_id, are those found by gates that look into the record itself
    (`bench.analysis.gates`, theory against ledger). Losses are held to the plain training of `references` for as many steps as
    it has, then to those of the other launches of equal work.
    """
    judged = launches.copy()
    judged["outcome"] = judged["outcome"].astype(object)
    judged["reason"] = judged["reason"].astype(object)
    ok = judged[judged["outcome"] == "ok"]
    known = reasons or {}
    found = {index: [why for gate in GATES if (why := gate(row))] for index, row in _rows(ok)}
    for index, launch_id in ok["launch_id"].items():
        found[index] += known.get(launch_id, ())
    held = ok[ok["equal_work"].astype(bool)]
    # The profile `matched` settles the optimizer; a wrong one there is no excuse for other losses.
    held = held.assign(optimizer=held["optimizer"].where(held["profile"] == "tuned"))
    apart = _leaves_plain_training(held, references)
    sound = held.loc[[index for index in held.index if not found[index] and index not in apart]]
    # Plain training has few steps; beyond them, launches are held to each other.
    apart = {**_leaves_equal_work(held, sound), **apart}
    for index, why in apart.items():
        found[index].append(why)
    failed = {index: "; ".join(why) for index, why in found.items() if why}
    judged.loc[list(failed), "outcome"] = "invalid"
    for index, reason in failed.items():
        judged.at[index, "reason"] = reason
    return judged


def _rows(frame: pd.DataFrame) -> list[tuple[Any, dict[str, Any]]]:
    rows = [{str(name): value for name, value in row.items()} for row in frame[_ASKED].to_dict("records")]
    return list(zip(frame.index, rows, strict=True))


def ranks_missing(row: dict[str, Any]) -> str | None:
    """Why the launch is invalid, if a rank left no record."""
    if row["lost"]:
        return f"lost {row['lost']}: the figures are of the others alone"
    if row["num_ranks"] != row["world_size"]:
        return f"records of {row['num_ranks']:.0f} ranks, expected world_size {row['world_size']}"
    return None


def steps_missing(row: dict[str, Any]) -> str | None:
    """Why the launch is invalid, if the window is not as long as the cell asks, by its own count or on any rank."""
    for name in ("num_steps", "num_timed_steps"):
        if row[name] != row["steps"]:
            found = "no" if pd.isna(row[name]) else f"{row[name]:.0f}"
            return f"{found} steps in the window ({name}), expected {row['steps']}"
    return None


def loss_not_finite(row: dict[str, Any]) -> str | None:
    """Why the launch is invalid, if any loss, warm-up included, is NaN or infinite."""
    losses = _losses(row)
    wrong = np.flatnonzero(~np.isfinite(losses))
    return f"loss of step {wrong[0]} is {losses[wrong[0]]:g}" if wrong.size else None


def steps_skipped(row: dict[str, Any]) -> str | None:
    """Why the launch is invalid, if the loss scaler skipped steps inside the window: a skipped step is a faster one. A training's
    window is all of it, in which the scaler finds its scale."""
    skipped = row["num_skipped_steps"] if pd.isna(row["max_steps"]) else 0
    return f"{skipped:.0f} optimizer steps were skipped inside the window" if skipped > 0 else None


def replicas_differ(row: dict[str, Any]) -> str | None:
    """Why the launch is invalid, if the replicas of a synchronous strategy are further apart than rounding explains."""
    distance, tolerance = row["replica_distance"], REPLICA_TOLERANCE[row["precision"]]
    if row["drifting"] or distance is None or np.isnan(distance) or distance <= tolerance:
        return None
    return f"replicas differ by {distance:.2g} (relative) at the end, expected at most {tolerance:g}"


GATES: tuple[Callable[[dict[str, Any]], str | None], ...] = (
    ranks_missing,
    steps_missing,
    loss_not_finite,
    steps_skipped,
    replicas_differ,
)


_Losses = np.ndarray[Any, np.dtype[np.float64]]


def _losses(row: dict[str, Any]) -> _Losses:
    losses = row["losses"]
    return np.asarray(losses if isinstance(losses, list) else [], dtype=float)


def _leaves_plain_training(ok: pd.DataFrame, references: Sequence[Reference]) -> dict[Any, str]:
    """Reasons by index, of the launches whose losses leave those of plain training of the same global batches.

    A tuned optimizer other than plain training's trains otherwise: then only the loss before its first step is compared.
    """
    plain = {tuple(found.cell.work.values()): found for found in references if found.outcome == "ok"}
    reasons: dict[Any, str] = {}
    for work, group in ok.groupby(list(EQUAL_WORK), dropna=False, sort=False):
        if (found := plain.get(work)) is None:
            continue
        reference = np.asarray(found.losses)
        tokens = np.asarray(found.tokens)
        for index, row in _rows(group):
            if (why := _other_data(row, found.corpus_sha256, tokens)) is not None:
                reasons[index] = why
                continue
            alike = pd.isna(row["optimizer"]) or row["optimizer"] == str(found.optimizer)
            losses = _losses(row)[: _num_alike([row["skipped_warmup_steps"], found.skipped]) if alike else 1]
            if (why := _departure(losses, reference, row["precision"], "plain training")) is not None:
                reasons[index] = why
    return reasons


def _other_data(row: dict[str, Any], corpus_sha256: str | None, tokens: np.ndarray[Any, Any]) -> str | None:
    """Why a launch did not train on what plain training did, by the text's digest and the tokens of each step, where both say."""
    digest = row["corpus_sha256"]
    if isinstance(digest, str) and corpus_sha256 is not None and digest != corpus_sha256:
        return f"trained on a text with sha256 {digest[:12]}, plain training on {corpus_sha256[:12]}: the corpus has changed"
    if not isinstance(row["batch_tokens"], list):
        return None
    shared = min(len(row["batch_tokens"]), len(tokens))
    differing = np.flatnonzero(np.asarray(row["batch_tokens"][:shared]) != tokens[:shared])
    if not differing.size:
        return None
    step = differing[0]
    return f"step {step} had {row['batch_tokens'][step]} tokens, plain training {tokens[step]}"


def _leaves_equal_work(ok: pd.DataFrame, sound: pd.DataFrame) -> dict[Any, str]:
    """Reasons by index, of the launches whose losses leave those of the other launches of equal work.

    Equal work is the same model, data, batch and optimizer (EQUAL_WORK, the text's digest, and the tuned optimizer).
    The reference comes from launches that passed all other gates: ddp's at the smallest world size, or the median over
    all of them where no ddp is sound. With several launches of the reference, step by step their median.
    """
    reasons: dict[Any, str] = {}
    for _, group in ok.groupby([*EQUAL_WORK, "corpus_sha256", "optimizer"], dropna=False, sort=False):
        candidates = sound.loc[sound.index.isin(group.index)]
        plain = candidates[candidates["strategy"] == "ddp"]
        name = f"the median of {len(candidates)} launches"
        if len(plain):
            smallest = plain["world_size"].min()
            candidates, name = plain[plain["world_size"] == smallest], f"ddp at world_size {smallest}"
        if len(group) < 2 or candidates.empty:
            continue
        rows = [_losses(row) for _, row in _rows(candidates)]
        skipped = candidates["skipped_warmup_steps"].tolist()
        reference = np.median([losses[: min(map(len, rows))] for losses in rows], axis=0)
        for index, row in _rows(group):
            losses = _losses(row)[: _num_alike([row["skipped_warmup_steps"], *skipped])]
            if not pd.isna(row["max_steps"]):
                losses = losses[:COMPARED_STEPS]
            if (why := _departure(losses, reference, row["precision"], name)) is not None:
                reasons[index] = why
    return reasons


def _num_alike(skipped: list[list[int]]) -> int | None:
    """How many steps of several launches come before the first that some of them skipped and others did not, itself
    included, whose loss is from before its update; None if all of them are alike. A scaler skips when gradients overflow in
    fp16, which order of summation decides."""
    odd = set().union(*skipped) - set(skipped[0]).intersection(*skipped)
    return min(odd) + 1 if odd else None


def _departure(losses: _Losses, reference: _Losses, precision: str, name: str) -> str | None:
    """Where losses first leave a reference, among the steps that both have; None where they don't."""
    tolerance = LOSS_TOLERANCE[precision]
    shared = min(len(losses), len(reference))
    apart = np.abs(losses[:shared] - reference[:shared])
    # A loss that is not finite has its own gate, and compares as false here.
    wrong = np.flatnonzero(apart > tolerance * np.abs(reference[:shared]))
    if not wrong.size:
        return None
    step = wrong[0]
    return (
        f"losses leave those of equal work: step {step} is {losses[step]:.6g}, {name} has {reference[step]:.6g} "
        f"(tolerance {tolerance:g}, relative)"
    )
