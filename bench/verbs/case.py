"""scalebench case: a question that the theory answers, as one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import ProjectionError, nearest
from bench.verbs.shared import Json, terminal

_CASES = ("ten-nodes", "internet")


def case(
    name: Annotated[str, typer.Argument(help="ten-nodes or internet.")],
    output: Annotated[Path | None, typer.Option(help="Folder to write to. [default: results/case-NAME]")] = None,
    as_json: Json = False,
) -> None:
    """Answer one of two questions by theory: its page with tables and charts.

    ten-nodes: ten billion parameters on ten nodes of eight V100s, synchronous, asynchronous and delayed: is time halved, at what
    cost? internet: from which bandwidth on does plain data parallelism do as well as DiLoCo? Exits 0, or 2 for bad input.
    """
    if name not in _CASES:
        raise ProjectionError(f"case: found {name!r}", hint=nearest(name, _CASES))
    from bench.cases import internet, ten_nodes
    from bench.cases.study import write

    study = {"ten-nodes": ten_nodes.study, "internet": internet.study}[name]()
    page = write(study, output or Path("results") / f"case-{name}")
    if as_json:
        print(json.dumps({"page": str(page), **study.as_json()}, indent=1))
        return
    console = terminal()
    for sentence in (*study.case.answers, f"page: {page}"):
        console.print(sentence, markup=False, highlight=False)
