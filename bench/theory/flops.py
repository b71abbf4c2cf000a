"""What share of the machine's arithmetic a run uses: dense peaks by device name, and MFU."""

from __future__ import annotations

PRECISIONS = ("fp32", "bf16", "fp16")

# Dense peaks in FLOP/s: (fp32, bf16, fp16). fp32 is the CUDA cores' rate: torch does not use TF32 for matrix products
# unless told to. bf16 and fp16 are the tensor cores' rates without sparsity (data sheets from Ampere on print twice
# as much). A V100 has no bf16: torch emulates it.
#
# V100 SXM2: NVIDIA Tesla V100 data sheet, 15.7 and 125 (GPUInspector.jl docs/src/devices/v100_sxm2.md: 125.3 at 1530 MHz).
_V100_SXM2 = (15.7e12, None, 125e12)
# V100 PCIe: NVIDIA Tesla V100 data sheet, 14 and 112. V100S: its 2020 edition, 16.4 and 130.
_V100_PCIE = (14e12, None, 112e12)
_V100S_PCIE = (16.4e12, None, 130e12)
# V100 SXM3: NVIDIA DGX-2 data sheet, 2 PFLOP/s for 16 GPUs; DGX-2H, 2.1 PFLOP/s. Their fp32 is an eighth of that: on
# Volta a multiprocessor does 512 tensor and 64 fp32 multiply-adds a clock (NVIDIA Volta white paper, table 1).
_V100_SXM3 = (15.7e12, None, 125e12)
_V100_SXM3_H = (16.4e12, None, 131e12)
# A100: NVIDIA A100 data sheet, 19.5, 312, 312, the same for SXM4 and PCIe, 40 and 80 GB.
_A100 = (19.5e12, 312e12, 312e12)
# H100 SXM5: NVIDIA H100 architecture white paper, table of peak rates: 66.9, 989.4, 989.4. H200 has the same
# processor (NVIDIA H200 data sheet: 67, and 1,979 with sparsity).
_H100_SXM = (66.9e12, 989.4e12, 989.4e12)
# H100 PCIe: NVIDIA H100 architecture white paper and data sheet: 51.2, and 1,513 with sparsity.
_H100_PCIE = (51.2e12, 756e12, 756e12)

# Names as torch.cuda.get_device_name and NVML report them, without the brand in front, which changed with the driver.
# Whole names, because parts mislead: "V100" alone is four different chips' worth of peaks.
_PEAKS: dict[str, tuple[float, float | None, float]] = {
    "V100-SXM2-16GB": _V100_SXM2,
    "V100-SXM2-32GB": _V100_SXM2,
    "V100-SXM3-32GB": _V100_SXM3,
    "V100-SXM3-32GB-H": _V100_SXM3_H,
    "V100-PCIE-16GB": _V100_PCIE,
    "V100-PCIE-32GB": _V100_PCIE,
    "V100S-PCIE-32GB": _V100S_PCIE,
    "A100-SXM4-40GB": _A100,
    "A100-SXM4-80GB": _A100,
    "A100-PCIE-40GB": _A100,
    "A100-PCIE-80GB": _A100,
    "A100 80GB PCIe": _A100,
    "H100 80GB HBM3": _H100_SXM,
    "H100 PCIe": _H100_PCIE,
    "H200": _H100_SXM,
}


def peak_flops_per_s(device_name: str | None, precision: str) -> float | None:
    """Peak FLOP/s of one device at `precision`, dense; `None` where it is not known.

    `device_name` as torch.cuda.get_device_name or NVML reports it ("Tesla V100-SXM2-32GB"), `None` for a CPU. Unknown
    devices, and bf16 on a V100, which only emulates it, are `None`. For fp32 it is the rate without TF32. Sources
    stand beside the numbers. Raises ValueError for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: found {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if device_name is None:
        return None
    peaks = _PEAKS.get(device_name.removeprefix("NVIDIA ").removeprefix("Tesla "))
    return None if peaks is None else peaks[PRECISIONS.index(precision)]


def mfu(flops_per_token: float, tokens_per_s: float, num_devices: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation, a fraction: the model's FLOP/s over the peak of all devices; `None` without a peak.

    flops_per_token x tokens_per_s / (num_devices x peak), with `tokens_per_s` of all devices together and `peak` in
    FLOP/s of one. Recomputation is not counted. Source: Chowdhery et al. 2022 (PaLM), appendix B.
    Raises ValueError unless `num_devices` is at least 1.
    """
    if num_devices < 1:
        raise ValueError(f"num_devices: found {num_devices}, expected at least 1")
    return None if peak is None else flops_per_token * tokens_per_s / (num_devices * peak)
