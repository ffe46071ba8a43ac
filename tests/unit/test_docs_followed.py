"""The "add a ..." pages, followed literally: files are written, commands are run, in order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
IN_THE_TREE = ("add-a-backend.md", "add-a-pruner.md", "add-a-meter.md", "add-a-target.md")
PACKED = {
    "add-a-backend.md": "onnx_reference.py",
    "add-a-pruner.md": "kernel.py",
    "add-a-meter.md": "hwmon_energy.py",
}
"""The pages whose plug-in docs/plug-ins.md puts into a package, and its file there."""

_BLOCK = re.compile(r"^```(\w+) (run|file=(\S+))\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A file to write, or commands to run (``file`` is empty)."""

    file: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    for _, _, file, text in _BLOCK.findall((DOCS / page).read_text()):
        yield Block(file, text)


def plugin(page: str) -> str:
    """Return the source of the plug-in that a page adds: its first block."""
    return next(blocks(page)).text


def follow(page: str, folder: Path, environment: dict[str, str]) -> None:
    """Do what a page says, in a folder."""
    for block in blocks(page):
        if block.file:
            path = folder / block.file
            assert path.resolve().is_relative_to(folder.resolve())
            assert not path.exists(), f"{page}: {block.file} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page}:\n{block.text}\n{done.stdout}"
        for words in re.findall(r"-k (\w+)", block.text):
            assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), f"no test of {words}"


def copy(folder: Path) -> None:
    """Copy what a checkout has of the package, its tests, recipes and targets."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("hwbench", "tests", "recipes", "targets"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "constraints.txt", folder)


def environment(binaries: Path, *paths: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider -o addopts=",
    }


def virtual(folder: Path) -> Path:
    """Make an environment of its own that has all of this one beside it; return its programs.

    What pip is told to install goes there, offline; the environment of the tests stays as it is.
    """
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    places = [p for p in sys.path if p.endswith("site-packages")]
    (site / "beside.pth").write_text("\n".join([*places, str(ROOT)]) + "\n")
    for name, module in (("hwbench", "hwbench"), ("pip", "pip")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m {module} "$@"\n')
        program.chmod(0o755)
    return folder / "bin"


@pytest.mark.parametrize("page", [*IN_THE_TREE, "plug-ins.md"])
def test_pages_have_files_and_commands(page: str) -> None:
    kinds = [bool(block.file) for block in blocks(page)]
    assert kinds[0]
    assert False in kinds


@pytest.mark.slow
@pytest.mark.parametrize("page", IN_THE_TREE)
def test_followed_in_the_tree(page: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    copy(tree)
    binaries = virtual(tmp_path / "venv")
    follow(page, tree, environment(binaries, tree))


@pytest.mark.slow
def test_followed_in_a_package(tmp_path: Path) -> None:
    package = tmp_path / "acme-hwbench"
    (package / "acme_hwbench").mkdir(parents=True)
    (package / "acme_hwbench" / "__init__.py").write_text("")
    for page, name in PACKED.items():
        (package / "acme_hwbench" / name).write_text(plugin(page))
    binaries = virtual(tmp_path / "venv")
    # Offline: what builds it is beside already.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1"}
    follow("plug-ins.md", package, {**environment(binaries), **offline})
    result = (package / "reports/latest/decision.md").read_text()
    assert "onnx_reference" in result


def judged(folder: Path, *command: str) -> None:
    """Write the plug-ins of all pages into a folder and have a tool judge them by our settings."""
    for page, name in PACKED.items():
        (folder / name).write_text(plugin(page))
    done = subprocess.run(
        [sys.executable, "-m", *command, *map(str, sorted(folder.glob("*.py")))],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_plugins_are_formatted(tmp_path: Path) -> None:
    settings = ("--config", str(ROOT / "pyproject.toml"))
    judged(tmp_path, "ruff", "check", *settings)
    judged(tmp_path, "ruff", "format", "--check", *settings)


@pytest.mark.slow
def test_plugins_are_typed(tmp_path: Path) -> None:
    judged(tmp_path, "mypy", "--config-file", str(ROOT / "pyproject.toml"))
