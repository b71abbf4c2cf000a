"""Breaks rank programs: Python runs this at the start of every process that has this folder on its PYTHONPATH.

SCALEBENCH_SABOTAGE is JSON: the `steps` of a cell -> the name of a function in sabotage.py, called with the module
bench.worker.rank and the launch as soon as that module is imported. For a sweep of collectives it is `comm` -> the name, and the
module is bench.worker.collectives.
"""

import importlib.util
import json
import os
import sys


class _Saboteur:
    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name not in ("bench.worker.rank", "bench.worker.collectives"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_break(module):  # type: ignore[no-untyped-def]
            execute(module)
            import sabotage

            with open(sys.argv[sys.argv.index("--from-launch") + 1], encoding="utf-8") as file:
                launch = json.load(file)
            wanted = json.loads(os.environ["SCALEBENCH_SABOTAGE"]).get(
                str(launch["cell"]["steps"]) if "cell" in launch else "comm"
            )
            if wanted is not None:
                getattr(sabotage, wanted)(module, launch)

        spec.loader.exec_module = execute_and_break
        return spec


if "SCALEBENCH_SABOTAGE" in os.environ:
    sys.meta_path.insert(0, _Saboteur())
