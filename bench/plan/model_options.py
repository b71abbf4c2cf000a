"""Which models there are, and what their presets may be told."""

from __future__ import annotations

from collections.abc import Mapping

import models
from bench.errors import SuiteError, nearest
from bench.plan.strategies import OptionValue


def check_model(name: str) -> None:
    """Raise SuiteError unless `name` is a preset or names a transformers model type (`hf:gpt2`)."""
    if name in models.PRESETS:
        return
    if name.startswith(models.HUGGINGFACE_PREFIX) and len(name) > len(models.HUGGINGFACE_PREFIX):
        return
    raise SuiteError(
        f"model: found {name!r}, expected a preset or {models.HUGGINGFACE_PREFIX}TYPE",
        hint=nearest(name, models.PRESETS),
    )


def check_model_options(model: str, options: Mapping[str, OptionValue], seq_len: int) -> None:
    """Raise SuiteError for an option that the preset lacks, for a value that it can't have, and for sequences longer than the
    preset's longest. Options of a transformers configuration are for transformers to judge."""
    if model not in models.PRESETS:
        return
    sizes = models.PRESETS[model][1]
    for option, value in options.items():
        if option not in sizes:
            raise SuiteError(f"model_options: {model} has no option {option!r}", hint=nearest(option, sizes))
        _check_value(option, value)
    longest = {**sizes, **options}["max_seq_len"]
    if not isinstance(longest, str) and seq_len > longest:
        raise SuiteError(f"seq_len: found {seq_len}, expected at most {longest}, the longest of {model}")


def _check_value(option: str, value: OptionValue) -> None:
    """Raise SuiteError for a value that the option of a preset can't have."""
    if option == "initialization":
        if value not in models.INITIALIZATIONS:
            raise SuiteError(
                f"model_options.{option}: found {value!r}, expected one of {', '.join(models.INITIALIZATIONS)}",
                hint=nearest(str(value), models.INITIALIZATIONS),
            )
    elif option == "dropout":
        if isinstance(value, bool | str) or not 0 <= value < 1:
            raise SuiteError(f"model_options.{option}: found {value!r}, expected a number from 0 on and below 1")
    elif isinstance(value, bool | str) or value <= 0:
        raise SuiteError(f"model_options.{option}: found {value!r}, expected a positive number")
