"""Python, packages, torch, DeepSpeed and what compiles its ops."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from bench.doctor.finding import Finding, On
from bench.doctor.reading import Reading
from bench.doctor.wanted import Wanted
from bench.doctor.words import listed

_SETUP = "make setup installs what the repository was measured with"
# DeepSpeed compiles it in init_distributed on CPU (facts: 20 to 34 s on two cores).
_CPU_OP = "deepspeed_shm_comm"


def judge(reading: Reading, wanted: Wanted | None, why_not: str = "") -> list[Finding]:
    """All of this topic. `wanted`: what the package asks for; None, with the reason, where that is not known."""
    found = [_python(reading, wanted), _system(reading)]
    found += [_packages(reading, wanted)] if wanted is not None else [On("packages", reading.host).unchecked(why_not)]
    return [*found, _torch(reading), _deepspeed(reading), _transformers(reading), _compiler(reading)]


def _python(reading: Reading, wanted: Wanted | None) -> Finding:
    on, software = On("Python", reading.host), reading.software
    # "3.12.0+": built from a repository.
    version = software.python.rstrip("+")
    if wanted is not None and not SpecifierSet(wanted.python).contains(version, prereleases=True):
        return on.problem(
            f"{software.python}, expected {wanted.python}", "name another one: make setup PYTHON=python3.12"
        )
    return on.ok(f"{software.python} ({software.executable})")


def _system(reading: Reading) -> Finding:
    software = reading.software
    words = filter(None, (software.system, f"Linux {software.kernel}", software.libc))
    return On("system", reading.host).ok(", ".join(words))


def _packages(reading: Reading, wanted: Wanted) -> Finding:
    on, have = On("packages", reading.host), reading.software.packages
    if not have:
        return on.unchecked(f"packages can't be listed: {reading.software.unread.get('packages', 'none found')}")
    environment = {"python_version": ".".join(reading.software.python.split(".")[:2]), "extra": ""}
    applying = [one for one in wanted.requirements if one.marker is None or one.marker.evaluate(environment)]
    missing = [one.name for one in applying if canonicalize_name(one.name) not in have]
    if missing:
        return on.problem(
            f"missing: {listed(missing)}", f"{reading.software.executable} -m pip install {' '.join(missing)}"
        )
    wrong = [one for one in applying if not _satisfies(have, one)]
    if wrong:
        words = [f"{one.name} {have[canonicalize_name(one.name)]} (expected {one.specifier})" for one in wrong]
        return on.problem(listed(words), _SETUP)
    # Another torch is what a V100 needs; "torch" has a row of its own.
    other = []
    for one in applying:
        name = canonicalize_name(one.name)
        pins = [pin for pin in wanted.pins.get(name, []) if pin.marker is None or pin.marker.evaluate(environment)]
        if name != "torch" and any(not _satisfies(have, pin) for pin in pins):
            other.append(f"{name} {have[name]} ({pins[0].specifier})")
    if other:
        return on.warning(f"other versions than constraints.txt: {listed(other)}", _SETUP)
    pinned = ", the versions of constraints.txt" if wanted.pins else ""
    return on.ok(f"all {len(applying)} that are needed{pinned}")


def _satisfies(have: dict[str, str], wanted: Requirement) -> bool:
    return wanted.specifier.contains(have[canonicalize_name(wanted.name)], prereleases=True)


def _torch(reading: Reading) -> Finding:
    on, torch = On("torch", reading.host), reading.software.torch
    if torch is None:
        return on.problem(f"can't be imported: {reading.software.unread.get('torch')}", _SETUP)
    if torch.cuda is None:
        return on.ok(f"{torch.version}, without CUDA")
    return on.ok(f"{torch.version}, CUDA {torch.cuda}, NCCL {torch.nccl or 'none'}")


def _deepspeed(reading: Reading) -> Finding:
    on, deepspeed = On("DeepSpeed", reading.host), reading.software.deepspeed
    if deepspeed is None:
        return on.problem(f"can't be imported: {reading.software.unread.get('deepspeed')}", _SETUP)
    compiled = [*deepspeed.installed_ops, *deepspeed.built_ops]
    return on.ok(f"{deepspeed.version}, compiled ops: {listed(compiled) or 'none yet'}")


def _transformers(reading: Reading) -> Finding:
    on, version = On("transformers", reading.host), reading.software.transformers
    if version is None:
        reason = reading.software.unread.get("transformers")
        return on.problem(f"can't be imported: {reason}", f"{_SETUP}; hf: models need it")
    return on.ok(version)


def _compiler(reading: Reading) -> Finding:
    """DeepSpeed compiles ops when they are first needed: on CPU one always, on GPUs those of offload and fused optimizers."""
    on, software = On("op compiler", reading.host), reading.software
    lacking = [name for name in ("ninja", "g++") if software.programs.get(name) is None]
    if not software.python_headers:
        lacking.append("Python.h")
    remedy = "apt-get install g++ python3-dev, pip install ninja"
    gpus = bool(reading.gpus.devices)
    if gpus and software.torch is not None and software.torch.cuda and software.programs.get("nvcc") is None:
        lacking.append("nvcc")
        remedy += ", and the CUDA toolkit of torch's CUDA for fused optimizers"
    deepspeed = software.deepspeed
    ready = deepspeed is not None and _CPU_OP in {*deepspeed.installed_ops, *deepspeed.built_ops}
    if lacking and not gpus and not ready:
        return on.problem(
            f"{', '.join(lacking)} missing: {_CPU_OP} can't be compiled, without which no rank starts", remedy
        )
    if lacking:
        why = "offload and fused optimizers can't be compiled" if gpus else "other ops can't be compiled"
        return on.warning(f"{', '.join(lacking)} missing: {why}", remedy)
    beside = [name for name in ("ninja",) if name not in software.on_path]
    first = "" if gpus or ready else f"; {_CPU_OP} is compiled by the first launch, half a minute"
    if beside:
        return on.ok(
            f"g++, ninja (beside Python, not on the PATH: activate the environment to start ranks by hand){first}"
        )
    return on.ok(f"g++, ninja{first}")
