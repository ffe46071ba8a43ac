"""What every connection promises: files there and back, a worker that ends, nothing left."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwbench.errors import TargetError
from hwbench.registry import CONNECTIONS
from hwbench.testing._plugin import PluginContract

if TYPE_CHECKING:
    from hwbench.protocols import Connection
    from hwbench.traits import ConnectionTraits

_ECHO = """
import sys
print("noise", file=sys.stderr, flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    print(line.strip()[::-1], flush=True)
"""
_DEAF = """
import os, signal
print(os.getpid(), flush=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    signal.pause()
"""


class ConnectionContract(PluginContract):
    """A connection named by ``kind``; ``options`` (or a fixture that sets them) must reach it.

    Its option ``python`` names the interpreter there.
    """

    family = CONNECTIONS

    @property
    def traits(self) -> ConnectionTraits:
        """What the connection says of itself."""
        return CONNECTIONS.traits(self.kind)

    @pytest.fixture
    def connection(self) -> Iterator[Connection]:
        """Yield an open connection."""
        made = CONNECTIONS.create(self.kind, self.options)
        yield made
        made.close()

    def test_traits_go_with_its_options(self) -> None:
        """What is said of it can be done by the options that hwbench knows."""
        traits, names = self.traits, {f.name for f in dataclasses.fields(self.plugin.options)}
        assert not traits.remote or "host" in names
        assert not traits.provisionable or {"folder", "python"} <= names
        assert traits.interactive != traits.offline

    def test_files_go_there_and_come_back(self, connection: Connection, tmp_path: Path) -> None:
        """Files and folders arrive under their names; what is not there is an error."""
        (tmp_path / "one").write_bytes(b"\0\1")
        folder = tmp_path / "many"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "two").write_text("2")
        assert connection.put(tmp_path / "one", "a/one").endswith("a/one")
        connection.put(folder, "many")
        connection.get("a/one", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"\0\1"
        connection.get("many/deep/two", tmp_path / "back")
        assert (tmp_path / "back").read_text() == "2"
        with pytest.raises(TargetError):
            connection.get("nothing", tmp_path / "back")

    def test_lines_go_there_and_come_back(self, connection: Connection, tmp_path: Path) -> None:
        """Lines of any length pass; silence and the end are errors; noise goes to the log."""
        (tmp_path / "echo.py").write_text(_ECHO)
        place = connection.put(tmp_path / "echo.py", "echo.py")
        with (tmp_path / "log").open("wb") as log:
            channel = connection.start([place], log)
            for text in ("abc", "x" * 300_000, "é"):
                channel.send(text)
                assert channel.receive(60) == text[::-1]
            with pytest.raises(TargetError):
                channel.receive(0.01)
            channel.send("end")
            with pytest.raises(TargetError):
                channel.receive(60)
            channel.close()
        assert (tmp_path / "log").read_text() == "noise\n"

    def test_close_ends_a_worker_that_does_not_listen(
        self, connection: Connection, tmp_path: Path
    ) -> None:
        """Nothing of ours stays behind."""
        (tmp_path / "deaf.py").write_text(_DEAF)
        place = connection.put(tmp_path / "deaf.py", "deaf.py")
        with (tmp_path / "log").open("wb") as log:
            process = int(connection.start([place], log).receive(60))
            connection.close()
        if self.is_elsewhere:
            return
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        assert not Path(place).exists()

    @property
    def is_elsewhere(self) -> bool:
        """Whether the other end has processes and folders that this machine does not see."""
        return self.traits.remote or self.traits.emulated

    def test_a_python_that_is_not_there(self, tmp_path: Path) -> None:
        """The message names the interpreter."""
        broken = {**self.options, "python": "/no/python"}
        with pytest.raises(TargetError, match="/no/python"):
            self._begun(broken, tmp_path / "log")

    def _begun(self, options: dict[str, object], log: Path) -> None:
        connection = CONNECTIONS.create(self.kind, options)
        with contextlib.closing(connection), log.open("wb") as stream:
            connection.start(["-c", ""], stream)
