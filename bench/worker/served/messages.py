"""What travels between a worker and a server: flat tensors over gloo, each announced by two whole numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

PUSH, PULL, END = 1, 2, 3
"""What a worker announces: what it has trained follows; it asks for the weights; it has taken its last step of the window."""


class Header(NamedTuple):
    """`kind`: what is announced, or a server's yes (1) or no (0) to another step. `version`: how many updates were in the weights
    that the sender has or sends."""

    kind: int
    version: int


class Wire:
    """Messages of one process over `group`. A server's threads share one: each talks to a worker of its own."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def send(self, tensor: Tensor, rank: int) -> None:
        """Returns when the message has left. Raises RuntimeError where the other side is gone."""
        dist.send(tensor, dst=rank, group=self._group)

    def receive(self, tensor: Tensor, rank: int) -> None:
        """Fill `tensor`. Raises RuntimeError where the other side is gone."""
        dist.recv(tensor, src=rank, group=self._group)

    def announce(self, kind: int, version: int, rank: int) -> None:
        self.send(torch.tensor([kind, version]), rank)

    def announced(self, rank: int) -> Header:
        header = torch.zeros(2, dtype=torch.int64)
        self.receive(header, rank)
        kind, version = header.tolist()
        return Header(kind, version)


def part(num_elements: int, number: int, of: int) -> slice:
    """Which of so many flat elements are part `number` of `of` parts, equal to one element."""
    return slice(number * num_elements // of, (number + 1) * num_elements // of)
