"""Sizes and bandwidths as nccl-tests counts them: closed forms, by hand."""

from __future__ import annotations

import pytest

from bench.errors import ProjectionError
from bench.results.comm_sizes import fitting_bytes, num_elements
from bench.theory.bus_bandwidth import algbw, bus_factor, busbw


@pytest.mark.parametrize(
    ("operation", "factors"),
    [
        ("all_reduce", {2: 1.0, 4: 1.5, 8: 1.75}),
        ("all_gather", {2: 0.5, 4: 0.75, 8: 0.875}),
        ("reduce_scatter", {2: 0.5, 4: 0.75, 8: 0.875}),
        ("all_to_all", {2: 0.5, 4: 0.75, 8: 0.875}),
        ("broadcast", {2: 1.0, 4: 1.0, 8: 1.0}),
    ],
)
def test_bus_bandwidth_is_algorithm_bandwidth_times_the_part_of_the_busiest_link(
    operation: str, factors: dict[int, float]
) -> None:
    for ranks, factor in factors.items():
        assert bus_factor(operation, ranks) == factor
        assert busbw(operation, 8e6, 2e-3, ranks) == pytest.approx(4e9 * factor)
    assert algbw(8e6, 2e-3) == 4e9


def test_the_size_of_a_parted_array_is_the_whole_and_its_count_one_part() -> None:
    # 1 MiB over 3 ranks: 349,525 bytes a part, rounded down to 16.
    assert fitting_bytes("all_gather", 2**20, 3) == 3 * 349_520
    assert num_elements("all_gather", 3 * 349_520, 3) == 87_380
    assert fitting_bytes("all_to_all", 1024, 128) == 128 * 16  # never less than 16 bytes a part
    for operation in ("all_reduce", "broadcast"):
        assert fitting_bytes(operation, 2**20 + 3, 3) == 2**20
        assert num_elements(operation, 2**20, 3) == 2**18


def test_an_operation_without_a_rule_has_no_bandwidth() -> None:
    with pytest.raises(ProjectionError, match="'gather', expected all_reduce"):
        bus_factor("gather", 4)
