"""Stored step times as benchmarks, one a cell: `pytest tests/perf/test_step_time.py --benchmark-only --results DIR`.

Without --results the committed example is replayed. The test itself is in the package, where an installation has it too.
"""

from __future__ import annotations

from bench.track.step_time import pytest_generate_tests, test_step_time

__all__ = ["pytest_generate_tests", "test_step_time"]
