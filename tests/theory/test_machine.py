"""Described machines: all that are promised, each number with its source, and what is said of a wrong file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import MachineError
from bench.theory.collectives import Group
from bench.theory.machine import load_machine, load_network, machine_names, networks

SHIPPED = Path("bench/theory/machines/dgx1-v100-16gb.yaml")


def test_every_promised_machine_and_network_is_there() -> None:
    assert machine_names() == sorted(
        [
            *("dgx1-v100-16gb", "dgx1-v100-32gb", "dgx2-v100-32gb", "dgx2h-v100-32gb", "p3.16xlarge", "p3dn.24xlarge"),
            *("pcie-v100", "dgx-a100", "hgx-h100", "hgx-h200", "cpu-gloo"),
        ]
    )
    assert set(networks()) == {"edr-1x", "edr-4x", "edr-8x", "eth-10g", "eth-25g", "eth-100g", "efa-100g"}
    for name in machine_names():
        assert load_machine(name).name == name
    assert load_network("edr-4x").node_bytes_per_s == 4 * load_network("edr-1x").node_bytes_per_s


def test_every_gpu_of_a_dgx_1_has_six_links() -> None:
    links = load_machine("dgx1-v100-16gb").node.fabric.links_per_pair
    assert links is not None and [sum(row) for row in links] == [6] * 8


def described(path: Path, change: dict[tuple[str, ...], Any]) -> Path:
    content = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    for keys, value in change.items():
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        if value is None:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_users_own_file_is_a_machine(tmp_path: Path) -> None:
    path = described(
        tmp_path / "mine.yaml", {("name",): "mine", ("node", "fabric", "link_bytes_per_s", "value"): 1.9e10}
    )
    machine = load_machine(str(path))
    assert machine.name == "mine"
    assert machine.node.fabric.link_bytes_per_s is not None and machine.node.fabric.link_bytes_per_s.value == 1.9e10


def test_a_file_may_describe_its_own_network(tmp_path: Path) -> None:
    shaped = {
        "cards": {"value": 1, "source": "one"},
        "card_bytes_per_s": {"value": 2.5e7, "source": "shaped to 200 Mbit/s"},
        "added_latency_s": {"value": 0.0, "source": "none added"},
    }
    machine = load_machine(str(described(tmp_path / "mine.yaml", {("network",): shaped})))
    assert Group(machine, 16).bus_bytes_per_s == 2.5e7
    assert Group(machine, 16, load_network("edr-1x")).bus_bytes_per_s == 1e10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({("device", "memory_bytes", "source"): None}, "device.memory_bytes.source: Field required"),
        ({("device", "memory_bytes", "value"): -1.0}, "device.memory_bytes.value: found -1.0"),
        ({("node", "colour"): "red"}, "node.colour: found 'red'"),
        ({("node", "num_devices"): 4}, "links_per_pair is of 8 devices, num_devices is 4"),
        ({("node", "fabric", "links_per_pair"): [[0, 1], [2, 0]], ("node", "num_devices"): 2}, "not symmetric"),
        ({("node", "fabric", "links_per_pair"): None}, "kind mesh needs links_per_pair"),
        ({("node", "backend"): "mpi"}, "node.backend: found 'mpi'"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(
    tmp_path: Path, change: dict[tuple[str, ...], Any], words: str
) -> None:
    path = described(tmp_path / "mine.yaml", change)
    with pytest.raises(MachineError) as raised:
        load_machine(str(path))
    assert words in str(raised.value) and f"{path}:" in str(raised.value) and "\n" not in str(raised.value)


def test_wrong_names_are_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="did you mean 'dgx2-v100-32gb'"):
        load_machine("dgx2-v100-32g")
    with pytest.raises(MachineError, match="did you mean 'edr-1x'"):
        load_network("edr-1")
    with pytest.raises(MachineError, match="cannot read"):
        load_machine(str(tmp_path / "absent.yaml"))
