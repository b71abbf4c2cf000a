"""The whole report, from a folder of records to files that can be read back."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench.analysis.scaling import COLUMNS
from bench.errors import RecordError
from bench.examine import examine
from bench.plan.cell import Cell
from bench.publish import headline, publish
from bench.results.record import Record
from tests import synthetic, synthetic_runs

NANO = Cell(model="gpt-nano", strategy="ddp", world_size=1, seq_len=64, steps=5)
STRANGE = "</pre><script>alert('1')</script> & \"quoted\", \u2028 [bold]x[/bold]\r\nsecond line \x1b[31m"


class _Outside(HTMLParser):
    """Collects what a page would load, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (name == "href" and tag == "link"):
                self.loads.append(value or "")


def published(tmp_path: Path, records: list[Record]) -> str:
    return publish(examine(synthetic.write(tmp_path, records))).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = synthetic.write(tmp_path_factory.mktemp("quick"), synthetic.quick())
    publish(examine(folder))
    return folder


def test_the_page_needs_nothing_else(quick: Path) -> None:
    page = (quick / "report" / "index.html").read_text(encoding="utf-8")
    found = _Outside()
    found.feed(page)
    assert found.scripts == 0
    assert found.loads and all(uri.startswith("data:image/svg+xml;base64,") for uri in found.loads)
    assert not re.search(r"@import|url\(", page)


def test_every_table_can_be_read_back(quick: Path) -> None:
    tables = {path.stem: pd.read_csv(path) for path in (quick / "report" / "tables").glob("*.csv")}
    assert set(tables) == {
        *(
            "scaling",
            "ranking",
            "efficiency",
            "ranks",
            "balance",
            "traffic",
            "synchronisation",
            "launches",
            "phases",
            "not_ok",
            "environment",
        ),
        *("certainty", "memory", "projected", "alarms", "synchronisation_losses", "time_to_loss", "loss_curves"),
    }
    assert tables["scaling"].columns.tolist() == COLUMNS
    assert len(tables["scaling"]) == len(tables["launches"]) == 23
    first = tables["scaling"].iloc[0]
    assert first["tokens_per_s"] == pytest.approx(256 / 0.06)
    assert first["baseline"] == "ddp at world_size 1, weak, accumulation 1"


def test_every_chart_is_there_twice(quick: Path) -> None:
    charts = quick / "report" / "charts"
    pngs, svgs = ({path.stem for path in charts.glob(f"*.{kind}")} for kind in ("png", "svg"))
    assert pngs == svgs
    assert {"speed-gpt-nano-weak", "scaling-paced-nano-weak", "memory-gpt-nano-weak", "outside-gpt-nano"} <= pngs
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in charts.glob("*.png"))


def test_the_page_answers_every_question(quick: Path) -> None:
    page = (quick / "report" / "index.html").read_text(encoding="utf-8")
    for anchor in (
        "verdict",
        "how-sure",
        "speed",
        "scaling",
        "accumulation",
        "memory",
        "not-ok",
        "outside",
        "environment",
        "glossary",
    ):
        assert f'id="{anchor}"' in page
    for text in ("no interval is known", "rank 1 ended with exit code 1", "Synthetic CPU", "0123456789abcdef", "paced"):
        assert text in page


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    published(tmp_path, [synthetic.launch(NANO), synthetic.launch(NANO.model_copy(update={"world_size": 2}))])
    assert (tmp_path / "report/charts/scaling-gpt-nano-weak.png").exists()
    for path in tmp_path.glob("*_w2_*/*/record.json"):
        path.unlink()
    publish(examine(tmp_path))
    assert not (tmp_path / "report/charts/scaling-gpt-nano-weak.png").exists()


def test_strange_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    place = synthetic.environment(NANO, cpu=STRANGE, variables={"<b>X": STRANGE})
    records = [
        synthetic.launch(NANO, place=place),
        synthetic.failure(NANO, "crashed", STRANGE, [STRANGE, "\ud800 lone"]),
    ]
    other = NANO.model_copy(update={"model": "hf:<i>gpt2</i>", "strategy": "zero1"})
    page = published(tmp_path, [*records, synthetic.launch(other)])
    found = _Outside()
    found.feed(page)
    assert found.scripts == 0
    assert "<i>gpt2" not in page and "<b>X" not in page
    assert "&lt;script&gt;alert(" in page
    reasons = pd.read_csv(tmp_path / "report/tables/not_ok.csv")["reason"].tolist()
    assert [reason.splitlines() for reason in reasons] == [STRANGE.splitlines()]
    console = Console(file=StringIO(), width=200)
    console.print(headline(examine(tmp_path)))


def test_one_cell_alone(tmp_path: Path) -> None:
    page = published(tmp_path, [synthetic.launch(NANO)])
    assert "no strategy has comparable figures at more than one world size" in page


def test_all_failed(tmp_path: Path) -> None:
    page = published(tmp_path, [synthetic.failure(NANO, "oom", "no room", ["OutOfMemoryError"])])
    assert "No cell gave a figure" in page
    assert "OutOfMemoryError" in page
    assert not list((tmp_path / "report/charts").glob("*"))


def test_attribution_launches_alone(tmp_path: Path) -> None:
    assert "nothing to compare" in published(tmp_path, [synthetic.launch(NANO, kind="attribution")])


def test_many_charts_are_drawn_by_several_processes(tmp_path: Path) -> None:
    records = [record for record in synthetic.reference(steps=2) if record.cell.model in ("gpt2-small", "gpt2-xl")]
    page = published(tmp_path, records)
    assert page.count("data:image/svg+xml") == len(list((tmp_path / "report/charts").glob("*.svg"))) > 12
    assert 'id="mfu"' in page


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no record"):
        publish(examine(tmp_path))


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    synthetic.write(tmp_path, [synthetic.launch(NANO)])
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(RecordError, match="report"):
        publish(examine(tmp_path))


def test_with_several_launches_and_a_pair_every_figure_says_how_sure_it_is(tmp_path: Path) -> None:
    page = published(tmp_path, synthetic_runs.quick(3, noise_frac=0.01, twin_frac=0.03))
    found = pd.read_csv(tmp_path / "report/tables/certainty.csv").set_index("quantity")
    assert "drift_frac" in found.index and found.loc["launches_most", "value"] == 3
    spread = f"{100 * found.loc['aa_spread_frac', 'value']:.1f} %"
    assert 'href="#how-sure"' in page and "Drift: none seen" in page
    assert f"beyond the spread of the A/A pair, {spread}" in page
    for heading in ("step time, 95 %", "tokens/s, 95 %", "efficiency, 95 %", "ahead by, 99 %", "A/A spread"):
        assert f">{heading}</th>" in page
    assert f'<td class="number">{spread}</td>' in page
    chart = (tmp_path / "report/charts/speed-gpt-nano-weak.svg").read_text()
    assert f"A/A spread {spread}" in chart and "95 % intervals over 3 launches" in chart


def test_without_an_interval_there_is_no_column_for_one(quick: Path) -> None:
    page = (quick / "report" / "index.html").read_text(encoding="utf-8")
    assert "95 %</th>" not in page and "99 %</th>" not in page and "A/A spread</th>" not in page
    assert "no lead could be held to how far a cell is from itself" in page


def test_the_headline_has_the_interval_and_fits_120_columns(tmp_path: Path) -> None:
    synthetic.write(tmp_path, synthetic_runs.quick(3))
    console = Console(file=(output := StringIO()), width=120)
    console.print(headline(examine(tmp_path)))
    lines = output.getvalue().splitlines()
    assert re.search(r"step time\s+95 %\s+tokens/s", lines[0])
    assert re.search(r"gpt-nano\s+ddp\s+weak\s+2\s+1\s+\d\S+ ms\s+±\d\S* %\s+6\.\d+ k", lines[2])
    assert len(lines) == 24 and all(len(line) <= 120 for line in lines)


def test_the_headline_has_a_row_a_cell(quick: Path) -> None:
    console = Console(file=(output := StringIO()), width=160)
    table = headline(examine(quick))
    console.print(table)
    text = output.getvalue()
    assert table.row_count == 23
    assert re.search(r"gpt-nano\s+ddp\s+weak\s+2\s+1\s+80.0 ms\s+6.40 k\s+75.0 %\s+1.00 GiB\s+ok", text)
    assert re.search(r"zero3\s+weak\s+2\s+4\s+–\s+–\s+–\s+–\s+crashed", text)
