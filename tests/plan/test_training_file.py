"""Files for `scalebench train`: the fields of one cell, and what is wrong with them, by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import SuiteError
from bench.plan.cell import Cell
from bench.plan.suite import load_suite
from bench.plan.training_file import load_training, shipped_trainings

GOOD = "model: gpt-nano\nstrategy: zero2\nworld_size: 2\nmax_steps: 40\n"


def test_shipped_trainings_are_whole() -> None:
    assert {"markov", "reverse", "stdlib"} <= set(shipped_trainings())
    for name in shipped_trainings():
        assert load_training(name).cell.is_trained


def test_a_file_is_one_cell_and_how_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "checkpoint_every: 10\nbudget_minutes: 1.5\ntarget_loss: 2.5\n")
    found = load_training(str(path))
    assert (found.name, found.checkpoint_every, found.budget_minutes, found.timeout_s) == ("mine", 10, 1.5, 86_400)
    assert found.cell == Cell(model="gpt-nano", strategy="zero2", world_size=2, max_steps=40, target_loss=2.5)
    assert found.cell.evaluation_interval == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            GOOD + "checkpoint_ever: 3\n",
            r"mine\.yaml:5: unknown key 'checkpoint_ever'; did you mean 'checkpoint_every'",
        ),
        (GOOD + "checkpoint_every: 0\n", r"mine\.yaml:5: checkpoint_every: found 0, expected a whole number of steps"),
        (GOOD + "budget_minutes: -1\n", r"mine\.yaml:5: budget_minutes: found -1, expected a number above 0"),
        (GOOD + "launches: 3\n", r"mine\.yaml:5: unknown key 'launches'"),
        (GOOD + "learning_rate: fast\n", r"mine\.yaml:5: learning_rate: found 'fast'"),
        (GOOD + "name: a/b\n", r"mine\.yaml:5: name: found 'a/b'"),
        (
            GOOD.replace("zero2", "param_server"),
            r"mine\.yaml:2: strategy: found param_server, whose trainings keep no checkpoints",
        ),
        (GOOD.replace("zero2", "zero9"), r"mine\.yaml:2: strategy: found 'zero9'"),
        (GOOD.replace("max_steps: 40\n", ""), r"mine\.yaml:1: max_steps: missing"),
        (GOOD.replace("max_steps: 40", "patience: 4"), r"mine\.yaml:4: patience: found no max_steps beside it"),
        (GOOD + "strategy: ddp\n", r"mine\.yaml:5: the key 'strategy' stands twice"),
        ("- a list\n", r"mine\.yaml:1: the file: found \['a list'\]"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=says):
        load_training(str(path))


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(SuiteError, match=r"no training 'markow'.*did you mean 'markov'"):
        load_training("markow")


def test_a_suite_trains_too_but_meters_no_training(tmp_path: Path) -> None:
    [*cells] = load_suite("time-to-loss").cells
    assert all(planned.cell.is_trained and planned.cell.target_loss for planned in cells)
    assert len({planned.cell.global_batch_size for planned in cells}) == 1
    path = tmp_path / "suite.yaml"
    path.write_text(
        "grids:\n- model: gpt-nano\n  strategy: ddp\n  world_size: 1\n  max_steps: 4\n  attribution_launches: 1\n"
    )
    with pytest.raises(SuiteError, match=r"suite\.yaml:6: attribution_launches: a cell with max_steps is trained"):
        load_suite(str(path))
