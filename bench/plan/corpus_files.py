"""Which files a corpus of text is made of, and their text: what can be wrong with them is found before a launch."""

from __future__ import annotations

import functools
import glob
import sysconfig
from pathlib import Path

from bench.errors import SuiteError
from bench.plan.workload import PATH, STDLIB, SYNTHETIC, BadBytes, Workload

# Not every installation has its tests, and what is installed beside the library is nobody's in particular.
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


def corpus_files(corpus: str) -> list[Path]:
    """The files of `stdlib` or of `path:GLOB` (`**` goes through folders), in an order that depends on their names alone.

    Raises SuiteError if there is none.
    """
    if corpus == STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [path for path in root.rglob("*.py") if not _NOT_LIBRARY & set(path.relative_to(root).parts)]
    else:
        pattern = corpus.removeprefix(PATH)
        try:
            found = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]
        except (ValueError, OSError, RecursionError) as error:
            raise SuiteError(f"corpus: found {pattern!r}, expected a pattern of file names: {error}") from error
    if not found:
        raise SuiteError(
            f"corpus: no file matches {corpus!r}",
            hint=f"it is looked for from {Path.cwd()}; quote it as {PATH}data/**/*.txt",
        )
    return sorted(found, key=lambda path: path.as_posix())


def read_text(path: Path, bad_bytes: BadBytes) -> str:
    """The text of a file, UTF-8 (a byte order mark is left out), line ends as they are.

    Raises SuiteError, naming the file, if it can't be read, and the offset of the first byte that is no UTF-8 unless those are
    to be replaced (by U+FFFD).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SuiteError(f"corpus: cannot read {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8", errors="strict" if bad_bytes == "error" else "replace")
    except UnicodeDecodeError as error:
        raise SuiteError(
            f"corpus: {path} is no UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}",
            hint="mend the file, or write `bad_bytes: replace`",
        ) from error
    return text.removeprefix("\ufeff")


def check_workload(workload: Workload) -> None:
    """Raise SuiteError if what the cell trains on isn't there: a glob without files, bad bytes, no tokenizer.json."""
    for source in workload.sources.values():
        if source.corpus not in SYNTHETIC:
            _check_corpus(source.corpus, workload.bad_bytes)
    kind, _, name = workload.tokenizer.partition(":")
    if kind == "path" and not Path(name).is_file():
        raise SuiteError(f"tokenizer: no file {name}", hint=f"it is looked for from {Path.cwd()}")


@functools.lru_cache(maxsize=64)
def _check_corpus(corpus: str, bad_bytes: BadBytes) -> None:
    """Once a process: the cells of a suite share their corpus."""
    for path in corpus_files(corpus):
        read_text(path, bad_bytes)
