"""Kernels timed on the board they are for, over a session that has a lease and cleans up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwbench import registry
from hwbench.backends import _tvm_board
from hwbench.errors import StageError
from hwbench.records import PluginSpec
from tests.loopback import Loopback, serving

pytestmark = [pytest.mark.contract, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def _module(size: int) -> Any:
    import tvm
    from tvm import te

    x = te.placeholder((size, size), name="x")
    y = te.compute((size, size), lambda i, j: x[i, j] * 2.0, name="y")
    return tvm.compile(tvm.IRModule({"main": te.create_prim_func([x, y])}), target="llvm")


def _write(module: Any, file: Path) -> None:
    module.export_library(str(file))


def test_kernels_are_timed_there_in_turns(server: Loopback) -> None:
    small, large = _module(8), _module(8)
    inputs = [((8, 8), "float32")] * 2
    spec = PluginSpec("ssh", server.options())
    with _tvm_board.opened(spec, 1) as board:
        taken = board.rounds([small, large], inputs, rounds=5, seconds=10, write=_write)
        assert [len(each) for each in taken] == [2] * 5
        assert all(second > 0 for each in taken for second in each)
        hopeless = board.rounds([small], inputs, rounds=9, seconds=10, write=_write, enough=0.0)
        assert len(hopeless) == 2, "the round that warms up says nothing"
        with pytest.raises(StageError, match="does not run on the board"):
            board.rounds([small], inputs[:1], rounds=2, seconds=1, write=_write)
        assert board.rounds([small], inputs, rounds=2, seconds=1, write=_write)
    assert list((server.folder / "there/sessions").iterdir()) == []


def test_an_emulated_board_times_nothing(server: Loopback, tmp_path: Path) -> None:
    import sys

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nHWBENCH_EMULATED=qemu exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    spec = PluginSpec("ssh", server.options(python=str(python)))
    with pytest.raises(StageError, match="emulated"), _tvm_board.opened(spec, 1):
        pass
    # Its lease is free again.
    registry.create("connections", "ssh", server.options()).close()


def test_a_board_that_cannot_be_reached_fails_the_candidate(server: Loopback) -> None:
    options = {**server.options(), "host": "127.0.0.1", "port": 1, "patience": 2}
    with pytest.raises(StageError, match="tuning on the board"):
        _tvm_board.opened(PluginSpec("ssh", options), 1).__enter__()
