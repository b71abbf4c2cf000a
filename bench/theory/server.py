"""What a step takes on average where workers send gradients to a parameter server and fetch weights, at their own pace or not."""

from __future__ import annotations

import math

from bench.theory.collectives import Group
from bench.theory.offload import CPU_ADAM_BYTES_PER_PARAM
from bench.theory.queues import Station, round_s
from bench.theory.step import Step
from bench.theory.stragglers import lateness_s, variation_frac
from bench.theory.workload import Workload


def served_step(work: Workload, group: Group, staleness: int | None, num_servers: int) -> Step:
    """Seconds in which every worker finishes one step on average; N of them are N updates, or one of all where they wait.

    A worker computes, sends P gradients and fetches P weights. S servers, in hosts of their own, share the parameters; each
    receives through one link of a node and sends through it at the same time, and updates as CPU Adam does. What goes through
    a link in one direction in a step of all is N P / S at a server, P for each worker of a node. `staleness`: how many steps a
    worker may be ahead of the slowest.

    0: all wait for each other, and so send and fetch together: the slowest + a full link's time, in and out + an update. Else
    nobody waits for another worker, but for the links: N workers that compute, then pass S links into the servers, an update,
    and S links out of them, P / S each, are a closed network of queues (`round_s`); or those of a node, its own link both
    ways, where that takes longer. Bounded, all go at the slowest device's pace in the long run, and a host's lateness averages
    over staleness + 1 steps; None is unbounded, and each goes at its own. Ho et al. 2013 (stale synchronous parallel),
    section 3; Li et al. 2014 (parameter server), section 3. Not counted: that old gradients are worth less, a server's own
    lateness, and that workers which begin together send together at first: a window of few steps takes longer, at most what it
    takes at staleness 0.
    """
    ranks, machine = group.world_size, group.machine
    passes = work.grad_accum_steps
    forward_s, backward_s = passes * work.forward_s, passes * work.backward_s
    if ranks == 1:
        return Step(forward_s, backward_s, work.update_s, 0.0, 0.0, 0.0, 0.0)
    own_s = forward_s + backward_s
    sent_bytes = float(work.gradient_bytes * work.num_params)
    link = _link_bytes_per_s(group)
    alone_s = sent_bytes / link
    in_node = min(ranks, machine.node.num_devices)
    full_s = max(ranks / num_servers, in_node) * alone_s
    update_s = CPU_ADAM_BYTES_PER_PARAM * work.num_params / num_servers / _server_bytes_per_s(group)
    varied_s = variation_frac(machine, ranks) * own_s
    late_s = lateness_s(machine, ranks, work.num_params)
    if staleness == 0:
        exposed_s = 2 * full_s + update_s
        return Step(forward_s, backward_s, 0.0, 0.0, varied_s, late_s, exposed_s)
    varied_s = 0.0 if staleness is None else varied_s
    late_s = 0.0 if staleness is None else late_s / math.sqrt(staleness + 1)
    pace_s = own_s + varied_s + late_s
    at_servers = (Station(alone_s / num_servers, 2 * num_servers), Station(update_s))
    whole_s = max(
        round_s(ranks, pace_s, at_servers),
        round_s(in_node, pace_s + update_s, (Station(alone_s, 2),)),
    )
    return Step(forward_s, backward_s, 0.0, 0.0, varied_s, late_s, whole_s - pace_s)


def _link_bytes_per_s(group: Group) -> float:
    """Of a node to the servers, and of a server: the network, or the host's own path where all is in one node."""
    if group.between is not None:
        return group.between.node_bytes_per_s
    return group.machine.node.fabric.host_path_bytes_per_s.value


def _server_bytes_per_s(group: Group) -> float:
    """What a server's Adam reaches of its memory; on CPUs, a rank's own."""
    host = group.machine.host
    return group.machine.device.memory_bytes_per_s.value if host is None else host.process_bytes_per_s.value
