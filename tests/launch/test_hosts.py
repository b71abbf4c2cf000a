"""Which hosts and slots are used, and the commands and variables that go to them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import LaunchError, RecordError, ScalebenchError, SuiteError
from bench.launch.hostfile import Hostfile, read_hostfile
from bench.launch.launcher import launch_environment
from bench.launch.machine import Machine
from bench.launch.over_ssh import OverSsh
from bench.launch.placement import place
from bench.launch.several import Several, hosts_text, no_ssh_command, several_command
from bench.launch.variables import MARK, carried, check_for_pdsh, env_file_text
from bench.plan.cell import Cell
from bench.plan.flags import with_flags
from bench.plan.suite import LaunchSettings, PlannedCell, Suite
from bench.results.launch_file import Launch

CELL = Cell(model="gpt-nano", strategy="ddp", world_size=4)
LAUNCH = Launch(
    launch_id="0123456789ab",
    cell=CELL,
    started_at="now",
    launcher="deepspeed",
    command=["not", "told"],
    hosts={"a": [0, 1], "b": [0, 2]},
    port=1234,
)
CPU = Machine("cpu", 8)
NAMES = ["worker-0", "worker-1", "worker-2"]

HOSTS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4), min_size=1)
TEXT = st.text(max_size=30)
NODES = st.tuples(st.sampled_from(NAMES), st.lists(st.integers(0, 4), max_size=3))


def spec(nodes: list[tuple[str, list[int]]]) -> str:
    return "@".join(host + (":" + ",".join(map(str, slots)) if slots else "") for host, slots in nodes)


@pytest.mark.slow  # imports deepspeed
@settings(max_examples=200, deadline=None)
@given(HOSTS, st.lists(NODES, min_size=1, max_size=3), st.booleans())
def test_include_and_exclude_mean_what_they_mean_to_deepspeed(
    hosts: dict[str, int], nodes: list[tuple[str, list[int]]], include: bool
) -> None:
    from deepspeed.launcher.runner import parse_inclusion_exclusion

    # Of a host named whole and in parts, DeepSpeed forgets the whole.
    whole = {host for host, slots in nodes if not slots}
    nodes = [(host, slots) for host, slots in nodes if not slots or host not in whole]
    text = spec(nodes)
    mine = Hostfile(Path("hosts"), {host: tuple(range(number)) for host, number in hosts.items()})
    flags = (text, "") if include else ("", text)
    try:
        expected = dict(parse_inclusion_exclusion(hosts, *flags))
    except ValueError:
        expected = {}
    try:
        found = mine.filtered(*(flag or None for flag in flags)).numbered
    except LaunchError:
        found = {}
    assert found == expected


@settings(max_examples=150)
@given(TEXT)
def test_no_text_after_include_is_a_traceback(text: str) -> None:
    hosts = Hostfile(Path("hosts"), {"worker-0": (0, 1)})
    try:
        assert hosts.filtered(text, None).slots["worker-0"]
    except LaunchError as error:
        assert "--include" in str(error) and "\n" not in str(error).replace(text, "")


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        TEXT, st.lists(st.sampled_from(["a slots=2", "b slots=1", "#", "", "a slots=x", "c", "\x00"])).map("\n".join)
    )
)
def test_no_hostfile_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any-hosts"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        assert read_hostfile(path).num_slots > 0
    except LaunchError as error:
        assert str(path) in str(error)


@settings(max_examples=150)
@given(HOSTS, st.integers(1, 12), st.sampled_from(["pack", "spread"]))
def test_placements_are_even_and_pack_or_spread(hosts: dict[str, int], world_size: int, policy: str) -> None:
    slots = {host: tuple(range(number)) for host, number in hosts.items()}
    names = list(slots)
    fitting = [
        number
        for number in range(1, len(names) + 1)
        if world_size % number == 0 and all(hosts[host] >= world_size // number for host in names[:number])
    ]
    found = place(slots, world_size, policy)  # type: ignore[arg-type]
    if not fitting:
        assert found is None
        return
    assert found is not None and found.world_size == world_size
    assert found.hosts == names[: found.num_nodes]
    assert {len(numbers) for numbers in found.slots.values()} == {found.ranks_per_node}
    assert found.num_nodes == (min if policy == "pack" else max)(fitting)


def test_localhost_is_no_host_of_several(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("localhost slots=2\na slots=2\n")
    with pytest.raises(LaunchError, match="localhost is another machine on every host"):
        read_hostfile(path)


def test_a_placement_is_part_of_the_cell_and_its_default_is_not() -> None:
    spread = CELL.model_copy(update={"placement": "spread"})
    assert "placement" not in CELL.model_dump(exclude_defaults=True) and spread.id != CELL.id
    suite = Suite("mine", "", 0, tuple(PlannedCell(cell, LaunchSettings()) for cell in (CELL, spread)))
    both = with_flags(suite, None, None, None, "spread")
    assert [planned.cell for planned in both.cells] == [spread]
    assert with_flags(suite, None, None, None, None) == suite
    with pytest.raises(SuiteError, match="did you mean 'spread'"):
        with_flags(suite, None, None, None, "spred")


def test_a_launch_is_one_word_without_anything_for_a_shell() -> None:
    text = LAUNCH.told(Path("/results/$(touch planted)"))
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
    launch, folder = Launch.read_told(text)
    assert folder == Path("/results/$(touch planted)")
    assert launch == LAUNCH.model_copy(update={"command": []}) and list(launch.hosts) == ["a", "b"]


@given(st.one_of(TEXT, st.binary().map(lambda data: data.decode("latin-1"))))
def test_what_is_no_launch_is_one_line(text: str) -> None:
    with pytest.raises(RecordError, match="--launch-text"):
        Launch.read_told(text)


@pytest.mark.slow  # imports deepspeed
def test_the_commands_for_several_hosts_are_ones_that_deepspeed_takes(tmp_path: Path) -> None:
    from deepspeed.launcher.runner import fetch_hostfile, parse_args, parse_inclusion_exclusion

    hosts = tmp_path / "hosts"
    hosts.write_text(hosts_text(LAUNCH))
    exported = carried(launch_environment(CPU, CELL, "id"))
    command = several_command(Several("deepspeed"), LAUNCH, tmp_path, "10.0.0.1", exported, cuda=False)
    told = parse_args(command[1:])
    assert (told.launcher, told.master_addr, told.master_port, told.force_multi) == ("pdsh", "10.0.0.1", 1234, True)
    assert (told.module, told.user_script, told.no_ssh) == (True, "bench.worker.train", False)
    assert parse_inclusion_exclusion(fetch_hostfile(told.hostfile), told.include, "") == {"a": [0, 1], "b": [0, 2]}
    assert told.user_args == ["--launch-text", LAUNCH.told(tmp_path)]
    told = parse_args(no_ssh_command(Several("deepspeed"), LAUNCH, tmp_path, "10.0.0.1", 1)[1:])
    assert (told.no_ssh, told.node_rank, told.include) == (True, 1, "a:0,1@b:0,2")
    openmpi = Several("deepspeed", "openmpi", "--mca btl_tcp_if_include eth1")
    told = parse_args(several_command(openmpi, LAUNCH, tmp_path, "10.0.0.1", exported, cuda=False)[1:])
    assert (told.launcher, told.launcher_args, told.include) == ("openmpi", "--mca btl_tcp_if_include eth1", "")
    for how in (Several("torchrun"), Several("deepspeed", "ssh")):
        words = several_command(how, LAUNCH, tmp_path, "10.0.0.1", exported, cuda=True)
        assert words[1:5] == ["-m", "bench.launch.each", "--include", "a:0,1@b:0,2"]
        assert ("--visible-devices" in words) == (how.launcher == "torchrun") and "DS_ACCELERATOR" in words
    torchrun = " ".join(no_ssh_command(Several("torchrun"), LAUNCH, tmp_path, "10.0.0.1", 1))
    assert "--nnodes 2 --node_rank 1 --nproc_per_node 2 --master_addr 10.0.0.1 --master_port 1234" in torchrun


def test_deepspeeds_environment_file_has_ours_and_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    monkeypatch.delenv("DS_ENV_FILE", raising=False)
    users = "# mine\n\nNCCL_DEBUG=INFO\nPYTHONPATH=/mine\nOMP_NUM_THREADS=3\nSCALEBENCH_LAUNCH_ID=other\n"
    (home / ".deepspeed_env").write_text(users)
    (here / ".deepspeed_env").write_text("OMP_NUM_THREADS=4\nA=$HOME\n")
    environment = {
        "PYTHONPATH": "/ours",
        "OMP_NUM_THREADS": "1",
        MARK: "id",
        "GLOO_SOCKET_IFNAME": "eth1",
        "PATH": "/x",
    }
    variables = carried(environment)
    assert "PATH" not in variables
    lines = env_file_text(variables).splitlines()
    assert all("=" in line for line in lines)  # a blank line or a comment crashes the runner
    assert dict(line.split("=", 1) for line in lines) == {
        **{"PYTHONPATH": "/ours:/mine", "OMP_NUM_THREADS": "4", MARK: "id", "GLOO_SOCKET_IFNAME": "eth1"},
        **{"NCCL_DEBUG": "INFO", "A": "$HOME"},
    }
    assert (home / ".deepspeed_env").read_text() == users
    for wrong in ("A=$(touch planted)", "A=`touch planted`", 'A="; touch planted; "', "A B", "$(touch planted)=1"):
        (here / ".deepspeed_env").write_text(wrong + "\n")
        with pytest.raises(LaunchError, match="deepspeed_env:1: found"):
            env_file_text({})


@pytest.mark.slow  # imports deepspeed
@settings(max_examples=80, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r")), st.just("$(touch planted)")
    )
)
def test_a_variable_arrives_or_is_refused(value: str) -> None:
    """Through DeepSpeed's own quoting and a real shell."""
    from deepspeed.launcher.multinode_runner import PDSHRunner

    try:
        check_for_pdsh({"GLOO_SOCKET_IFNAME": value}, {})
    except LaunchError:
        return
    runner = PDSHRunner.__new__(PDSHRunner)
    runner.exports = {}
    runner.add_export("GLOO_SOCKET_IFNAME", value)
    line = f'export GLOO_SOCKET_IFNAME={runner.exports["GLOO_SOCKET_IFNAME"]}; printf %s "$GLOO_SOCKET_IFNAME"'
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == value.strip()


def test_a_working_folder_that_a_shell_would_execute_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "$(touch planted)").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(LaunchError, match="working folder"):
        OverSsh(Several("deepspeed"), CPU, warn=print).environment(LAUNCH, tmp_path)
    monkeypatch.chdir(tmp_path)
    environment = OverSsh(Several("deepspeed"), CPU, warn=print).environment(LAUNCH, tmp_path)
    assert Path(environment["DS_ENV_FILE"]).read_text().startswith("DS_ACCELERATOR=cpu\n")
    assert "-oBatchMode=yes" in environment["PDSH_SSH_ARGS_APPEND"]
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", "-i '/my key'")
    with pytest.raises(ScalebenchError, match="blank"):
        OverSsh(Several("deepspeed"), CPU, warn=print).environment(LAUNCH, tmp_path)
    assert not os.path.exists("planted")
