"""Where the ranks of several hosts meet: soon or not at all, and on the network that joins them."""

from __future__ import annotations

import datetime
import os
import socket
from typing import NamedTuple

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from bench.errors import UnreachableError
from bench.worker.started import interface_towards

RENDEZVOUS_S = 60.0
"""Within which every rank must be there, and be connected to every other. What is measured may take as long as its cell says."""
INTERFACE = "GLOO_SOCKET_IFNAME"


class Meeting(NamedTuple):
    """All ranks' store, this one's rank and the world size; and the connections of the meeting, to be held until all ranks are
    connected once more: to one that is still at it, a rank that let go would look dead."""

    store: Store
    rank: int
    world_size: int
    connections: dist.ProcessGroupGloo


def meet(timeout: datetime.timedelta) -> Meeting:
    """Find all other ranks, by the variables of the launcher; `timeout` is the store's from then on.

    Connects every pair of ranks once, so that an address which leads nowhere is found here and not at the cell's time-out. gloo
    takes the interface that leads to the master, where the user names none: by itself it takes that of the host's own name, which
    on many machines is a loopback address. Raises UnreachableError if not all are there and connected in RENDEZVOUS_S.
    """
    address, port = os.environ["MASTER_ADDR"], os.environ.get("MASTER_PORT", "?")
    if INTERFACE not in os.environ and (interface := interface_towards(address)) is not None:
        os.environ[INTERFACE] = interface
    soon = min(datetime.timedelta(seconds=RENDEZVOUS_S), timeout)
    here = f"rank {os.environ['RANK']} on {socket.gethostname()}"
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=soon))
    except (RuntimeError, OSError) as error:
        raise UnreachableError(
            f"{here}: not all ranks met at {address}:{port} within {soon.seconds} s ({_first_line(error)})",
            hint="is every host up, and does it reach that address and port?",
        ) from error
    try:
        # A group of its own: those of the launch shall not have its short time-out.
        connections = dist.ProcessGroupGloo(PrefixStore("meeting", store), rank, world_size, soon)
    except (RuntimeError, OSError) as error:
        raise UnreachableError(
            f"{here}: not all ranks could be connected within {soon.seconds} s by interface "
            f"{os.environ.get(INTERFACE, 'of gloo’s choice')} ({_first_line(error)})",
            hint=f"name the one that joins the hosts in {INTERFACE}, and open its ports",
        ) from error
    store.set_timeout(timeout)
    return Meeting(store, rank, world_size, connections)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
