"""What joins the GPUs of a host, from readings as NVML gives them; the readings themselves need a GPU."""

from __future__ import annotations

import pynvml
import pytest
import torch

from bench.worker.meter.environment import active_nvlinks, environment, interconnect_text


def test_nvlink_is_named_where_any_is_up_and_pcie_elsewhere() -> None:
    assert interconnect_text(6, 3, 16) == "NVLink x 6"
    assert interconnect_text(0, 3, 16) == "PCIe gen 3 x 16"


def links(states: dict[int, int], error: int) -> int:
    """How many links are up, of a GPU that has those in `states` and answers `error` for every other."""

    def state(link: int) -> int:
        if link not in states:
            raise pynvml.NVMLError(error)
        return states[link]

    return active_nvlinks(state)


def test_links_that_are_up_are_counted() -> None:
    v100 = dict.fromkeys(range(6), pynvml.NVML_FEATURE_ENABLED)
    assert links(v100, pynvml.NVML_ERROR_INVALID_ARGUMENT) == 6
    assert links({**v100, 2: pynvml.NVML_FEATURE_DISABLED}, pynvml.NVML_ERROR_INVALID_ARGUMENT) == 5
    # A board may leave numbers out.
    assert links({1: 1, 4: 1}, pynvml.NVML_ERROR_NOT_SUPPORTED) == 2
    assert links({}, pynvml.NVML_ERROR_NOT_SUPPORTED) == 0


def test_links_that_cannot_be_read_are_not_taken_for_none() -> None:
    with pytest.raises(pynvml.NVMLError):
        links({0: 1}, pynvml.NVML_ERROR_UNKNOWN)


def test_on_a_cpu_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.worker.meter.environment._backend", lambda: "gloo")
    assert environment(torch.device("cpu"), num_nodes=1).interconnect is None
