"""Deals are whole and keep what each promises, held against trying every one of them."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.workload import Partition
from bench.worker.data.partition import deal, karmarkar_karp, largest_load, lpt, sorted_buckets

PARTITIONS = get_args(Partition)
BALANCED = ("lpt", "karmarkar_karp", "dynamic")

costs_of = st.lists(st.integers(1, 1000), min_size=1, max_size=40).map(lambda drawn: np.array(drawn, dtype=float))


def least_maximum(costs: np.ndarray, num_parts: int, rates: np.ndarray | None = None) -> float:
    """By trying every deal."""
    speeds = np.ones(num_parts) if rates is None else rates
    choices = np.array(list(itertools.product(range(num_parts), repeat=len(costs))))
    loads = np.stack([((choices == part) * costs).sum(axis=1) for part in range(num_parts)], axis=1)
    return float((loads / speeds).max(axis=1).min())


@settings(max_examples=150, deadline=None)
@given(costs=costs_of, num_parts=st.integers(1, 8), partition=st.sampled_from(PARTITIONS), data=st.data())
def test_every_sequence_is_dealt_once(
    costs: np.ndarray, num_parts: int, partition: Partition, data: st.DataObject
) -> None:
    least = len(costs) // num_parts
    if not least:
        with pytest.raises(ValueError, match="parts of at least 1"):
            deal(partition, costs, num_parts)
        return
    rates = np.array(data.draw(st.lists(st.floats(0.01, 10), min_size=num_parts, max_size=num_parts)))
    parts = deal(partition, costs, num_parts, rates=rates, least=least)
    assert sorted(sequence for part in parts for sequence in part) == list(range(len(costs)))
    assert len(parts) == num_parts and min(map(len, parts)) >= least
    assert deal(partition, costs, num_parts, rates=rates, least=least) == parts
    if partition not in BALANCED:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=150, deadline=None)
@given(costs=costs_of, num_parts=st.integers(1, 8), partition=st.sampled_from(BALANCED), data=st.data())
def test_balanced_parts_are_never_worse_than_contiguous(
    costs: np.ndarray, num_parts: int, partition: Partition, data: st.DataObject
) -> None:
    if len(costs) < num_parts:
        return
    rates = None
    if partition == "dynamic":
        rates = np.array(data.draw(st.lists(st.floats(0.1, 10), min_size=num_parts, max_size=num_parts)))
    largest = largest_load(deal(partition, costs, num_parts, rates=rates), costs, rates)
    assert largest <= largest_load(deal("contiguous", costs, num_parts), costs, rates)


def test_longest_first_alone_would_be_worse_here() -> None:
    """The textbook case, in which `deal` falls back on contiguous parts."""
    costs = np.array([3.0, 3, 0, 2, 2, 2])
    assert largest_load(lpt(costs, np.ones(2)), costs) == 7
    assert largest_load(deal("lpt", costs, 2), costs) == least_maximum(costs, 2) == 6


@settings(max_examples=60, deadline=None)
@given(costs=st.lists(st.integers(1, 50), min_size=2, max_size=8), num_parts=st.integers(2, 3))
def test_longest_first_is_within_its_bound(costs: list[int], num_parts: int) -> None:
    """Graham's 4/3 - 1/(3m), and the least where no part of a best deal has more than two sequences."""
    values = np.array(costs, dtype=float)
    best = least_maximum(values, num_parts)
    found = largest_load(lpt(values, np.ones(num_parts)), values)
    assert found <= best * (4 / 3 - 1 / (3 * num_parts)) + 1e-9
    if values.min() > best / 3:
        assert found == best
    assert largest_load(karmarkar_karp(values, num_parts), values) <= best * 4 / 3 + 1e-9


@settings(max_examples=100, deadline=None)
@given(costs=st.lists(st.integers(1, 1000), min_size=2, max_size=4))
def test_differencing_is_exact_for_two_parts_of_up_to_four(costs: list[int]) -> None:
    values = np.array(costs, dtype=float)
    assert largest_load(karmarkar_karp(values, 2), values) == least_maximum(values, 2)


def test_differencing_on_the_textbook_example() -> None:
    """Karmarkar and Karp's own: 8, 7, 6, 5, 4 leaves a difference of 2 (16 and 14), where the least is 0."""
    values = np.array([8.0, 7, 6, 5, 4])
    assert sorted(values[part].sum() for part in karmarkar_karp(values, 2)) == [14, 16]


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.integers(1, 50), min_size=2, max_size=8),
    rates=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=3),
)
def test_unequal_rates_are_within_twice_the_least(costs: list[int], rates: list[float]) -> None:
    values, speeds = np.array(costs, dtype=float), np.array(rates)
    if len(values) < len(speeds):
        return
    found = largest_load(lpt(values, speeds), values, speeds)
    assert found <= 2 * least_maximum(values, len(speeds), speeds) + 1e-9


def test_a_slow_part_gets_less() -> None:
    """128 equal sequences for eight parts of which one takes 1.5 times as long: by hand 128 / (7 + 2/3) = 16.7 units of time,
    which whole sequences bring to 17: seven parts of 17 at most, and 11 on the slow one (16.5)."""
    rates = np.array([1.0] * 7 + [1 / 1.5])
    parts = deal("dynamic", np.ones(128), 8, rates=rates)
    assert len(parts[7]) == 11 and largest_load(parts, np.ones(128), rates) == 17
    assert deal("dynamic", np.ones(128), 8) == deal("lpt", np.ones(128), 8)


def test_buckets_hold_sequences_of_about_one_length() -> None:
    costs = np.array([5.0, 1, 4, 8, 2, 7, 3, 6])
    parts = sorted_buckets(costs, 2)
    assert [costs[part].tolist() for part in parts] == [[8, 5, 4, 1], [7, 6, 3, 2]]


def test_random_is_another_deal_each_step_and_the_same_for_all_ranks() -> None:
    costs = np.ones(64)
    first, again, other = (deal("random", costs, 4, seed=seed) for seed in ((1, 0), (1, 0), (1, 1)))
    assert first == again != other


@pytest.mark.parametrize("partition", ["lpt", "karmarkar_karp"])
def test_lognormal_lengths_are_balanced_where_contiguous_parts_are_not(partition: Partition) -> None:
    generator = np.random.default_rng(0)
    balance = {name: [] for name in ("contiguous", partition)}
    for _ in range(50):
        costs = np.clip(64 * np.exp(0.8 * generator.standard_normal(64)), 1, 256).round()
        for name in balance:
            balance[name].append(costs.sum() / 8 / largest_load(deal(name, costs, 8), costs))
    assert np.mean(balance["contiguous"]) < 0.85
    assert min(balance[partition]) > 0.97
