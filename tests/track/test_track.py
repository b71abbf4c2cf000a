"""`scalebench track` from the first run of a suite on: what is stored, what may be the next baseline, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.comparison import Rule
from bench.examine import examine
from bench.results.store import read_records
from bench.track.cells import tracked
from bench.track.gate import judge
from tests import synthetic
from tests.command_line import Scalebench
from tests.track import planted
from tests.track.planted import CELLS, DDP, Story, typed


def benchmark_of(content: dict[str, Any], cell_id: str) -> dict[str, Any]:
    [found] = [one for one in content["benchmarks"] if one["extra_info"]["measured"]["cell"] == cell_of(cell_id)]
    assert isinstance(found, dict)
    return found


def cell_of(cell_id: str) -> dict[str, Any]:
    return next(cell for cell in CELLS if cell.id == cell_id).model_dump(mode="json")


def test_the_first_run_is_stored_as_the_baseline(story: Story) -> None:
    done = story.done["first"]
    assert done.code == 0 and done.stderr == ""
    assert "this is the first" in done.stdout and str(story.files[0]) in done.stdout
    assert story.stored(0)["scalebench"]["accepted"] is True


def test_every_step_of_every_launch_is_stored(story: Story) -> None:
    content = story.stored(0)
    records = read_records(story.folders["first"])
    for cell in CELLS:
        own = sorted((one for one in records if one.cell == cell), key=lambda one: one.started_at)
        steps_s = [seconds for record in own for seconds in record.slowest_step_times_s()]
        found = benchmark_of(content, cell.id)
        assert found["stats"]["data"] == steps_s and len(steps_s) == planted.LAUNCHES * cell.steps
        assert found["group"] == cell.model and found["params"] == {"cell_id": cell.id}
        assert found["fullname"] == f"tests/perf/test_step_time.py::test_step_time[{cell.id}]"


def test_a_file_alone_is_a_whole_baseline(story: Story) -> None:
    findings = examine(story.folders["first"])
    scaling = findings.scaling.set_index("cell_id")
    for one in findings.measured:
        info = benchmark_of(story.stored(0), one.cell.id)["extra_info"]
        assert info["measured"] == one.model_dump(mode="json")
        for name in ("step_time_s", "step_time_s_lo", "step_time_s_hi", "tokens_per_s", "launches"):
            assert info[name] == scaling.loc[one.cell.id, name]
        assert info["step_time_s_lo"] < info["step_time_s"] < info["step_time_s_hi"]
        assert info["exposed_comm_s"] is None
        # One rank alone is the baseline of its series, two are held to it.
        assert info["efficiency"] == pytest.approx(1 if one.cell.world_size == 1 else 0.5, rel=0.02)


def test_the_file_says_where_it_was_measured(story: Story) -> None:
    machine = story.stored(0)["machine_info"]
    assert machine["measured_on"] == {
        "device type": "cpu",
        "CPU": "Synthetic CPU @ 2.0 GHz",
        "cores": "8",
        "memory, bytes": "16 GiB",
        "nodes": "1",
        "threads per rank": "1",
        "version of torch": "2.7.1",
        "num_devices": None,
    }
    assert "pytest" in machine["about"] and machine["python_version"]


def test_an_unchanged_run_passes(story: Story) -> None:
    done = story.done["unchanged"]
    assert done.code == 0 and done.stderr == ""
    told = json.loads(done.stdout)
    assert told["baseline"] == str(story.files[0]) and told["stored"] == str(story.files[1]) and told["accepted"]
    assert [row["cell_id"] for row in told["cells"]] and not told["failures"]


def test_a_slower_run_fails_with_its_cell_and_is_no_baseline(story: Story) -> None:
    done = story.done["slower"]
    assert done.code == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"slower: {DDP}: a step takes 1.")
    assert "1 failed" in done.stdout and "not as a baseline" in done.stdout
    assert story.stored(2)["scalebench"]["accepted"] is False
    # Trend services draw slow runs too.
    top = story.storage.parent
    assert {one["name"] for one in json.loads((top / "github.json").read_text())} == {cell.id for cell in CELLS}
    assert json.loads((top / "bencher.json").read_text()).keys() == {cell.id for cell in CELLS}


def test_a_slower_run_is_a_baseline_once_it_is_accepted(story: Story) -> None:
    done = story.done["accepted"]
    told = json.loads(done.stdout)
    # Held to the last accepted run, not to the slow one before it.
    assert done.code == 0 and told["baseline"] == str(story.files[1])
    assert [finding["cell_id"] for finding in told["failures"]] == [DDP] and told["accepted"]
    assert story.stored(3)["scalebench"]["accepted"] is True and len(story.files) == 4


def test_a_results_folder_is_a_baseline_too(story: Story) -> None:
    findings = examine(story.folders["slower"])
    run = tracked(findings)
    found = judge(run, findings.measured, story.folders["first"], story.storage, Rule(), accept=False)
    assert found.baseline == story.folders["first"] and [finding.cell_id for finding in found.failures] == [DDP]
    own = judge(run, findings.measured, story.folders["slower"], story.storage, Rule(), accept=False)
    assert not own.failures and own.why is not None and "nothing was measured since" in own.why


def test_what_looks_slower_passes_but_is_no_baseline(story: Story, tmp_path: Path) -> None:
    one = planted.records(2, slower={DDP: 1.2})[: len(CELLS)]
    history = shutil.copytree(story.storage, tmp_path / "history")
    done = typed(
        "track", synthetic.write_fast(tmp_path / "results", one), "--storage", history, "--baseline", story.files[0]
    )
    assert done.code == 0 and done.stderr == ""
    assert f"not resolved: {DDP}: a step takes 1." in done.stdout and "not as a baseline" in done.stdout
    [stored] = history.rglob("0005_planted.json")
    assert json.loads(stored.read_text())["scalebench"]["accepted"] is False


def _other_schema(content: dict[str, Any]) -> None:
    content["scalebench"]["schema_version"] = 99


def _of_pytest_benchmark(content: dict[str, Any]) -> None:
    del content["scalebench"]


def _edited(content: dict[str, Any]) -> None:
    content["benchmarks"][0]["extra_info"]["measured"]["cell"]["strategy"] = "zero9"


@pytest.mark.parametrize("place", ["--baseline", "--storage"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("", "is empty"),
        ("half", "is not a whole JSON file"),
        ("[]", "was not written by scalebench track"),
        (_of_pytest_benchmark, "was not written by scalebench track"),
        (_other_schema, "has schema version 99, expected 1"),
        (_edited, "is not as scalebench track writes it"),
    ],
)
def test_a_baseline_that_is_none_is_one_line(story: Story, tmp_path: Path, change: Any, words: str, place: str) -> None:
    path = tmp_path / "history" / "0007_planted.json"
    path.parent.mkdir()
    content = story.stored(0)
    if callable(change):
        change(content)
        path.write_text(json.dumps(content))
    else:
        path.write_text(json.dumps(content)[:-100] if change == "half" else change)
    where = ("--baseline", path, "--storage", tmp_path / "none") if place == "--baseline" else (place, path.parent)
    done = typed("track", story.folders["unchanged"], *where)
    assert done.code == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"scalebench: {path} ") and words in line
    assert not list((tmp_path / "none").rglob("*.json"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("cpu", "Another CPU", "-> Another CPU"), ("versions", {"torch": "2.8.0"}, "torch 2.7.1 -> 2.8.0")],
)
def test_another_machine_is_refused_in_one_line(
    story: Story, tmp_path: Path, name: str, value: object, words: str
) -> None:
    folder = synthetic.write_fast(tmp_path / "results", planted.records(1, change=planted.elsewhere(name, value)))
    history = shutil.copytree(story.storage, tmp_path / "history")
    done = typed("track", folder, "--storage", history)
    assert done.code == 2 and len(list(history.rglob("*.json"))) == len(story.files)
    [line] = done.stderr.splitlines()
    assert words in line and "--accept" in line
    if name == "cpu":
        accepted = typed("track", folder, "--storage", history, "--accept")
        assert accepted.code == 0 and "the first of a new history" in accepted.stdout
        assert len(list(history.rglob("0005_planted.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "absent is not a folder"),
        (["{first}", "--baseline", "absent.json"], "cannot read absent.json: No such file or directory"),
        (["{failed}"], "has no cell with an ok timing launch"),
    ],
)
def test_bad_input_is_one_line(story: Story, tmp_path: Path, arguments: list[str], words: str) -> None:
    failed = synthetic.write(tmp_path / "failed", [synthetic.failure(CELLS[0], "oom", "no memory left")])
    named = [argument.format(first=story.folders["first"], failed=failed) for argument in arguments]
    done = typed("track", *named, "--storage", tmp_path / "history")
    assert done.code == 2 and done.stdout == "" and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_command_itself_says_it_too(story: Story, tmp_path: Path, scalebench: Scalebench) -> None:
    half = tmp_path / "half.json"
    half.write_bytes(story.files[0].read_bytes()[:1000])
    done = scalebench("track", story.folders["first"], "--baseline", half, "--storage", tmp_path / "history")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "not a whole JSON file" in done.stderr


@pytest.mark.parametrize("options", ["-n 2", "-k zero2"])
def test_what_pytest_did_not_store_is_an_error(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", options)
    done = typed("track", story.folders["first"], "--storage", tmp_path)
    assert done.code == 2 and len(done.stderr.splitlines()) == 1
    assert "pytest did not store the step times" in done.stderr and options in done.stderr
    assert not list(tmp_path.rglob("*.json"))
