"""Stand-ins for Slurm's programs that really start the ranks, on this host: what a job's script asks of them, and no more."""

from __future__ import annotations

import sys
from pathlib import Path

_SBATCH = r"""
import os, re, subprocess, sys
arguments = sys.argv[1:]
script = arguments[-1]
assert {"--wait", "--parsable"} <= set(arguments), arguments
options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", open(script).read(), re.M))
log = options["output"].replace("%%", "%")
os.makedirs(os.path.dirname(log), exist_ok=True)
print(4711, flush=True)
environment = {**os.environ, "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": options["nodelist"]}
with open(log, "ab") as file:
    job = subprocess.run(["bash", script], env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
sys.exit(job.returncode)
"""

_SRUN = r"""
import os, signal, subprocess, sys, time
options, command = {}, []
for word in sys.argv[1:]:
    if word.startswith("--") and not command:
        name, _, value = word[2:].partition("=")
        options[name] = value
    else:
        command.append(word)
size, each = int(options["ntasks"]), int(options["ntasks-per-node"])
tasks = []
for task in range(size):
    told = {"SLURM_PROCID": task, "SLURM_LOCALID": task % each, "SLURM_NTASKS": size, "SLURM_NODEID": task // each}
    tasks.append(subprocess.Popen(command, env={**os.environ, **{name: str(value) for name, value in told.items()}}))
def stop(*_):
    for task in tasks:
        task.kill()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks):
        stop()
    time.sleep(0.05)
sys.exit(max(task.returncode for task in tasks))
"""

_SCONTROL = r"""
import sys
assert sys.argv[1:3] == ["show", "hostnames"], sys.argv
print("\n".join(sys.argv[3].split(",")))
"""

_SCANCEL = r"""
import pathlib, sys
with open(pathlib.Path(__file__).with_name("cancelled"), "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\n")
"""


def write_programs(folder: Path) -> None:
    """Put sbatch, srun, scontrol and scancel into a folder."""
    programs = {"sbatch": _SBATCH, "srun": _SRUN, "scontrol": _SCONTROL, "scancel": _SCANCEL}
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
