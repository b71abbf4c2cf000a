"""The collectives of a sweep, on inputs whose result is known in closed form: filled, run, and compared element by element.

Element i of rank r in repetition k is i mod 251 + r mod 31 + k mod 17. Sums of it over up to 59,000 ranks are whole numbers below
2^24, so exact in float32 in any order. 251 is a prime: a block that lands in another's place shows; so does a repetition's result
that is still the last one's, and a result that was never written (outputs start as NaN).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from bench.results.comm import Operation
from bench.results.comm_sizes import ELEMENT_BYTES

NUM_BUFFERS = 6
"""Arrays of the whole size that a rank holds at most: pattern, input, output, what is expected, and two of the backend's own."""

VARIANTS: tuple[tuple[Operation, bool], ...] = (
    ("all_reduce", True),
    ("all_gather", False),
    ("all_gather", True),
    ("reduce_scatter", False),
    ("reduce_scatter", True),
    ("broadcast", True),
    ("all_to_all", False),
)
"""(operation, in place). torch.distributed has all_reduce and broadcast in place only; an all_to_all in place is not promised to
be right. In place, a rank's part is where nccl-tests has it: at its rank's place in the whole array."""

_PERIOD, _RANKS, _REPETITIONS = 251, 31, 17
ROOT = 0


class Collective:
    """One operation of one size on this rank: `fill`, then `run`, then `fault`, once a repetition.

    `size_bytes` is that of bench.results.comm_sizes, a whole number of float32 in every rank's part.
    """

    def __init__(self, operation: Operation, in_place: bool, size_bytes: int, device: torch.device) -> None:
        self.operation, self.in_place, self.size_bytes = operation, in_place, size_bytes
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        whole = size_bytes // ELEMENT_BYTES
        part = whole // self._ranks
        mine = slice(self._rank * part, (self._rank + 1) * part)
        period = torch.arange(_PERIOD, dtype=torch.float32, device=device)
        self._pattern = period.repeat(-(-whole // _PERIOD))[:whole]
        parted_input, parted_output = operation == "all_gather", operation == "reduce_scatter"
        self._input_pattern = self._pattern[mine] if parted_input else self._pattern
        self._output_pattern = self._pattern[mine] if parted_output else self._pattern
        if operation == "all_to_all":
            # From everyone comes the block at this rank's place.
            self._output_pattern = self._pattern[mine].repeat(self._ranks)
        if operation in ("all_reduce", "broadcast"):
            self._input = self._output = torch.empty_like(self._pattern)
        elif not in_place:
            self._input = torch.empty_like(self._input_pattern)
            self._output = torch.empty_like(self._output_pattern)
        elif parted_input:
            self._output = torch.empty_like(self._pattern)
            self._input = self._output[mine]
        else:
            self._input = torch.empty_like(self._pattern)
            self._output = self._input[mine]
        self._run = _RUNS[operation]

    def fill(self, repetition: int) -> None:
        """Put this repetition's input in place, and NaN where its output is to come."""
        self._output.fill_(float("nan"))
        if self.operation != "broadcast" or self._rank == ROOT:
            torch.add(self._input_pattern, self._added(self._rank, repetition), out=self._input)

    def run(self) -> None:
        """The collective, as torch.distributed has it; on CUDA it may still be under way at the return."""
        self._run(self._output, self._input)

    def fault(self, repetition: int) -> str | None:
        """The first element that is not what it must be, in words; None if all are right."""
        wrong = self._output != self._expected(repetition)
        number = int(wrong.sum())
        if number == 0:
            return None
        place = int(wrong.to(torch.uint8).argmax())
        found, wanted = float(self._output[place]), float(self._expected(repetition)[place])
        return (
            f"{number} of {self._output.numel()} elements are wrong: element {place} is {found:g}, must be {wanted:g}"
        )

    def _added(self, rank: int, repetition: int) -> int:
        return rank % _RANKS + repetition % _REPETITIONS

    def _expected(self, repetition: int) -> Tensor:
        added = [self._added(rank, repetition) for rank in range(self._ranks)]
        if self.operation in ("all_reduce", "reduce_scatter"):
            return torch.add(self._output_pattern * self._ranks, sum(added))
        if self.operation == "broadcast":
            return torch.add(self._output_pattern, added[ROOT])
        by_source = torch.tensor(added, dtype=torch.float32, device=self._pattern.device)
        return (self._output_pattern.view(self._ranks, -1) + by_source[:, None]).view(-1)


def _all_reduce(output: Tensor, given: Tensor) -> None:
    dist.all_reduce(output)


def _all_gather(output: Tensor, given: Tensor) -> None:
    dist.all_gather_into_tensor(output, given)


def _reduce_scatter(output: Tensor, given: Tensor) -> None:
    dist.reduce_scatter_tensor(output, given)


def _broadcast(output: Tensor, given: Tensor) -> None:
    dist.broadcast(output, ROOT)


def _all_to_all(output: Tensor, given: Tensor) -> None:
    dist.all_to_all_single(output, given)


_RUNS: dict[Operation, Callable[[Tensor, Tensor], None]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "broadcast": _broadcast,
    "all_to_all": _all_to_all,
}
