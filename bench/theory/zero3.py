"""What ZeRO-3 gathers in each optimizer step: an exact replay of DeepSpeed's rules, which no closed form holds.

Source: deepspeed/runtime/zero/partitioned_param_coordinator.py, parameter_offload.py, partition_parameters.py and stage3.py,
0.19.8. Names follow the source where they name the same thing.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum

from bench.results.metered import Outline, VisitKind
from bench.theory.zero_settings import UnknownTraffic, ZeroSettings

Call = tuple[str, int]
"""Operation and payload bytes."""


@dataclass(frozen=True)
class Launched:
    """A gather begins, beside what follows. `parameters` come with it."""

    payload_bytes: int
    parameters: tuple[int, ...]


@dataclass(frozen=True)
class Awaited:
    """Nothing goes on before the gather that brings this parameter is done."""

    parameter: int


@dataclass(frozen=True)
class Visited:
    """A module is entered or left, after what it needs is there."""

    kind: VisitKind
    module: int


Event = Launched | Awaited | Visited


class Status(Enum):
    """Where a parameter is: this rank's part alone, all of it soon, all of it."""

    SHARDED = 1
    IN_FLIGHT = 2
    WHOLE = 3


def gathers(outline: Outline, settings: ZeroSettings, world_size: int, grad_accum_steps: int) -> Counter[Call]:
    """All-gathers of one optimizer step, once the trace of the first micro-batch is complete: from the third step on.

    A module's missing parameters are gathered together when it is entered, with those of the modules to come, up to the
    prefetch bucket and the live-parameter limit; they are freed when it is left, unless they persist or come again within
    the reuse distance. A gather's payload is its parameters' elements, each padded to a multiple of `world_size`.
    Raises UnknownTraffic for leaf modules and parameters used outside their module, and where the replay meets a state in
    which DeepSpeed itself would stop.
    """
    replay = _Replay(outline, settings, world_size)
    steps: list[Counter[Call]] = []
    for _ in range(3):
        replay.calls = Counter()
        for _ in range(grad_accum_steps):
            replay.micro_batch()
        replay.optimizer_step()
        steps.append(replay.calls)
    assert steps[1] == steps[2], "from the second step on, every step begins and ends in the same state"
    return steps[2]


def micro_batch_events(outline: Outline, settings: ZeroSettings, world_size: int) -> list[Event]:
    """What the first micro-batch of a step does from the third step on, in order: gathers begun and waited for, modules visited.

    Raises as `gathers`.
    """
    replay = _Replay(outline, settings, world_size)
    for _ in range(3):
        replay.events = []
        replay.micro_batch()
        replay.optimizer_step()
    return replay.events[: replay.num_events_of_pass]


class _Replay:
    """The coordinator's state, and the same moves on it as the source makes."""

    def __init__(self, outline: Outline, settings: ZeroSettings, world_size: int) -> None:
        if outline.own_rules:
            raise UnknownTraffic(f"the theory does not cover how ZeRO-3 treats the module {outline.own_rules[0]}")
        self.settings = settings
        self.world_size = world_size
        self.visits = outline.visits
        self.numel = [parameter.num_elements for parameter in outline.parameters]
        self.owned = [sorted(set(module.parameters)) for module in outline.modules]
        self.persistent = _persistent(self.numel, settings)
        self.status = [Status.SHARDED] * len(self.numel)
        self.active: list[set[int]] = [set() for _ in self.numel]
        self.in_flight: dict[int, list[int]] = {}
        self.module_order: list[int] = []
        self.parameter_order: list[tuple[int, int]] = []
        self.recording = False
        self.complete = False
        self.queue: deque[tuple[int, int]] = deque()
        self.fetched_for: dict[int, int] = {}
        self.step = 0
        self.num_available = 0
        self.backward_modules: dict[int, None] = {}
        # The source keeps the answer of the first time, though it depends on more than it is kept by.
        self.kept_releases: dict[tuple[int, int], set[int]] = {}
        self.calls: Counter[Call] = Counter()
        self.events: list[Event] = []
        self.num_events_of_pass = 0

    def micro_batch(self) -> None:
        self._reset()
        for kind, module in self.visits:
            if kind == "enter_forward":
                self._fetch(module)
            elif kind == "leave_forward":
                self._release(module)
            elif kind == "enter_backward":
                self.backward_modules[module] = None
                self._fetch(module)
            else:
                self.backward_modules.pop(module, None)
                self._release(module)
            self.events.append(Visited(kind, module))
        self.num_events_of_pass = len(self.events)
        while self.backward_modules:
            module, _ = self.backward_modules.popitem()
            self._free(module, set(self.owned[module]) - self.persistent)

    def optimizer_step(self) -> None:
        """Everything is sharded again; after the update the persistent parameters are gathered, one by one."""
        for parameter in range(len(self.numel)):
            self.active[parameter].clear()
            self._shard(parameter)
        for parameter in sorted(self.persistent):
            self._gather([parameter])
            self.status[parameter] = Status.WHOLE

    def _reset(self) -> None:
        """A forward pass begins. The first one is recorded, and known to the second."""
        assert not self.in_flight, "what is prefetched is used later in the same micro-batch"
        if self.recording:
            self.complete, self.recording = True, False
            for step, module in enumerate(self.module_order):
                self.parameter_order += [(parameter, step) for parameter in self.owned[module]]
        elif not self.complete:
            self.recording = True
        self.queue = deque(self.parameter_order)
        self.fetched_for = {}
        self.step = 0
        self.num_available = 0

    def _fetch(self, module: int) -> None:
        if self.recording:
            self.module_order.append(module)
        needed = self.owned[module]
        self._launch([parameter for parameter in needed if self.status[parameter] is Status.SHARDED])
        for parameter in needed:
            self.active[parameter].add(module)
            if parameter in self.in_flight:
                self.events.append(Awaited(parameter))
                self._wait(self.in_flight.pop(parameter))
        if self.complete:
            self._forget_from_queue(module)
            self._prefetch()
        self.step += 1

    def _forget_from_queue(self, module: int) -> None:
        """What is here now need not be prefetched."""
        due = {p for p in self.owned[module] if self.fetched_for.get(p, -1) < self.step}
        taken: set[int] = set()
        while self.queue and len(taken) < len(due):
            parameter, step = self.queue.popleft()
            self.fetched_for[parameter] = step
            taken.add(parameter)
        if taken != due:
            raise UnknownTraffic("micro-batches differ from the first: DeepSpeed would stop with a tracing error")

    def _prefetch(self) -> None:
        settings = self.settings
        if settings.prefetch_bucket_size <= 0:
            return
        room = min(settings.max_live_parameters - self.num_available, settings.prefetch_bucket_size)
        wanted: list[int] = []
        elements = 0
        while self.queue and elements < room:
            parameter, step = self.queue.popleft()
            self.fetched_for[parameter] = max(self.fetched_for.get(parameter, step), step)
            if self.status[parameter] is Status.SHARDED and parameter not in wanted:
                wanted.append(parameter)
                elements += self.numel[parameter]
        self._launch(wanted)

    def _launch(self, together: list[int]) -> None:
        if not together:
            return
        self.num_available += sum(self.numel[parameter] for parameter in together)
        self._gather(together)
        for parameter in together:
            if parameter in self.in_flight:
                raise UnknownTraffic("a parameter is gathered twice at once: DeepSpeed would stop")
            self.status[parameter] = Status.IN_FLIGHT
            self.in_flight[parameter] = together

    def _gather(self, together: list[int]) -> None:
        if self.world_size > 1:
            elements = sum(padded(self.numel[parameter], self.world_size) for parameter in together)
            self.calls["all_gather", elements * self.settings.parameter_bytes] += 1
            self.events.append(Launched(elements * self.settings.parameter_bytes, tuple(together)))

    def _wait(self, together: list[int]) -> None:
        """One gather's parameters arrive together, also those that nobody waits for yet."""
        for parameter in together:
            if self.status[parameter] is Status.IN_FLIGHT:
                self.status[parameter] = Status.WHOLE

    def _release(self, module: int) -> None:
        if not self.complete:
            self._free(module, set(self.owned[module]))
            return
        key = (module, self.step)
        if key not in self.kept_releases:
            self.kept_releases[key] = self._releasable(module)
        self._free(module, self.kept_releases[key])

    def _releasable(self, module: int) -> set[int]:
        """Not what persists, what the prefetcher passed by because it was here, and what comes again soon."""
        found = {p for p in self.owned[module] if p not in self.persistent and self.fetched_for.get(p, -1) <= self.step}
        traversed = 0
        for later in self.module_order[self.step :]:
            if traversed >= self.settings.max_reuse_distance:
                break
            for parameter in self.owned[later]:
                found.discard(parameter)
                traversed += self.numel[parameter]
        return found

    def _free(self, module: int, releasable: set[int]) -> None:
        for parameter in self.owned[module]:
            self.active[parameter].discard(module)
            if parameter in releasable:
                self._shard(parameter)

    def _shard(self, parameter: int) -> None:
        if self.status[parameter] is Status.WHOLE and not self.active[parameter]:
            self.status[parameter] = Status.SHARDED
            self.num_available -= self.numel[parameter]


def padded(num_elements: int, multiple: int) -> int:
    """`num_elements` rounded up to a multiple."""
    return -(-num_elements // multiple) * multiple


def _persistent(numel: list[int], settings: ZeroSettings) -> set[int]:
    """The parameters that stay whole between uses: the small ones, in order, as long as all of them together fit."""
    found: set[int] = set()
    total = 0
    for parameter, elements in enumerate(numel):
        if (
            elements <= settings.param_persistence_threshold
            and total + elements <= settings.model_persistence_threshold
        ):
            found.add(parameter)
            total += elements
    return found
