"""A package that is none of ours, with plug-ins, as pip would have installed it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SOURCES = Path(__file__).parent / "data" / "outside"


@dataclass(frozen=True)
class Outside:
    """A folder as a ``site-packages``, and a Python that has it on its path."""

    site: Path
    name: str = "acme-hwbench"
    points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def package(self) -> Path:
        """The folder of its sources."""
        return self.site / self.name.replace("-", "_")

    def install(self) -> Outside:
        """Write sources and metadata: what `pip install` leaves behind."""
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").write_text("")
        for source in SOURCES.glob("*.py"):
            shutil.copy(source, self.package)
        info = self.site / f"{self.package.name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.name}\nVersion: 1.0\n")
        lines = [
            line
            for group, points in self.points.items()
            for line in (f"[hwbench.{group}]", *(f"{k} = {v}" for k, v in points.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (info / "RECORD").write_text("")
        return self

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run Python with the package installed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(self.site), "COLUMNS": "200", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done


def acme(site: Path) -> Outside:
    """Install a package with one backend."""
    return Outside(site, points={"backends": {"acme": "acme_hwbench.engine"}}).install()
