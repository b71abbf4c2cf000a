"""The constants of a calibration, each with its interval and where it comes from: fitted to which launches, or assumed."""

from __future__ import annotations

from dataclasses import dataclass

from bench.theory.calibration import Calibration, compute_s, plainest
from bench.theory.measured_work import Observation, Series

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Constant:
    """`low` and `high`: the 95 % interval, None where none is known. `source`: what it was fitted to, or assumed from; `launches`
    the ids of those. `series`: the strategy and accumulation that it belongs to, None for all."""

    name: str
    series: Series | None
    value: float
    low: float | None
    high: float | None
    fitted: bool
    source: str
    launches: tuple[str, ...] = ()


def constants(found: Calibration) -> list[Constant]:
    """`own_s`: one rank's whole step, `compute_s` of it, and `host_s` beyond that, by series; `hop_s` (gloo), `link_bytes_per_s`.

    compute_s of a paced model is known by construction; of others it is the step of the plainest series, whose host cost is
    in it.
    """
    rows = []
    for series in found.own_1_s:
        rows += _of_rank(found, series)
    fabric = found.machine.node.fabric
    several = [seen for seen in found.used if seen.world_size > 1]
    fitted_to, names = _launches(several)
    if found.work.backend == "gloo" and fabric.hop_s is not None:
        low, high = _ratio_ends(found, "hop")
        value, free = fabric.hop_s.value, "hop" in found.free
        source = fitted_to if free else f"{found.machine.name}: {fabric.hop_s.source}"
        low, high = None if low is None else value * max(0.0, low), None if high is None else value * high
        rows.append(Constant("hop_s", None, value * found.hop_ratio, low, high, free, source, names if free else ()))
    link = fabric.host_path_bytes_per_s if fabric.link_bytes_per_s is None else fabric.link_bytes_per_s
    # Seconds of a byte were fitted; bandwidth is one over that, without an upper end where that may be nothing.
    low, high = _ratio_ends(found, "link")
    fastest = None if low is None or low <= 0 else link.value / low
    slowest = None if high is None else link.value / high
    free = "link" in found.free
    source = fitted_to if free else f"{found.machine.name}: {link.source}"
    rows.append(
        Constant(
            "link_bytes_per_s",
            None,
            link.value * found.link_ratio,
            slowest,
            fastest,
            free,
            source,
            names if free else (),
        )
    )
    return rows


def _of_rank(found: Calibration, series: Series) -> list[Constant]:
    source, names = _launches([seen for seen in found.used if seen.series == series])
    own_s, gradient = found.own_1_s[series], found.gradient(series)
    half = found.fit.half_width(gradient, CONFIDENCE)
    whole = Constant("own_s", series, own_s, *_around(own_s, half), True, source, names)
    known = found.work.known_compute_s(series[1])
    host_s = own_s - compute_s(found, series[1])
    if known is not None:
        compute = Constant("compute_s", series, known, known, known, False, "the paced model sleeps it")
        return [
            whole,
            compute,
            Constant("host_s", series, host_s, *_around(host_s, half), True, "own_s less compute_s"),
        ]
    plain = plainest(found, series[1])
    if plain == series:
        return [whole]
    half = found.fit.half_width(gradient - found.gradient(plain), CONFIDENCE)
    less = f"own_s less that of {plain[0]}"
    return [whole, Constant("host_s", series, host_s, *_around(host_s, half), True, less, names)]


def _launches(seen: list[Observation]) -> tuple[str, tuple[str, ...]]:
    """How many launches of which world sizes, in words, and their ids."""
    names = tuple(sorted({one.launch_id for one in seen}))
    sizes = ", ".join(str(size) for size in sorted({one.world_size for one in seen}))
    number = "1 launch" if len(names) == 1 else f"{len(names)} launches"
    return f"{number} of world size {sizes}", names


def _around(value: float, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if half is None else (value - half, value + half)


def _ratio_ends(found: Calibration, name: str) -> tuple[float | None, float | None]:
    """The interval of a ratio of seconds; None where it was not fitted, or nothing is known."""
    if name not in found.free:
        return None, None
    gradient = found.gradient_of(name)
    return _around(float(gradient @ found.fit.values), found.fit.half_width(gradient, CONFIDENCE))
