"""Ways to synchronise, each against a closed form, its own limit, or what others published."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from bench.errors import ProjectionError
from bench.theory.collectives import Group, collective_s
from bench.theory.compression import powersgd_share
from bench.theory.failures import checkpoint_interval_s, useful_frac
from bench.theory.machine import Machine, load_machine, load_network
from bench.theory.project import project
from bench.theory.replicas import GBIT, Training, bandwidth_bytes_per_s, utilisation
from bench.theory.ways import WAYS, Options, memory_of, step_of
from bench.theory.workload import Workload, from_numbers, from_preset
from tests.command_line import Scalebench

DGX_1, SLOW = load_machine("dgx1-v100-32gb"), load_network("eth-10g")


def work(machine: Machine = DGX_1, dtype: str = "fp32", step_s: float = 0.5) -> Workload:
    return from_numbers(machine, num_params=350_000_000, grad_dtype=dtype, step_time_1_s=step_s)


@pytest.mark.parametrize("strategy", sorted(WAYS))
def test_one_rank_takes_what_was_measured(strategy: str) -> None:
    assert project(work(step_s=2.0), strategy, DGX_1, 1).step_time_s == pytest.approx(2.0)


@pytest.mark.parametrize("strategy", sorted(WAYS))
def test_parts_add_up_and_a_faster_network_never_slows_a_step(strategy: str) -> None:
    times = []
    for name in ("eth-10g", "eth-25g", "edr-1x", "edr-4x"):
        row = project(work(), strategy, DGX_1, 16, load_network(name))
        parts = [getattr(row, part) for part in ("forward_s", "backward_s", "update_s", "copy_s", "variation_s")]
        assert sum(parts) + row.lateness_s + row.exposed_comm_s == pytest.approx(row.step_time_s)
        assert row.step_time_lo_s <= row.step_time_s <= row.step_time_hi_s and row.exposed_comm_s >= -1e-9
        times.append(row.step_time_s)
    assert times == sorted(times, reverse=True)


def test_half_precision_halves_what_ddp_waits_for_on_a_slow_link() -> None:
    """Where communication is all: the bytes halve, and of half-precision gradients nothing is spared."""
    group = Group(DGX_1, 16, SLOW)
    plain, half = (step_of(work(step_s=0.01), name, group).exposed_comm_s for name in ("ddp", "ddp_fp16"))
    assert half == pytest.approx(plain / 2, rel=0.02)
    assert step_of(work(), "ddp_fp16", group) == step_of(work(), "ddp_bf16", group)
    already = [step_of(work(dtype="fp16"), name, group).exposed_comm_s for name in ("ddp", "ddp_fp16")]
    assert already[0] == already[1]


def test_powersgd_sends_what_its_matrices_have() -> None:
    """gpt2-medium at rank 4, matrix by matrix: each n x m as 4 (n + m), vectors whole."""
    machine = load_machine("dgx1-v100-32gb")
    medium = from_preset(machine, model="gpt2-medium", micro_batch_size=1, precision="fp32", strategy="ddp")
    h, layers, vocabulary, longest = 1024, 24, 50257, 1024
    matrices = [(h, 3 * h), (h, h), (h, 4 * h), (4 * h, h)] * layers + [(vocabulary, h), (longest, h)]
    sent = sum(4 * (n + m) for n, m in matrices) + layers * 13 * h + 2 * h
    assert powersgd_share(medium, 4) == pytest.approx(sent / medium.num_params, rel=0.02)
    assert powersgd_share(medium, 10**6) == 1.0


def test_powersgd_is_three_calls_a_bucket() -> None:
    """Where nothing hides them: 54 buckets of 25 MiB and the first of 1 MiB, each a third of its share at a time."""
    group, little = Group(DGX_1, 16, SLOW), work(step_s=1e-4)
    share = powersgd_share(little, 1)
    sizes = [2**20, *[25 * 2**20] * 53, 1.4e9 - 2**20 - 53 * 25 * 2**20]
    alone_s = 3 * sum(float(collective_s("all_reduce", share * size / 3, group)) for size in sizes)
    assert step_of(little, "ddp_powersgd", group).exposed_comm_s == pytest.approx(alone_s, rel=0.02)


def test_on_gloo_nothing_of_powersgd_is_hidden() -> None:
    """However long the backward pass is: eight buckets, three calls each."""
    host = load_machine("cpu-gloo")
    long = dataclasses.replace(work(host, step_s=60.0), profile="matched")
    group = Group(host, 4)
    share = powersgd_share(long, 2)
    alone_s = 24 * float(collective_s("all_reduce", share * 4 * 350e6 / 24, group))
    found = step_of(long, "ddp_powersgd", group, Options(powersgd_rank=2))
    assert found.exposed_comm_s == pytest.approx(alone_s, rel=1e-3)
    assert step_of(long, "ddp", group).exposed_comm_s < 0.3 * float(collective_s("all_reduce", 4 * 350e6, group))


def test_what_a_way_keeps_besides_is_kept() -> None:
    """On buckets the allowance for fragmentation, a twentieth, comes on top."""
    group, num_params = Group(DGX_1, 8), 350e6
    plain = memory_of(work(), "ddp", group).total_bytes
    for strategy, options, per_param in (
        ("diloco", Options(outer_dtype="fp16"), 8 + 2),
        ("local_sgd", Options(), 4),
        ("ddp_powersgd", Options(), 4),
    ):
        more = memory_of(work(), strategy, group, options).total_bytes - plain
        assert more == pytest.approx(1.05 * per_param * num_params)
    assert plain - memory_of(work(), "param_server", group).total_bytes == pytest.approx(8 * num_params)


@pytest.mark.parametrize("strategy", ["local_sgd", "diloco"])
def test_delayed_exchange_falls_with_its_period(strategy: str) -> None:
    group = Group(DGX_1, 16, SLOW)
    exposed = {
        every: step_of(work(), strategy, group, Options(every_steps=every)).exposed_comm_s for every in (1, 8, 80)
    }
    assert exposed[1] == pytest.approx(float(collective_s("all_reduce", 4 * 350e6, group)))
    assert exposed[8] == pytest.approx(exposed[1] / 8) and exposed[80] == pytest.approx(exposed[1] / 80)
    late = [step_of(work(), strategy, group, Options(every_steps=every)).lateness_s for every in (1, 100)]
    assert late[1] == pytest.approx(late[0] / 10)


def test_outer_differences_in_fewer_bytes() -> None:
    """int8 is gathered from all, (n - 1) P bytes against 2 (n - 1) / n x 4 P of float32: less for two ranks, more for sixteen."""

    def exposed_s(ranks: int, dtype: str) -> float:
        group = Group(DGX_1, ranks, SLOW)
        return step_of(work(), "diloco", group, Options(every_steps=10, outer_dtype=dtype)).exposed_comm_s

    assert exposed_s(16, "fp16") == pytest.approx(exposed_s(16, "fp32") / 2, rel=0.02)
    assert exposed_s(16, "int8") > exposed_s(16, "fp32")
    two = Training(10**9, 24, 0.1)
    by_dtype = [
        1 / utilisation(two, "diloco", 1e8, options=Options(every_steps=10, outer_dtype=dtype)) - 1
        for dtype in ("fp32", "fp16", "int8")
    ]
    assert by_dtype == pytest.approx([4.0, 2.0, 1.0] * np.array(by_dtype[2]), rel=0.01)


def test_a_parameter_server_is_full_where_its_link_is() -> None:
    """16 workers, 1.4 GB each way over one 10 Gbit/s card: the server's link is never at rest for long, and four servers are
    faster."""
    group = Group(DGX_1, 16, SLOW)
    one, four = (step_of(work(), "param_server", group, Options(num_servers=count)).step_time_s for count in (1, 4))
    full_s = 16 * 1.4e9 / 1.15e9
    # The two directions alone would take 17 instead of 16 messages' time.
    assert full_s < one < 17 / 16 * full_s + 0.5 and four < 0.6 * one
    # Over a fast network the one server's Adam is full: 16 updates of 30 bytes a parameter.
    updating = step_of(work(), "param_server", Group(DGX_1, 16, load_network("edr-8x"))).step_time_s
    assert 1 < updating / (16 * 30 * 350e6 / 4.9e10) < 1.1
    waiting, bounded, free = (
        step_of(work(step_s=60.0), "param_server", group, Options(staleness=bound, num_servers=4)).step_time_s
        for bound in (0, 3, None)
    )
    assert waiting > bounded > free


def test_ten_billion_parameters_offloaded_on_one_v100_as_deepspeed_logged_them() -> None:
    """DeepSpeed's ZeRO-Offload tutorial (zero_offload_dp1_10B_log.png): 50 layers of 4096, ten sequences of 1024, one GPU of a
    DGX-2: 25.7 s a step, forward 6.2, backward 12.2, optimizer 7.8. The host's rate is derived from that optimizer; the rest
    of the step is not."""
    machine = load_machine("dgx2-v100-32gb")
    ten = from_preset(
        machine,
        model="gpt-10b",
        micro_batch_size=10,
        precision="fp16",
        strategy="zero2",
        activation_checkpointing=True,
        profile="tuned",
    )
    row = project(ten, "zero2_offload", machine, 1)
    assert row.forward_s + row.backward_s == pytest.approx(6.2 + 12.2, rel=0.10)
    assert row.step_time_s == pytest.approx(25.7, rel=0.10)
    assert row.update_s == pytest.approx(6.35, rel=0.02)
    assert (
        row.fits and row.memory_bytes > 0.95 * machine.device.memory_bytes.value
    )  # the tutorial's batch filled the card


def test_ranks_of_a_node_share_its_memory_and_its_links() -> None:
    machine = load_machine("dgx2-v100-32gb")
    updates = {ranks: project(work(machine), "zero2_offload", machine, ranks).update_s for ranks in (1, 2, 16)}
    assert updates[1] == pytest.approx(2 * updates[2])
    # From five ranks on the node's memory, not a process, is what is full.
    assert updates[16] == pytest.approx(30 * 350e6 / 2.05e11)
    two, three = (project(work(), name, DGX_1, 8) for name in ("zero2_offload", "zero3_offload"))
    assert two.memory_bytes > three.memory_bytes and three.exposed_comm_s >= two.exposed_comm_s * 0.5


def test_a_machine_without_a_described_host_can_not_offload() -> None:
    with pytest.raises(ProjectionError, match="cpu-gloo: its host is not described"):
        project(work(load_machine("cpu-gloo")), "zero2_offload", load_machine("cpu-gloo"), 2)


# Streaming DiLoCo (arXiv:2501.18512), table 4, a simulation: 1 billion parameters, 24 layers, steps of 0.1 s, H = 100, two
# replicas. Gbit/s for 50, 80, 90 and 95 % of compute utilisation.
PUBLISHED_GBIT = {"ddp": (86.8, 152.6, 184.2, 222.3), "diloco": (1.4, 6.2, 13.3, 23.3)}
OURS_GBIT = {"ddp": (99.5, 186, 222, 242), "diloco": (1.60, 6.40, 14.4, 30.4)}


@pytest.mark.parametrize("strategy", sorted(PUBLISHED_GBIT))
@pytest.mark.parametrize("row", range(4), ids=["50", "80", "90", "95"])
def test_bandwidths_of_a_published_simulation_within_a_factor_of_one_and_a_half(strategy: str, row: int) -> None:
    """Nothing is fitted: 16 bits a parameter (data exchanged in its table 1: 400 times less for H = 100 and 4 bits)."""
    wanted = (0.5, 0.8, 0.9, 0.95)[row]
    options = Options(every_steps=100, outer_dtype="bf16")
    found = bandwidth_bytes_per_s(Training(10**9, 24, 0.1), strategy, wanted, options=options) / GBIT
    assert abs(math.log(found / PUBLISHED_GBIT[strategy][row])) <= math.log(1.5)
    assert found == pytest.approx(OURS_GBIT[strategy][row], rel=0.01)  # as the README has it


def test_failures_by_hand_and_by_trying_every_interval() -> None:
    """A checkpoint of 60 s, a node lost every 1,000 hours, ten nodes: Young's interval is sqrt(2 x 60 x 360,000), 6,573 s, to
    which Daly adds 20 s, less the checkpoint."""
    interval = checkpoint_interval_s(360_000, 60)
    assert interval == pytest.approx(6572.7 + 20.1 - 60, abs=0.5)
    best = useful_frac(10, 3.6e6, 60, 300)
    assert best == pytest.approx(1 - 60 / interval - interval / 2 / 360_000 - 300 / 360_000, abs=0.001)
    assert all(useful_frac(10, 3.6e6, 60, 300, other) <= best + 1e-9 for other in np.geomspace(100, 1e5, 50))
    assert useful_frac(10**6, 3.6e6, 60, 300) < 0.01 and useful_frac(10**9, 3.6e6, 60, 300) == 0.0


def test_the_command_knows_them(scalebench: Scalebench) -> None:
    numbers = ("--machine", "dgx1-v100-16gb", "--num-params", "3.5e8", "--step-time-1", "0.5", "--network", "eth-10g")
    asked = ("--strategy", ",".join(WAYS), "--world-sizes", "16", "--json", "--every-steps", "50", "--staleness", "2")
    done = scalebench("project", *numbers, *asked)
    assert done.returncode == 0, done.stderr
    assert [row["strategy"] for row in json.loads(done.stdout)] == list(WAYS)
    done = scalebench("project", *numbers, "--strategy", "diloco", "--staleness", "2")
    assert "--staleness: not used without --strategy param_server" in done.stderr
    assert "no step time without the loss: diloco" in done.stdout
    for flag, value in (("--every-steps", "0"), ("--outer-dtype", "fp4")):
        done = scalebench("project", *numbers, "--strategy", "diloco", flag, value)
        assert done.returncode == 2 and f"{flag}: found" in done.stderr
