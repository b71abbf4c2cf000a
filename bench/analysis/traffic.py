"""What was communicated, beside what should have been: the ledger of each attribution launch against the theory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd

from bench.plan.cell import Cell
from bench.results.metered import LedgerLine
from bench.results.record import Record
from bench.theory.traffic import TrafficLine, factor_of_parameters, ring_volume_bytes, traffic
from bench.theory.zero_settings import DEEPSPEED, UnknownTraffic

COLUMNS = [
    *("model", "strategy", "scaling", "world_size", "grad_accum_steps", "micro_batch_size", "precision", "cell_id"),
    *("operation", "observed_count", "theory_count", "observed_bytes", "theory_bytes", "agrees", "observed_factor"),
    *("theory_factor", "unknown_because", "observed_volume_bytes", "theory_volume_bytes", "contender", "setting"),
    *("paced", "num_params", "launches"),
]
_FLOATS = [
    *("observed_count", "theory_count", "observed_bytes", "theory_bytes", "observed_factor", "theory_factor"),
    *("observed_volume_bytes", "theory_volume_bytes"),
]
_SETTINGS = ("model_options", "seq_len", "micro_batch_size", "precision", "profile", "activation_checkpointing", "seed")
NUM_SETTLING_STEPS = 2

_Call = tuple[str, int, int]
"""Operation, group size, payload bytes."""
_Calls = Counter[_Call]


def disagreement(record: Record) -> str | None:
    """Why an attribution launch's ledger is not what theory says, exactly: every message size, step and rank of the window.

    None where they agree, and where there is nothing to hold against each other: a timing launch, a launch that ended
    badly, a cell that the theory does not cover (`traffic_table` says why).
    """
    if not _has_ledger(record):
        return None
    try:
        expected = _expected(record)
    except UnknownTraffic:
        return None
    ledgers = _ledgers(record)
    named = {step for lines in _lines(record) for line in lines for step in line.steps}
    if not named <= set(range(len(ledgers[0]))):
        return f"the ledger has calls of step {max(named)}, expected a window of {len(ledgers[0])} steps"
    wrong = [
        (rank, step, seen)
        for rank, steps in enumerate(ledgers)
        for step, seen in enumerate(steps)
        if seen != expected[step]
    ]
    if not wrong:
        return None
    rank, step, seen = wrong[0]
    wanted = expected[step]
    name, group_size, payload_bytes = call = min(call for call in seen | wanted if seen[call] != wanted[call])
    where = f"{len(wrong)} of {sum(map(len, ledgers))} steps of ranks"
    return (
        f"the ledger is not what theory says in {where}: in step {step} rank {rank} called {name} of {payload_bytes} bytes "
        f"among {group_size} ranks {seen[call]} times, expected {wanted[call]}"
    )


def traffic_table(records: list[Record]) -> pd.DataFrame:
    """Collectives of one optimizer step of one rank, observed and by theory: one row an attribution cell and operation,
    columns COLUMNS.

    Observed figures are means over the steps of the window, ranks and launches: whole numbers, because these do not differ,
    but where ranks agree every H steps only.
    Bytes are those of the full arrays, as the ledger counts; `*_volume_bytes` what a rank would send on a ring
    (`ring_volume_bytes`). The factors belong to the cell, not to the operation: all its volume as a multiple of P (n - 1) / n.
    `agrees`: whether every step of every rank and launch called exactly what theory says of this operation; None, and the
    reason in `unknown_because`, where there is no theory. What is unknown is missing.
    """
    cells: dict[str, list[Record]] = {}
    for record in records:
        if _has_ledger(record):
            cells.setdefault(record.cell.id, []).append(record)
    settings = _settings([launches[0].cell for launches in cells.values()])
    rows = [{**row, "setting": settings[name]} for name, launches in cells.items() for row in _rows(launches)]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({**dict.fromkeys(_FLOATS, float), "agrees": object})
    order = [
        "paced",
        "num_params",
        "model",
        "scaling",
        "grad_accum_steps",
        "strategy",
        "world_size",
        "cell_id",
        "operation",
    ]
    return table.sort_values(order, kind="stable", ignore_index=True)


def _rows(launches: list[Record]) -> list[dict[str, Any]]:
    """The rows of one cell."""
    cell, work = launches[0].cell, launches[0].work
    assert work is not None
    everything = [seen for launch in launches for rank in _ledgers(launch) for seen in rank]
    observed = _mean(everything)
    theories: list[list[_Calls]] = []
    unknown_because = None
    try:
        theories = [_expected(launch) for launch in launches]
    except UnknownTraffic as reason:
        unknown_because = str(reason)
    theory = _mean([step for launch in theories for step in launch]) if theories else None

    def of(calls: dict[_Call, float] | None, operation: str | None, measure: Callable[[_Call], float]) -> float | None:
        if calls is None:
            return None
        chosen = [(call, count) for call, count in calls.items() if operation in (None, call[0])]
        try:
            return sum(measure(call) * count for call, count in chosen)
        except UnknownTraffic:
            return None  # an operation that no ring carries

    def factor(calls: dict[_Call, float] | None) -> float | None:
        volume = of(calls, None, _volume_bytes)
        return (
            None if volume is None else factor_of_parameters(volume, work.num_params, cell.precision, cell.world_size)
        )

    def agrees(operation: str) -> bool | None:
        if theory is None:
            return None
        return all(
            _only(seen, operation) == _only(expected[step], operation)
            for launch, expected in zip(launches, theories, strict=True)
            for rank in _ledgers(launch)
            for step, seen in enumerate(rank)
        )

    return [
        {
            **cell.model_dump(include={"model", "strategy", "scaling", "world_size", "grad_accum_steps"}),
            **cell.model_dump(include={"micro_batch_size", "precision"}),
            "cell_id": cell.id,
            "contender": cell.contender,
            "operation": operation,
            "observed_count": of(observed, operation, lambda call: 1),
            "theory_count": of(theory, operation, lambda call: 1),
            "observed_bytes": of(observed, operation, lambda call: call[2]),
            "theory_bytes": of(theory, operation, lambda call: call[2]),
            "agrees": agrees(operation),
            "observed_factor": factor(observed),
            "theory_factor": factor(theory),
            "unknown_because": unknown_because,
            "observed_volume_bytes": of(observed, operation, _volume_bytes),
            "theory_volume_bytes": of(theory, operation, _volume_bytes),
            "paced": cell.paced,
            "num_params": work.num_params,
            "launches": len(launches),
        }
        for operation in sorted({call[0] for call in (*observed, *(theory or ()))})
    ]


def _settings(cells: list[Cell]) -> dict[str, str]:
    """By cell, what sets it apart from the other cells of its model and scaling, in words; empty where nothing does."""
    found = {}
    for cell in cells:
        kin = [other for other in cells if (other.model, other.scaling) == (cell.model, cell.scaling)]
        varied = [name for name in _SETTINGS if any(getattr(other, name) != getattr(cell, name) for other in kin)]
        found[cell.id] = ", ".join(f"{name.replace('_', ' ')} {getattr(cell, name)}" for name in varied)
    return found


def _has_ledger(record: Record) -> bool:
    return record.kind == "attribution" and record.outcome == "ok" and any(rank.attribution for rank in record.ranks)


def _expected(record: Record) -> list[_Calls]:
    """What theory says of each step of the launch's window. Raises UnknownTraffic where it says nothing."""
    work = record.work
    if record.outline is None or work is None:
        raise UnknownTraffic("the record holds no outline of the model: it was written by an older scalebench")
    if work.num_warmup_steps < NUM_SETTLING_STEPS:
        raise UnknownTraffic(
            f"{work.num_warmup_steps} warm-up steps: the first {NUM_SETTLING_STEPS} settle buckets and traces"
        )
    if work.num_skipped_steps:
        raise UnknownTraffic("the loss scaler skipped steps of the window, which end early")
    version = record.environment.versions.get("deepspeed", "") if record.environment is not None else ""
    if record.deepspeed_config is not None and not version.startswith(f"{DEEPSPEED}."):
        raise UnknownTraffic(f"DeepSpeed {version}: the rules are those of {DEEPSPEED}")
    num_nodes = record.environment.num_nodes if record.environment is not None else None
    # Where ranks agree every H steps only, steps are unequal.
    kinds = [
        _calls(traffic(record.cell, record.outline, record.deepspeed_config, work.num_warmup_steps + step, num_nodes))
        for step in range(work.num_steps if record.cell.every_steps > 1 else 1)
    ]
    return kinds if record.cell.every_steps > 1 else kinds * work.num_steps


def _calls(lines: list[TrafficLine]) -> _Calls:
    return Counter({(line.operation, line.group_size, line.payload_bytes): line.count for line in lines})


def _ledgers(record: Record) -> list[list[_Calls]]:
    """The calls of each step of the window, for each rank."""
    assert record.work is not None
    found = []
    for lines in _lines(record):
        steps: list[_Calls] = [Counter() for _ in range(record.work.num_steps)]
        for line in lines:
            for step in set(line.steps) & set(range(len(steps))):
                steps[step][line.operation, line.group_size, line.payload_bytes] += line.count
        found.append(steps)
    return found


def _lines(record: Record) -> list[list[LedgerLine]]:
    return [rank.attribution.ledger if rank.attribution is not None else [] for rank in record.ranks]


def _mean(steps: list[_Calls]) -> dict[_Call, float]:
    total: _Calls = Counter()
    for seen in steps:
        total.update(seen)
    return {call: count / len(steps) for call, count in total.items()}


def _only(calls: _Calls, operation: str) -> _Calls:
    return Counter({call: count for call, count in calls.items() if call[0] == operation})


def _volume_bytes(call: _Call) -> float:
    return ring_volume_bytes([TrafficLine(*call, count=1)])
