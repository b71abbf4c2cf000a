"""torch, DeepSpeed and transformers asked in a process of their own: a line of JSON each, so that a crash names the culprit.

Started as a script by bench.doctor.reads.software; nothing imports it, because importing torch takes seconds and may crash.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def _torch() -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    nccl = None
    if torch.version.cuda is not None and torch.distributed.is_nccl_available():
        nccl = ".".join(str(part) for part in torch.cuda.nccl.version())
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "nccl": nccl,
        "arch_list": _arch_list(torch) if torch.version.cuda is not None else [],
        "sees_gpus": bool(torch.cuda.is_available()),
    }


def _arch_list(torch: Any) -> list[str]:
    # Older torch answers with nothing where it sees no GPU, and then the wheel's kernels are of interest still.
    flags = getattr(torch._C, "_cuda_getArchFlags", None)
    return str(flags() or "").split() if flags is not None else list(torch.cuda.get_arch_list())


def _ops_folder(torch: Any) -> str:
    """Where torch keeps the ops that it compiled: ROOT/py311_cpu, or what TORCH_EXTENSIONS_DIR names."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    if named is not None:
        return named
    extensions: Any = importlib.import_module("torch.utils.cpp_extension")
    kind = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda.replace('.', '')}"
    version = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return os.path.join(extensions.get_default_build_root(), f"{version}_{kind}")


def _deepspeed() -> dict[str, Any]:
    deepspeed: Any = importlib.import_module("deepspeed")
    about: Any = importlib.import_module("deepspeed.git_version_info")
    folder = _ops_folder(importlib.import_module("torch"))
    built = []
    if os.path.isdir(folder):
        built = [op for op in os.listdir(folder) if os.path.exists(os.path.join(folder, op, f"{op}.so"))]
    installed = [op for op, there in about.installed_ops.items() if there]
    return {
        "version": str(deepspeed.__version__),
        "installed_ops": sorted(installed),
        "built_ops": sorted(built),
        "folder": folder,
    }


def _transformers() -> dict[str, Any]:
    return {"version": str(importlib.import_module("transformers").__version__)}


def main() -> None:
    out = os.dup(1)
    # Libraries print what they like while they are imported.
    os.dup2(2, 1)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "torch": _torch,
        "deepspeed": _deepspeed,
        "transformers": _transformers,
    }
    for name, ask in parts.items():
        os.write(out, f"{json.dumps({'asked': name})}\n".encode())
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer: dict[str, Any] = {"library": name, "answer": ask()}
        except BaseException as error:  # whatever a broken installation raises is the answer
            answer = {"library": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        os.write(out, f"{json.dumps(answer)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
