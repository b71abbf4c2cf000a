"""Launches as Slurm jobs: a script with srun, submitted and waited for."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.errors import LaunchError
from bench.launch.launcher import launch_environment
from bench.launch.machine import Machine
from bench.launch.preflight import Unusable
from bench.launch.variables import carried
from bench.results.launch_file import Started
from bench.results.store import write_atomically

SCRIPT_NAME = "job.sh"
QUEUE_S = 7 * 86_400.0
"""How long a job may wait for its nodes and run. Its cell's time-out begins with the ranks, inside the job."""
TIMED_OUT = 124
"""Exit status of timeout(1) when the time is up."""
_NOT_IN_A_LINE = re.compile(r"[\s\"'\\]")


def job_name(launch_id: str) -> str:
    return f"scalebench-{launch_id}"


def job_script(launch: Started, folder: Path, machine: Machine) -> str:
    """The script of a launch's job. Every word that is not ours is quoted: nothing in it is executed.

    Raises LaunchError for a results folder that Slurm can't write a log in by name.
    """
    num_ranks = len(next(iter(launch.hosts.values())))
    log = folder.resolve() / "logs" / "launcher_job.log"
    if _NOT_IN_A_LINE.search(str(log)):
        raise LaunchError(
            f"--output {folder}: Slurm can't log into a path with blanks or quotes", hint="give another folder"
        )
    options = {
        "job-name": job_name(launch.launch_id),
        "nodes": len(launch.hosts),
        "ntasks-per-node": num_ranks,
        "nodelist": ",".join(launch.hosts),
        # Minutes, rounded up, and two for the job's own start and end.
        "time": int(launch.timeout_s // 60) + 3,
        "output": str(log).replace("%", "%%"),
        **({"gpus-per-node": num_ranks} if machine.device_type == "cuda" else {}),
    }
    variables = carried(launch_environment(machine, launch.ranks, launch.launch_id))
    ranks = ["srun", "--kill-on-bad-exit=1", f"--nodes={len(launch.hosts)}", f"--ntasks={launch.ranks.world_size}"]
    ranks += [f"--ntasks-per-node={num_ranks}", "--distribution=block", "--export=ALL"]
    ranks += [sys.executable, "-u", "-m", launch.module, "--launch-text", launch.told(folder)]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}={value}" for name, value in options.items()),
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        'MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        f"export MASTER_ADDR MASTER_PORT={launch.port}",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        f"exec timeout --kill-after=15 {launch.timeout_s:g} {shlex.join(ranks)}",
    ]
    return "\n".join(lines) + "\n"


@dataclass
class Slurm:
    """Submits each launch by sbatch and waits for it. `arguments` are the user's own for sbatch: partition, account."""

    machine: Machine
    arguments: str = ""

    def open(self) -> None:
        if shutil.which("sbatch") is None:
            raise LaunchError(
                "there is no sbatch here", hint="log in where jobs are submitted, or use another --launcher"
            )

    def unusable(self, launch: Started) -> Unusable | None:
        return None

    def command(self, launch: Started, folder: Path) -> list[str]:
        try:
            own = shlex.split(self.arguments)
        except ValueError as error:
            raise LaunchError(f"--launcher-args: found {self.arguments!r} ({error})", hint="close the quote") from error
        return ["sbatch", "--wait", "--parsable", *own, str(folder / SCRIPT_NAME)]

    def script(self, launch: Started, folder: Path) -> str:
        return job_script(launch, folder, self.machine)

    def environment(self, launch: Started, folder: Path) -> dict[str, str]:
        write_atomically(folder / SCRIPT_NAME, self.script(launch, folder))
        return launch_environment(self.machine, launch.ranks, launch.launch_id)

    def began(self, launch: Started, folder: Path) -> None:
        pass

    def check(self) -> None:
        pass

    def patience_s(self, launch: Started) -> float:
        return QUEUE_S

    def ended(self, launch: Started, folder: Path, ok: bool) -> dict[str, str]:
        return {} if ok else cancel(launch.launch_id)

    def leftover(self, launch: Started, folder: Path) -> dict[str, str]:
        return cancel(launch.launch_id)

    def close(self) -> None:
        pass


def cancel(launch_id: str) -> dict[str, str]:
    """Cancel the job of a launch, if it still is one. What went wrong, by "slurm"."""
    command = ["scancel", f"--name={job_name(launch_id)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"slurm": f"the job could not be cancelled: {error}"}
    return {} if done.returncode == 0 else {"slurm": f"the job could not be cancelled: {done.stderr.strip()[-200:]}"}
