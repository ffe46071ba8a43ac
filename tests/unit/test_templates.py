"""What the templates of CI, systemd and cron call is what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = [
    *sorted((ROOT / ".github/workflows").glob("*.yml")),
    ROOT / "docs/templates/nightly-boards.yml",
]


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_have_what_github_asks_for(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key "on" as true.
    assert {"name", True, "permissions", "jobs"} <= set(data)
    for job in data["jobs"].values():
        assert job["runs-on"]
        assert job["timeout-minutes"]
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


def test_the_nightly_workflow_keeps_uploads_and_says_what_it_found() -> None:
    path = ROOT / ".github/workflows/nightly.yml"
    assert yaml.safe_load(path.read_text())[True]["schedule"][0]["cron"]
    used = {step.get("uses", "").partition("@")[0] for step in steps(path)}
    assert {"actions/cache", "actions/upload-artifact"} <= used
    assert any("GITHUB_STEP_SUMMARY" in step.get("run", "") for step in steps(path))


def commands() -> list[str]:
    """Return every make call in the templates."""
    texts = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    texts.append((ROOT / "docs/templates/hwbench-nightly.cron").read_text())
    found = [
        m for text in texts for m in re.findall(r'make (?:nightly|baseline)(?: \w+="[^"]*")?', text)
    ]
    assert len(found) >= 4
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_make_knows_the_commands_and_they_call_hwbench(command: str, tmp_path: Path) -> None:
    """As CI runs them, with a hwbench in the environment that tells what it was asked."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    spy = tmp_path / ".venv/bin/hwbench"
    spy.parent.mkdir(parents=True)
    spy.write_text('#!/bin/sh\necho "asked: $*"\n')
    spy.chmod(0o755)
    (tmp_path / ".venv/.user").touch()
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PLAN": "nightly"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = done.stdout.strip().removeprefix("asked: ").split()
    assert asked[0] in ("nightly", "baseline")
    from typer.testing import CliRunner

    from hwbench.cli.verbs import app

    # Every flag that is used is one that the verb has.
    verb = asked[:2] if asked[0] == "baseline" else asked[:1]
    told = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"}).output
    assert all(word in told for word in asked if word.startswith("--"))


def test_the_service_and_the_timer_belong_together() -> None:
    service = (ROOT / "docs/templates/hwbench-nightly.service").read_text()
    timer = (ROOT / "docs/templates/hwbench-nightly.timer").read_text()
    assert "ExecStart=%h/hwbench/.venv/bin/hwbench nightly\n" in service
    assert "OnCalendar=" in timer
    assert "Persistent=true" in timer
