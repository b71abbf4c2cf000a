"""What a user, or somebody who means ill, could write into a suite, a hostfile, a record or a flag."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from bench.plan.suite import GRID_KEYS, SUITE_KEYS

TOUCHED = "pwned"
"""The file that any of `poison` leaves in the current folder if a shell ever reads it as anything but text."""

poison = st.sampled_from(
    [
        f"$(touch {TOUCHED})",
        f"`touch {TOUCHED}`",
        f";touch {TOUCHED};",
        f"\ntouch {TOUCHED}\n",
        f"| touch {TOUCHED}",
        f"&& touch {TOUCHED} &&",
        f"'; touch {TOUCHED}; '",
        f'"; touch {TOUCHED}; "',
        f"'$(touch {TOUCHED})'",
        f"x$(touch\t{TOUCHED})y",
        f"> {TOUCHED}",
        f"\\$(touch {TOUCHED})",
        f"--output=$(touch {TOUCHED})",
        f"hf:$(touch {TOUCHED})",
        f"path:$(touch {TOUCHED})",
    ]
)
texts = st.one_of(poison, st.text(max_size=12))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.integers(), st.floats(), texts, texts)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(texts, st.one_of(scalars, st.lists(scalars, max_size=2)), max_size=2),
)
_keys = st.one_of(st.sampled_from(sorted(GRID_KEYS)), texts)


@st.composite
def suites(draw: st.DrawFn) -> dict[str, Any]:
    """A suite that would be fine, but for up to two things."""
    content: dict[str, Any] = {
        "name": "generated",
        "description": draw(texts),
        "defaults": {"model": "gpt-nano", "world_size": [1, 2], "seq_len": 32},
        "grids": [{"strategy": ["ddp", "zero2"]}, {"strategy": "zero1", "model_options": {"num_layers": 2}}],
    }
    # A type of transformers' is checked by its ranks alone, so anything may be one, and may be told anything.
    if draw(st.booleans()):
        content["defaults"]["model"] = "hf:" + draw(texts.filter(bool))
        content["grids"][1]["model_options"] = draw(
            st.dictionaries(texts, st.one_of(texts, st.integers(1, 9)), max_size=2)
        )
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(["suite", "defaults", "first", "second"]))
        if place == "suite":
            content[draw(st.one_of(st.sampled_from(sorted(SUITE_KEYS)), texts))] = draw(values)
            continue
        inside = content["defaults"] if place == "defaults" else content["grids"]
        if isinstance(inside, list) and len(inside) == 2:
            inside = inside[place == "second"]
        if isinstance(inside, dict):
            inside[draw(_keys)] = draw(values)
    return content


@st.composite
def mangled(draw: st.DrawFn, text: str) -> bytes:
    """A text of which a piece was taken out, said twice or overwritten."""
    raw = text.encode()
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, min(len(raw), start + 40)))
    put = draw(st.one_of(st.binary(max_size=6), texts.map(str.encode), st.just(raw[start:end] * 2)))
    return raw[:start] + put + raw[end:] if draw(st.booleans()) else raw[:start] + put


_hosts = st.one_of(
    st.sampled_from(["worker-1", "worker-2", "10.0.0.7", "localhost", "-oProxyCommand=x", "root@b", "::1"]), texts
)
_slots = st.one_of(st.integers(-1, 9).map(lambda n: f"slots={n}"), texts, texts.map(lambda text: f"slots={text}"))
_lines = st.one_of(
    st.tuples(st.sampled_from(["worker-1", "worker-2", "worker-3"]), st.integers(1, 8).map(lambda n: f"slots={n}")).map(
        " ".join
    ),
    st.tuples(_hosts, _slots).map(" ".join),
    texts,
    texts.map(lambda text: f"# {text}"),
)
hostfiles = st.one_of(
    st.lists(_lines, max_size=4),
    st.lists(st.integers(1, 8), min_size=1, max_size=4).map(
        lambda slots: [f"worker-{number} slots={each}" for number, each in enumerate(slots)]
    ),
).map("\n".join)


def places_in(content: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every value of a JSON document stands."""
    found = [at] if at else []
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        found += places_in(value, (*at, key))
    return found


# What JSON can hold, and now and then what the place could well have held.
_figures = st.one_of(
    scalars,
    st.sampled_from(
        [0, 0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), 2**63, [], [0.0], {}, "ok", "oom", "timeout"]
    ),
)


@st.composite
def changed(draw: st.DrawFn, content: dict[str, Any]) -> dict[str, Any]:
    """A JSON document of which one or two values are others, or are not there."""
    result = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from(places_in(result)))
        holder: Any = result
        for key in above:
            holder = holder[key]
        if draw(st.integers(0, 5)) == 0:
            del holder[last]
        else:
            holder[last] = draw(_figures)
        if not places_in(result):
            break
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]
