"""Every connection keeps its promise: the contract that ships, over the registry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hwbench.connections._board import Board
from hwbench.registry import CONNECTIONS
from hwbench.testing import ConnectionContract
from tests import emulated
from tests.loopback import Loopback, serving


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with emulated.running() as board, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_EMULATED_BOARD", str(board.folder))
        yield board


class TestLocal(ConnectionContract):
    kind = "local"


class TestSsh(ConnectionContract):
    kind = "ssh"

    @pytest.fixture(autouse=True)
    def _reached(self, loopback: Loopback) -> None:
        self.options = loopback.options()

    # The loopback's processes and folders are this machine's: what is left behind is seen.
    is_elsewhere = False


class TestEmulated(ConnectionContract):
    kind = "emulated"

    @pytest.fixture(autouse=True)
    def _switched_on(self, board: Board) -> None:
        pass


def test_all_are_tested() -> None:
    tested = {kind.kind for kind in (TestLocal, TestSsh, TestEmulated)}
    assert tested == set(CONNECTIONS.kinds())
