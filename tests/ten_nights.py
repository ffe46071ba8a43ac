"""Ten nights for real beside a co-runner, then planted troubles: ``python -m tests.ten_nights``.

Pins a baseline in a house of its own, runs ten nights on unchanged code while core 0 is kept busy
(no alarm is wanted), then one night each with a backend whose *code* became 5 % slower, with a
model that was trained less, and with a session that holds 30 MB more (an alarm is wanted). Prints
the exit code and the summary of each; about a quarter of an hour on two quiet cores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hwbench.instruments import selftest
from tests.integration import test_nightly
from tests.integration.house import REPOSITORY, House

NIGHTS = 10
PLAN = """
version: 1
recipes: [tiny]
targets: [here]
measure: {policy: standard, generations: 4, looks: [8, 16], energy_seconds: 0.2}
"""
WORK = "spins: 15000"


def main() -> None:
    """Run all nights."""
    folder = Path(tempfile.mkdtemp(prefix="nights-"))
    shutil.copytree(REPOSITORY / "hwbench", folder / "code/hwbench")
    house = House.build(folder)
    _write(house, epochs=4, options=WORK)
    with selftest._co_runner(min(os.sched_getaffinity(0))):
        _run(house, "baseline", "set", "-r", "tiny", "-t", "here", "--why", "first")
        for number in range(1, NIGHTS + 1):
            _run(house, "nightly", title=f"unchanged, night {number}: wanted 0")
    backend = folder / "code/hwbench/backends/null.py"
    text = backend.read_text()
    work = "hashlib.sha256(self._work)"
    _slower(backend, text, work)
    _run(house, "nightly", title="a backend 5 % slower, in its code: wanted 1")
    backend.write_text(text)
    _write(house, epochs=0, options=WORK)
    _run(house, "nightly", title="a model trained less: wanted 1")
    _write(house, epochs=4, options=f"{WORK}, ballast: 30000000")
    _run(house, "nightly", title="30 MB more held: wanted 1")
    print(f"everything is in {folder}")


def _slower(backend: Path, text: str, work: str) -> None:
    """Have every call of the backend hash a twentieth more."""
    more = "hashlib.sha256(self._work[: len(self._work) // 20])"
    backend.write_text(text.replace(work, f"{work}; {more}", 1))


def _write(house: House, *, epochs: int, options: str) -> None:
    test_nightly.write(house, epochs=epochs, options=options)
    (house.folder / "recipes/nightly.yaml").write_text(PLAN)


def _run(house: House, *arguments: str, title: str = "") -> None:
    environment = {**os.environ, "PYTHONPATH": str(house.folder / "code")}
    done = subprocess.run(
        [sys.executable, "-m", "hwbench", *arguments],
        cwd=house.folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"--- {title or ' '.join(arguments)}; exit {done.returncode}")
    summary = house.folder / "reports/nightly/nightly/latest/summary.md"
    print(summary.read_text() if arguments[0] == "nightly" else done.stdout, flush=True)


if __name__ == "__main__":
    main()
