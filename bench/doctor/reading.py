"""What was read of one host: plain figures, nothing judged, so that they travel between hosts as JSON.

Needs the standard library alone: a host on which half of the installation is missing is the one to hear of. `None` is what
could not be read; why stands in the `unread` beside it, under the field's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Torch:
    """What torch says of itself, in a process of its own. `arch_list`: what its CUDA kernels are compiled for (`sm_70`:
    machine code for 7.0, `compute_90`: PTX from 9.0 on); empty without CUDA. `sees_gpus`: torch.cuda.is_available()."""

    version: str
    cuda: str | None
    nccl: str | None
    arch_list: list[str]
    sees_gpus: bool


@dataclass(frozen=True)
class DeepSpeed:
    """DeepSpeed and its compiled ops: those that came with the installation, and those that were compiled since, in `folder`."""

    version: str
    installed_ops: list[str]
    built_ops: list[str]
    folder: str


@dataclass(frozen=True)
class Software:
    """`packages`: name -> version of every distribution, names as PEP 503 writes them. `programs`: name -> path of a program on
    the PATH, or beside this Python; None where it isn't. `source_sha256`: the digest of the package's own files. `commit` has
    `-dirty` where the checkout was changed."""

    python: str
    executable: str
    system: str
    kernel: str
    libc: str | None
    packages: dict[str, str]
    programs: dict[str, str | None]
    on_path: list[str]
    python_headers: bool
    commit: str | None
    source_sha256: str
    torch: Torch | None = None
    deepspeed: DeepSpeed | None = None
    transformers: str | None = None
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gpu:
    """One GPU by NVML. `links`: NVLinks that are up, to the GPU of that index; `switch_links`: those to a switch; `num_links`:
    all that it has. `slowdowns`: what holds its clock down now, as NVML names it. `ecc`: None where the card has none;
    `ecc_errors`: uncorrected since the driver was loaded; `repair_pending`: memory that is retired or remapped at the next start.
    `num_processes`: programs that compute on it."""

    index: int
    name: str
    uuid: str
    capability: tuple[int, int]
    memory_bytes: int
    memory_used_bytes: int | None = None
    num_processes: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    max_pcie_generation: int | None = None
    max_pcie_width: int | None = None
    clock_mhz: int | None = None
    max_clock_mhz: int | None = None
    slowdowns: list[str] | None = None
    temperature_c: int | None = None
    ecc: bool | None = None
    ecc_errors: int | None = None
    repair_pending: bool | None = None
    num_links: int | None = None
    links: list[int] | None = None
    switch_links: int | None = None
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gpus:
    """The GPUs that the driver shows. `cuda`: the newest CUDA that the driver runs. `on_bus`: PCI ids (`10de:1db1`) of NVIDIA's
    display and 3D controllers on the bus, whether a driver shows them or not. `no_nvml`: why NVML does not answer."""

    driver: str | None
    cuda: str | None
    devices: list[Gpu]
    on_bus: list[str]
    no_nvml: str | None = None


@dataclass(frozen=True)
class Leftover:
    """A file of DeepSpeed's in /dev/shm. `in_use`: whether a process that may be looked at has it mapped."""

    name: str
    size_bytes: int
    in_use: bool


@dataclass(frozen=True)
class Disk:
    """Where results would go: the folder, or the nearest one above it that is there."""

    folder: str
    total_bytes: int
    free_bytes: int
    writable: bool
    rotational: bool | None = None


@dataclass(frozen=True)
class Host:
    """`limit_bytes`: what a container may take of the memory. Limits: the soft one, None for unlimited. `is_root`: whether
    others' processes could be looked at."""

    num_cores: int
    usable_cores: int
    memory_bytes: int | None
    available_bytes: int | None
    limit_bytes: int | None
    disk: Disk | None
    shm_total_bytes: int | None
    shm_free_bytes: int | None
    leftovers: list[Leftover]
    open_files: int | None
    locked_memory_bytes: int | None
    processes: int | None
    is_root: bool
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Interface:
    """A network interface with its IPv4 and IPv6 addresses. `speed_mbps`: None where the driver names none."""

    name: str
    addresses: list[str]
    up: bool
    speed_mbps: int | None = None


@dataclass(frozen=True)
class Network:
    """`usable`: the addresses of this host's own name that can be bound here, in the resolver's order. `resolved`: the names that
    were asked for -> their addresses, empty where there are none. `infiniband`: devices with an active port."""

    hostname: str
    addresses: list[str]
    usable: list[str]
    interfaces: list[Interface] | None
    infiniband: list[str]
    resolved: dict[str, list[str]]
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EnvironmentFile:
    """A `.deepspeed_env`: `bad_lines` (from 1 on) have no `=`, and crash DeepSpeed, or are comments; `values` are those of
    variables that set how ranks communicate, `names` all that it sets. Others may be secrets, so their values stay there."""

    path: str
    bad_lines: list[int]
    names: list[str]
    values: dict[str, str]


@dataclass(frozen=True)
class Reading:
    """All of one host. `host`: its name in the hostfile. The two instants are its own clock's, seconds since 1970. `variables`:
    those of its environment that set devices and communication."""

    host: str
    started_at_s: float
    ended_at_s: float
    software: Software
    gpus: Gpus
    machine: Host
    network: Network
    variables: dict[str, str]
    schema_version: int = SCHEMA_VERSION
