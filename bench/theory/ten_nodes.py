"""Ten billion parameters on ten nodes of eight V100s: what each way to synchronise brings, by theory, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from bench.theory.collectives import Group
from bench.theory.machine import Machine, Network, load_machine, load_network
from bench.theory.project import efficiency_error, efficiency_interval, project
from bench.theory.replicas import Training, place, work_of
from bench.theory.stragglers import lateness_s, maximum_quantile, variation_frac
from bench.theory.ways import Options, memory_of, step_of
from bench.theory.workload import Workload, from_preset

MODEL, MACHINE, NODES, MICRO_BATCH_SIZE = "gpt-10b", "dgx1-v100-32gb", 10, 4
EVERY_STEPS = 100
NETWORKS = ("edr-4x", "edr-1x", "eth-10g")

# Kept in the host for the outer step, float32: the last common weights and the momentum. The outer update itself is DiLoCo's.
_OUTER_STATE_BYTES = 8
_OUTER_UPDATE_BYTES = 44
_ADAM_STATE_BYTES = 12


@dataclass(frozen=True)
class Scheme:
    """One way to train, against the same training on one node. `speedup`: tokens a second over one node's, with the interval of
    its scaling (one rank's own work is the same in both and cancels); None where it does not fit. `memory_bytes`: of one GPU;
    `host_bytes`: of one node's host. `apart`: how the replicas' weights differ, in words."""

    network: str
    name: str
    nodes: int
    step_time_s: float
    speedup: float
    speedup_lo: float
    speedup_hi: float
    exposed_comm_s: float
    memory_bytes: float
    fits: bool
    host_bytes: float
    equal_work: bool
    apart: str


@dataclass(frozen=True)
class Fit:
    """Memory of one GPU under a strategy, and what that GPU has."""

    machine: str
    strategy: str
    world_size: int
    memory_bytes: float
    device_bytes: float

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.device_bytes


def fits() -> list[Fit]:
    """Every stage and offload on 16 and 32 GB cards, on one node and on ten."""
    found = []
    for name in ("dgx1-v100-16gb", MACHINE):
        machine = load_machine(name)
        for strategy in ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"):
            for nodes in (1, NODES):
                ranks = nodes * machine.node.num_devices
                kept = memory_of(_work(machine, strategy), strategy, Group(machine, ranks, load_network("edr-4x")))
                found.append(Fit(name, strategy, ranks, kept.total_bytes, machine.device.memory_bytes.value))
    return found


def slowest_frac() -> tuple[float, float, float]:
    """By what part the slowest of all GPUs is slower than a typical one: the mean, and the ends of nine draws of ten."""
    machine = load_machine(MACHINE)
    ranks, spread = NODES * machine.node.num_devices, machine.behaviour.device_variation_frac.value
    low, high = (spread * maximum_quantile(ranks, part) for part in (0.05, 0.95))
    return variation_frac(machine, ranks), low, high


def schemes() -> list[Scheme]:
    """Synchronous ZeRO over all GPUs; asynchronous, and delayed, with ZeRO-3 inside each node and a node as one worker."""
    return [scheme for name in NETWORKS for scheme in _over(name)]


def _over(name: str) -> list[Scheme]:
    machine, network = load_machine(MACHINE), load_network(name)
    devices = machine.node.num_devices
    work = _work(machine, "zero3")
    one = project(work, "zero3", machine, devices, network)
    whole = machine.device.memory_bytes.value
    found = [
        Scheme(
            name, "one node, ZeRO-3", 1, one.step_time_s, 1.0, 1.0, 1.0, one.exposed_comm_s, one.memory_bytes,
            one.memory_bytes <= whole, 0.0, True, "equal",
        )
    ]  # fmt: skip
    for strategy in ("zero2", "zero3"):
        row = project(_work(machine, strategy), strategy, machine, NODES * devices, network)
        ratio = one.step_time_s / row.step_time_s
        low, high = row.efficiency_lo / one.efficiency_hi, row.efficiency_hi / one.efficiency_lo
        found.append(
            Scheme(
                name, f"synchronous, ZeRO-{strategy[-1]}", NODES, row.step_time_s, NODES * ratio,
                NODES * min(low, ratio), NODES * min(1.0, high), row.exposed_comm_s, row.memory_bytes,
                row.memory_bytes <= whole, 0.0, True, "equal after every step",
            )
        )  # fmt: skip
    found += _by_node(name, machine, network, work, one.step_time_s, one.memory_bytes)
    return found


def _by_node(
    name: str, machine: Machine, network: Network, work: Workload, one_s: float, memory_bytes: float
) -> list[Scheme]:
    """Ten replicas of a node each: a parameter server in every host, and DiLoCo with its outer state in the hosts."""
    devices, whole = machine.node.num_devices, machine.device.memory_bytes.value
    assert machine.host is not None
    inside = Training(work.num_params, work.num_layers, one_s, dtype="fp16")
    group = Group(place(machine.host), NODES, network)
    own_bytes = float(work.num_params)
    outer_s = _OUTER_UPDATE_BYTES * own_bytes / machine.host.memory_bytes_per_s.value
    outer_s += 2 * work.gradient_bytes * own_bytes / machine.host.node_copy_bytes_per_s.value
    # All wait for the slowest of 80 devices instead of 8; lateness is drawn anew in each step and evens out.
    waited_s = (variation_frac(machine, NODES * devices) - variation_frac(machine, devices)) * work.step_1_s
    late_s = lateness_s(machine, NODES * devices, work.num_params) / EVERY_STEPS**0.5
    served = step_of(work_of(inside), "param_server", group, Options(num_servers=NODES))
    delayed = step_of(work_of(inside), "diloco", group, Options(every_steps=EVERY_STEPS, outer_dtype="fp16"))
    served_bytes = (_ADAM_STATE_BYTES + 2 * work.gradient_bytes) * own_bytes / NODES
    cases = (
        ("asynchronous, parameter server", served.step_time_s, served.exposed_comm_s, served_bytes,
         f"gradients {NODES - 1} updates old"),
        (f"delayed, DiLoCo every {EVERY_STEPS} steps", delayed.step_time_s + waited_s + late_s + outer_s / EVERY_STEPS,
         delayed.exposed_comm_s, _OUTER_STATE_BYTES * own_bytes, f"up to {EVERY_STEPS} steps apart"),
    )  # fmt: skip
    found = []
    error = efficiency_error("diloco", machine, NODES * devices)
    for title, step_s, exposed_s, host_bytes, apart in cases:
        kept = min(1.0, one_s / step_s)
        low, high = (float(end) for end in efficiency_interval(kept, error))
        found.append(
            Scheme(
                name, title, NODES, step_s, NODES * kept, NODES * low, NODES * high, exposed_s, memory_bytes,
                memory_bytes <= whole, host_bytes, False, apart,
            )
        )  # fmt: skip
    return found


def _work(machine: Machine, strategy: str) -> Workload:
    return from_preset(
        machine,
        model=MODEL,
        micro_batch_size=MICRO_BATCH_SIZE,
        precision="fp16",
        strategy="ddp" if strategy == "ddp" else strategy.partition("_")[0],
        activation_checkpointing=True,
        profile="tuned",
    )
