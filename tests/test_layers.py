"""The house keeps its own rules: imports point downward, and nothing but the rank program needs torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room imports itself and the rooms named here.
ALLOWED = {
    "bench.errors": set(),
    "bench.plan": {"bench.errors", "models"},
    "bench.results": {"bench.errors", "bench.plan"},
    "bench.theory": {"bench.errors", "bench.plan", "bench.results"},
    "bench.analysis": {"bench.errors", "bench.plan", "bench.results", "bench.theory"},
    "bench.launch": {"bench.errors", "bench.plan", "bench.results"},
    "bench.doctor": {f"bench.{room}" for room in ("errors", "plan", "results", "theory", "analysis", "launch")},
    "bench.worker": {"bench.errors", "bench.plan", "bench.results", "models"},
    "models": set(),
    "reports": set(),
}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in ("models", "reports"):
        return parts[0]
    return ".".join(parts[:2]) if parts[0] == "bench" and len(parts) > 1 else None


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


SOURCES = [path for top in ("bench", "models", "reports") for path in sorted((ROOT / top).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here not in ALLOWED:
        return  # the files at the top of bench join the rooms
    for name in imports_of(path):
        there = room_of(name)
        assert there is None or there == here or there in ALLOWED[here], f"{here} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_stays_with_models_and_the_worker(path: Path) -> None:
    if path.is_relative_to(ROOT / "models") or path.is_relative_to(ROOT / "bench" / "worker"):
        return
    heavy = {name.split(".")[0] for name in imports_of(path)} & {"torch", "deepspeed", "transformers"}
    assert not heavy


PROJECT = ["project", "--machine", "dgx1-v100-16gb", "--num-params", "1e8", "--step-time-1", "0.1", "--json"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["compare", "--help"], ["run", "quick", "--dry-run", "--device", "cpu"], PROJECT],
)
def test_planning_never_imports_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom bench.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'deepspeed', 'transformers', 'seaborn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
