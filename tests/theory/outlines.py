"""Outlines as a launch would have watched them, of models small enough to count by hand."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results.metered import ModuleOutline, Outline, ParameterOutline, VisitKind


def outline_of(sizes: Sequence[int], *, tied: bool = True) -> Outline:
    """A chain of layers with one parameter of each of `sizes`; the last layer also uses the first parameter, if `tied`.

    As in real models the first layer looks tokens up, so that the backward pass never leaves it, and a root without
    parameters of its own is around them all. A tied parameter's gradient is ready last.
    """
    owned = [[place] for place in range(len(sizes))]
    if tied:
        owned.append([0])
    layers = range(1, len(owned) + 1)
    inner: list[tuple[VisitKind, int]] = []
    for layer in layers:
        inner += [("enter_forward", layer), ("leave_forward", layer)]
    backward: list[tuple[VisitKind, int]] = []
    for layer in reversed(layers):
        backward += [("enter_backward", layer), ("leave_backward", layer)]
    return Outline(
        parameters=[
            ParameterOutline(name=f"layer{place}.weight", num_elements=size) for place, size in enumerate(sizes)
        ],
        modules=[ModuleOutline(name="", parameters=[])]
        + [ModuleOutline(name=f"layer{place}", parameters=parameters) for place, parameters in enumerate(owned)],
        visits=[("enter_forward", 0), *inner, ("leave_forward", 0), ("enter_backward", 0), *backward[:-1]],
        ready=list(reversed(range(len(sizes)))),
    )
