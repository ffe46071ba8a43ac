"""The ssh connection against a real server on loopback: cuts, keys, clients, odd names."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwbench import config, measurement
from hwbench.connections import _link, ssh
from hwbench.errors import TargetError, UserError
from hwbench.registry import CONNECTIONS
from tests.loopback import Loopback, serving

pytestmark = pytest.mark.contract

COUNT = """
import sys
for line in sys.stdin:
    for number in range(int(line)):
        print(number, flush=True)
"""
WAITS = """
import os, signal, subprocess, sys
inner = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(inner.pid, flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def server(module_server: Loopback) -> Iterator[Loopback]:
    yield module_server
    module_server.configure()


def opened(server: Loopback, **changes: Any) -> ssh.SshConnection:
    made = CONNECTIONS.create("ssh", server.options(**changes))
    assert isinstance(made, ssh.SshConnection)
    return made


def sessions(server: Loopback) -> list[str]:
    return [p.name for p in (server.folder / "there/sessions").glob("*")]


def test_a_cut_line_costs_no_line_and_doubles_none(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(COUNT)
    with contextlib.closing(opened(server)) as board, (tmp_path / "log").open("wb") as log:
        channel = board.start([board.put(tmp_path / "count.py", "count.py")], log)
        channel.send("2000")
        found = [channel.receive(60) for _ in range(1000)]
        server.cut()
        found += [channel.receive(60) for _ in range(1000)]
        server.cut()
        channel.send("3")
        found += [channel.receive(60) for _ in range(3)]
        server.cut()
        board.get("count.py", tmp_path / "back.py")
    assert found == [str(n) for n in (*range(2000), *range(3))]
    assert (tmp_path / "back.py").read_text() == COUNT
    assert sessions(server) == []


def test_a_server_that_stays_away_is_said_and_the_lease_is_free_again(
    server: Loopback, tmp_path: Path
) -> None:
    (tmp_path / "count.py").write_text(COUNT)
    board = opened(server, patience=2)
    with contextlib.closing(board), (tmp_path / "log").open("wb") as log:
        channel = board.start([board.put(tmp_path / "count.py", "count.py")], log)
        channel.send("1")
        assert channel.receive(60) == "0"
        server.end()
        try:
            with pytest.raises(TargetError, match="the line was cut"):
                channel.receive(60)
        finally:
            server.begin()
    # Its client is away: another one gets in at once, and what was left behind is removed.
    with contextlib.closing(opened(server)):
        assert len(sessions(server)) == 1


def test_a_board_that_restarted_has_lost_the_session(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    with contextlib.closing(opened(server)) as board, (tmp_path / "log").open("wb") as log:
        channel = board.start([board.put(tmp_path / "waits.py", "waits.py")], log)
        inner = int(channel.receive(60))
        holder = json.loads((server.folder / "there/lease").read_text())
        for pid in _processes(holder["session"]):
            os.kill(pid, signal.SIGKILL)
        server.cut()
        with pytest.raises(TargetError, match="the session there is lost"):
            channel.receive(60)
    with contextlib.closing(opened(server)):
        assert not runs(inner), "the new client's daemon cleans up after the one that was killed"


def runs(pid: int) -> bool:
    """Return whether a process lives; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _processes(session: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if session.encode() in words and b"import os,sys" in words:
                found.append(int(folder.name))
    return found


def test_everything_a_worker_started_ends_with_it(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    with contextlib.closing(opened(server)) as board, (tmp_path / "log").open("wb") as log:
        channel = board.start([board.put(tmp_path / "waits.py", "waits.py")], log)
        inner = int(channel.receive(60))
        assert runs(inner)
    assert not runs(inner)


def test_one_guest_at_a_time(server: Loopback) -> None:
    with contextlib.closing(opened(server)), pytest.raises(TargetError, match=r"in use by .*@"):
        opened(server)
    opened(server).close()


@pytest.mark.parametrize(
    ("configured", "says"),
    [({"key": "otherkey"}, "ssh-copy-id"), ({"known": "nobody"}, "never accepts a key by itself")],
)
def test_a_wrong_key_is_said_with_its_mend(
    configured: dict[str, str], says: str, server: Loopback
) -> None:
    server.configure(**configured)
    with pytest.raises(TargetError) as caught:
        opened(server)
    assert says in str(caught.value)
    assert not (server.folder / "nobody").exists(), "no key is accepted unasked"


@pytest.mark.parametrize(
    "host",
    ["-oProxyCommand=touch x", "", "a b", "a\nb", "pi@$(touch x)", "a;touch x", "a`id`", "a|b"],
)
def test_what_is_no_host_never_reaches_ssh(host: str, server: Loopback) -> None:
    with pytest.raises(UserError, match="no host"):
        opened(server, host=host)


def test_the_users_own_rules_for_host_keys_hold(server: Loopback) -> None:
    words = _link.command("board", ["true"], port=0, config="", connect_timeout=5)
    assert not [w for w in words if "HostKey" in w or "KnownHosts" in w]
    assert "BatchMode=yes" in words
    odd = ["echo", "a b", "$(touch x)", "'; touch x"]
    assert shlex.split(_link.command("board", odd, port=0, config="", connect_timeout=5)[-1]) == odd


def test_names_are_quoted_and_stay_inside(server: Loopback, tmp_path: Path) -> None:
    odd = "there $(touch pwned) '\" ; `touch pwned`"
    name = "a $(touch pwned) ; 'b' \" \n c"
    (tmp_path / "file").write_text("x")
    with contextlib.closing(opened(server, folder=str(server.folder / odd))) as board:
        place = Path(board.put(tmp_path / "file", name))
        assert place.read_text() == "x"
        assert (server.folder / odd) in place.parents
        for outside in ("../../../outside", "/tmp/outside"):
            with pytest.raises(TargetError, match="outside"):
                board.put(tmp_path / "file", outside)
            with pytest.raises(TargetError, match="outside"):
                board.get(outside, tmp_path / "back")
    shutil.rmtree(server.folder / odd)
    assert not list(server.folder.rglob("pwned"))
    assert not (Path.home() / "pwned").exists()


def test_content_travels_once(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    for number in range(2):
        with contextlib.closing(opened(server)) as board:
            sent = _sent(board)
            board.put(tmp_path / "file", f"name{number}")
            board.put(tmp_path / "file", "again")
            assert len(sent) == (1 if number == 0 else 0)


def _sent(board: ssh.SshConnection) -> list[Path]:
    """Return a list that grows by every file that is sent."""
    sent: list[Path] = []
    send = board._send_file

    def noted(path: Path, content: str) -> None:
        sent.append(path)
        send(path, content)

    board._send_file = noted  # type: ignore[method-assign]
    return sent


def test_a_python_by_name_means_what_setup_made_of_it(server: Loopback, tmp_path: Path) -> None:
    base = Path(os.path.realpath(sys.executable))
    there = tmp_path / "there"
    venv.create(there / "venv", symlinks=True)
    (tmp_path / "where.py").write_text("import sys; print(sys.prefix)")
    found = {}
    for python in ("", base.name, str(base)):
        with (
            contextlib.closing(opened(server, folder=str(there), python=python)) as board,
            (tmp_path / "log").open("wb") as log,
        ):
            script = board.put(tmp_path / "where.py", "where.py")
            found[python] = board.start([script], log).receive(60)
    assert found.pop(str(base)) == sys.base_prefix, "a path is meant as it is"
    assert set(found.values()) == {str(there / "venv")}


def test_a_runtime_that_does_not_load_is_said(server: Loopback, tmp_path: Path) -> None:
    fake = tmp_path / "site/tvm"
    (fake / "lib").mkdir(parents=True)
    (fake / "__init__.py").touch()
    (fake / "lib/libtvm_runtime.so").write_text("no library")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "board.yaml").write_text(
        "version: 1\ntitle: t\nsoc: s\nisa: x86_64\ncores: 2\nram: 1GiB\n"
        'backends: {tvm: {}, "null": {}}\n'
        f"connection: {json.dumps({'kind': 'ssh', **server.options(python=str(python))})}\n"
    )
    found = measurement.runtimes(config.load_target(str(tmp_path / "board.yaml")))
    why = "TVM's libtvm_runtime.so does not load"
    assert found["tvm"].startswith(f"{measurement.UNAVAILABLE}: {why}")
    assert "null" in found["null"]


def test_who_says_which_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HWBENCH_RPI4_HOST", raising=False)
    assert config.load_target("rpi4").connection is None
    assert "--host" in config.load_target("rpi4").how_to_reach

    def host(given: str = "") -> Any:
        connection = config.load_target("rpi4", given).connection
        assert connection is not None
        return connection.options["host"]

    path = config.remember_host("rpi4", "pi@kept")
    assert path.is_relative_to(tmp_path)
    assert host() == "pi@kept"
    monkeypatch.setenv("HWBENCH_RPI4_HOST", "pi@environment")
    assert host() == "pi@environment"
    assert host("pi@said") == "pi@said"
    path.write_text("rpi4: {host: pi@kept, pyhton: x}\n")
    with pytest.raises(UserError, match="pyhton"):
        config.load_target("rpi4")
    with pytest.raises(UserError, match="not reached by a host"):
        config.load_target("local-cpu", "pi@said")
