"""From a suite file to the cells that it asks for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import ConfigError, SuiteError, nearest
from bench.plan.cell import Cell
from bench.plan.corpus_files import check_workload
from bench.plan.deepspeed_config import check_deepspeed_config, fill_from_config
from bench.plan.strategies import num_servers
from bench.plan.yaml_source import Location, YamlSource

SHIPPED = Path(__file__).parent / "suites"
MAX_CELLS = 10_000
MAX_LAUNCHES = 1000
AUTO = "auto"
AUTO_LEAST = 5
"""Launches that a cell of `launches: auto` gets before more are added by need. Stopping when an interval happens to be narrow
costs it coverage: 3 to 5 points from three launches on, at most 3 from five."""

_LAUNCH_KEYS = frozenset({"launches", "attribution_launches", "timeout_s"})
_BY_NEED = frozenset({"target_interval_frac", "budget_minutes"})
_DERIVED_KEYS = frozenset({"global_batch_size"})
_CELL_KEYS = frozenset(Cell.model_fields)
GRID_KEYS = _CELL_KEYS | _LAUNCH_KEYS | _DERIVED_KEYS
SUITE_KEYS = frozenset({"name", "description", "seed", "aa_pair", "defaults", "grids"}) | _BY_NEED


class LaunchSettings(BaseModel):
    """How often a cell is launched for its speed, how often for where its time goes (metered), and how long one launch
    may take before it is ended. One of the two counts may be 0. `auto`: after these, launches are added by need."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    launches: Annotated[int, Field(ge=0, le=MAX_LAUNCHES)] = 1
    attribution_launches: Annotated[int, Field(ge=0, le=MAX_LAUNCHES)] = 0
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    auto: bool = False


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a suite with its launch settings. `skip_reason` says why it can't be launched, if it can't."""

    cell: Cell
    settings: LaunchSettings
    skip_reason: str | None = None


@dataclass(frozen=True)
class Suite:
    """A validated suite: its name, the seed of its run order, its cells in the order of the file, and whether one of them is
    launched as if it were two (the A/A pair).

    Launches are added to cells of `launches: auto` until the 95 % interval of step time of each is narrower than
    `target_interval_frac` of it, or they took `budget_minutes`.
    """

    name: str
    description: str
    seed: int
    cells: tuple[PlannedCell, ...]
    aa_pair: bool = True
    target_interval_frac: float = 0.02
    budget_minutes: float = 30.0


def not_an_amount(value: Any) -> str | None:
    """Why the value is none for an interval or a budget: what was found, and what is allowed."""
    if not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < 1e9:
        return None
    return f"found {value!r}, expected a number above 0 (and below 1e9)"


def not_a_name(value: Any) -> str | None:
    """Why the value is no name of a suite or a training, which is that of a folder too: what was found, and what is allowed."""
    if isinstance(value, str) and value and value[0] != "." and all(c.isalnum() or c in "-_." for c in value):
        return None
    return f"found {value!r}, expected letters, digits, '-', '_' and '.' (not first)"


def shipped_suites() -> list[str]:
    """Names of the suites that come with scalebench."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_suite(name_or_path: str) -> Suite:
    """The suite of that name (`quick`) or in that YAML file.

    Raises SuiteError, naming file, line, key and what is allowed, for anything that is not a suite.
    """
    path = SHIPPED / f"{name_or_path}.yaml"
    if name_or_path not in shipped_suites():
        path = Path(name_or_path)
        if not path.is_file():
            raise SuiteError(
                f"no suite {name_or_path!r}: neither a file nor a shipped suite",
                hint=nearest(name_or_path, shipped_suites()),
            )
    return _Reader(YamlSource(path)).suite()


def read_cell(source: YamlSource, more: frozenset[str]) -> tuple[PlannedCell, dict[str, Any]]:
    """The cell of a file that has the fields of one at its top, and what the file has of the keys `more`.

    Raises SuiteError, naming file, line, key and what is allowed.
    """
    return _Reader(source).one_cell(more)


def _num_servers(fields: dict[str, Any]) -> int:
    """Ranks of a cell that have no part of its batch. What is no number is for the cell's own validation to name."""
    options = fields.get("strategy_options")
    given = options.get("num_servers") if isinstance(options, dict) else None
    own = {"num_servers": given} if type(given) is int else {}
    return num_servers(str(fields.get("strategy")), own)


class _Reader:
    """Reads one suite file; every error says where."""

    def __init__(self, source: YamlSource) -> None:
        self.source = source
        self.defaults: dict[str, Any] = {}

    def suite(self) -> Suite:
        content = self._mapping(self.source.content, (), SUITE_KEYS)
        name = content.get("name", self.source.path.stem)
        if (why := not_a_name(name)) is not None:
            self._fail(("name",), f"name: {why}")
        description = content.get("description", "")
        if not isinstance(description, str):
            self._fail(("description",), f"description: found {description!r}, expected text")
        seed = content.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            self._fail(("seed",), f"seed: found {seed!r}, expected a whole number from 0 on")
        aa_pair = content.get("aa_pair", True)
        if not isinstance(aa_pair, bool):
            self._fail(("aa_pair",), f"aa_pair: found {aa_pair!r}, expected true or false")
        by_need = {key: self._amount(key, content[key]) for key in sorted(_BY_NEED & content.keys())}
        self.defaults = self._mapping(content.get("defaults") or {}, ("defaults",), GRID_KEYS)
        grids = content.get("grids")
        if not isinstance(grids, list) or not grids:
            self._fail(("grids",), "grids: empty, expected a list of at least one grid")
        cells: dict[str, PlannedCell] = {}
        for index, grid in enumerate(grids):
            for planned in self._grid(grid, ("grids", index)):
                cells.setdefault(planned.cell.id, planned)
        planned_cells = tuple(cells.values())
        return Suite(name, description.strip(), seed, planned_cells, aa_pair, **by_need)

    def one_cell(self, more: frozenset[str]) -> tuple[PlannedCell, dict[str, Any]]:
        allowed = (GRID_KEYS - {"launches", "attribution_launches"}) | more
        content = self._mapping(self.source.content, (), allowed)
        fields = {key: value for key, value in content.items() if key not in more}
        return self._cell(fields, content, ()), {key: content[key] for key in content.keys() & more}

    def _amount(self, key: str, value: Any) -> float:
        if (why := not_an_amount(value)) is not None:
            self._fail((key,), f"{key}: {why}")
        return float(value)

    def _grid(self, grid: Any, location: Location) -> list[PlannedCell]:
        own = self._mapping(grid, location, GRID_KEYS)
        merged = {**self.defaults, **own}
        axes: list[list[tuple[str, Any]]] = []
        for key, value in merged.items():
            values = value if isinstance(value, list) else [value]
            if not values:
                self._fail(self._at(own, location, key), f"{key}: an empty list leaves the grid without a cell")
            axes.append([(key, entry) for entry in values])
        num_cells = 1
        for axis in axes:
            num_cells *= len(axis)
        if num_cells > MAX_CELLS:
            self._fail(location, f"the grid has {num_cells} cells, expected at most {MAX_CELLS}")
        planned = [self._cell(dict(choice), own, location) for choice in itertools.product(*axes)]
        if all(cell.skip_reason for cell in planned) and planned:
            self._fail(location, f"no cell of this grid can be run: {planned[0].skip_reason}")
        return planned

    def _cell(self, fields: dict[str, Any], own: dict[str, Any], location: Location) -> PlannedCell:
        settings = {key: fields.pop(key) for key in _LAUNCH_KEYS & fields.keys()}
        if settings.get("launches", 1) == 0 and settings.get("attribution_launches", 0) == 0:
            at = self._at(own, location, "launches")
            self._fail(at, "launches: found 0 and no attribution_launches, expected at least one launch of either kind")
        if settings.get("attribution_launches") and fields.get("max_steps") is not None:
            at = self._at(own, location, "attribution_launches")
            self._fail(
                at,
                "attribution_launches: a cell with max_steps is trained, expected none: the meter's arms train wrongly",
            )
        if settings.get("launches") == AUTO:
            settings.update(launches=AUTO_LEAST, auto=True)
        fields = {key: value for key, value in fields.items() if value is not None}
        skip_reason = self._divide(fields, own, location)
        try:
            cell = Cell(**fill_from_config(fields))
            check_deepspeed_config(cell)
            check_workload(cell)
            return PlannedCell(cell, LaunchSettings(**settings), skip_reason)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else ""
            if first["type"] == "missing":
                self._fail(
                    location, f"{key}: missing, a cell needs model, strategy and world_size, and hf: models seq_len"
                )
            also = f", or {AUTO}" if key == "launches" else ""
            self._fail(self._at(own, location, key), f"{key}: found {first['input']!r}; {first['msg']}{also}")
        except (SuiteError, ConfigError) as error:
            key = error.found.split(":", 1)[0].split(".", 1)[0]
            at = self._at(own, location, key) if key in GRID_KEYS else location
            raise type(error)(f"{self.source.where(at)}: {error.found}", hint=error.hint) from error

    def _divide(self, fields: dict[str, Any], own: dict[str, Any], location: Location) -> str | None:
        """Turn a strong-scaling cell's global_batch_size into the part of a rank; the reason if it can't be divided."""
        total = fields.pop("global_batch_size", None)
        if fields.get("scaling", "weak") != "strong":
            if total is not None:
                self._fail(
                    self._at(own, location, "global_batch_size"),
                    "global_batch_size: only a grid of `scaling: strong` keeps it; weak scaling keeps micro_batch_size",
                )
            return None
        if not isinstance(total, int) or isinstance(total, bool) or total < 1:
            self._fail(
                self._at(own, location, "global_batch_size"),
                f"global_batch_size: found {total!r}, expected a whole number from 1 on (scaling: strong keeps it)",
            )
        given = [key for key in ("micro_batch_size", "grad_accum_steps") if key in fields]
        if len(given) == 2:
            self._fail(
                self._at(own, location, "micro_batch_size"),
                "micro_batch_size: strong scaling derives it from global_batch_size and grad_accum_steps; give one of the two",
            )
        fixed, derived = (
            ("micro_batch_size", "grad_accum_steps")
            if given == ["micro_batch_size"]
            else ("grad_accum_steps", "micro_batch_size")
        )
        parts = [fields.get("world_size"), fields.get(fixed, 1)]
        if not all(isinstance(part, int) and not isinstance(part, bool) and part > 0 for part in parts):
            return None  # the cell's own validation names the wrong one
        servers = _num_servers(fields)
        share = max(1, parts[0] - servers) * parts[1]
        fields[derived] = max(1, total // share)
        if total % share:
            among = f"world_size {parts[0]}" + (f" less {servers} servers" if servers else "")
            return f"global_batch_size {total} can't be divided by {among} x {fixed} {parts[1]}"
        return None

    def _mapping(self, value: Any, location: Location, allowed: frozenset[str]) -> dict[str, Any]:
        name = location[0] if location else "the file"
        if not isinstance(value, dict):
            self._fail(location, f"{name}: found {value!r}, expected keys and values")
        for key in value:
            if key not in allowed:
                self._fail((*location, str(key)), f"unknown key {key!r}", nearest(str(key), allowed))
        return value

    def _at(self, own: dict[str, Any], location: Location, key: str) -> Location:
        """Where a key of a grid stands: in the grid, in the defaults, or nowhere."""
        if key in own:
            return (*location, key)
        return ("defaults", key) if key in self.defaults else location

    def _fail(self, location: Location, found: str, hint: str | None = None) -> NoReturn:
        raise SuiteError(f"{self.source.where(location)}: {found}", hint=hint)
