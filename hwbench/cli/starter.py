"""``hwbench init``: a starting point for the user's own model, commented, that runs as it is."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from hwbench import files
from hwbench.errors import UserError


def write(folder: Path, name: str) -> tuple[Path, ...]:
    """Write ``NAME.py`` and ``NAME.yaml``; return their paths. Overwrites nothing."""
    if not name.isidentifier():
        raise UserError(
            f"{name!r} cannot name a Python file", where="--name", expected="a word like my_model"
        )
    templates = resources.files("hwbench.cli") / "templates"
    written = []
    for suffix in ("py", "yaml"):
        path = folder / f"{name}.{suffix}"
        if path.exists():
            raise UserError("is there already", where=str(path), mend="choose another --name")
        text = (templates / f"model.{suffix}.txt").read_text(encoding="utf-8")
        files.write(path, text.replace("NAME", name))
        written.append(path)
    return tuple(written)
