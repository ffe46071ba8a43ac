"""What was found out about a machine, kept for the next run: its roofs and its kernels' times.

One JSON file per kind of machine: what was timed on another processor, with another number of
threads or by another version of the kernels is never read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tvm

from hwbench import conditions, files
from hwbench.kernels.build import Machine
from hwbench.records import digest

VERSION = 5
"""Of the kernels' code as far as it decides speed: part of the fingerprint."""

Seconds = Mapping[str, float]


def fingerprint(machine: Machine) -> str:
    """Return a hash of what decides which kernel is fastest: processor, threads, our code."""
    here = conditions.identity() if machine.native else {}
    return digest(
        {
            "version": VERSION,
            "tvm": tvm.__version__,
            "mcpu": machine.mcpu,
            "mtriple": machine.mtriple,
            "threads": machine.threads,
            "cpu": here.get("cpu"),
            "caches": here.get("caches"),
        }
    )


def default() -> Path:
    """Return where machines are remembered by default: below the cache of finished work."""
    root = Path(os.environ.get("HWBENCH_CACHE", ".hwbench/cache"))
    return root.absolute() / "kernels" / "memory.json"


@dataclass(frozen=True, slots=True)
class Memory:
    """Named figures of one machine in a file that other machines and processes may share."""

    file: Path
    fingerprint: str

    def recall(self) -> dict[str, dict[str, float]]:
        """Return what is remembered, by name; nothing if the file is absent or not ours."""
        kept = self._all().get(self.fingerprint)
        return kept if isinstance(kept, dict) else {}

    def keep(self, figures: Mapping[str, Seconds]) -> None:
        """Add figures to what is there; two processes that do so at once both succeed."""
        if not figures:
            return
        with files.locked(self.file.with_suffix(".lock"), wait=True):
            everything = self._all()
            known = {**self.recall(), **{name: dict(f) for name, f in figures.items()}}
            everything[self.fingerprint] = dict(sorted(known.items()))
            files.write(self.file, json.dumps(everything, indent=1) + "\n")

    def _all(self) -> dict[str, dict[str, dict[str, float]]]:
        try:
            kept = json.loads(self.file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return kept if isinstance(kept, dict) else {}


def of(machine: Machine, file: Path | None = None) -> Memory:
    """Return the memory of a machine, in `file` or where it is by default."""
    return Memory(file or default(), fingerprint(machine))
