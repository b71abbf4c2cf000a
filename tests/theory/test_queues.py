"""Workers that wait for a server's links, against closed forms, a second algorithm, and a simulation of every message."""

from __future__ import annotations

import math
import random

import pytest

from bench.theory.queues import Station, round_s


def test_closed_forms() -> None:
    assert round_s(1, 2.0, [Station(0.5, 3), Station(0.25)]) == pytest.approx(2.0 + 1.5 + 0.25)
    # Nobody thinks, and all stations are alike: an arriving customer finds the n - 1 others spread evenly over M of them.
    for customers, stations in ((5, 1), (3, 2), (16, 8)):
        assert round_s(customers, 0.0, [Station(0.7, stations)]) == pytest.approx(0.7 * (customers + stations - 1))
    # So many customers that the busiest station never rests.
    assert round_s(500, 3.0, [Station(1.0), Station(0.5)]) == pytest.approx(500.0, rel=1e-3)


def convolved_round_s(customers: int, think_s: float, demands_s: list[float]) -> float:
    """By the normalising constants of the product form. Buzen 1973 (Comm. ACM 16, 527-531)."""
    constants = [think_s**number / math.factorial(number) for number in range(customers + 1)]
    for demand_s in demands_s:
        for number in range(1, customers + 1):
            constants[number] += demand_s * constants[number - 1]
    return customers * constants[customers] / constants[customers - 1]


def test_a_second_algorithm_says_the_same() -> None:
    for customers in (1, 2, 3, 9, 40):
        found = round_s(customers, 0.8, [Station(0.3, 2), Station(0.5), Station(0.05, 3)])
        assert found == pytest.approx(convolved_round_s(customers, 0.8, [0.3, 0.3, 0.5, 0.05, 0.05, 0.05]))


def simulated_round_s(customers: int, think_s: float, demands_s: list[float], rounds: int, spread: float) -> float:
    """Seconds of a mean round of customers that begin together, and share a station in equal parts; every stay `spread` apart
    from the demand (a normal distribution's, relative)."""
    chance = random.Random(7)
    stays_s = [think_s, *demands_s]
    place, left_s, taken = [0] * customers, [think_s] * customers, 0
    now_s = 0.0
    while taken < rounds * customers:
        crowd = [place.count(station) for station in range(len(stays_s))]
        # At home nobody waits.
        takes_s = [left_s[one] * (crowd[place[one]] if place[one] else 1) for one in range(customers)]
        passed_s = min(takes_s)
        now_s += passed_s
        for one in range(customers):
            left_s[one] -= passed_s / (crowd[place[one]] if place[one] else 1)
            if takes_s[one] <= passed_s * (1 + 1e-12):
                place[one] = (place[one] + 1) % len(stays_s)
                left_s[one] = stays_s[place[one]] * max(0.01, chance.gauss(1, spread))
                taken += place[one] == 0
    return now_s / rounds


@pytest.mark.parametrize("customers", [2, 3, 8])
def test_links_that_are_shared_in_equal_parts(customers: int) -> None:
    """Sizes are nearly constant, where a queue in order of arrival would make them shorter than exponential ones."""
    expected = round_s(customers, 0.1, [Station(0.7, 2)])
    assert simulated_round_s(customers, 0.1, [0.7, 0.7], 1500, 0.1) == pytest.approx(expected, rel=0.04)


def test_customers_that_begin_together_and_are_alike_stay_together() -> None:
    together_s = simulated_round_s(3, 0.1, [0.7, 0.7], 50, 0.0)
    assert together_s == pytest.approx(0.1 + 3 * 1.4, rel=0.02) and together_s > 1.3 * round_s(
        3, 0.1, [Station(0.7, 2)]
    )
