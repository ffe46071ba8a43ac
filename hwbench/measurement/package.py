"""The worker as one file: what of hwbench a device needs, as a zip that Python runs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import hwbench
from hwbench import registry
from hwbench.registry import BACKENDS, METERS

# Rooms and host-only plug-ins stay at home; so do kernels, which are compiled into the artifact.
CARRIED = (
    "__init__.py",
    "errors.py",
    "records",
    "files.py",
    "registry.py",
    "units.py",
    "protocols.py",
    "traits.py",
    "conditions",
    "worker",
    "backends",
    "meters",
)
_MAIN = "import sys\n\nfrom hwbench.worker import main\n\nsys.exit(main(sys.argv))\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def worker_zip(path: Path) -> Path:
    """Write the worker to `path` and return it; the same source gives the same bytes.

    Other packages' backends and meters go along.
    """
    package = Path(hwbench.__file__).parent
    sources = {"__main__.py": _MAIN.encode()}
    for name in CARRIED:
        place = package / name
        found = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for source in found:
            if source.exists():
                sources[f"hwbench/{source.relative_to(package)}"] = source.read_bytes()
    for family in (BACKENDS, METERS):
        sources |= {name: file.read_bytes() for name, file in registry.sources(family).items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), sources[name])
    return path
