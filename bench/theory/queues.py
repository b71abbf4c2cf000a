"""How long a customer takes once around a closed network of queues: workers that wait for a server's links, and come again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Station:
    """`count` equal stations that each customer visits once a round, for `demand_s` seconds where it is alone there."""

    demand_s: float
    count: int = 1


def round_s(num_customers: int, think_s: float, stations: Sequence[Station]) -> float:
    """Mean seconds of a round of each of so many customers, who spend `think_s` of it where nobody waits.

    Exact mean value analysis: of n customers one that arrives finds what n - 1 would have there on average, so that it stays
    D (1 + Q(n - 1)). Reiser & Lavenberg 1980 (J. ACM 27, 313-322). It holds whatever the sizes of what is served where all at
    a station get equal parts of it, as TCP flows of a link do (Baskett, Chandy, Muntz & Palacios 1975, J. ACM 22, 248-260):
    in the long run. Customers that begin together and are all alike stay together for some rounds, and take longer.
    """
    waiting = [0.0] * len(stations)
    around_s = think_s
    for number in range(1, num_customers + 1):
        stays_s = [station.demand_s * (1 + queue) for station, queue in zip(stations, waiting, strict=True)]
        around_s = think_s + sum(station.count * stay for station, stay in zip(stations, stays_s, strict=True))
        waiting = [number * stay / around_s if around_s else 0.0 for stay in stays_s]
    return around_s
