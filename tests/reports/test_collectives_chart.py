"""The chart of a sweep: a line an operation and place, logarithmic both ways, and its tables as text."""

from __future__ import annotations

import numpy as np
import pytest

from bench.analysis.comm import comm_table, fit_table
from reports.collectives import bandwidth, fits_text, points_text
from tests.synthetic_comm import VARIANTS, sweep


def test_every_operation_has_a_line_and_dashes_are_in_place() -> None:
    points = comm_table(sweep(lambda operation, size: 1e-4 + size / 1e9))
    figure = bandwidth(points, "Collectives", "notes")
    assert figure is not None
    left, right = figure.axes
    for axis in (left, right):
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        dashed = [line.get_linestyle() == "--" for line in axis.get_lines()]
        assert len(dashed) == len(VARIANTS) and sum(dashed) == sum(in_place for _, in_place in VARIANTS)
    # GB/s and ms of the last size of an all-reduce between two ranks.
    [reduced] = [line for line in left.get_lines() if line.get_color() == "#454545"]
    top = points[(points["operation"] == "all_reduce")].iloc[-1]
    assert np.asarray(reduced.get_ydata())[-1] == pytest.approx(top["busbw_bytes_per_s"] / 1e9, rel=1e-9)
    assert left.get_ylabel() == "bus bandwidth, GB/s" and right.get_ylabel() == "time of the slowest rank, ms"
    labels = [tick.get_text() for tick in left.get_xticklabels()]
    assert labels[:2] == ["1 KiB", "16 KiB"]


def test_nothing_measured_is_no_chart() -> None:
    points = comm_table(sweep(lambda operation, size: 1e-4, octaves=1))
    assert bandwidth(points.assign(time_s=np.nan), "none", "") is None


def test_tables_say_what_was_compared_and_what_gloo_does() -> None:
    points = comm_table(sweep(lambda operation, size: 1e-4 + size / 1e9))
    shown = points_text(points)
    assert set(shown["checked"]) == {"yes"}
    assert shown.loc[shown["operation"] == "reduce_scatter", "note"].unique().tolist() == [
        "gloo: all_reduce underneath"
    ]
    fits = fits_text(fit_table(points, 2))
    assert len(fits) == len(VARIANTS) and "note" in fits
