"""Whether a host can take part in a launch: is the package here, which state of it, and does the way to the master work.

    python -m bench.launch.presence ADDRESS PORT

prints one line of JSON, a `Presence`. Imports no torch: it only looks whether it is there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import socket
import sys

from pydantic import BaseModel, ConfigDict

from bench.results.checkout import git_commit

NEEDED = ("torch", "deepspeed", "psutil")
CONNECT_S = 5.0


class Presence(BaseModel):
    """What one host says of itself. `missing` are modules that can't be found; `no_way` is why the master can't be reached."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hostname: str
    version: str
    commit: str | None
    python: str
    missing: list[str]
    no_way: str | None


def presence(address: str, port: int) -> Presence:
    """This host's own."""
    try:
        version = importlib.metadata.version("scalebench")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed as a package"
    return Presence(
        hostname=socket.gethostname(),
        version=version,
        commit=git_commit(),
        python=platform.python_version(),
        missing=[name for name in NEEDED if importlib.util.find_spec(name) is None],
        no_way=no_way(address, port),
    )


def no_way(address: str, port: int) -> str | None:
    """Why an address can't be reached from here; None if it can. Nobody has to listen: a refusal is an answer."""
    try:
        with socket.create_connection((address, port), CONNECT_S):
            return None
    except ConnectionRefusedError:
        return None
    except TimeoutError:
        return f"no answer within {CONNECT_S:g} s"
    except OSError as error:
        return error.strerror or str(error)


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    sys.stdout.write(presence(address, port).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
