"""A YAML file that remembers on which line each of its keys stands, so that an error can name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bench.errors import SuiteError

Location = tuple[str | int, ...]


class YamlSource:
    """Content of one YAML file, read by the safe loader, with the line of every key and list entry.

    Raises SuiteError if the file cannot be read, is not YAML, or repeats a key (which YAML would silently let win).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Location, int] = {}
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError(f"cannot read {path}: {error}") from error
        try:
            self.content: Any = yaml.safe_load(text)
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise SuiteError(f"{where}: not valid YAML: {problem}", hint="check quotes and indentation") from error
        if node is not None:
            self._note(node, ())

    def _note(self, node: yaml.Node, location: Location) -> None:
        self._lines[location] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen and name != "<<":
                    raise SuiteError(f"{self.path}:{key.start_mark.line + 1}: the key {name!r} stands twice")
                seen.add(name)
                self._note(value, (*location, name))
                self._lines[(*location, name)] = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._note(value, (*location, index))

    def where(self, location: Location) -> str:
        """`file:line` of the nearest thing known at or above `location`."""
        while location and location not in self._lines:
            location = location[:-1]
        return f"{self.path}:{self._lines.get(location, 1)}"
