"""Variables that are set here and would change what is launched, and DeepSpeed's file of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.doctor.finding import Finding, On
from bench.doctor.reading import EnvironmentFile, Reading
from bench.doctor.words import listed, plural

_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE")
_PLAIN = "leave only lines NAME=VALUE"
_CUDA = "CUDA_VISIBLE_DEVICES"
# What deepspeed/launcher/runner.py sends by itself (EXPORT_ENVS); where it runs on CUDA, NCCL* too.
_SENT = ("MLFLOW", "PYTHON", "MV2", "UCX")


def judge(reading: Reading) -> list[Finding]:
    """Of any host."""
    return [_visible(reading), _variables(reading)]


def _visible(reading: Reading) -> Finding:
    on, gpus, value = On(_CUDA, reading.host), reading.gpus.devices, reading.variables.get(_CUDA)
    if value is None:
        return on.ok("not set")
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not gpus:
        return on.ok(f"{value!r}, and no GPU here")
    if not parts or parts[0] == "-1":
        return on.warning(f"{value!r} hides all {plural(len(gpus), 'GPU')}", f"unset {_CUDA}")
    beyond = [part for part in parts if part.isdigit() and int(part) >= len(gpus)]
    unknown = [part for part in parts if not part.isdigit() and not any(gpu.uuid.startswith(part) for gpu in gpus)]
    twice = sorted({part for part in parts if parts.count(part) > 1})
    if beyond or unknown or twice:
        words = [f"no GPU {part}" for part in (*beyond, *unknown)] + [f"{part} stands twice" for part in twice]
        return on.problem(
            f"{value!r}: {listed(words)}; CUDA ignores what follows", f"name GPUs 0 to {len(gpus) - 1}, each once"
        )
    if len(parts) < len(gpus):
        return on.ok(f"{value}: {len(parts)} of {plural(len(gpus), 'GPU')}")
    return on.ok(value)


def _variables(reading: Reading) -> Finding:
    on, variables = On("variables", reading.host), reading.variables
    left = [name for name in _RENDEZVOUS if name in variables]
    if left:
        return on.warning(
            f"{listed(left, 5)} set: of another launch, or of a scheduler's job",
            f"unset {' '.join(left)}, unless you start ranks by hand",
        )
    if variables.get("DS_ACCELERATOR") == "cpu" and reading.gpus.devices:
        return on.warning("DS_ACCELERATOR=cpu, and there are GPUs", "unset DS_ACCELERATOR")
    threads = variables.get("OMP_NUM_THREADS")
    if threads is not None and not threads.isdigit():
        return on.problem(f"OMP_NUM_THREADS={threads!r}, expected a number", "unset OMP_NUM_THREADS")
    others = [f"{name}={value}" for name, value in variables.items() if name != _CUDA]
    return on.ok(listed(others, 6) or "none that change a launch")


def judge_files(
    files: Sequence[EnvironmentFile] | None,
    why_not: str,
    refused: str | None,
    set_here: Mapping[str, str],
    several: bool,
) -> Finding:
    """The `.deepspeed_env` files of the machine that launches, which DeepSpeed reads for several hosts alone. `files`: None, with
    the reason, where they can't be read. `refused`: why scalebench would not go on with them. `set_here`: this machine's
    variables that set communication."""
    on = On(".deepspeed_env", None)
    if files is None:
        return on.unchecked(why_not)
    if refused is not None:
        return on.problem(refused, _PLAIN) if several else on.warning(refused, _PLAIN)
    for file in files:
        if file.bad_lines:
            lines = f"line{'' if len(file.bad_lines) == 1 else 's'} {listed(map(str, file.bad_lines))}"
            return on.warning(
                f"{file.path}, {lines}: blank or a comment, on which `deepspeed` crashes when it is started by hand for several "
                "hosts; scalebench reads over it",
                _PLAIN,
            )
    exported = {name for file in files for name in file.names}
    others = [name for name in set_here if name not in (*_RENDEZVOUS, _CUDA, "TORCH_EXTENSIONS_DIR")]
    stay = [name for name in others if name not in exported and not name.startswith(_SENT)]
    note = ""
    if several and stay:
        note = (
            f"; {listed(stay)} set here: scalebench sends it along, `deepspeed` by hand only what stands in this file"
        )
    if not files:
        return on.ok(f"none{note}")
    return on.ok(f"{listed(file.path for file in files)}: sets {listed(sorted(exported)) or 'nothing'}{note}")
