"""What a machine that nobody here has can do: its devices, links, networks and habits, each number with its source."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import MachineError, SuiteError, nearest
from bench.plan.yaml_source import YamlSource

_FOLDER = Path(__file__).parent / "machines"
_NETWORKS = Path(__file__).parent / "networks.yaml"

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Quantity(BaseModel):
    """A number and where it comes from: a document, `derived` with the formula, `fitted`, or `assumed` with the reason."""

    model_config = _STRICT
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    source: Annotated[str, Field(min_length=3)]


class Positive(Quantity):
    """A quantity that a time or a size is divided by."""

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Device(BaseModel):
    """One GPU, or the share of a CPU that a rank has. `name` as torch reports it, for its peak (bench.theory.flops); None
    where there is no peak. `sustained_frac` by precision: the part of that peak that a large batch of a transformer reaches;
    `sustained_flops_per_s` the same in FLOP/s, for a device without a known peak, and the first to count. `layer_latency_s`:
    what a layer's forward and backward pass take besides, whatever the batch."""

    model_config = _STRICT
    name: str | None
    memory_bytes: Positive
    memory_bytes_per_s: Positive
    layer_latency_s: Quantity
    sustained_frac: dict[str, Positive]
    sustained_flops_per_s: dict[str, Positive] = {}


class Fabric(BaseModel):
    """What connects the devices of a node.

    `mesh`: direct links, `links_per_pair` of them between any two devices. `switch`: `links_per_device` into a crossbar.
    `host`: nothing but the host's own buses, a CPU's memory included. Bandwidths are those of one direction. `hop_s`: seconds
    of one step of gloo's ring beside its bytes, a message and the thread that waits for it woken; NCCL has constants of its own.
    """

    model_config = _STRICT
    kind: Literal["mesh", "switch", "host"]
    host_path_bytes_per_s: Positive
    link_bytes_per_s: Positive | None = None
    hop_s: Quantity | None = None
    links_per_device: Positive | None = None
    links_per_pair: list[list[int]] | None = None
    links_source: str | None = None

    @model_validator(mode="after")
    def _says_what_its_kind_needs(self) -> Fabric:
        needed: dict[str, tuple[str, ...]] = {
            "mesh": ("link_bytes_per_s", "links_per_pair", "links_source"),
            "switch": ("link_bytes_per_s", "links_per_device"),
            "host": (),
        }
        missing = [name for name in needed[self.kind] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a fabric of kind {self.kind} needs {', '.join(missing)}")
        links = self.links_per_pair or []
        if any(len(row) != len(links) for row in links):
            raise ValueError("links_per_pair is not a square matrix")
        size = range(len(links))
        if any(links[a][b] != links[b][a] or links[a][b] < 0 or links[a][a] for a in size for b in size):
            raise ValueError("links_per_pair is not symmetric with zeros on its diagonal")
        return self


class Node(BaseModel):
    """One host: how many devices, how they talk to each other. `num_cores`: those that move the bytes of all ranks where the
    backend is gloo; None for as many as there are ranks."""

    model_config = _STRICT
    num_devices: Annotated[int, Field(ge=1)]
    num_cores: Annotated[int, Field(ge=1)] | None = None
    backend: Literal["nccl", "gloo"]
    fabric: Fabric

    @model_validator(mode="after")
    def _matrix_fits(self) -> Node:
        links = self.fabric.links_per_pair
        if links is not None and len(links) != self.num_devices:
            raise ValueError(f"links_per_pair is of {len(links)} devices, num_devices is {self.num_devices}")
        return self


class Behaviour(BaseModel):
    """What ranks do to each other beyond moving bytes.

    `device_variation_frac`: standard deviation of the speed of equal devices, relative. `lateness_s`: standard deviation of
    what a rank's host adds to a step of a model of 100 million parameters (bench.theory.stragglers). `contention_frac`: the
    part of compute that stands still while a collective runs beside it. `reserved_bytes`: device memory that no tensor can
    have.
    """

    model_config = _STRICT
    device_variation_frac: Quantity
    lateness_s: Quantity
    contention_frac: Quantity
    reserved_bytes: Quantity


class Host(BaseModel):
    """What holds an optimizer that is offloaded: bytes/s of a node's memory, of the part that one process's Adam reaches, of
    copies between the host and one device, and of all devices of a node together."""

    model_config = _STRICT
    memory_bytes_per_s: Positive
    process_bytes_per_s: Positive
    device_copy_bytes_per_s: Positive
    node_copy_bytes_per_s: Positive


class Network(BaseModel):
    """What connects nodes: so many cards a node, bytes/s of one in one direction, and seconds that a hop adds to NCCL's own."""

    model_config = _STRICT
    cards: Positive
    card_bytes_per_s: Positive
    added_latency_s: Quantity

    @property
    def node_bytes_per_s(self) -> float:
        return self.cards.value * self.card_bytes_per_s.value


class Machine(BaseModel):
    """A kind of node, as many of them as are asked for, and the network between them where the file describes one."""

    model_config = _STRICT
    name: str
    description: str
    device: Device
    node: Node
    behaviour: Behaviour
    network: Network | None = None
    host: Host | None = None

    def rates_fitted(self, world_size: int, network: Network | None = None) -> bool:
        """Whether what carries the collectives of so many ranks was measured (bench.theory.fabric_fit), and not described.
        `network`: between nodes, None for the machine's own."""
        if self.num_nodes(world_size) > 1:
            between = network or self.network
            return between is not None and between.card_bytes_per_s.source.startswith("fitted")
        fabric = self.node.fabric
        link = fabric.host_path_bytes_per_s if fabric.link_bytes_per_s is None else fabric.link_bytes_per_s
        return link.source.startswith("fitted")

    def num_nodes(self, world_size: int) -> int:
        """The fewest nodes that hold so many ranks."""
        return -(-world_size // self.node.num_devices)


def machine_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def load_machine(name_or_file: str) -> Machine:
    """The shipped machine of that name, or the one that a YAML file describes.

    Raises MachineError, naming file, line and key, for an unknown name, a file that can't be read, and a description with
    a missing, unknown or wrong key; a number without a source is one.
    """
    if name_or_file in machine_names():
        path = _FOLDER / f"{name_or_file}.yaml"
    elif name_or_file.endswith((".yaml", ".yml")):
        path = Path(name_or_file)
    else:
        raise MachineError(
            f"--machine: found {name_or_file!r}, expected a known machine or a YAML file",
            hint=nearest(name_or_file, machine_names()),
        )
    source = _read(path)
    try:
        return Machine.model_validate(source.content)
    except ValidationError as error:
        raise MachineError(_first(source, error), hint="bench/theory/machines has complete examples") from error


@cache
def networks() -> dict[str, Network]:
    """The named networks."""
    return {str(name): Network.model_validate(fields) for name, fields in _read(_NETWORKS).content.items()}


def load_network(name: str) -> Network:
    """The network of that name. Raises MachineError where there is none."""
    known = networks()
    if name not in known:
        raise MachineError(f"--network: found {name!r}", hint=nearest(name, known))
    return known[name]


def _read(path: Path) -> YamlSource:
    try:
        return YamlSource(path)
    except SuiteError as error:
        raise MachineError(error.found, hint=error.hint) from error


def _first(source: YamlSource, error: ValidationError) -> str:
    first: dict[str, Any] = dict(error.errors()[0])
    location = tuple(first["loc"])
    key = ".".join(map(str, location)) or "the file"
    message = str(first["msg"]).removeprefix("Value error, ")
    found = "" if first["type"] in ("missing", "value_error") else f"found {first['input']!r}; "
    return f"{source.where(location)}: {key}: {found}{message}"
