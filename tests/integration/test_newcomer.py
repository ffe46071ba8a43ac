"""A newcomer's two commands, in a fresh clone with a fresh environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.house import REPOSITORY, environment

pytestmark = pytest.mark.slow

WANTED = os.environ.get("CI") or os.environ.get("HWBENCH_NEWCOMER")


@pytest.mark.skipif(not WANTED, reason="installs 2 GB: set CI or HWBENCH_NEWCOMER=1 to run it")
@pytest.mark.timeout(900)
def test_make_bench_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(clone)], check=True)
    bare = {k: v for k, v in environment().items() if k not in ("VIRTUAL_ENV", "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "bench", "RECIPE=smoke"],
        cwd=clone,
        env=bare,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "reports/latest/report.html").exists()
    assert (clone / "reports/latest/decision.md").read_text()
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert status.stdout == "", "a run must not dirty the checkout"
