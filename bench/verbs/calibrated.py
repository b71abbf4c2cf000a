"""Projections by constants that were fitted to a results folder, as scalebench project --calibrate shows them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from bench.errors import ProjectionError, nearest
from bench.examine import examine
from bench.theory.calibration import calibrate, machine_of
from bench.theory.constants import Constant, constants
from bench.theory.foreseen import Foreseen, foresee
from bench.theory.machine import load_network
from bench.theory.measured_work import MeasuredWork
from bench.verbs.shared import terminal
from reports import units


def show_calibrated(
    folder: Path,
    *,
    machine: str | None,
    network: str | None,
    model: str | None,
    strategies: list[str] | None,
    world_sizes: list[int],
    fitted_to: list[int] | None,
    as_json: bool,
) -> None:
    """Print, for each workload of the folder (or those of `model`), the constants and a row a strategy and world size, with the
    measured step beside it where there is one. Raises ProjectionError where nothing there can be fitted to."""
    findings = examine(folder)
    chosen = [work for work in findings.works if model in (None, work.cell.model)]
    if not chosen:
        names = sorted({work.cell.model for work in findings.works})
        if names:
            raise ProjectionError(
                f"--model: {folder} has no launches of {model!r} to fit to", hint=nearest(str(model), names)
            )
        raise ProjectionError(
            f"{folder} has no launch to fit to", hint="weak cells, ok, on one host, with no more threads than cores"
        )
    link = None if network is None else load_network(network)
    found: list[dict[str, Any]] = []
    for work in chosen:
        fit = calibrate(work, machine_of(work, machine), fitted_to)
        wanted = {
            (strategy, steps) for steps in {steps for _, steps in fit.own_1_s} for strategy in strategies or ()
        } or set(fit.own_1_s)
        rows = [foresee(fit, series, size, link) for series in sorted(wanted) for size in world_sizes]
        found.append(
            {
                "model": work.cell.model,
                "machine": fit.machine.name,
                "micro_batch_size": work.cell.micro_batch_size,
                "seq_len": work.cell.seq_len,
                "precision": work.cell.precision,
                "constants": constants(fit),
                "rows": [(row, _measured_s(work, row, findings.scaling)) for row in rows],
            }
        )
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=1))
        return
    for one in found:
        title = f"{one['model']}, micro-batch {one['micro_batch_size']}, {one['precision']}, machine {one['machine']}"
        terminal().print(_constants(title, one["constants"]))
        terminal().print(_rows(one["rows"]))
    print("Intervals of constants: 95 %; of projected steps: nine of ten. README, Foresight, says how.")


def _measured_s(work: MeasuredWork, row: Foreseen, scaling: pd.DataFrame) -> float | None:
    """The mean step time of the launches of that cell; None where there is none."""
    series = (row.strategy, row.grad_accum_steps)
    names = {seen.cell_id for seen in work.observations if (seen.series, seen.world_size) == (series, row.world_size)}
    steps_s = scaling.loc[scaling["cell_id"].isin(names), "step_time_s"].dropna()
    return None if steps_s.empty else float(steps_s.iloc[0])


def _plain(one: dict[str, Any]) -> dict[str, Any]:
    rows = [{**dataclasses.asdict(row), "measured_step_time_s": measured_s} for row, measured_s in one["rows"]]
    return {**one, "constants": [dataclasses.asdict(constant) for constant in one["constants"]], "rows": rows}


def _constants(title: str, found: list[Constant]) -> Table:
    table = Table("constant", "of", "value", "95 %", "fitted", "from", title=title, title_justify="left")
    for constant in found:
        is_rate = constant.name.endswith("_per_s")
        write = units.rate if is_rate else units.seconds
        between = units.rate_between if is_rate else units.seconds_between
        series = "all" if constant.series is None else f"{constant.series[0]}, accumulation {constant.series[1]}"
        exact = constant.low is not None and constant.low == constant.high
        interval = "exact" if exact else between(constant.low, constant.high)
        if constant.high is None and constant.low is not None:
            interval = f"above {write(constant.low)}"
        fitted = "fitted" if constant.fitted else "known" if exact else "assumed"
        table.add_row(constant.name, series, write(constant.value), interval, fitted, constant.source)
    return table


def _rows(rows: list[tuple[Foreseen, float | None]]) -> Table:
    table = Table(
        "strategy", "accum", "ranks", "predicted", "nine of ten", "measured", "error", "efficiency", "exposed comm."
    )
    table.add_column("fitted to it")
    for row, measured_s in rows:
        table.add_row(
            row.strategy,
            units.count(row.grad_accum_steps),
            units.count(row.world_size),
            units.seconds(row.step_time_s),
            units.seconds_between(row.step_time_lo_s, row.step_time_hi_s),
            units.seconds(measured_s),
            units.UNKNOWN if measured_s is None else units.fraction(row.step_time_s / measured_s - 1),
            units.fraction(row.efficiency),
            units.seconds(row.exposed_comm_s),
            "yes" if row.in_fit else "no",
        )
    return table
