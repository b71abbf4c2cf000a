"""scalebench compare as a user types it, on folders whose differences are known."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.comparison import COLUMNS
from bench.cli import main
from bench.comparing import geometric_mean, moved_alike
from tests import synthetic, synthetic_runs
from tests.command_line import Scalebench

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `scalebench compare ARGUMENTS` in this process: exit code, stdout, stderr."""

    def compare(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scalebench", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return compare


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base; new: zero0 faster, zero1 10 % slower, zero3 only there; gone: without ddp; failed: ddp ran out of memory."""
    root = tmp_path_factory.mktemp("compare")
    more = next(record for record in synthetic.quick() if record.cell.strategy == "zero3" and record.outcome == "ok")
    new = synthetic_runs.two_ranks(seed=2, slower={"zero0": 0.9, "zero1": 1.1})
    alone = [record for record in synthetic_runs.two_ranks(seed=2) if record.cell.strategy != "ddp"]
    ddp = next(record.cell for record in new if record.cell.strategy == "ddp")
    synthetic.write(root / "base", synthetic_runs.two_ranks(seed=1))
    synthetic.write(root / "new", [*new, more])
    synthetic.write(root / "gone", alone)
    synthetic.write(root / "failed", [*alone, synthetic.failure(ddp, "oom", "CUDA out of memory")])
    synthetic.write(
        root / "alike", synthetic_runs.two_ranks(seed=3, slower=dict.fromkeys(("ddp", "zero0", "zero1"), 1.2))
    )
    return root


def test_it_says_what_changed_and_writes_it(folders: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run(folders / "base", folders / "new", "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert re.search(r"zero1\s+2\s+1\s+\d\S+ ms\s+\d\S+ ms\s+1\.1\dx\s+1\.\d+ to 1\.\d+x\s+slower", out)
    assert re.search(r"zero0 .*\s0\.90x\s.*faster", out) and re.search(r"ddp .*\ssame", out)
    assert re.search(r"zero3 .*\snew\s+the base has no such cell", out)
    for words in (
        "environment and settings: the same",
        "4 cells: ",
        "1 slower",
        "Losses and collectives: equal in 3 cells.",
        "beyond the spread of the A/A pairs, ",
        "Drift in the base: none seen",
        "Drift in the new run: none seen",
        "Geometric mean of new / base over 3 cells: ",
    ):
        assert words in out
    assert "changed alike" not in out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {*(f"comparison.{kind}" for kind in ("csv", "json", "png", "svg")), "differences.csv"}
    cells = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert cells.columns.tolist() == COLUMNS and len(cells) == 4
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored["counts"] == {"slower": 1, "faster": 1, "same": 1, "new": 1}


def test_json_is_one_object_and_names_what_failed(folders: Path, tmp_path: Path, run: Run) -> None:
    fail = ("--fail-on", "slower, new", "--json", "--output", tmp_path)
    code, out, err = run(folders / "base", folders / "new", *fail)
    found = json.loads(out)
    assert code == 1 and {cell_id.split("_")[1] for cell_id in found["failed"]} == {"zero1", "zero3"}
    assert found["output"] == str(tmp_path) and found["moved_alike"] is False
    row = next(row for row in found["cells"] if row["strategy"] == "zero3")
    assert (row["verdict"], row["ratio"], row["base_launches"]) == ("new", None, 0)
    assert re.search(r"^slower: gpt-nano_zero1_w2\S+$", err, re.MULTILINE) and "new: gpt-nano_zero3" in err


@pytest.mark.parametrize(
    ("new", "fail_on", "code"),
    [
        ("new", None, 0),
        ("new", "slower,missing", 1),
        ("new", "missing", 0),
        ("new", "counters", 0),
        ("gone", "slower,missing", 1),
        ("failed", "missing", 1),
        ("failed", "slower", 0),
    ],
)
def test_only_what_is_named_fails(
    folders: Path, tmp_path: Path, run: Run, new: str, fail_on: str | None, code: int
) -> None:
    wanted = () if fail_on is None else ("--fail-on", fail_on)
    found, out, _ = run(folders / "base", folders / new, *wanted, "--output", tmp_path)
    assert found == code
    if new == "failed":
        assert "the new run has no figure: oom" in " ".join(out.split())


def test_other_losses_are_counters(folders: Path, tmp_path: Path, run: Run) -> None:
    # Of ddp alone: in a run whose strategies don't agree, they would be invalid.
    ddp = [record for record in synthetic_runs.two_ranks(seed=2) if record.cell.strategy == "ddp"]
    other = [
        record.model_copy(
            update={"ranks": [rank.model_copy(update={"losses": [9.0, *rank.losses[1:]]}) for rank in record.ranks]}
        )
        for record in ddp
    ]
    synthetic.write(tmp_path / "new", other)
    code, out, err = run(folders / "base", tmp_path / "new", "--fail-on", "counters")
    assert code == 1 and "counters (loss of step 0 is 9, was 8.292)" in err
    assert "Losses and collectives: equal in 0 cells, other in 1 cell." in out
    assert (tmp_path / "new" / "comparison" / "comparison.csv").exists()


def test_when_all_cells_changed_alike_the_machine_is_suspected(folders: Path, tmp_path: Path, run: Run) -> None:
    _, out, _ = run(folders / "base", folders / "alike", "--output", tmp_path)
    assert "All 3 changed alike" in out and "a machine that changed looks like that" in out


def test_what_differs_is_shown(folders: Path, tmp_path: Path, run: Run) -> None:
    place = {"versions": {"torch": "2.8.0\n[bold]", "deepspeed": "0.18.0", "python": "3.11.7"}}
    other = [
        record.model_copy(
            update={
                "environment": synthetic.environment(record.cell, **place),
                "deepspeed_config": {"zero_optimization": {"reduce_bucket_size": 7}},
            }
        )
        for record in synthetic_runs.two_ranks(seed=2)
    ]
    synthetic.write(tmp_path / "new", other)
    code, out, _ = run(folders / "base", tmp_path / "new")
    assert code == 0 and "environment, version of torch: 2.7.1 -> 2.8.0" in out and "[bold]" in out
    assert "settings: zero_optimization.reduce_bucket_size unknown -> 7 (in 3 cells)" in out
    listed = pd.read_csv(tmp_path / "new" / "comparison" / "differences.csv")
    assert listed["property"].tolist() == ["version of torch"]


def test_a_folder_with_itself_is_allowed_and_hinted_at(folders: Path, tmp_path: Path, run: Run) -> None:
    code, _, err = run(folders / "base", folders / "base", "--output", tmp_path)
    assert code == 0 and "both are the same folder" in err


def test_one_launch_resolves_nothing(tmp_path: Path, run: Run) -> None:
    for name, factor in (("base", 1.0), ("new", 1.5)):
        synthetic.write(tmp_path / name, [synthetic_runs.scaled(synthetic.quick()[1], factor, 0)])
    code, out, _ = run(tmp_path / "base", tmp_path / "new", "--fail-on", "slower,faster")
    text = " ".join(out.split())
    assert code == 0 and "not resolved" in text and "99 % verdict" not in text
    assert "no A/A pair gave a figure" in text and "Drift in the base: not known" in text


def one_line(code: int, err: str) -> str:
    assert code == 2 and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--fail-on", "slwer"],
            "--fail-on: found 'slwer'; allowed, with commas: slower, missing, faster, new, not comparable",
        ),
        (["--fail-on", ""], "--fail-on: found ''"),
        (["--confidence", "0.5"], "--confidence: found 0.5"),
        (["--confidence", "1"], "--confidence: found 1"),
        (["--confidence", "nan"], "--confidence: found nan"),
        (["--min-effect", "-0.1"], "--min-effect: found -0.1"),
        (["--min-effect", "nan"], "--min-effect: found nan"),
    ],
)
def test_bad_options_are_one_line(folders: Path, run: Run, arguments: list[str], words: str) -> None:
    code, out, err = run(folders / "base", folders / "new", *arguments)
    assert words in one_line(code, err) and out == ""


def test_folders_that_cannot_be_read(folders: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("half", "other"):
        shutil.copytree(folders / "base", tmp_path / name)
    record = next((tmp_path / "half").glob("*/*/record.json"))
    record.write_bytes(record.read_bytes()[:-100])
    record = next((tmp_path / "other").glob("*/*/record.json"))
    record.write_text(record.read_text().replace('"schema_version": 1', '"schema_version": 99', 1))
    for name, words in (
        ("absent", "is not a folder"),
        ("empty", "holds no record"),
        ("half", "is not a whole JSON file"),
        ("other", "has schema version 99, expected 1"),
    ):
        for pair in ((folders / "base", tmp_path / name), (tmp_path / name, folders / "base")):
            code, _, err = run(*pair)
            assert words in one_line(code, err)
        assert not (tmp_path / name / "comparison").exists()


def test_other_hardware_says_which(folders: Path, tmp_path: Path, run: Run) -> None:
    moved = [
        record.model_copy(update={"environment": synthetic.environment(record.cell, num_cores=64, cpu="Other CPU")})
        for record in synthetic_runs.two_ranks(seed=2)
    ]
    synthetic.write(tmp_path / "new", moved)
    code, _, err = run(folders / "base", tmp_path / "new")
    assert "other hardware. Base: device type cpu, CPU Synthetic CPU @ 2.0 GHz, cores 8" in one_line(code, err)
    assert "New: device type cpu, CPU Other CPU, cores 64" in err


def test_no_cell_in_common(folders: Path, tmp_path: Path, run: Run) -> None:
    synthetic.write(tmp_path / "new", [record for record in synthetic.quick() if record.cell.paced])
    code, _, err = run(folders / "base", tmp_path / "new")
    assert "they have no cell in common" in one_line(code, err)


def test_neither_has_a_figure(tmp_path: Path, run: Run) -> None:
    for name in ("base", "new"):
        synthetic.write(tmp_path / name, [synthetic.failure(synthetic.quick()[0].cell, "oom", "x")])
    code, _, err = run(tmp_path / "base", tmp_path / "new")
    assert "no cell of either has a figure" in one_line(code, err)


def test_other_work_is_not_compared_and_says_what(folders: Path, tmp_path: Path, run: Run) -> None:
    changed = [
        record.model_copy(update={"cell": record.cell.model_copy(update={"learning_rate": 0.5})})
        for record in synthetic_runs.two_ranks(seed=2)
    ]
    synthetic.write(tmp_path / "new", changed)
    code, out, _ = run(folders / "base", tmp_path / "new", "--fail-on", "not comparable")
    assert code == 1 and "other work: learning_rate" in " ".join(out.split())


def test_the_command_itself(folders: Path, tmp_path: Path, scalebench: Scalebench) -> None:
    done = scalebench("compare", folders / "base", folders / "new", "--fail-on", "slower", "--output", tmp_path)
    assert done.returncode == 1 and "slower: gpt-nano_zero1" in done.stderr
    done = scalebench("compare", "--help")
    assert done.returncode == 0 and "Example: scalebench compare" in " ".join(done.stdout.split())


def test_geometric_mean_and_moving_alike() -> None:
    assert geometric_mean([0.5, 2.0, 1.0]) == pytest.approx(1.0) and geometric_mean([]) is None
    assert moved_alike([1.1, 1.12, 1.08], 0.03)
    assert not moved_alike([1.1, 1.12], 0.03)
    assert not moved_alike([1.1, 1.12, 1.0], 0.03)
    assert not moved_alike([1.02, 1.02, 1.02], 0.03)
    assert moved_alike([0.9, 0.91, 0.89], 0.03)
