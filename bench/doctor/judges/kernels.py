"""Whether torch's kernels, its CUDA and the driver fit the GPUs that are there."""

from __future__ import annotations

from bench.doctor.finding import Finding, On
from bench.doctor.reading import Gpu, Reading
from bench.doctor.words import listed

_VOLTA = (7, 0)
_BF16 = (8, 0)
# CUDA 13 dropped what is older than Turing; driver branch R580 is the last that runs it.
_TURING = (7, 5)

VOLTA_WHEEL = (
    'install torch 2.7.1 to 2.10.0 of the default index (make setup TORCH="torch==2.10.0"), or a CUDA 12.6 build (cu126) of 2.11 '
    "to 2.14"
)


def judge(reading: Reading) -> list[Finding]:
    """All of this topic."""
    if not reading.gpus.devices:
        reason = no_gpu(reading)
        return [On(check, reading.host).unchecked(reason) for check in ("driver", "kernels", "bf16")]
    return [_driver(reading), _kernels(reading), _bf16(reading)]


def no_gpu(reading: Reading) -> str:
    """Why nothing is checked of GPUs."""
    return "no GPU found" if reading.gpus.no_nvml is None else f"no GPU found (NVML: {reading.gpus.no_nvml})"


def covers(arch_list: list[str], capability: tuple[int, int]) -> bool:
    """Whether kernels of these architectures run on a GPU of that compute capability.

    Machine code (sm_XY) runs on the same major and a minor from its own on, PTX (compute_XY) on anything from it on; the ending
    `a` or `f` means this very one. Source: CUDA C++ programming guide, "Application compatibility".
    """
    for arch in arch_list:
        kind, _, digits = arch.partition("_")
        exact = digits[-1:] in ("a", "f")
        digits = digits.rstrip("af")
        if not digits.isdigit():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if (
            kind == "sm"
            and built[0] == capability[0]
            and built[1] <= capability[1]
            and (not exact or built == capability)
        ):
            return True
        if kind == "compute" and not exact and built <= capability:
            return True
    return False


def wheel_for(capability: tuple[int, int]) -> str:
    """Which torch to install for a GPU of that compute capability. Source of the versions: the README's section V100."""
    if capability == _VOLTA:
        return VOLTA_WHEEL
    if capability < _TURING:
        return "install a torch build for CUDA 12.6 (cu126), if one still has kernels for this GPU"
    return "install the newest torch, or the build for the newest CUDA that the driver runs"


def _driver(reading: Reading) -> Finding:
    on, gpus, torch = On("driver", reading.host), reading.gpus, reading.software.torch
    said = f"{gpus.driver}, runs up to CUDA {gpus.cuda}"
    if gpus.driver is None or gpus.cuda is None:
        return on.unchecked("NVML does not say its version")
    if torch is None or torch.cuda is None:
        return on.ok(said)
    # Within a major version newer CUDA runs on older drivers (minor version compatibility), across one it doesn't.
    if int(torch.cuda.split(".")[0]) > int(gpus.cuda.split(".")[0]):
        old = [gpu for gpu in gpus.devices if gpu.capability < _TURING]
        remedy = (
            wheel_for(min(gpu.capability for gpu in old))
            if old
            else "install a newer driver, or a torch for an older CUDA"
        )
        return on.problem(f"{said}; torch is built for CUDA {torch.cuda}", remedy)
    return on.ok(said)


def _kernels(reading: Reading) -> Finding:
    on, gpus, torch = On("kernels", reading.host), reading.gpus.devices, reading.software.torch
    if torch is None:
        return on.unchecked("torch can't be imported")
    lowest = min(gpu.capability for gpu in gpus)
    if torch.cuda is None:
        return on.problem(f"torch {torch.version} has no CUDA, and there are GPUs", wheel_for(lowest))
    without = [gpu for gpu in gpus if not covers(torch.arch_list, gpu.capability)]
    has = f"torch {torch.version} has kernels for {listed(torch.arch_list, 12)}"
    if without:
        worst = min(without, key=lambda gpu: gpu.capability)
        return on.problem(f"{has}; none for {_named(worst)}", wheel_for(worst.capability))
    if not torch.sees_gpus:
        hidden = reading.variables.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and hidden.strip() in ("", "-1"):
            return on.warning(f"torch sees no GPU: CUDA_VISIBLE_DEVICES is {hidden!r}", "unset CUDA_VISIBLE_DEVICES")
        return on.problem(
            "torch.cuda.is_available() is false although NVML shows GPUs",
            'python -c "import torch; torch.cuda.init()" says why; in a container, is it started with --gpus all?',
        )
    return on.ok(f"{listed(torch.arch_list, 12)}: cover {_named(min(gpus, key=lambda gpu: gpu.capability))}")


def _bf16(reading: Reading) -> Finding:
    on, gpus = On("bf16", reading.host), reading.gpus.devices
    without = [gpu for gpu in gpus if gpu.capability < _BF16]
    if without:
        return on.warning(
            f"only emulated on {_named(without[0])}, and slow, although torch.cuda.is_bf16_supported() says yes",
            "use precision: fp16; cells of bf16 are skipped here",
        )
    return on.ok("the GPUs have it")


def _named(gpu: Gpu) -> str:
    return f"{gpu.name} ({gpu.capability[0]}.{gpu.capability[1]})"
