"""Predicted time from what an artifact does: instructions and cache misses, counted under QEMU.

The genuine aarch64 artifact runs once in the emulated board's file system (``make
emulated-board``) under ``qemu-aarch64`` with the plugin blockcount. Time = instructions, misses of
the first and of the last cache, each times what `predict_fit` found in published latencies.
Nothing is timed. The tool is optional: `lacking` says what it needs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hwbench
from hwbench import files
from hwbench.connections import emulated
from hwbench.errors import StageError
from hwbench.prediction import price
from hwbench.prediction.cycles import CORES, Core, Counts, read
from hwbench.records import CompiledModel, file_digest

SOURCE = "HWBENCH_BLOCKCOUNT"
"""The environment variable that names the folder of blockcount.c, where it is not beside us."""
_IDLE_TIMEOUT = 600.0
_SITE = "opt/hwbench"
_PYTHON = "usr/bin/python3.11"


def lacking(core: str) -> str:
    """Return what is missing to count for a core here, in a few words; empty if nothing is."""
    if not price.has_counts(core):
        return f"nothing was fitted to counts for {core}"
    programs = [p for p in ("qemu-aarch64", "gcc") if shutil.which(p) is None]
    if programs:
        return f"there is no {' and no '.join(programs)} here"
    if not (_source() / "blockcount.c").is_file():
        return "docs/tools/blockcount is not here"
    if not (_root() / _PYTHON).exists():
        return "there is no emulated board here (make emulated-board)"
    return ""


def count(models: Sequence[CompiledModel], core: str) -> dict[str, Counts | StageError]:
    """Return what one inference of each artifact does on a core, by the artifact's digest.

    An artifact that cannot be run there has its error instead. Raises `StageError` when nothing
    can be counted at all.
    """
    why = lacking(core)
    if why:
        raise StageError("predict", why)
    outcomes: dict[str, Counts | StageError] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind in sorted({m.candidate.backend.kind for m in models}):
            artifacts = [m for m in models if m.candidate.backend.kind == kind]
            outcomes |= _counted(artifacts, CORES[core], Path(name) / kind)
    return outcomes


def _counted(
    models: Sequence[CompiledModel], core: Core, folder: Path
) -> dict[str, Counts | StageError]:
    folder.mkdir()
    jobs, out = folder / "jobs.json", folder / "counts.txt"
    jobs.write_text(json.dumps([_job(model) for model in models]))
    done = _emulate(core, out, jobs)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    stretches = iter(read(out) if out.exists() else ())
    outcomes: dict[str, Counts | StageError] = {}
    for model, line in zip(models, answers, strict=False):
        counts = next(stretches, None) if line["marked"] else None
        outcomes[model.digest] = (
            StageError("predict", line["failure"] or "was not counted")
            if line["failure"] or counts is None
            else counts
        )
    last = (done.stderr.strip().splitlines() or ["no word"])[-1][:200]
    for model in models[len(answers) :]:
        # A crash takes those behind it along.
        what = f"the emulated process ended with {done.returncode}: {last}"
        outcomes[model.digest] = StageError("predict", what)
    return outcomes


def _job(model: CompiledModel) -> Mapping[str, Any]:
    return {
        "backend": model.candidate.backend.kind,
        "options": dict(model.candidate.backend.options),
        "entry": str((model.folder / model.entry).absolute()),
        "shape": [model.candidate.batch, *model.input_shape],
        "dtype": model.input_dtype,
    }


def _emulate(core: Core, out: Path, jobs: Path) -> subprocess.CompletedProcess[str]:
    root = _root()
    package = Path(hwbench.__file__).parents[1]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": f"{root / _SITE}:{package}",
        "PYTHONDONTWRITEBYTECODE": "1",
        # One thread, as everything that is predicted.
        "OMP_NUM_THREADS": "1",
        "TVM_NUM_THREADS": "1",
    }
    plugin = f"{_plugin()},out={out},caches={core.geometry}"
    command = ["qemu-aarch64", "-L", str(root), "-cpu", core.name, "-plugin", plugin,
               str(root / _PYTHON), "-m", "hwbench.prediction.once", str(jobs)]  # fmt: skip
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=_IDLE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StageError("predict", f"counting took more than {_IDLE_TIMEOUT:.0f} s") from error


def _plugin() -> Path:
    """Return blockcount built for this machine's QEMU; once for each version of its source."""
    source = _source()
    parts = sorted(source.glob("*.[ch]"))
    library = Path(f".hwbench/tools/blockcount-{file_digest(*parts)}.so").absolute()
    if library.exists():
        return library
    with tempfile.TemporaryDirectory() as name:
        built = Path(name) / library.name
        done = subprocess.run(
            ["gcc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(built),
             str(source / "blockcount.c")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StageError("predict", f"gcc cannot build blockcount: {done.stderr[:300]}")
        files.write(library, built.read_bytes())
    return library


def _root() -> Path:
    return emulated.folder() / "root"


def _source() -> Path:
    named = os.environ.get(SOURCE)
    return Path(named) if named else Path(hwbench.__file__).parents[1] / "docs/tools/blockcount"
