"""What is trained on is settled before a launch: wrong names, files that are not there and bytes that are no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import SuiteError
from bench.plan.cell import Cell
from bench.plan.corpus_files import check_workload, corpus_files, read_text
from bench.plan.suite import load_suite


def cell(**changes: Any) -> Cell:
    return Cell(**{"model": "gpt-nano", "strategy": "ddp", "world_size": 2, **changes})


MIXED = {"short": {"median_len": 16, "length_spread": 0.2}, "long": {"weight": 0.5, "length_spread": 0.0}}

PADDED = {"batching": "padded", "length_spread": 0.5}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": "markof"}, ["corpus: found 'markof'", "did you mean 'markov'"]),
        ({"corpus": "path:"}, ["corpus: found 'path:'"]),
        ({"corpus": "stdlib", "cleaning": "htlm"}, ["cleaning: found 'htlm'", "did you mean 'html'"]),
        ({"corpus": "stdlib", "cleaning": ""}, ["cleaning: found ''"]),
        ({"cleaning": "html"}, ["cleaning: markov has no text"]),
        ({"tokenizer": "char"}, ["tokenizer: markov has no text"]),
        ({"corpus": "stdlib", "tokenizer": "bep"}, ["tokenizer: found 'bep'", "did you mean 'bpe'"]),
        ({"corpus": "stdlib", "tokenizer": "bpe:100"}, ["tokenizer: found 'bpe:100'", "from 259 on"]),
        ({"corpus": "stdlib", "tokenizer": "bpe:"}, ["tokenizer: found 'bpe:'"]),
        ({"corpus": "stdlib", "tokenizer": "path:"}, ["tokenizer: found 'path:'"]),
        ({"length_spread": 0.5}, ["length_spread: found batching fixed, expected padded"]),
        ({"corpus": "stdlib", "batching": "padded", "median_len": 4}, ["median_len: found no length_spread"]),
        ({"batching": "packed"}, ["batching: markov has no documents"]),
        ({"batching": "padded"}, ["length_spread: markov has no lengths of its own"]),
        ({"corpus": "mixture"}, ["mixture: found none for corpus mixture"]),
        ({"mixture": MIXED, "batching": "padded"}, ["mixture: found one for corpus markov"]),
        ({"corpus": "mixture", "mixture": MIXED}, ["mixture.short.length_spread: found batching fixed"]),
        (
            {"corpus": "mixture", "mixture": {"a": {"corpus": "stdlib"}, "b": {}}},
            ["mixture: markov has no text, expected sources that all have"],
        ),
        ({"slow_rank_frac": 0.5}, ["slow_rank_frac: gpt-nano computes at its own speed"]),
        ({"partition_cost": "measured"}, ["partition_cost: sequences of batching fixed", "batching: padded"]),
        (
            {**PADDED, "partition_cost": "measured", "max_warmup_steps": 9},
            ["max_warmup_steps: found 9, expected at least 12"],
        ),
        (
            {**PADDED, "partition_cost": "measured", "model_options": {"dropout": 0.1}},
            ["partition_cost: measured deals by measured seconds"],
        ),
        (
            {**PADDED, "partition_cost": "measured", "strategy": "param_server"},
            ["partition_cost: measured is of seconds"],
        ),
    ],
)
def test_what_cannot_be_trained_on_says_why(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SuiteError) as caught:
        cell(**changes)
    for word in words:
        assert word in str(caught.value)


def test_cells_without_a_workload_of_their_own_keep_their_name_and_work() -> None:
    plain = cell()
    assert plain.id == "gpt-nano_ddp_w2_g1_b1_s256_fp32_weak_" + plain.id[-8:]
    assert plain.work["data"] == "" and plain.equal_lengths and not plain.is_text
    assert cell(partition="contiguous", corpus="markov", tokenizer="bpe").id == plain.id
    # Which rank trains on what changes no loss; what is trained on does.
    assert cell(partition="lpt").work == plain.work and cell(partition="lpt").id != plain.id
    padded = cell(batching="padded", length_spread=0.5)
    assert padded.work["data"] == "batching padded, length_spread 0.5"
    assert not padded.equal_lengths and not cell(partition="dynamic").equal_lengths
    mixed = cell(corpus="mixture", mixture=MIXED, batching="padded")
    assert '"weight": 0.5' in mixed.data and Cell(**mixed.model_dump(mode="json")) == mixed


def test_a_suite_with_a_corpus_that_is_not_there_fails_before_a_launch(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes("好的 ok".encode() + b"\xff")
    for corpus, words in [
        (f"path:{tmp_path}/none/*.txt", "no file matches"),
        (f"path:{tmp_path}/*.txt", f"{bad} is no UTF-8: byte 0xff at offset 9"),
    ]:
        path = tmp_path / "mine.yaml"
        path.write_text(
            f"grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: 1\n    corpus: {corpus}\n    bad_bytes: error\n"
        )
        with pytest.raises(SuiteError) as caught:
            load_suite(str(path))
        assert "mine.yaml:5: corpus: " in str(caught.value) and words in str(caught.value)
    assert read_text(bad, "replace") == "好的 ok\ufffd"
    check_workload(cell(corpus=f"path:{tmp_path}/*.txt", bad_bytes="replace"))
    with pytest.raises(SuiteError, match="tokenizer: no file"):
        check_workload(cell(corpus="stdlib", tokenizer=f"path:{tmp_path}/tokenizer.json"))


def test_files_come_in_an_order_of_their_own(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/er/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("\ufeffx", encoding="utf-8")
    found = corpus_files(f"path:{tmp_path}/**/*.txt")
    assert [path.name for path in found] == ["a.txt", "b.txt", "c.txt"]
    assert read_text(found[0], "error") == "x"


def test_the_standard_library_is_there() -> None:
    names = {path.name for path in corpus_files("stdlib")}
    assert {"this.py", "argparse.py", "typing.py"} <= names and len(names) > 300
    assert not any("site-packages" in str(path) or "/test/" in str(path) for path in corpus_files("stdlib"))
