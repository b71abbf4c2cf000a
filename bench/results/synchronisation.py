"""The schema of how the replicas of a launch were kept together: how far apart they were, and how old what they applied was."""

from __future__ import annotations

from pydantic import Field

from bench.results.schema import Schema


class ReplicaSample(Schema):
    """Relative L2 distance of the replicas from the first worker's, largest and mean over the others, when the first worker had
    taken `step` steps, warm-up counted. Where replicas are averaged: just before the last average up to then."""

    step: int
    largest: float
    mean: float


class Lost(Schema):
    """A worker that was gone before the end, after so many of its messages were applied since training began, and what the
    server saw."""

    rank: int
    num_updates: int
    reason: str


class Synchronisation(Schema):
    """How replicas were kept together.

    `num_updates`: optimizer steps on the shared weights in the window; `num_tokens`: trained on in it, by all workers.
    `samples`: taken at the edges of warm-up's blocks and of the window, outside the measured seconds. Of a parameter server,
    in the window: `staleness` counts the updates by how many others were applied between the fetch of the weights that they
    started from and themselves; `lead` counts the steps that workers began by how many steps they were ahead of the slowest
    then; `lost`: workers that went.
    """

    num_updates: int
    num_tokens: int
    samples: list[ReplicaSample] = Field(default_factory=list)
    staleness: dict[int, int] = Field(default_factory=dict)
    lead: dict[int, int] = Field(default_factory=dict)
    lost: list[Lost] = Field(default_factory=list)
