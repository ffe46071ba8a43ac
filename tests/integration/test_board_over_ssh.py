"""The whole main job on an emulated board over ssh, and what happens when things go wrong there.

One board, one cache of prepared models; every fault ends as promised and loses nothing: the same
command then goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwbench import boards, config, measurement
from hwbench.connections._board import Board
from hwbench.errors import TargetError
from hwbench.registry import CONNECTIONS
from tests import emulated
from tests.integration.house import House

pytestmark = [pytest.mark.contract, pytest.mark.slow]

TARGET = """
version: 1
title: An emulated board
soc: Cortex-A72 under qemu
isa: aarch64
cores: 4
ram: 4GiB
features: [asimd]
connection: {{kind: ssh, host: raspberrypi, config: {config}, python: {python}, patience: 20}}
backends: {{onnxruntime: {{}}}}
measure: {{timeout: 300.0}}
"""
ARGUMENTS = ("--recipe", "smoke", "--target", "board", "--set", "choose=artifact_bytes")


@dataclass
class Desk:
    """A board and a checkout that measures on it."""

    board: Board
    house: House

    def attach(self, config: Path | None = None, python: str = '""') -> None:
        text = TARGET.format(config=json.dumps(str(config or self.board.config)), python=python)
        (self.house.folder / "targets/board.yaml").write_text(text)

    def restart(self, home_size: str = "1g") -> None:
        self.board.close()
        self.board = Board(self.board.folder, home_size)

    def kept(self) -> dict[str, str]:
        """Return the answers that were fetched and written down, by artifact."""
        found = {}
        for path in (self.house.folder / ".hwbench/cache").glob("*/measure/*/outputs.jsonl"):
            for line in path.read_text().splitlines():
                found[json.loads(line)["of"]] = line
        return found

    def interrupted(self) -> Iterator[subprocess.Popen[str]]:
        """Yield a fresh bench that is in the middle of its session on the board."""
        with self.house.start("bench", *ARGUMENTS, "--fresh") as running:
            assert running.stderr is not None
            said = ""
            while "measure on the target" not in said:
                said = running.stderr.readline()
                assert said, "it ended before it measured"
            yield running


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with emulated.running() as board:
        desk = Desk(board, House.build(tmp_path_factory.mktemp("house")))
        desk.attach()
        desk.house.run("bench", *ARGUMENTS)
        yield desk
        desk.board.close()


@pytest.fixture(autouse=True)
def _as_it_was(desk: Desk) -> Iterator[None]:
    yield
    desk.attach()


def same(desk: Desk) -> None:
    """Assert that the newest run says of every candidate what a board without faults says."""
    for result in desk.house.results():
        assert result["failure"] is None
        assert result["values"]["top1"]["value"] > 0.9


def test_nothing_from_it_passes_as_measured(desk: Desk) -> None:
    results = desk.house.results()
    assert len(results) == 4
    for result in results:
        values = result["values"]
        assert values["top1"]["source"] == "emulated"
        sources = {name: v["source"] for name, v in values.items()}
        # Energy by operations is counted on the file, and ranks no more than that.
        assert sources.pop("energy_ops", "proxy") == "proxy"
        assert set(sources.values()) <= {"emulated", "static"}
        for metric in ("latency_p50", "peak_memory", "process_memory", "energy", "load_time"):
            assert metric not in values or values[metric]["value"] is None, metric
    assert "emulated" in desk.house.decision()["reason"]
    same(desk)


def test_sshd_killed_in_the_middle_is_a_pause(desk: Desk) -> None:
    for running in desk.interrupted():
        assert emulated.cut(desk.board) >= 1
        _, said = running.communicate(timeout=300)
        assert running.returncode == 0, said
    same(desk)


def test_a_board_that_restarts_ends_in_exit_3_and_the_same_command_goes_on(desk: Desk) -> None:
    for running in desk.interrupted():
        desk.restart()
        _, said = running.communicate(timeout=300)
        assert running.returncode == 3, said
        assert "the same command again" in said
    kept = desk.kept()
    assert kept
    desk.house.run("bench", *ARGUMENTS, "--fresh")
    assert {name: desk.kept()[name] for name in kept} == kept, "what was finished is not repeated"
    same(desk)


def test_a_full_disk_ends_in_exit_3_and_the_same_command_goes_on(desk: Desk) -> None:
    desk.restart("64k")
    said = desk.house.run("bench", *ARGUMENTS, "--fresh", code=3).stderr
    assert "No space left on device" in said
    assert "make room on the board" in said
    desk.restart()
    desk.house.run("bench", *ARGUMENTS, "--fresh")
    same(desk)


def test_a_wheel_for_newer_processors_ends_in_exit_3(desk: Desk) -> None:
    desk.attach(python="/opt/broken/python")
    said = desk.house.run("bench", *ARGUMENTS, code=3).stderr
    assert "SIGILL" in said
    health = json.loads(desk.house.run("doctor", "board", "--json", code=3).stdout)
    (line,) = [c for c in health["checks"] if c["name"] == "runtime onnxruntime"]
    assert "SIGILL" in line["found"]


def test_a_wrong_key_ends_in_exit_3(desk: Desk, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True
    )
    text = desk.board.config.read_text()
    wrong = text.replace(f"{desk.board.folder}/keys/guest", str(tmp_path / "key"))
    assert wrong != text
    (tmp_path / "config").write_text(wrong)
    desk.attach(config=tmp_path / "config")
    assert "ssh-copy-id" in desk.house.run("bench", *ARGUMENTS, code=3).stderr


def test_the_second_guest_is_told_who_is_there(desk: Desk) -> None:
    connection = config.load_target(str(desk.house.folder / "targets/board.yaml")).connection
    assert connection is not None
    with contextlib.closing(CONNECTIONS.create("ssh", connection.options)):
        said = desk.house.run("bench", *ARGUMENTS, code=3).stderr
    assert "in use by" in said
    assert str(os.getpid()) in said
    desk.house.run("bench", *ARGUMENTS)
    same(desk)


DELAYED = """
import os, select, socket, sys, time
os.chdir(sys.argv[1])
board = socket.socket(socket.AF_UNIX)
board.connect("ssh")
while True:
    for end in select.select([0, board], [], [])[0]:
        data = os.read(0, 65536) if end == 0 else board.recv(65536)
        if not data:
            sys.exit()
        time.sleep(0.3)
        board.sendall(data) if end == 0 else os.write(1, data)
"""


def test_delayed_replies_change_nothing(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "delayed.py").write_text(DELAYED)
    proxy = shlex.join([sys.executable, str(tmp_path / "delayed.py"), str(desk.board.folder)])
    kept = [
        line
        for line in desk.board.config.read_text().splitlines()
        if "ProxyUseFdpass" not in line and "ProxyCommand" not in line
    ]
    (tmp_path / "config").write_text("\n".join([*kept, f"  ProxyCommand {proxy}", ""]))
    desk.attach(config=tmp_path / "config")
    desk.house.run("bench", *ARGUMENTS, "--fresh")
    same(desk)


def test_a_host_that_is_killed_leaves_nothing_running_there(desk: Desk) -> None:
    for running in desk.interrupted():
        os.killpg(running.pid, signal.SIGKILL)
    connection = config.load_target(str(desk.house.folder / "targets/board.yaml")).connection
    assert connection is not None
    # The next client gets in at once: the one that was killed is away.
    CONNECTIONS.create("ssh", connection.options).close()
    found = subprocess.run(
        ["ssh", "-F", str(desk.board.config), "raspberrypi",
         "id -u; ls .hwbench/sessions; ps -e -o args"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.startswith("1000\n"), "nothing there runs as root"
    assert "hwbench-" not in found
    assert "serve" not in found


def test_tvms_runtime_loads_there_without_its_compiler(desk: Desk) -> None:
    path = desk.house.folder / "targets/board.yaml"
    path.write_text(path.read_text().replace("onnxruntime: {}", "tvm: {}, tvm_sparse: {}"))
    found = measurement.runtimes(config.load_target(str(path)))
    assert len(found) == 2
    for said in found.values():
        assert said.startswith("apache-tvm ")


def test_setup_needs_no_network_and_no_pip_there(desk: Desk) -> None:
    desk.attach()
    path = desk.house.folder / "targets/board.yaml"
    path.write_text(path.read_text().replace("onnxruntime: {}", '"null": {}'))
    target = config.load_target(str(path))
    assert boards.setup(target) == "/home/pi/.hwbench/venv"
    (said,) = measurement.runtimes(target).values()
    assert "numpy" in said
    assert not said.startswith(measurement.UNAVAILABLE)
    where = "import numpy; print(numpy.__file__)"
    found = subprocess.run(
        ["ssh", "-F", str(desk.board.config), "raspberrypi",
         f"env -u PYTHONPATH .hwbench/venv/bin/python -c {shlex.quote(where)}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.startswith("/home/pi/.hwbench/venv/")
    shutil.copy(path, desk.house.folder / "targets/wrong.yaml")
    wrong = desk.house.folder / "targets/wrong.yaml"
    wrong.write_text(path.read_text().replace("isa: aarch64", "isa: x86_64"))
    with pytest.raises(TargetError, match="it is aarch64"):
        boards.setup(config.load_target(str(wrong)))
