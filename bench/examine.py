"""From a results folder to what it comes to: reads the records, judges them, and derives every table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.analysis.alarms import alarms
from bench.analysis.balance import balance_table
from bench.analysis.calibrating import works
from bench.analysis.certainty import certainty, with_outliers
from bench.analysis.efficiency import efficiency_table
from bench.analysis.environment import environment
from bench.analysis.gates import faults
from bench.analysis.measured import Measured, measured
from bench.analysis.memory import memory_table
from bench.analysis.projected import projected_table
from bench.analysis.scaling import scaling_table
from bench.analysis.synchronisation import loss_courses, synchronisation_table
from bench.analysis.traffic import disagreement, traffic_table
from bench.analysis.training import curves, time_to_loss
from bench.analysis.validity import judge
from bench.results.frame import to_frame
from bench.results.record import Record
from bench.results.reference import read_references
from bench.results.store import read_records
from bench.theory.measured_work import MeasuredWork


@dataclass(frozen=True)
class Findings:
    """What a results folder comes to.

    `launches` after the gates (a row a launch), `scaling` (a row a cell), `efficiency` (a row a cell with an attribution launch)
    and `ranks` (a row a rank of it), `balance` (a row a cell of unequal sequences), `traffic` (a row a metered cell and
    operation), `synchronisation` (a row a cell, where some don't synchronise at every step) and `courses` (a row a step of
    these), `memory` (a row a launched cell, theory beside measurement), `projected` (a row a cell that theory foresaw),
    `alarms` (a row a launch that beats its machine), `time_to_loss` (a row a cell that was trained to a goal) and `curves` (a
    row an evaluation of it), `places` (the environments), `measured` (what other runs are compared with), `certainty` (a row
    a quantity that says how sure the run is), `works` (what a calibration is fitted to), the names of the suites, and which
    launches have a timeline, as (cell id, launch id).
    """

    folder: Path
    launches: pd.DataFrame
    scaling: pd.DataFrame
    efficiency: pd.DataFrame
    ranks: pd.DataFrame
    balance: pd.DataFrame
    traffic: pd.DataFrame
    synchronisation: pd.DataFrame
    courses: pd.DataFrame
    memory: pd.DataFrame
    projected: pd.DataFrame
    alarms: pd.DataFrame
    time_to_loss: pd.DataFrame
    curves: pd.DataFrame
    places: pd.DataFrame
    measured: list[Measured]
    certainty: pd.DataFrame
    works: list[MeasuredWork]
    suites: list[str]
    traced: list[tuple[str, str]]


def examine(folder: Path, machine: str | None = None) -> Findings:
    """Read a results folder and judge its launches. Raises RecordError where a record can't be trusted.

    `machine`: the described machine by which its cells are projected, by default what its smallest world sizes tell, and to
    whose limits they are held, by default none (`projected_table`, `alarms`, which say what else is raised).

    The records themselves are let go: a thousand of them hold millions of figures, which no chart needs.
    """
    records = read_records(folder)
    reasons = {record.launch_id: _reasons(record) for record in records if record.outcome == "ok"}
    launches = with_outliers(judge(to_frame(records), reasons, read_references(folder)), records)
    scaling = scaling_table(launches)
    believed = [record for record, outcome in zip(records, launches["outcome"], strict=True) if outcome == "ok"]
    tree, ranks = efficiency_table(believed, scaling)
    traffic = traffic_table(records)
    workloads = works(believed, scaling)
    compared = measured(records, launches, traffic)
    return Findings(
        folder=folder,
        launches=launches,
        scaling=scaling,
        efficiency=tree,
        ranks=ranks,
        balance=balance_table(believed, scaling),
        traffic=traffic,
        synchronisation=synchronisation_table(believed, scaling, tree, traffic),
        courses=loss_courses(believed, scaling),
        memory=memory_table(records, scaling),
        projected=projected_table(workloads, scaling, machine),
        alarms=alarms(believed, machine),
        time_to_loss=time_to_loss(believed, scaling),
        curves=curves(believed, scaling),
        places=environment(records),
        measured=compared,
        certainty=certainty(launches, scaling, compared),
        works=workloads,
        suites=sorted({record.suite for record in records if record.suite is not None}),
        traced=[(record.cell.id, record.launch_id) for record in believed if record.attribution is not None],
    )


def _reasons(record: Record) -> list[str]:
    """What speaks against one launch by itself: other work than its cell asks for, or other traffic than theory says."""
    against_theory = disagreement(record)
    return [*faults(record), *([against_theory] if against_theory is not None else [])]
