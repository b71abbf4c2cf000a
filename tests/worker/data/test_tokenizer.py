"""Tokens are the text again, for any text; and they are made once, however many want them at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.models import WordLevel

from bench.errors import LaunchError, SuiteError
from bench.worker.data.cache import cached
from bench.worker.data.tokenizer import END, PADDING, START, Tokenizer, make_tokenizer
from bench.worker.data.tokens import encoded
from tests.command_line import ROOT

DOCUMENTS = ["the cat sat on the mat\n", "猫坐在垫子上。\n", "🙂👩‍👩‍👧 ok\r\n", "def f(x):\n\treturn x\n"] * 5


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=["char", "bpe", "bpe:300"])
def tokenizer(request: pytest.FixtureRequest, own_cache: None) -> Tokenizer:
    return make_tokenizer(request.param, DOCUMENTS, "some text", 512)


@settings(max_examples=150, deadline=None)
@given(text=st.text())
@example("")
@example("a<|start|>b<|padding|><|end|>")
@example("<0x41><0xE4>")
@example("\x00\r\n\t \u2028\ufeff\ufffd  ")
@example("中文，和 emoji：👩‍👩‍👧‍👦🇨🇳 𝔘𐍈")
def test_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    [numbers] = tokenizer.encode([text])
    assert tokenizer.decode(numbers) == text
    assert not {tokenizer.start, tokenizer.end, tokenizer.padding} & set(numbers)
    assert all(0 <= number < tokenizer.vocab_size for number in numbers)
    assert tokenizer.decode([tokenizer.start, *numbers, tokenizer.end, tokenizer.padding]) == text


def test_a_vocabulary_is_no_larger_than_asked_and_than_the_model() -> None:
    assert make_tokenizer("bpe:300", DOCUMENTS, "some text", 512).vocab_size == 300
    assert make_tokenizer("bpe:5000", DOCUMENTS, "some text", 270).vocab_size == 270
    assert make_tokenizer("char", DOCUMENTS, "some text", 262).vocab_size == 262
    with pytest.raises(SuiteError, match="the model has 100 tokens, expected at least 259"):
        make_tokenizer("bpe", DOCUMENTS, "some text", 100)


def test_characters_are_one_token_each_and_pairs_are_joined() -> None:
    chars = make_tokenizer("char", DOCUMENTS, "some text", 512)
    assert len(chars.encode(["the 猫 sat"])[0]) == 9
    pairs = make_tokenizer("bpe", DOCUMENTS, "some text", 512)
    assert len(pairs.encode(["the cat sat"])[0]) == 3


def test_a_users_own_tokenizer_gets_what_it_lacks(tmp_path: Path) -> None:
    inner = tokenizers.Tokenizer(WordLevel({"<s>": 0, "a": 1, "b": 2, "[UNK]": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    inner.save(str(path))
    found = make_tokenizer(f"path:{path}", [], "", 6)
    assert (found.start, found.vocab_size) == (0, 6)
    assert {found.end, found.padding} == {4, 5}
    assert found.encode(["a b a"]) == [[1, 2, 1]]
    with pytest.raises(SuiteError, match="has 6 tokens, but the model 5"):
        make_tokenizer(f"path:{path}", [], "", 5)
    path.write_text("{}")
    with pytest.raises(SuiteError, match=r"tokenizer\.json is no tokenizer"):
        make_tokenizer(f"path:{path}", [], "", 6)
    assert len({START, END, PADDING}) == 3


def test_the_tokens_of_documents_lie_between_start_and_end(tokenizer: Tokenizer) -> None:
    found = encoded(DOCUMENTS, "some text", "train", tokenizer)
    assert len(found.offsets) == len(DOCUMENTS) + 1 and found.offsets[-1] == len(found.numbers)
    for number, document in enumerate(DOCUMENTS):
        tokens = found.numbers[found.offsets[number] : found.offsets[number + 1]].tolist()
        assert (tokens[0], tokens[-1]) == (tokenizer.start, tokenizer.end)
        assert tokenizer.decode(tokens[1:-1]) == document
    assert isinstance(found.numbers, np.memmap)


_MAKE = """
import sys, time
from pathlib import Path
from bench.worker.data.cache import cached

def make(folder):
    with Path(sys.argv[1], "made").open("a") as file:
        file.write("made\\n")
    (folder / "first").write_text("whole")
    time.sleep(0.3)
    (folder / "second").write_text("whole")

entry = cached("entry", make)
print((entry / "first").read_text() + (entry / "second").read_text())
"""


def test_of_several_processes_one_makes_and_all_read_a_whole_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEBENCH_CACHE", str(tmp_path / "cache"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _MAKE, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in outputs] == ["wholewhole\n"] * 4, outputs
    assert (tmp_path / "made").read_text() == "made\n"


def test_what_fails_halfway_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEBENCH_CACHE", str(tmp_path))

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cached("entry", fails)
    assert [path.name for path in tmp_path.iterdir()] == [".entry.lock"]
    monkeypatch.setenv("SCALEBENCH_CACHE", str(tmp_path / ".entry.lock"))
    with pytest.raises(LaunchError, match="set SCALEBENCH_CACHE"):
        cached("entry", fails)
