"""What several rooms' tests share: the command as a user runs it, and one set of real launches for all who look at them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.results.record import Record
from bench.results.store import read_records
from tests.command_line import ROOT, Scalebench, command, command_environment
from tests.netlab import Lab, Unavailable, hosts

pytest_plugins = ["bench.track.plugin"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow files first, so that two workers of xdist end at about the same time; a worker takes a whole file, and all files
    that share `equal_work`, so that no launch is made twice."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if not config.pluginmanager.hasplugin("xdist"):
        return
    sharing = {item.path for item in items if "equal_work" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("equal_work" if item.path in sharing else str(item.path)))


@pytest.fixture(scope="session")
def scalebench() -> Scalebench:
    """Runs `scalebench ARGUMENTS` in a folder and returns what came of it."""

    def run(
        *arguments: str | Path, cwd: Path = ROOT, timeout_s: float = 560, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, *command(*arguments)],
            cwd=cwd,
            env=command_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


EQUAL_WORK = """
aa_pair: false
defaults:
  model: gpt-nano
  model_options: {hidden_size: 128, num_layers: 3, vocab_size: 1024}
  seq_len: 64
  world_size: 2
  steps: 8
  max_warmup_steps: 6
  learning_rate: 0.001
  timeout_s: 240
grids:
  - {strategy: [ddp, zero0, zero1, zero2, zero3], micro_batch_size: 4, grad_accum_steps: 1}
  - {strategy: [ddp, zero0, zero1, zero2, zero3], micro_batch_size: 1, grad_accum_steps: 4}
  - {strategy: [ddp, zero3], micro_batch_size: 4, activation_checkpointing: true}
  - {strategy: ddp, micro_batch_size: 8, world_size: 1}
"""


@pytest.fixture(scope="session")
def equal_work(tmp_path_factory: pytest.TempPathFactory, scalebench: Scalebench) -> tuple[Path, list[Record]]:
    """Thirteen real launches that all train on the same global batches of eight sequences, and their report."""
    folder = tmp_path_factory.mktemp("equal-work")
    suite = folder / "equal-work.yaml"
    suite.write_text(EQUAL_WORK)
    results = folder / "results"
    # torchrun starts ranks four seconds sooner than deepspeed, and they run the same program.
    done = scalebench("run", suite, "--output", results, "--device", "cpu", "--launcher", "torchrun")
    assert done.returncode == 0, done.stdout + done.stderr
    return results, read_records(results)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a small tmpfs needs root and CAP_SYS_ADMIN: {made.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.fixture(scope="session")
def two_hosts() -> Iterator[Lab]:
    """Two hosts for all tests that look at them. Those that do something to them take `lab`."""
    try:
        with hosts(2) as made:
            yield made
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture
def lab(two_hosts: Lab) -> Iterator[Lab]:
    """The two hosts, mended after the test."""
    yield two_hosts
    two_hosts.mend()
