"""Seconds and tokens to a loss, from records whose courses are known; the gates of trained cells; confusion and F1 by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.analysis.classification import confusion, scores
from bench.analysis.scaling import scaling_table
from bench.analysis.training import curves, time_to_loss
from bench.analysis.validity import judge
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from bench.results.training import Evaluation, Trained
from reports import training as shown
from reports.style import styles
from tests import synthetic


def trained(
    strategy: str, course: list[float], step_s: float = 0.5, target: float | None = 2.0, **changes: Any
) -> Record:
    """A launch that is evaluated every 10 steps, from step 0 on."""
    cell = Cell(
        model="gpt-nano",
        strategy=strategy,
        world_size=2,
        seq_len=16,
        max_steps=100,
        evaluate_every=10,
        target_loss=target,
    )
    evaluations = [
        Evaluation(
            step=10 * place,
            tokens=10 * place * cell.tokens_per_step,
            wall_s=10 * place * step_s,
            train_loss=None if not place else loss,
            loss=loss,
            accuracy=0.1 * place,
        )
        for place, loss in enumerate(course)
    ]
    steps = evaluations[-1].step
    told = Trained(
        first_step=0,
        evaluations=evaluations,
        stopped="target" if target is not None and course[-1] <= target else "max_steps",
        evaluation_s=1.0,
        checkpoint_s=0.0,
        num_evaluation_tokens=64,
        tokens_per_byte=None,
    )
    fields = {"step_times_s": [[step_s] * steps] * 2, "num_steps": steps, **changes}
    return synthetic.launch(cell, training=told, **fields)


def table(records: list[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    scaling = scaling_table(judge(to_frame(records)))
    return time_to_loss(records, scaling).set_index("contender"), curves(records, scaling)


def test_time_and_tokens_to_the_target_are_those_of_the_first_evaluation_there() -> None:
    records = [
        trained("ddp", [8.0, 4.0, 1.9]),
        trained("ddp", [8.0, 4.0, 2.5, 2.0]),
        trained("zero2", [8.0, 3.0, 2.5], step_s=0.2),
        trained("zero1", [8.0, 1.5, 3.0], step_s=0.2, target=None),
    ]
    rows, points = table(records)
    ddp, zero2, zero1 = rows.loc["ddp"], rows.loc["zero2"], rows.loc["zero1"]
    assert (ddp["launches"], ddp["launches_reached"]) == (2, 2)
    assert ddp["seconds_to_target"] == pytest.approx((10 + 15) / 2)
    assert ddp["tokens_to_target"] == pytest.approx((20 + 30) / 2 * 32)
    assert ddp["final_loss"] == pytest.approx(1.95) and ddp["steps"] == 25
    # Fast a step, and never there.
    assert zero2["launches_reached"] == 0 and pd.isna(zero2["seconds_to_target"]) and zero2["stopped"] == "max_steps"
    assert zero1["least_loss"] == 1.5 and zero1["final_loss"] == 3.0 and pd.isna(zero1["seconds_to_target"])
    assert len(points) == 13 and set(points["launch_id"]) == {record.launch_id for record in records}
    words = shown.sentences(rows.reset_index())
    assert words[0].startswith("gpt-nano to a validation loss of 2.000: soonest is ddp on 2 ranks, in 12.5 s")
    assert words[1] == "Not in all launches: zero2 on 2 ranks."
    written = shown.time_to_loss(rows.reset_index()).set_index("strategy")
    assert written.loc["ddp", "time to target"] == "12.5 s" and written.loc["zero2", "reached"] == "0 of 1"


def test_the_chart_has_every_evaluation_against_seconds_and_tokens() -> None:
    _, points = table([trained("ddp", [8.0, 4.0, 1.9]), trained("zero2", [8.0, 3.0, 2.5], step_s=0.2)])
    figure = shown.loss_curves(points, styles(points["contender"]))
    assert figure is not None
    left, right = figure.axes
    drawn = {line.get_color(): line for line in left.lines if len(line.get_xdata()) == 3}
    colors = styles(points["contender"])
    assert drawn[colors["zero2"].color].get_xdata() == pytest.approx([0, 2, 4])
    assert drawn[colors["ddp"].color].get_ydata() == pytest.approx([8.0, 4.0, 1.9])
    assert [line.get_xdata()[-1] for line in right.lines if len(line.get_xdata()) == 3] == pytest.approx([640, 640])
    assert any(list(line.get_ydata()) == [2.0, 2.0] for line in left.lines)
    assert shown.loss_curves(points.iloc[:0], {}) is None


def test_a_training_is_judged_by_its_own_steps() -> None:
    whole = trained("ddp", [8.0, 4.0, 1.9])
    short = trained("ddp", [8.0, 4.0, 1.9], num_steps=19, step_times_s=[[0.5] * 19] * 2)
    judged = judge(to_frame([whole, short]))
    assert judged["outcome"].tolist() == ["ok", "invalid"]
    assert "19 steps in the window (num_steps), expected 20" in judged["reason"].iloc[1]


def test_long_trainings_part_and_are_not_invalid_for_it() -> None:
    """Losses of equal work are held to each other for 50 steps."""
    steps = [10.0] * 11
    same = [5.0] * 100
    late = [*same[:50], *[5.1] * 50]
    early = [*same[:49], *[5.1] * 51]
    records = [
        trained("ddp", steps, losses=same),
        trained("zero1", steps, losses=late),
        trained("zero2", steps, losses=early),
    ]
    judged = judge(to_frame(records))
    assert judged["outcome"].tolist() == ["ok", "ok", "invalid"]


def test_confusion_and_f1_by_hand() -> None:
    found = confusion(["a", "a", "a", "b", "b", "c"], ["a", "a", "b", "b", "a", "a"])
    assert found.to_numpy().tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    rates = scores(found)
    assert rates["number"].tolist() == [3, 2, 1]
    assert rates.loc["a", ["precision", "recall", "f1"]].tolist() == pytest.approx([2 / 4, 2 / 3, 4 / 7])
    assert rates.loc["b", ["precision", "recall", "f1"]].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert pd.isna(rates.loc["c", "precision"]) and rates.loc["c", ["recall", "f1"]].tolist() == [0, 0]
