"""Interfaces, and which of them gloo and NCCL would take."""

from __future__ import annotations

import ipaddress

from bench.doctor.finding import Finding, On
from bench.doctor.reading import Interface, Reading
from bench.doctor.words import listed

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def judge(reading: Reading, several: bool, sent: dict[str, str] | None = None) -> list[Finding]:
    """All of this topic. `several`: whether ranks on this host talk to ranks on others. `sent`: variables that the launch brings
    along, over those that the host has itself."""
    variables = {**reading.variables, **(sent or {})}
    return [_interfaces(reading, several), _gloo(reading, several, variables), _nccl(reading, several, variables)]


def is_loopback(address: str) -> bool:
    """Whether only the host itself can be reached by it."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def nccl_interfaces(interfaces: list[Interface], wanted: str | None) -> list[str]:
    """The interfaces that NCCL would use for sockets, in order.

    `wanted`: NCCL_SOCKET_IFNAME: prefixes separated by commas, `^` before them excludes, `=` means the exact names. Without it
    ib* come first, then all but docker* and lo, then docker*, then lo. Source: NCCL user guide, "Environment variables".
    """
    names = [one.name for one in interfaces if one.up and one.addresses]
    if wanted:
        excluded, text = wanted.startswith("^"), wanted.removeprefix("^")
        exact, text = text.startswith("="), text.removeprefix("=")
        parts = [part for part in text.split(",") if part]

        def matches(name: str) -> bool:
            return any(name == part if exact else name.startswith(part) for part in parts)

        return [name for name in names if matches(name) != excluded]
    choices = (
        [name for name in names if name.startswith("ib")],
        [name for name in names if not name.startswith(("docker", "lo", "virbr"))],
        [name for name in names if name.startswith("docker")],
        [name for name in names if name.startswith("lo")],
    )
    return next((choice for choice in choices if choice), [])


def reachable(interfaces: list[Interface]) -> list[Interface]:
    """Those that are up and have an address by which others may reach this host."""
    return [
        one
        for one in interfaces
        if one.up and any(not is_loopback(a) and not ipaddress.ip_address(a).is_link_local for a in one.addresses)
    ]


def _interfaces(reading: Reading, several: bool) -> Finding:
    on, interfaces = On("interfaces", reading.host), reading.network.interfaces
    if interfaces is None:
        return on.unchecked(reading.network.unread.get("interfaces", "psutil is missing"), "pip install psutil")
    open_ones = reachable(interfaces)
    if not open_ones:
        said = "no interface but loopback is up"
        return on.problem(said, "bring one up: other hosts can't be reached") if several else on.ok(said)
    return on.ok(listed(_described(one) for one in open_ones))


def _described(one: Interface) -> str:
    address = next((a for a in one.addresses if ":" not in a), one.addresses[0])
    speed = f", {one.speed_mbps / 1000:g} Gbit/s" if one.speed_mbps else ""
    return f"{one.name} ({address}{speed})"


def _gloo(reading: Reading, several: bool, variables: dict[str, str]) -> Finding:
    """torch resolves the host's own name and binds there; where that can't be done it takes the loopback address.

    Source: torch/csrc/distributed/c10d/ProcessGroupGloo.cpp, createDefaultDevice; GLOO_SOCKET_IFNAME names interfaces instead.
    """
    on, network = On("gloo", reading.host), reading.network
    wanted = variables.get(_GLOO)
    if wanted:
        return _gloo_by_variable(on, network.interfaces, wanted, several)
    address = network.usable[0] if network.usable else "127.0.0.1"
    why = (
        f"{network.hostname} resolves to it"
        if network.usable
        else f"{network.hostname} resolves to no address of its own"
    )
    if not is_loopback(address):
        return on.ok(f"{_holder(network.interfaces, address)} ({address}): {why}")
    if not several:
        return on.ok(f"{address}: {why}, which does for one host")
    choice = next((one.name for one in reachable(network.interfaces or [])), "eth0")
    return on.warning(
        f"would bind {address}: {why}, so that other hosts can't reach it. scalebench's ranks take the interface that leads to "
        "rank 0 instead; others wait five minutes",
        f"give {network.hostname} its own address in /etc/hosts there, or export {_GLOO}={choice}",
    )


def _gloo_by_variable(on: On, interfaces: list[Interface] | None, wanted: str, several: bool) -> Finding:
    if interfaces is None:
        return on.unchecked("interfaces can't be listed")
    known = {one.name: one for one in interfaces if one.up and one.addresses}
    absent = [name for name in wanted.split(",") if name not in known]
    if absent:
        return on.problem(
            f"{_GLOO}={wanted}: no interface {listed(absent)} is up", f"name one of {', '.join(sorted(known))}"
        )
    chosen = known[wanted.split(",")[0]]
    if several and all(is_loopback(address) for address in chosen.addresses):
        return on.problem(
            f"{_GLOO}={wanted} can't be reached from other hosts", f"name one of {', '.join(sorted(known))}"
        )
    return on.ok(f"{wanted} ({chosen.addresses[0]}): {_GLOO}")


def _holder(interfaces: list[Interface] | None, address: str) -> str:
    return next((one.name for one in interfaces or [] if address in one.addresses), "an interface")


def _nccl(reading: Reading, several: bool, variables: dict[str, str]) -> Finding:
    on, network = On("NCCL", reading.host), reading.network
    if not reading.gpus.devices:
        return on.unchecked("no GPU found: gloo is used")
    if network.interfaces is None:
        return on.unchecked("interfaces can't be listed")
    wanted = variables.get(_NCCL)
    names = nccl_interfaces(network.interfaces, wanted)
    if not names:
        return on.problem(
            f"{_NCCL}={wanted} leaves no interface that is up",
            f"name one of {listed(one.name for one in reachable(network.interfaces))}",
        )
    by = f" ({_NCCL})" if wanted else ""
    if several and all(name.startswith("lo") for name in names):
        return on.problem(f"would take {listed(names)}{by}, which other hosts can't reach", f"unset {_NCCL}")
    if network.infiniband and variables.get("NCCL_IB_DISABLE") != "1":
        return on.ok(f"InfiniBand {listed(network.infiniband)}, sockets by {names[0]}{by}")
    said = f"{listed(names)}{by}"
    if several and any(name.startswith(("docker", "virbr")) for name in names):
        return on.warning(
            said, f"these are bridges of containers: export {_NCCL}=NAME of the network between the hosts"
        )
    return on.ok(said)
