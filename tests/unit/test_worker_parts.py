"""The worker's parts: stopwatch, lines, messages, the zip."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import UserError
from hwbench.measurement import worker_zip
from hwbench.records import PluginSpec
from hwbench.worker import stopwatch
from hwbench.worker.messages import (
    Close,
    Command,
    Energy,
    Feel,
    Job,
    Look,
    Memory,
    Open,
    Outputs,
    Rounds,
    Settings,
    decode,
    encode,
)
from hwbench.worker.wire import HostGoneError, Wire, wait


@pytest.mark.parametrize("calls", [1, 7, 50])
def test_every_call_is_timed_once(calls: int) -> None:
    counted = []
    wall, cpu, switches = stopwatch.time_calls(lambda: counted.append(1), calls)
    assert len(counted) == len(wall) == len(cpu) == len(switches) == calls
    assert all(w >= 0 for w in wall)
    assert all(s >= 0 for s in switches)


def test_wall_time_is_that_of_the_call_alone() -> None:
    import time

    marks: list[int] = []
    wall, cpu, _ = stopwatch.time_calls(lambda: marks.append(time.perf_counter_ns()), 5)
    # Sums over disjoint stretches of the same clock: never more than the whole.
    assert sum(wall[1:]) <= marks[-1] - marks[0] + wall[-1]
    assert all(c >= 0 for c in cpu)


def test_warm_up_makes_at_least_so_many_calls() -> None:
    counted = []
    calls, each = stopwatch.warm_up(lambda: counted.append(1), 25, 60.0)
    assert len(counted) == calls >= 25
    assert each >= 0.0


def test_warm_up_ends_when_its_time_is_over() -> None:
    assert stopwatch.warm_up(lambda: None, 1000, 0.0)[0] == 1


def test_peak_memory_sees_what_is_touched() -> None:
    before = stopwatch.peak_memory()
    held = bytearray(os.urandom(1 << 16) * 1024)
    assert stopwatch.peak_memory() >= max(before, len(held))


def test_denormals_are_flushed_in_numpy_too() -> None:
    # In a process of its own: the setting stays with the thread.
    code = """
from hwbench.worker import stopwatch
import numpy as np
tiny = np.full(8, 1e-40, np.float32)
assert (tiny * np.float32(0.5) != 0).all()
done = stopwatch.flush_denormals()
print(done, bool((tiny * np.float32(0.5) == 0).all()), 1e-3 * 2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["True", "True", "0.002"], ["False", "False", "0.002"])


# --------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=8), st.data())
def test_lines_come_out_whole_however_they_come_in(lines: list[bytes], data: st.DataObject) -> None:
    read, write = os.pipe()
    try:
        wire, sent = Wire(read), b"".join(line + b"\n" for line in lines)
        found = []
        while sent:
            size = data.draw(st.integers(1, len(sent)))
            os.write(write, sent[:size])
            sent = sent[size:]
            assert wire.fill()
            while (line := wire.line()) is not None:
                found.append(line)
        assert found == lines
        assert wire.line() is None
    finally:
        os.close(read)
        os.close(write)


def test_waiting_ends_by_line_time_end_or_host() -> None:
    (read, write), (host_read, host_write) = os.pipe(), os.pipe()
    wire, host = Wire(read), Wire(host_read)
    os.write(write, b"one\nhalf")
    os.write(host_write, b"a command that waits its turn\n")
    assert wait(wire, 10, host) == b"one"
    blinks: list[int] = []
    with pytest.raises(TimeoutError):
        wait(wire, 0.01, host, lambda: blinks.append(1))
    assert blinks
    os.close(host_write)
    with pytest.raises(HostGoneError):
        wait(wire, 10, host)
    assert host.line() == b"a command that waits its turn"
    os.close(write)
    with pytest.raises(EOFError):
        wait(wire, 10)
    os.close(read)
    os.close(host_read)


# --------------------------------------------------------------------------------------------

_JOB = Job("name", "hwbench.backends.null", {"spins": 3}, "/there/x", 2, 4)
_SETTINGS = Settings("/there/x.npy", affinity=(0, 2), throttle_celsius=80.0)


@pytest.mark.parametrize(
    "command",
    [
        Feel(),
        Look((_JOB,), _SETTINGS),
        Memory((_JOB,), _SETTINGS, 20),
        Outputs((), _SETTINGS),
        Energy((_JOB,), _SETTINGS, (PluginSpec("hwbench.meters.proxy", {"core_watts": 5.0}),), 1.0),
        Open((_JOB, dataclasses.replace(_JOB, name="é\n")), _SETTINGS, 7),
        Rounds(12, 13, ("reference", "name"), 3.5),
        Close(),
    ],
)
def test_commands_survive_the_wire(command: Command) -> None:
    line = encode(command)
    assert "\n" not in line
    assert decode(line) == command
    assert decode(line.encode()) == command


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "{}", '{"do": "Rounds"}', '{"do": "os.system", "with": {}}', "null"]
)
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises(UserError):
        decode(line)


# --------------------------------------------------------------------------------------------


def test_the_zip_is_the_same_every_time(tmp_path: Path) -> None:
    first = worker_zip(tmp_path / "one.zip").read_bytes()
    assert worker_zip(tmp_path / "two.zip").read_bytes() == first


def test_the_zip_needs_nothing_but_python(tmp_path: Path) -> None:
    zipped = worker_zip(tmp_path / "worker.zip")
    names = zipfile.ZipFile(zipped).namelist()
    wanted = [n for n in names if n.startswith(("hwbench/worker/", "hwbench/conditions/"))]
    plugins = [n for n in names if n.startswith(("hwbench/backends/", "hwbench/meters/"))]
    # Parts that a plug-in imports when it is used may need its runtime, or the host's rooms.
    plugins = [n for n in plugins if not Path(n).name.startswith(("_torch_", "_tvm_"))]
    assert wanted
    assert plugins
    modules = [n[:-3].replace("/", ".").removesuffix(".__init__") for n in wanted + plugins]
    code = f"import sys; sys.path.insert(0, {str(zipped)!r})\n"
    code += "".join(f"import {module}\n" for module in modules)
    code += "assert 'numpy' not in sys.modules and '.zip' in hwbench.__file__"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_the_zip_says_how_it_is_used(tmp_path: Path) -> None:
    zipped = worker_zip(tmp_path / "worker.zip")
    done = subprocess.run(
        [sys.executable, str(zipped)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "usage" in done.stderr
