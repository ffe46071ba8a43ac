"""A small checkout to run hwbench in, as a user would: a folder, a command, an exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class House:
    """A folder with recipes/ and targets/, in which commands run."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> House:
        for name in ("recipes", "targets"):
            shutil.copytree(REPOSITORY / name, folder / name)
        return cls(folder)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "hwbench", *arguments],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell's background job ignores Ctrl-C, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "hwbench", *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def results(self) -> list[dict[str, Any]]:
        lines = (self.folder / "reports/latest/results.jsonl").read_text().splitlines()
        found = {}
        for line in lines:
            result = json.loads(line)["result"]
            found[json.dumps(result["candidate"])] = result
        return list(found.values())

    def decision(self) -> Mapping[str, Any]:
        data: Mapping[str, Any] = json.loads(
            (self.folder / "reports/latest/decision.json").read_text()
        )
        return data


def environment() -> dict[str, str]:
    # A width keeps rich from breaking paths that tests look for.
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONWARNINGS": "default"}
