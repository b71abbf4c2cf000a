"""Interfaces, names and addresses of this host."""

from __future__ import annotations

import importlib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.doctor.reading import Interface, Network
from bench.doctor.reads.asked import asked

_INFINIBAND = Path("/sys/class/infiniband")
_RESOLVER_S = 5.0


def network(names: list[str]) -> Network:
    """This host's network, and what `names` resolve to here."""
    unread: dict[str, str] = {}
    hostname = socket.gethostname()
    wanted = list(dict.fromkeys([hostname, *names]))
    pool = ThreadPoolExecutor(min(64, len(wanted)))
    asking = {name: pool.submit(_addresses, name) for name in wanted}
    found = {
        name: asked(unread, f"resolve {name}", lambda one=one: one.result(_RESOLVER_S)) or []  # type: ignore[misc]
        for name, one in asking.items()
    }
    # A name server that does not answer must not hold the others up.
    pool.shutdown(wait=False, cancel_futures=True)
    return Network(
        hostname=hostname,
        addresses=found[hostname],
        usable=[address for address in found[hostname] if _bindable(address)],
        interfaces=asked(unread, "interfaces", _interfaces),
        infiniband=asked(unread, "infiniband", _infiniband) or [],
        resolved={name: found[name] for name in names},
        unread=unread,
    )


def _addresses(name: str) -> list[str]:
    """What a name resolves to, in the resolver's order; empty where it is not known."""
    try:
        return list(
            dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
        )
    except (socket.gaierror, UnicodeError):
        return []


def _bindable(address: str) -> bool:
    """Whether the address is one of this host's own."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.bind((address, 0))
    except OSError:
        return False
    return True


def _interfaces() -> list[Interface]:
    """In the kernel's order, by which NCCL looks for one."""
    psutil: Any = importlib.import_module("psutil")
    families = (socket.AF_INET, socket.AF_INET6)
    addresses, states = psutil.net_if_addrs(), psutil.net_if_stats()
    order = {name: index for index, name in socket.if_nameindex()}
    return [
        Interface(
            name=name,
            addresses=[one.address.partition("%")[0] for one in addresses[name] if one.family in families],
            up=bool(states[name].isup) if name in states else False,
            speed_mbps=(states[name].speed or None) if name in states else None,
        )
        for name in sorted(addresses, key=lambda name: order.get(name, 1 << 30))
    ]


def _infiniband() -> list[str]:
    """Devices of which a port is active."""
    active = []
    for device in sorted(_INFINIBAND.glob("*")):
        states = [(port / "state").read_text() for port in (device / "ports").glob("*") if (port / "state").is_file()]
        if any("ACTIVE" in state for state in states):
            active.append(device.name)
    return active
