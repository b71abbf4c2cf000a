"""The GPUs themselves: how many, free or not, their links, clocks and memory errors."""

from __future__ import annotations

from bench.doctor.finding import Finding, On
from bench.doctor.judges.kernels import no_gpu
from bench.doctor.reading import Gpu, Reading
from bench.doctor.words import counted, gib, listed, numbered, plural
from bench.errors import MachineError
from bench.theory.machine import load_machine, machine_names

_CHECKS = ("GPU memory", "NVLink", "PCIe", "clocks", "ECC")
# PCI ids of GV100: NVIDIA's list of chips, 0x1db0 to 0x1dbf and 0x1df0 to 0x1dff.
_VOLTA_IDS = ("10de:1db", "10de:1df")
_USED_FRAC = 0.05
_HARD = ("HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
_SOFT = ("SwThermalSlowdown", "SwPowerCap", "SyncBoost")


def judge(reading: Reading, slots: int | None = None) -> list[Finding]:
    """All of this topic. `slots`: what the hostfile gives this host."""
    found = _count(reading, slots)
    if not reading.gpus.devices:
        return [found, *(On(check, reading.host).unchecked(no_gpu(reading)) for check in _CHECKS)]
    return [found, _memory(reading), _nvlink(reading), _pcie(reading), _clocks(reading), _ecc(reading)]


def _count(reading: Reading, slots: int | None) -> Finding:
    on, gpus = On("GPUs", reading.host), reading.gpus
    if not gpus.devices and gpus.on_bus:
        volta = any(number.startswith(_VOLTA_IDS) for number in gpus.on_bus)
        branch = "of branch R580 or older (the last for a V100)" if volta else "for it"
        return on.problem(
            f"{plural(len(gpus.on_bus), 'NVIDIA device')} on the bus ({listed(sorted(set(gpus.on_bus)))}), none usable: NVML: "
            f"{gpus.no_nvml or 'shows none'}",
            f"install a driver {branch}; nvidia-smi must list the GPUs; a container needs --gpus all",
        )
    if not gpus.devices:
        return on.unchecked(no_gpu(reading), "runs use the CPU with gloo")
    said = counted(gpu.name for gpu in gpus.devices)
    if slots is not None and slots > len(gpus.devices):
        return on.problem(f"{said}, but slots={slots} in the hostfile", f"write slots={len(gpus.devices)}")
    if len({(gpu.name, gpu.memory_bytes) for gpu in gpus.devices}) > 1:
        return on.warning(
            f"unlike GPUs: {said}", "the slowest sets every step: choose equal ones by CUDA_VISIBLE_DEVICES"
        )
    if len(gpus.on_bus) > len(gpus.devices):
        return on.warning(
            f"{said}, but {len(gpus.on_bus)} NVIDIA devices are on the bus",
            "has one fallen off? dmesg | grep -i xid",
        )
    return on.ok(said)


def _memory(reading: Reading) -> Finding:
    on, gpus = On("GPU memory", reading.host), reading.gpus.devices
    taken = [
        gpu
        for gpu in gpus
        if gpu.memory_used_bytes is not None and gpu.memory_used_bytes > _USED_FRAC * gpu.memory_bytes
    ]
    busy = [gpu for gpu in gpus if gpu.num_processes]
    if taken or busy:
        of = sorted({gpu.index for gpu in (*taken, *busy)})
        most = max(gpu.memory_used_bytes or 0 for gpu in gpus if gpu.index in of)
        return on.warning(
            f"{numbered(of)}: others compute there, up to {gib(most)} of {gib(gpus[of[0]].memory_bytes)} taken",
            "wait until they are done, or choose free ones by CUDA_VISIBLE_DEVICES (nvidia-smi lists the processes)",
        )
    unread = [gpu for gpu in gpus if gpu.memory_used_bytes is None]
    if unread:
        return on.unchecked(f"{numbered(gpu.index for gpu in unread)}: {_why(unread[0], 'memory_used_bytes')}")
    sizes = sorted({gpu.memory_bytes for gpu in gpus})
    return on.ok(f"{' and '.join(gib(size) for size in sizes)} each, free")


def _nvlink(reading: Reading) -> Finding:
    on, gpus = On("NVLink", reading.host), reading.gpus.devices
    if any(gpu.links is None for gpu in gpus):
        first = next(gpu for gpu in gpus if gpu.links is None)
        return on.unchecked(f"{numbered([first.index])}: {first.unread.get('links', 'NVML says nothing')}")
    up = {gpu.index: sum(gpu.links or []) + (gpu.switch_links or 0) for gpu in gpus}
    if not any(gpu.num_links for gpu in gpus):
        return on.ok("none: GPUs talk by PCIe and the host")
    down = [gpu for gpu in gpus if up[gpu.index] < (gpu.num_links or 0)]
    named = _as_described(gpus)
    if len(gpus) > 1 and down and named is None:
        lacks = listed([f"GPU {gpu.index} {up[gpu.index]} of {gpu.num_links}" for gpu in down])
        return on.warning(
            f"links are down: {lacks}", "nvidia-smi nvlink --status; reseat the bridge, or call the vendor"
        )
    if not any(sum(gpu.links or []) for gpu in gpus):
        return on.ok(f"{max(up.values())} links of each GPU, all into a switch")
    pairs = [(a, b) for a in range(len(gpus)) for b in range(a) if not (gpus[a].links or [0] * len(gpus))[b]]
    said = f"{max(up.values())} links a GPU"
    if pairs:
        said += (
            f", {len(pairs)} of {len(gpus) * (len(gpus) - 1) // 2} pairs have none: two GPUs may scale worse than four"
        )
    return on.ok(said + (f"; joined as {named} (project --machine {named})" if named else ""))


def _as_described(gpus: list[Gpu]) -> str | None:
    """The described machine whose GPUs are joined like these, numbers included."""
    matrix = [gpu.links for gpu in gpus]
    for name in machine_names():
        try:
            described = load_machine(name)
        except MachineError:
            continue
        same = described.node.fabric.links_per_pair == matrix
        memory_bytes = described.device.memory_bytes.value
        if same and abs(gpus[0].memory_bytes / memory_bytes - 1) < 0.1:
            return name
    return None


def _pcie(reading: Reading) -> Finding:
    on, gpus = On("PCIe", reading.host), reading.gpus.devices
    unread = [gpu for gpu in gpus if gpu.pcie_width is None or gpu.max_pcie_width is None]
    if unread:
        return on.unchecked(
            f"{numbered(gpu.index for gpu in unread)}: {_why(unread[0], 'pcie_width', 'max_pcie_width')}"
        )
    narrow = [gpu for gpu in gpus if (gpu.pcie_width or 0) < (gpu.max_pcie_width or 0)]
    if narrow:
        first = narrow[0]
        return on.warning(
            f"{numbered(gpu.index for gpu in narrow)}: x{first.pcie_width} of x{first.max_pcie_width}, so copies take "
            f"{(first.max_pcie_width or 0) / (first.pcie_width or 1):g} times as long",
            "reseat the card or its riser, and look at the slot's setting in the BIOS",
        )
    widths = counted(f"x{gpu.pcie_width} gen {gpu.max_pcie_generation or 'unknown'}" for gpu in gpus)
    resting = any((gpu.pcie_generation or 99) < (gpu.max_pcie_generation or 0) for gpu in gpus)
    return on.ok(widths + ("; idle links rest at a lower generation" if resting else ""))


def _clocks(reading: Reading) -> Finding:
    on, gpus = On("clocks", reading.host), reading.gpus.devices
    unread = [gpu for gpu in gpus if gpu.slowdowns is None]
    if unread:
        return on.unchecked(f"{numbered(gpu.index for gpu in unread)}: {_why(unread[0], 'slowdowns')}")
    for reasons, remedy in (
        (_HARD, "cooling or power fails: figures measured now are of a throttled GPU"),
        (_SOFT, ""),
    ):
        held = [gpu for gpu in gpus if any(name in reasons for name in gpu.slowdowns or [])]
        if not held:
            continue
        names = sorted({name for gpu in held for name in gpu.slowdowns or [] if name in reasons})
        said = f"{numbered(gpu.index for gpu in held)}: held down by {', '.join(names)}{_warmest(held)}"
        if reasons is _HARD:
            return on.problem(
                said, f"{remedy}; let it cool, look at fans and power supply (nvidia-smi -q -d PERFORMANCE)"
            )
        return on.warning(said, "measure when the GPUs are idle and cool; a power cap is set by nvidia-smi -pl")
    set_down = [gpu for gpu in gpus if "ApplicationsClocksSetting" in (gpu.slowdowns or [])]
    said = f"up to {max(gpu.max_clock_mhz or 0 for gpu in gpus)} MHz, not throttled{_warmest(gpus)}"
    return on.ok(
        said + (f"; {numbered(gpu.index for gpu in set_down)}: clocks are set by the user" if set_down else "")
    )


def _warmest(gpus: list[Gpu]) -> str:
    temperatures = [gpu.temperature_c for gpu in gpus if gpu.temperature_c is not None]
    return f", {max(temperatures)} °C" if temperatures else ""


def _ecc(reading: Reading) -> Finding:
    on, gpus = On("ECC", reading.host), reading.gpus.devices
    pending = [gpu for gpu in gpus if gpu.repair_pending]
    errors = [gpu for gpu in gpus if gpu.ecc_errors]
    if errors or pending:
        words = [f"GPU {gpu.index} {plural(gpu.ecc_errors or 0, 'uncorrected error')}" for gpu in errors]
        words += [f"GPU {gpu.index} has memory to repair" for gpu in pending]
        return on.problem(
            listed(words), "leave these GPUs out, reset them or restart the host; replace one that errs again"
        )
    off = [gpu for gpu in gpus if gpu.ecc is False]
    if off:
        return on.warning(
            f"{numbered(gpu.index for gpu in off)}: off, so that a flipped bit is not seen", "nvidia-smi -e 1 (as root)"
        )
    unread = [gpu for gpu in gpus if gpu.ecc is None or gpu.ecc_errors is None]
    if unread:
        return on.unchecked(f"{numbered(gpu.index for gpu in unread)}: {_why(unread[0], 'ecc', 'ecc_errors')}")
    return on.ok("on, no uncorrected error")


def _why(gpu: Gpu, *fields: str) -> str:
    return next((gpu.unread[name] for name in fields if name in gpu.unread), "NVML says nothing")
