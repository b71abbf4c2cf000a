"""A second way to compute a timeline: an event queue with one stream of compute and one of communication."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Task:
    """Something that runs on one of the two streams, in the order in which it was added to it.

    It starts when the one before it on its stream is done, when all of `after` are done, and when all of `beside` have
    started. `seconds`: its length alone.
    """

    seconds: float
    after: list[Task] = field(default_factory=list)
    beside: list[Task] = field(default_factory=list)
    start_s: float | None = None
    end_s: float | None = None


def simulate(compute: list[Task], communication: list[Task], contention: float) -> float:
    """Seconds until all is done, compute at 1 - contention of its speed while communication runs. Moves from event to event."""
    now, left = 0.0, {id(task): task.seconds for task in [*compute, *communication]}
    queues = [list(compute), list(communication)]
    while any(queues):
        running: list[Task | None] = [None, None]
        for stream, queue in enumerate(queues):
            if not queue:
                continue
            task = queue[0]
            ready = all(other.end_s is not None for other in task.after)
            ready = ready and all(other.start_s is not None for other in task.beside)
            if ready:
                task.start_s = now if task.start_s is None else task.start_s
                running[stream] = task
        # A task that starts now may let the other stream's start, too.
        if running[1] is None and queues[1] and running[0] is not None:
            task = queues[1][0]
            if all(o.end_s is not None for o in task.after) and all(o.start_s is not None for o in task.beside):
                task.start_s = now
                running[1] = task
        speeds = [1.0 - contention if running[1] is not None and left[id(running[1])] > 0 else 1.0, 1.0]
        ends = [
            left[id(task)] / speed if speed > 0 or left[id(task)] == 0 else float("inf")
            for task, speed in zip(running, speeds, strict=True)
            if task is not None
        ]
        assert ends, "nothing can run"
        passed = min(ends)
        now += passed
        for stream, task in enumerate(running):
            if task is None:
                continue
            left[id(task)] -= passed * speeds[stream]
            if left[id(task)] <= 1e-12:
                left[id(task)] = 0.0
                task.end_s = now
                queues[stream].pop(0)
    return now
