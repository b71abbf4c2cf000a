"""Timelines against an event queue, against closed forms, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.theory.timeline import gathered_backward_s, gathered_forward_s, overlapped_s
from tests.theory.events import Task, simulate

seconds = st.floats(0.001, 10.0)
fraction = st.floats(0.0, 0.95)


@given(
    parts=st.lists(seconds, min_size=1, max_size=8),
    lasts=st.lists(seconds, min_size=8, max_size=8),
    contention=fraction,
)
@settings(max_examples=150, deadline=None)
def test_overlap_is_what_an_event_queue_says(parts: list[float], lasts: list[float], contention: float) -> None:
    """Compute in parts, each of which fills a bucket."""
    durations = lasts[: len(parts)]
    compute = [Task(part) for part in parts]
    communication = [Task(length, after=[part]) for length, part in zip(durations, compute, strict=True)]
    expected = simulate(compute, communication, contention)
    total = sum(parts)
    assert overlapped_s(total, np.cumsum(parts) / total, durations, contention) == pytest.approx(expected, rel=1e-6)


@given(layers=st.integers(1, 7), layer=seconds, gather=seconds, contention=fraction)
@settings(max_examples=100, deadline=None)
def test_a_gathered_forward_pass_is_what_an_event_queue_says(
    layers: int, layer: float, gather: float, contention: float
) -> None:
    gathers = [Task(gather) for _ in range(layers)]
    compute = [Task(layer, after=[gathers[place]]) for place in range(layers)]
    for place in range(1, layers):
        gathers[place].beside = [compute[place - 1]]
    expected = simulate(compute, gathers, contention)
    assert gathered_forward_s(layer, layers, gather, contention) == pytest.approx(expected, rel=1e-6)


@given(layers=st.integers(1, 7), layer=seconds, gather=seconds, reduction=seconds, contention=fraction)
@settings(max_examples=100, deadline=None)
def test_a_gathered_backward_pass_is_what_an_event_queue_says(
    layers: int, layer: float, gather: float, reduction: float, contention: float
) -> None:
    gathers = [Task(gather) for _ in range(layers)]
    compute = [Task(layer, after=[gathers[place]]) for place in range(layers)]
    reductions = [Task(reduction, after=[compute[place]]) for place in range(layers)]
    communication = [gathers[0]]
    for place in range(layers):
        if place + 1 < layers:
            gathers[place + 1].beside = [compute[place]]
        if place > 0:
            communication.append(reductions[place - 1])
        if place + 1 < layers:
            communication.append(gathers[place + 1])
    expected = simulate(compute, [*communication, reductions[-1]], contention)
    got = gathered_backward_s(layer, layers, gather, reduction, contention)
    assert got == pytest.approx(expected, rel=1e-6)


def test_the_limits_of_overlap() -> None:
    ready, durations = np.array([0.5, 1.0]), np.array([2.0, 2.0])
    # Nothing is taken from compute, and all but the last collective fits beside it.
    assert overlapped_s(8.0, ready, durations, 0.0) == 10.0
    # Compute stands still meanwhile: as if one came after the other.
    assert overlapped_s(8.0, ready, durations, 1.0) == 12.0
    # The link is the slower of the two: it alone counts from the first bucket on.
    assert overlapped_s(2.0, ready, durations, 0.0) == 5.0
    assert overlapped_s(8.0, ready, np.zeros(2), 0.7) == 8.0


@given(compute=seconds, lasts=st.lists(seconds, min_size=4, max_size=4), contention=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_step_lies_between_free_and_no_overlap(compute: float, lasts: list[float], contention: float) -> None:
    ready = np.array([0.25, 0.5, 0.75, 1.0])
    got = float(overlapped_s(compute, ready, lasts, contention))
    free, none = (float(overlapped_s(compute, ready, lasts, end)) for end in (0.0, 1.0))
    assert free - 1e-9 <= got <= none + 1e-9
    assert none == pytest.approx(compute + sum(lasts))


def test_many_candidates_at_once() -> None:
    rng = np.random.default_rng(0)
    compute, durations = rng.uniform(0.1, 1, 500), rng.uniform(0, 0.2, (500, 6))
    ready = np.sort(rng.uniform(0, 1, (500, 6)), axis=1)
    together = overlapped_s(compute, ready, durations, 0.7)
    alone = [float(overlapped_s(c, r, d, 0.7)) for c, r, d in zip(compute, ready, durations, strict=True)]
    assert together == pytest.approx(alone)
