"""Commands on other hosts: nothing in them is executed by a shell, and what goes wrong is typed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.launch.remote import is_this_host, on_host, on_hosts, ssh_command

SAID = {
    "ssh: Could not resolve hostname a: Name or service not known": ("unresolved", "its name can't be resolved"),
    "ssh: connect to host a port 22: Connection refused": ("unreachable", "no ssh server listens there"),
    "ssh: connect to host a port 22: Connection timed out": ("unreachable", "nothing answers there"),
    "ssh: connect to host a port 22: No route to host": ("unreachable", "nothing answers there"),
    "a: Permission denied (publickey).": ("refused", "does not accept our ssh key"),
    "Host key verification failed.": ("refused", "host key"),
    "Something new": ("unreachable", "Something new"),
}


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a stand-in for ssh, first on the PATH, for a test to write."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "ssh"


def write(script: Path, text: str) -> None:
    script.write_text("#!/bin/sh\n" + text)
    script.chmod(0o755)


@pytest.mark.parametrize("said", SAID)
def test_what_ssh_says_is_typed_and_names_the_host(ssh: Path, said: str) -> None:
    write(ssh, f"echo '{said}' >&2; exit 255\n")
    result = on_host("worker-1", ["true"], 10)
    kind, words = SAID[said]
    assert result.trouble is not None and result.status is None and not result.ok
    assert result.trouble.kind == kind and words in str(result.trouble) and "worker-1" in str(result.trouble)


def test_a_command_that_fails_there_is_no_trouble_with_the_host(ssh: Path) -> None:
    write(ssh, "echo out; echo err >&2; exit 3\n")
    result = on_host("worker-1", ["true"], 10)
    assert (result.status, result.stdout, result.stderr, result.trouble) == (3, "out\n", "err\n", None)


def test_a_host_that_hangs_is_given_up(ssh: Path) -> None:
    write(ssh, "exec sleep 60\n")
    started = time.monotonic()
    results = on_hosts(["b", "a", "b"], ["true"], 0.5)
    assert list(results) == ["b", "a"] and time.monotonic() - started < 5
    assert [result.trouble.kind for result in results.values() if result.trouble] == ["slow", "slow"]


def test_without_an_ssh_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    trouble = on_host("worker-1", ["true"], 1).trouble
    assert trouble is not None and trouble.kind == "no-ssh"


def test_the_users_own_options_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", "-p 2222 -i '/my key'")
    command = ssh_command("a", ["true"])
    assert command[:5] == ["ssh", "-p", "2222", "-i", "/my key"] and "-oBatchMode=yes" in command
    with pytest.raises(ValueError, match="no name of a host"):
        ssh_command("-oProxyCommand=touch x", ["true"])


def test_this_host_needs_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert is_this_host("localhost") and not is_this_host("nowhere.invalid")
    result = on_host("localhost", ["/bin/cat"], 10, stdin="text")
    assert result.ok and result.stdout == "text"
    assert on_host("localhost", ["/no/such"], 10).status == 127


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(WORDS, st.sampled_from(["$(touch planted)", "`touch planted`", ";touch planted", "|", "'", '"'])),
        min_size=1,
    )
)
def test_a_remote_shell_executes_no_word(words: list[str]) -> None:
    """The line is run by a real shell: every word arrives as it is."""
    line = ssh_command("a", ["printf", "%s\\0", *words])[-1]
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words
    assert not Path("planted").exists()
