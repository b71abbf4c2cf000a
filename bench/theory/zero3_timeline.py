"""How much of ZeRO-3's communication passes beside compute where its gathers alone do: one micro-batch, event by event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.results.metered import Outline, VisitKind
from bench.theory.collectives import Group, collective_s
from bench.theory.zero3 import Awaited, Event, Launched, Visited

Visit = tuple[VisitKind, int]


def compute_of_visits(outline: Outline, forward_s: float, backward_s: float, *, paced: bool) -> dict[Visit, float]:
    """Seconds of compute of a micro-batch at each visit, by (kind, module); each pass adds up to `forward_s` or `backward_s`.

    A paced model's blocks sleep equally, just before they are left forward and just after they are entered backward. In other
    models the modules that have parameters of their own and pass a gradient on (no embeddings) compute, in proportion to
    their elements, as matrix products do.
    """
    if paced:
        blocks = [place for place, module in enumerate(outline.modules) if _is_block(module.name)]
        forward: list[Visit] = [("leave_forward", block) for block in blocks]
        backward: list[Visit] = [("enter_backward", block) for block in blocks]
        weights = [1.0] * len(blocks)
    else:
        elements = [parameter.num_elements for parameter in outline.parameters]
        left = {module for kind, module in outline.visits if kind == "leave_backward"}
        layers = [place for place, module in enumerate(outline.modules) if module.parameters and place in left]
        forward = [("leave_forward", layer) for layer in layers]
        backward = [("leave_backward", layer) for layer in layers]
        weights = [float(sum(elements[p] for p in set(outline.modules[layer].parameters))) for layer in layers]
    total = sum(weights)
    return {
        visit: seconds * weight / total
        for visits, seconds in ((forward, forward_s), (backward, backward_s))
        for visit, weight in zip(visits, weights, strict=True)
    }


def _is_block(name: str) -> bool:
    return name.rpartition(".")[2].isdigit()


def hidden_s(
    events: Sequence[Event], outline: Outline, compute: Mapping[Visit, float], gradient_bytes: int, group: Group
) -> float:
    """Seconds of gathers and reductions of one micro-batch that its compute hides: all of both, less what the two take together.

    Gathers go one after another on the link, beside compute; compute stands where a gather is awaited. Gradients
    (`gradient_bytes` in all) are reduced as their modules are left backward, each in proportion, and compute stands for
    that too. The link is one: what is in flight meanwhile is done first.
    """
    elements = [parameter.num_elements for parameter in outline.parameters]
    all_reduced_s = float(collective_s("reduce_scatter", gradient_bytes, group))
    reduced_s = {
        module: all_reduced_s * sum(elements[parameter] for parameter in parameters) / sum(elements)
        for module, parameters in _reduced_with(outline).items()
    }
    now = link_free = busy = 0.0
    done: dict[int, float] = {}
    for event in events:
        if isinstance(event, Launched):
            seconds = float(collective_s("all_gather", event.payload_bytes, group))
            link_free = max(now, link_free) + seconds
            busy += seconds
            done.update(dict.fromkeys(event.parameters, link_free))
        elif isinstance(event, Awaited):
            now = max(now, done[event.parameter])
        else:
            assert isinstance(event, Visited)
            now += compute.get((event.kind, event.module), 0.0)
            if event.kind == "leave_backward" and event.module in reduced_s:
                now = link_free = max(now, link_free) + reduced_s[event.module]
                busy += reduced_s[event.module]
    # Gradients of what is never left backward come at the end.
    busy += all_reduced_s - sum(reduced_s.values())
    now = max(now, link_free) + all_reduced_s - sum(reduced_s.values())
    return sum(compute.values()) + busy - now


def _reduced_with(outline: Outline) -> dict[int, list[int]]:
    """The parameters whose gradients are whole when a module is left backward, each with the last of its modules."""
    with_module: dict[int, int] = {}
    for kind, module in outline.visits:
        if kind == "leave_backward":
            with_module.update(dict.fromkeys(outline.modules[module].parameters, module))
    # A tied parameter that a module uses which is never left gets the rest of its gradient there, at the end.
    at_end = {
        parameter
        for place, module in enumerate(outline.modules)
        if ("leave_backward", place) not in set(outline.visits)
        for parameter in module.parameters
    }
    found: dict[int, list[int]] = {}
    for parameter, module in with_module.items():
        if parameter not in at_end:
            found.setdefault(module, []).append(parameter)
    return found
