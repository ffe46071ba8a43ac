"""Kernels timed on the board they are for, over a session that has a lease and cleans up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwbench.backends import _tvm_board
from hwbench.compile import compile_model
from hwbench.errors import StageError
from hwbench.kernels import build
from hwbench.records import PluginSpec
from hwbench.registry import CONNECTIONS
from tests import artifacts
from tests.loopback import Loopback, serving

pytestmark = [pytest.mark.contract, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def _kernel(size: int) -> Any:
    import tvm
    from tvm import te

    x = te.placeholder((size, size), name="x")
    y = te.compute((size, size), lambda i, j: x[i, j] * 2.0, name="y")
    return tvm.IRModule({"main": te.create_prim_func([x, y])})


def test_kernels_are_timed_there(server: Loopback) -> None:
    small, large = _kernel(4), _kernel(64)
    with _tvm_board.opened(PluginSpec("ssh", server.options()), build.machine(), None) as board:
        taken = board.seconds(small, small)
        assert taken is not None
        assert 0 < taken < 10
        assert board.seconds(small, large) is None, "other inputs than it takes: said, not fatal"
        first, again = board.race([small, small], small)
        assert first > 0
        assert again > 0
    assert list((server.folder / "there/sessions").iterdir()) == []


def test_a_network_is_tuned_on_its_board(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path / "cache"))
    target = dataclasses.replace(
        artifacts.TARGET, name="board", connection=PluginSpec("ssh", server.options())
    )
    options = {"tuning": {"minutes": 0.05}}
    model = artifacts.network(tmp_path / "m.onnx")
    made = compile_model(artifacts.candidate("tvm", options), model, target, tmp_path / "a")
    assert (made.folder / made.entry).stat().st_size > 1000
    (kept,) = json.loads((tmp_path / "cache/kernels/tuned-board.json").read_text()).values()
    assert sum(found["tried"] for found in kept.values()) > 0, "times came from the board"
    assert all(found["raced"] == found["tried"] for found in kept.values() if found["tried"])


def test_an_emulated_board_times_nothing(server: Loopback, tmp_path: Path) -> None:
    import sys

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nHWBENCH_EMULATED=qemu exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    spec = PluginSpec("ssh", server.options(python=str(python)))
    with (
        pytest.raises(StageError, match="emulated"),
        _tvm_board.opened(spec, build.machine(), None),
    ):
        pass
    # Its lease is free again.
    CONNECTIONS.create("ssh", server.options()).close()


def test_a_board_that_cannot_be_reached_fails_the_candidate(server: Loopback) -> None:
    options = {**server.options(), "host": "127.0.0.1", "port": 1, "patience": 2}
    with pytest.raises(StageError, match="tuning on the board"):
        _tvm_board.opened(PluginSpec("ssh", options), build.machine(), None).__enter__()
