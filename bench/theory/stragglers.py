"""How much longer the slowest of N ranks takes than one: synchronous training waits for it in every step."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.theory.machine import Machine

_REFERENCE_PARAMS = 1e8


@cache
def expected_maximum(count: int) -> float:
    """Expected maximum of `count` independent standard normal values: 0, 0.564, 1.029, 1.424, 1.766 for 1, 2, 4, 8, 16.

    The integral over x > 0 of 1 - F(x)^n - (1 - F(x))^n, F the normal distribution (David and Nagaraja, Order Statistics,
    3rd edition, section 3.1; the negative half mirrored).
    """
    x, below = _normal()
    values = 1 - below**count - (1 - below) ** count
    return float((values[1:] + values[:-1]).sum() / 2 * (x[1] - x[0])) if count > 1 else 0.0


def maximum_quantile(count: int, part: float) -> float:
    """Below this is the maximum of `count` independent standard normal values in that part of all draws: F^-1(part^(1 / n))."""
    return NormalDist().inv_cdf(part ** (1 / count))


@cache
def _normal() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The normal distribution from 0 to 10 standard deviations."""
    x = np.linspace(0.0, 10.0, 10_001)
    return x, np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def variation_frac(machine: Machine, world_size: int) -> float:
    """The part by which the slowest of so many equal devices is slower than a typical one."""
    return machine.behaviour.device_variation_frac.value * expected_maximum(world_size)


def lateness_s(machine: Machine, world_size: int, num_params: int) -> float:
    """Seconds that the latest of so many hosts adds to a step over a typical one, whose own are in the one-rank step.

    A host's lateness is in proportion to what it launches, hooks and looks after: to the layers. Transformers grow in depth
    and width together (GPT-2: 12 to 48 layers of 768 to 1600, Radford et al. 2019, table 2), so that the layers of one of P
    parameters are about as the cube root of P. A machine's `lateness_s` is that of 100 million parameters. That it grows is
    also what published rows say: with one lateness for all sizes, families left out of the fit were missed by a median
    of 0.022 of efficiency instead of 0.017.
    """
    return machine.behaviour.lateness_s.value * layers_ratio(num_params) * expected_maximum(world_size)


def layers_ratio(num_params: int) -> float:
    """Layers of a model of the usual shape over those of one of 100 million parameters."""
    return float((num_params / _REFERENCE_PARAMS) ** (1 / 3))
