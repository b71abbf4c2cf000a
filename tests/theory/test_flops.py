"""Peaks and MFU against figures that others published."""

import subprocess
import sys

import pytest

from bench.theory.flops import mfu, peak_flops_per_s


@pytest.mark.parametrize(
    "name",
    ["Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB", "NVIDIA V100-SXM2-32GB", "V100-SXM2-16GB", "Tesla V100-SXM3-32GB"],
)
def test_v100_by_every_name_that_drivers_gave_it(name: str) -> None:
    assert peak_flops_per_s(name, "fp16") == 125e12
    assert peak_flops_per_s(name, "fp32") == 15.7e12
    assert peak_flops_per_s(name, "bf16") is None


def test_peaks_follow_from_cores_and_clocks() -> None:
    """Multiprocessors x operations a clock x clock, as NVIDIA's white papers define the peak."""
    for name, precision, processors, operations, clock_hz in [
        ("Tesla V100-SXM2-32GB", "fp32", 80, 2 * 64, 1.530e9),
        ("Tesla V100-SXM2-32GB", "fp16", 80, 2 * 512, 1.530e9),
        ("Tesla V100-PCIE-16GB", "fp32", 80, 2 * 64, 1.380e9),
        ("Tesla V100-PCIE-16GB", "fp16", 80, 2 * 512, 1.380e9),
        ("NVIDIA A100-SXM4-80GB", "fp32", 108, 2 * 64, 1.410e9),
        ("NVIDIA A100 80GB PCIe", "bf16", 108, 2 * 1024, 1.410e9),
        ("NVIDIA H100 80GB HBM3", "fp32", 132, 2 * 128, 1.980e9),
        ("NVIDIA H100 80GB HBM3", "bf16", 132, 2 * 2048, 1.830e9),
        ("NVIDIA H200", "fp16", 132, 2 * 2048, 1.830e9),
        ("NVIDIA H100 PCIe", "fp32", 114, 2 * 128, 1.755e9),
        ("NVIDIA H100 PCIe", "fp16", 114, 2 * 2048, 1.620e9),
    ]:
        assert peak_flops_per_s(name, precision) == pytest.approx(processors * operations * clock_hz, rel=0.01), name


@pytest.mark.parametrize("name", [None, "Intel Xeon", "Tesla V100", "NVIDIA A100-SXM-64GB", "NVIDIA H100 NVL"])
def test_unknown_devices_have_no_peak(name: str | None) -> None:
    assert peak_flops_per_s(name, "fp16") is None


def test_unknown_precision_is_an_error() -> None:
    with pytest.raises(ValueError, match="tf32"):
        peak_flops_per_s("NVIDIA H200", "tf32")


def test_mfu_of_a_published_run() -> None:
    """Megatron-Turing NLG on 2240 A100s: 65.43 k tokens/s, 30.2 % (Chowdhery et al. 2022, table 3 and appendix B)."""
    # 530e9 parameters, 105 layers of width 20480, sequences of 2048.
    flops_per_token = 6 * 530e9 + 12 * 105 * 20480 * 2048
    got = mfu(flops_per_token, 65.43e3, 2240, peak_flops_per_s("NVIDIA A100-SXM4-80GB", "bf16"))
    assert got == pytest.approx(0.302, abs=0.002)


def test_mfu_is_withheld_without_a_peak() -> None:
    assert mfu(1e9, 1e3, 8, None) is None
    with pytest.raises(ValueError, match="num_devices"):
        mfu(1e9, 1e3, 0, 1e12)


def test_theory_imports_no_torch() -> None:
    program = "import sys, bench.theory.flops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
