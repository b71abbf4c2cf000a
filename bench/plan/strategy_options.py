"""What a strategy may be told: the settings that it has, and the values that they can have."""

from __future__ import annotations

from collections.abc import Mapping

from bench.errors import SuiteError, nearest
from bench.plan.strategies import STRATEGIES, OptionValue

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_MOST = 1e9


def check_strategy_options(strategy: str, options: Mapping[str, OptionValue]) -> None:
    """Raise SuiteError for an option that the strategy lacks, and for a value that it can't have."""
    spec = STRATEGIES[strategy]
    for option, value in options.items():
        if option not in spec.options:
            raise SuiteError(
                f"strategy_options: {strategy} has no option {option!r}",
                hint=nearest(option, spec.options) if spec.options else "take the key out",
            )
        kind = type(spec.options[option])
        if type(value) is not kind and not (type(value) is int and kind is float):
            raise SuiteError(f"strategy_options.{option}: found {value!r}, expected {_KINDS[kind]}")
        if option in spec.choices and value not in spec.choices[option]:
            raise SuiteError(
                f"strategy_options.{option}: found {value!r}, expected {', '.join(spec.choices[option])}",
                hint=nearest(str(value), spec.choices[option]),
            )
        if option in spec.least and not isinstance(value, str) and not spec.least[option] <= value < _MOST:
            raise SuiteError(f"strategy_options.{option}: found {value!r}, expected at least {spec.least[option]:g}")
