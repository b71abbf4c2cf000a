"""Machines fitted to sweeps of known fabrics: the constants that were planted come back, and the theory then says what was
measured."""

from __future__ import annotations

import pytest

from bench.errors import ProjectionError
from bench.theory.collectives import Group, collective_s
from bench.theory.fabric_fit import OPERATIONS, Point, fit_fabric, with_fabric
from bench.theory.machine import Machine, Network, Positive, Quantity, load_machine

SIZES = [1024 * 2**octave for octave in range(17)]


def measured(group: Group) -> list[Point]:
    return [
        Point(operation, False, size, float(collective_s(operation, size, group)))
        for operation in OPERATIONS
        for size in SIZES
    ]


def planted(name: str, **fabric: float) -> Machine:
    machine = load_machine(name)
    changes = {key: Positive(value=value, source="planted") for key, value in fabric.items()}
    node = machine.node.model_copy(update={"fabric": machine.node.fabric.model_copy(update=changes)})
    return machine.model_copy(update={"node": node})


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_hop_and_path_of_gloo_come_back(ranks: int) -> None:
    truth = planted("cpu-gloo", hop_s=1.7e-4, host_path_bytes_per_s=6.5e8)
    fit = fit_fabric(measured(Group(truth, ranks)), load_machine("cpu-gloo"), ranks)
    found = with_fabric(load_machine("cpu-gloo"), fit, ranks, 1, "a test")
    fabric = found.node.fabric
    assert fabric.hop_s is not None and fabric.hop_s.value == pytest.approx(1.7e-4, rel=1e-4)
    assert fabric.host_path_bytes_per_s.value == pytest.approx(6.5e8, rel=1e-4)
    assert fabric.hop_s.source.startswith("fitted: a test") and found.rates_fitted(ranks)
    assert not load_machine("cpu-gloo").rates_fitted(ranks)


def test_ranks_that_share_cores_do_not_slow_the_path_itself() -> None:
    crowded = load_machine("cpu-gloo")
    crowded = crowded.model_copy(update={"node": crowded.node.model_copy(update={"num_cores": 2})})
    points = measured(Group(crowded, 4))
    found = with_fabric(crowded, fit_fabric(points, crowded, 4), 4, 1, "a test")
    assert found.node.fabric.host_path_bytes_per_s.value == pytest.approx(1.5e9, rel=1e-4)
    assert Group(found, 4).bus_bytes_per_s == pytest.approx(7.5e8, rel=1e-4)


def test_between_hosts_the_network_is_fitted() -> None:
    slow = Network(
        cards=Positive(value=1.0, source="planted"),
        card_bytes_per_s=Positive(value=5e7, source="planted"),
        added_latency_s=Quantity(value=3e-4, source="planted"),
    )
    machine = load_machine("cpu-gloo")
    two_a_host = machine.model_copy(update={"node": machine.node.model_copy(update={"num_devices": 2})})
    points = measured(Group(two_a_host, 4, slow))
    found = with_fabric(machine, fit_fabric(points, machine, 4), 4, 2, "a test")
    assert found.node.num_devices == 2 and found.network is not None
    assert found.network.node_bytes_per_s == pytest.approx(5e7, rel=1e-4)
    assert found.network.added_latency_s.value == pytest.approx(3e-4, rel=1e-3)
    assert found.rates_fitted(8) and not found.rates_fitted(2)


def test_links_of_nccl_come_back() -> None:
    """NCCL changes its protocol with the size, so that no single line fits: the largest sizes tell."""
    truth = planted("dgx1-v100-16gb", link_bytes_per_s=1.6e10)
    described = load_machine("dgx1-v100-16gb")
    sizes = [2**octave for octave in range(10, 31)]
    points = [
        Point(operation, False, size, float(collective_s(operation, size, Group(truth, 8))))
        for operation in OPERATIONS
        for size in sizes
    ]
    fit = fit_fabric(points, described, 8)
    link = with_fabric(described, fit, 8, 1, "a test").node.fabric.link_bytes_per_s
    assert fit.hop_s is None and link is not None and link.value == pytest.approx(1.6e10, rel=0.01)


def test_a_sweep_that_does_not_tell_is_an_error() -> None:
    machine = load_machine("cpu-gloo")
    with pytest.raises(ProjectionError, match="no all_reduce"):
        fit_fabric([Point("broadcast", True, 1024, 1e-4)], machine, 2)
    with pytest.raises(ProjectionError, match="does not tell latency from bandwidth"):
        fit_fabric([Point("all_reduce", True, 1024, 1e-4)], machine, 2)
