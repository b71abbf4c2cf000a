"""The table, the words and the page of where time goes name what to doubt, and keep unknown apart from zero."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd

from bench.examine import Findings, examine
from bench.publish import publish
from reports import losses, tables
from tests import synthetic
from tests import synthetic_efficiency as known

Frames = tuple[pd.DataFrame, pd.DataFrame]


def test_the_table_marks_its_rows_and_keeps_unknown_apart_from_zero() -> None:
    shown = tables.efficiency(known.noisy()[0])
    last = shown.iloc[-1]
    assert last["notes"] == "oversubscribed"
    assert [last[name] for name in ("compute scaling", "global", "measured efficiency", "apart by")] == ["–"] * 4
    assert last["straggler"] == "0"
    five = tables.efficiency(known.sweep(models=("gpt-nano",))[0])
    assert five["notes"].tolist() == ["–"] * 19 + ["not reconciled"]
    assert "straggler" not in five
    slow = tables.ranks(known.sweep(models=("gpt-nano",), slow=0.6, meter_s=0.02)[1])
    assert slow.loc[slow["note"] == "straggler", "rank"].unique().tolist() == ["1", "3", "7"]


def told(frames: Frames) -> str:
    return " ".join(line for one in losses.paragraphs(frames[0]) for line in [one.heading, one.summary, *one.sentences])


def test_the_words_say_what_a_step_loses() -> None:
    # 100 ms useful, 5 imbalance, 15 waiting, 30 transfer: 150 ms.
    one = known.cell([0.1], 0.0, 0.0, contender="zero2")
    two = known.cell([0.095, 0.105], 0.015, 0.03, contender="zero2")
    text = told(known.frames(one, two))
    assert "at 2 ranks, zero2 loses 33.3 % of its step" in text
    assert "At 2 ranks zero2 loses 33.3 % of its step: 3.3 % load imbalance, 10.0 % waiting, 20.0 % transfer." in text
    assert "computes at 100.0 % of its speed at 1 rank; together a global efficiency of 66.7 %" in text
    for absent in ("Not reconciled", "meter", "Slower", "noise", "No compute scaling"):
        assert absent not in text


def test_the_words_name_what_to_doubt() -> None:
    text = told(known.sweep(models=("gpt-nano",), slow=0.6, meter_s=0.02))
    assert re.search(r"Not reconciled, .*: zero3 at 8 ranks \(product \d+\.\d %, measured 60\.0 %; apart by", text)
    assert "rank 7 of 8 ranks (ddp, zero0, zero1, zero2, zero3)" in text
    assert "The meter itself costs up to 25.0 % of a step" in text
    assert "for any strategy: oversubscribed, or without a baseline" in told(
        known.sweep(models=("gpt-nano",), sizes=(4,))
    )
    assert "(below zero: noise)" in told(known.noisy())


def test_two_series_are_told_apart() -> None:
    cells = [
        known.cell([0.1] * 2, 0.01 * steps, 0.02, keeps=f"accumulation {steps}", grad_accum_steps=steps)
        for steps in (1, 4)
    ]
    text = told(known.frames(*cells))
    assert "ddp with accumulation 1 loses" in text and "ddp with accumulation 4 loses" in text


def findings(folder: Path, frames: Frames) -> Findings:
    return dataclasses.replace(
        examine(synthetic.write(folder, [synthetic.launch()])), efficiency=frames[0], ranks=frames[1]
    )


def test_the_page_shows_it_all_and_obeys_none_of_it(tmp_path: Path) -> None:
    strange = "<script>alert(1)</script>$a_b$"
    changes: dict[str, Any] = {"model": strange, "contender": f"zero1 ({strange})"}
    cells = [known.cell(known.useful_of(n, 0.1, 0.4), 0.01, 0.02, straggler=0, **changes) for n in (1, 2)]
    page = publish(findings(tmp_path, known.frames(*cells))).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert 'id="efficiency"' in page and 'id="ranks"' in page
    assert "Communication efficiency (serialization x transfer) rises when imbalance grows" in page
    names = [path.stem for path in (tmp_path / "report" / "charts").glob("*.svg")]
    for start in ("where-efficiency-is-lost", "seconds-of-a-step", "seconds-of-each-rank"):
        assert len([name for name in names if name.startswith(start)]) == 1
    assert page.count('src="data:image/svg+xml') == len(names)


def test_every_series_has_its_own_charts(tmp_path: Path) -> None:
    cells = [
        known.cell([0.1] * 2, 0.01, 0.02, keeps=f"accumulation {steps}", grad_accum_steps=steps) for steps in (1, 4)
    ]
    publish(findings(tmp_path, known.frames(*cells)))
    charts = tmp_path / "report" / "charts"
    assert len(list(charts.glob("where-efficiency-is-lost*.png"))) == 2
    assert len(list(charts.glob("seconds-of-each-rank*.png"))) == 2


def test_without_attribution_launches_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    page = publish(examine(synthetic.write(tmp_path, [synthetic.launch()]))).read_text(encoding="utf-8")
    assert 'id="efficiency"' in page and "attribution_launches: 1 in the suite" in page
    assert 'id="ranks"' not in page
