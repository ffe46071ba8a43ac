"""The runtimes of a board, fetched and unpacked here: a board needs no network and no pip."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from hwbench.errors import UserError
from hwbench.registry import BACKENDS

# TVM's compiler is six sevenths of its wheel, and stays at home.
_LEFT_HOME = ("tvm/lib/libtvm_compiler.so", "tvm/lib/libtvm_runtime_cuda.so")
_GLIBCS = range(41, 16, -1)


def provided(backend: str) -> bool:
    """Return whether `hwbench board setup` brings a backend; a GPU's come with the system."""
    return BACKENDS.traits(backend).board_distributions is not None


def pins(backends: Iterable[str]) -> tuple[str, ...]:
    """Return the pip requirements of backends: the versions that are installed here.

    What compiles and what runs must be of one version. Backends that come with the board's system
    need nothing. Raises `UserError` when something is not installed here.
    """
    named = (BACKENDS.traits(backend).board_distributions or () for backend in backends)
    # numpy is under every one of them.
    names = {"numpy", *(name for names in named for name in names)}
    return tuple(sorted(f"{name}=={_version(name)}" for name in names))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{name} is not installed here, so its version for the board is not known",
            mend=f"pip install {name}, or leave the backend out of the target",
        ) from error


def unpack(
    requirements: Iterable[str], folder: Path, machine: str, python: str, glibc: str = "2.28"
) -> None:
    """Unpack wheels for another machine into `folder`, as a ``site-packages``.

    ``machine`` is as ``uname -m`` says, ``python`` as in ``3.11``, ``glibc`` the newest that the
    wheels may ask for. Raises `UserError` when there are none, with what pip says.
    """
    newest = int(glibc.split(".")[1])
    platforms = [f"manylinux_2_{n}_{machine}" for n in _GLIBCS if n <= newest]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps",
        "--disable-pip-version-check", "--only-binary=:all:", "--upgrade",
        "--python-version", python, "--target", str(folder),
        *(word for p in platforms for word in ("--platform", p)),
        *requirements,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(
            f"no wheels for {machine}, Python {python}, glibc {glibc}: "
            f"{(errors or [done.stderr.strip()])[-1][:300]}",
            expected=", ".join(requirements),
            mend="use another Python on the board (option python of the connection), or leave "
            "the backend out of the target",
        )
    for name in _LEFT_HOME:
        (folder / name).unlink(missing_ok=True)
