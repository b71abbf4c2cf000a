"""What collectives take, against rates that others measured, hand-counted rings, and rules that hold for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ProjectionError
from bench.theory.collectives import OPERATIONS, Group, collective_s
from bench.theory.machine import Machine, Positive, load_machine, load_network, machine_names
from bench.theory.rings import num_rings

DGX_1 = load_machine("dgx1-v100-16gb")


def busbw(group: Group, size: float) -> float:
    """As nccl-tests defines it, for an all-reduce."""
    ranks = group.world_size
    return 2 * (ranks - 1) / ranks * size / float(collective_s("all_reduce", size, group))


def test_rings_in_small_meshes_by_hand() -> None:
    square = [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert num_rings(square, [0, 1, 2, 3]) == 2
    assert num_rings(square, [0, 1]) == 1
    assert num_rings(square, [0, 2]) == 0
    assert num_rings(square, [0]) == 0
    doubled = [[2 * links for links in row] for row in square]
    assert num_rings(doubled, [0, 1, 2, 3]) == 4
    # Every device has four links, but only one ring can cross from one pair to the other.
    pairs = [[0, 3, 1, 0], [3, 0, 0, 1], [1, 0, 0, 3], [0, 1, 3, 0]]
    assert num_rings(pairs, range(4)) == 2
    # All pairs of five: two closed paths that share no link.
    assert num_rings([[int(a != b) for b in range(5)] for a in range(5)], range(5)) == 4


def test_a_dgx_1_by_its_first_devices() -> None:
    """What NCCL's constants give by hand: 1 link, 4 rings, 6 rings of 20 GB/s; five devices have no ring at all."""
    rates = {ranks: Group(DGX_1, ranks).bus_bytes_per_s / 1e9 for ranks in (2, 3, 4, 5, 8)}
    assert rates == {2: 20, 3: 40, 4: 80, 5: 8, 8: 120}
    assert Group(DGX_1, 2, devices=(0, 3)).bus_bytes_per_s == 40e9
    assert Group(DGX_1, 2, devices=(0, 5)).bus_bytes_per_s == DGX_1.node.fabric.host_path_bytes_per_s.value


def test_two_devices_of_a_dgx_1_are_slower_than_four() -> None:
    size = 384e6
    two, four = (float(collective_s("all_reduce", size, Group(DGX_1, ranks))) for ranks in (2, 4))
    assert two > 2 * four
    # Behind a switch it is the other way round.
    dgx_2 = load_machine("dgx2-v100-32gb")
    assert collective_s("all_reduce", size, Group(dgx_2, 2)) < collective_s("all_reduce", size, Group(dgx_2, 4))


@pytest.mark.parametrize(
    ("machine", "network", "ranks", "size", "measured", "tolerance"),
    [
        # nccl-tests on two p3dn.24xlarge, EFA, NCCL 2.4.8.
        ("p3dn.24xlarge", "efa-100g", 16, 16e6, 6.79e9, 0.25),
        ("p3dn.24xlarge", "efa-100g", 16, 128e6, 7.53e9, 0.20),
        ("p3dn.24xlarge", "efa-100g", 16, 1e9, 8.9e9, 0.02),
        # NVIDIA/nccl issue 398, two p3dn over TCP, eight processes a node.
        ("p3dn.24xlarge", "eth-100g", 16, 1e9, 6.0e9, 0.02),
        # GTC 2017 S7155: four DGX-1 with four EDR cards each.
        ("dgx1-v100-16gb", "edr-4x", 32, 4e9, 40e9, 0.05),
    ],
)
def test_bus_bandwidths_that_were_measured(
    machine: str, network: str, ranks: int, size: float, measured: float, tolerance: float
) -> None:
    group = Group(load_machine(machine), ranks, load_network(network))
    assert busbw(group, size) == pytest.approx(measured, rel=tolerance)


@pytest.mark.parametrize(("ranks", "at_least"), [(8, 111e9), (16, 10.0e9), (32, 9.5e9)])
def test_not_below_what_a_training_step_needed(ranks: int, at_least: float) -> None:
    """Lower bounds out of DLPerf's Megatron runs, 1.07 GB of gradients on DGX-1s with one EDR card: within 2 %."""
    network = load_network("edr-1x")
    assert busbw(Group(DGX_1, ranks, network), 1.07e9) > 0.98 * at_least


def test_four_gpus_joined_by_two_links_each() -> None:
    """BigScience measured 125 GB/s among the four GPUs of a Jean Zay node, each pair with two NVLinks."""
    links = [[2 * int(a != b) for b in range(4)] for a in range(4)]
    assert num_rings(links, range(4)) * 20e9 == pytest.approx(125e9, rel=0.05)


def test_small_messages_take_their_latency() -> None:
    """137 and 163 us for a KB and less on two p3dn with EFA (two logs): within a factor of two."""
    group = Group(load_machine("p3dn.24xlarge"), 16, load_network("efa-100g"))
    assert 137e-6 / 2 < float(collective_s("all_reduce", 1e3, group)) < 163e-6
    # A ring of eight over NVLink with LL: 6.6 us + 14 x 0.6 us by NCCL's table.
    assert float(collective_s("all_reduce", 8, Group(DGX_1, 8))) <= 6.6e-6 + 14 * 0.6e-6 + 1e-8


def test_gloo_scatters_by_reducing_everything() -> None:
    cpu = Group(load_machine("cpu-gloo"), 4)
    reduced = collective_s("all_reduce", 1e8, cpu)
    assert collective_s("reduce_scatter", 1e8, cpu) == reduced
    assert collective_s("all_gather", 1e8, cpu) == pytest.approx(reduced / 2)


machines = st.sampled_from(machine_names()).map(load_machine)


@given(machine=machines, ranks=st.integers(1, 16), operation=st.sampled_from(OPERATIONS), size=st.floats(1, 1e10))
@settings(max_examples=150, deadline=None)
def test_time_rises_with_size_and_falls_with_bandwidth(
    machine: Machine, ranks: int, operation: str, size: float
) -> None:
    network = load_network("edr-1x")
    group = Group(machine, ranks, network)
    taken, more = collective_s(operation, [size, 2 * size], group)
    assert (taken == more == 0) if ranks == 1 else 0 < taken < more <= 2 * taken
    fabric = machine.node.fabric
    doubled = {"host_path_bytes_per_s": Positive(value=2 * fabric.host_path_bytes_per_s.value, source="twice")}
    if fabric.link_bytes_per_s is not None:
        doubled["link_bytes_per_s"] = Positive(value=2 * fabric.link_bytes_per_s.value, source="twice")
    node = machine.node.model_copy(update={"fabric": fabric.model_copy(update=doubled)})
    faster = Group(machine.model_copy(update={"node": node}), ranks, load_network("edr-4x"))
    assert collective_s(operation, size, faster) <= taken


def test_sizes_of_any_shape() -> None:
    sizes = np.array([[1e3, 1e6], [1e9, 0.0]])
    assert collective_s("all_reduce", sizes, Group(DGX_1, 8)).shape == (2, 2)


def test_what_has_no_rule_is_an_error() -> None:
    with pytest.raises(ProjectionError, match="all_to_all"):
        collective_s("all_to_all", 1.0, Group(DGX_1, 2))
    with pytest.raises(ProjectionError, match="16 ranks need 2 nodes of dgx1-v100-16gb; name a --network"):
        Group(DGX_1, 16)
    with pytest.raises(ProjectionError, match="expected 2 different ones"):
        Group(DGX_1, 2, devices=(3, 3))
