"""What a text becomes before it is cut into tokens: cleaned, in documents, each in a split of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import SuiteError
from bench.plan.workload import CLEANING, Workload
from bench.worker.data.cleaning import STEPS, clean
from bench.worker.data.text import SPLIT_FRACS, load_text, split_of


def folder_of(tmp_path: Path, *texts: str) -> str:
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
    return f"path:{tmp_path}/*.txt"


def workload(corpus: str, **changes: Any) -> Workload:
    return Workload(**{"corpus": corpus, **changes})


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        ("html", "<p>a &lt; b &amp; c</p><script>x < y</script>d<br>e", "\na < b & c\nd\ne"),
        ("html", "1 < 2 and <b>bold</b><!-- unseen --> &#20013;", "1 < 2 and bold 中"),
        ("control", "a\x00b\x1b[0m\tc\r\nd\re\ufeff\x7f", "ab[0m\tc\nd\ne"),
        ("space", "  a \t b\u00a0\u3000c \n\n\n\n d  \n", "a b c\n\nd"),
        ("html+control+space", "<p>中文&nbsp;字</p>\x07<p>x</p>", "中文 字\n\nx"),
        ("none", " \x00<p> ", " \x00<p> "),
    ],
)
def test_cleaning_takes_out_what_it_says_and_no_more(steps: str, text: str, expected: str) -> None:
    assert clean(text, workload("stdlib", cleaning=steps).cleaning_steps) == expected


def test_every_step_that_a_cell_may_ask_for_exists() -> None:
    assert tuple(STEPS) == CLEANING


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_a_clean_text_stays_as_it_is(text: str) -> None:
    for steps in (("control",), ("space",), ("control", "space")):
        once = clean(text, steps)
        assert clean(once, steps) == once


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("file", ["a\nb\n\n c", "d"]),
        ("paragraph", ["a\nb", "c", "d"]),
        ("line", ["a", "b", " c", "d"]),
    ],
)
def test_documents_end_where_the_cell_says(tmp_path: Path, documents: str, expected: list[str]) -> None:
    corpus = folder_of(tmp_path, "a\nb\n\n c", "d", "  \n")
    assert list(load_text(corpus, workload(corpus, documents=documents)).documents) == expected


def test_a_document_stays_in_its_split_whatever_comes_or_goes(tmp_path: Path) -> None:
    documents = [f"document {number} 文" for number in range(4000)]
    corpus = folder_of(tmp_path, "\n".join(documents))
    asked = workload(corpus, documents="line")
    text = load_text(corpus, asked)
    parts = {split: text.split(split) for split in SPLIT_FRACS}
    assert sorted(document for part in parts.values() for document in part) == sorted(documents)
    for split, frac in SPLIT_FRACS.items():
        assert len(parts[split]) / 4000 == pytest.approx(frac, abs=0.015)
        assert all(split_of(document) == split for document in parts[split])
    # The other way round, and with others in between.
    folder_of(tmp_path, "\n".join([*reversed(documents), "new"]))
    again = load_text(corpus, asked)
    assert set(again.split("test")) - {"new"} == set(parts["test"])
    assert again.sha256 != text.sha256 and len(text.sha256) == 64


def test_the_digest_is_of_text_and_boundaries(tmp_path: Path) -> None:
    digests = set()
    for number, texts in enumerate([("ab", "c"), ("a", "bc"), ("ab", "c"), ("abc",)]):
        (tmp_path / str(number)).mkdir()
        corpus = folder_of(tmp_path / str(number), *texts)
        found = load_text(corpus, workload(corpus))
        assert found.num_bytes == 3
        digests.add(found.sha256)
    assert len(digests) == 3


def test_nothing_left_and_nothing_to_train_on_are_said(tmp_path: Path) -> None:
    corpus = folder_of(tmp_path, "<p></p>")
    with pytest.raises(SuiteError, match="has no text left"):
        load_text(corpus, workload(corpus, cleaning="html"))
    number = next(number for number in range(100) if split_of(str(number)) == "test")
    corpus = folder_of(tmp_path, str(number))
    with pytest.raises(SuiteError, match="none of them in the split train; cut files into more"):
        load_text(corpus, workload(corpus)).split("train")
