"""What is taken out of a text before it is trained on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from html.parser import HTMLParser

_UNSEEN = frozenset({"script", "style", "template"})
_BREAKING = frozenset(
    [
        *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer", "form"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
        *("table", "td", "th", "title", "tr", "ul"),
    ]
)
_LINE_ENDS = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]+")
_AROUND_LINE_END = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")


class _Visible(HTMLParser):
    """Collects what a reader of the page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag in _BREAKING:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._unseen and tag == self._unseen[-1]:
            self._unseen.pop()
        elif tag in _BREAKING:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def _without_html(text: str) -> str:
    """Without tags, comments, scripts and styles; entities as the characters that they stand for; a line end where a block
    begins or ends."""
    page = _Visible()
    page.feed(text)
    page.close()
    return "".join(page.parts)


def _without_control(text: str) -> str:
    """Without control characters (Unicode's Cc) other than tab and line end, and without byte order marks; line ends are
    one kind."""
    text = _LINE_ENDS.sub("\n", text)
    return "".join(c for c in text if c in "\n\t" or not (c == "\ufeff" or unicodedata.category(c) == "Cc"))


def _without_space(text: str) -> str:
    """Runs of blanks as one space, none at the ends of lines, at most one empty line, none at the ends of the text."""
    text = _BLANKS.sub(" ", _LINE_ENDS.sub("\n", text))
    return _EMPTY_LINES.sub("\n\n", _AROUND_LINE_END.sub("\n", text)).strip()


STEPS: dict[str, Callable[[str], str]] = {
    "html": _without_html,
    "control": _without_control,
    "space": _without_space,
}


def clean(text: str, steps: Sequence[str]) -> str:
    """The text after the named steps (of `bench.plan.workload.CLEANING`), in the order of STEPS, which is not the asker's to
    choose: an entity may stand for a control character, and both for white space."""
    for name, step in STEPS.items():
        if name in steps:
            text = step(text)
    return text
