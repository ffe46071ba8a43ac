"""The runtimes of a board, fetched and unpacked here: a board needs no network and no pip."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from hwbench.errors import UserError

# What each backend imports on a device; numpy is under every one of them.
_NEEDS = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tvm": ("apache-tvm", "apache-tvm-ffi", "typing_extensions"),
    "tvm_sparse": ("apache-tvm", "apache-tvm-ffi", "typing_extensions"),
    "null": (),
}
PROVIDED = frozenset(_NEEDS)
"""Backends that `hwbench board setup` brings; others (a GPU's) come with the board's system."""
# TVM's compiler is six sevenths of its wheel, and stays at home.
_LEFT_HOME = ("tvm/lib/libtvm_compiler.so", "tvm/lib/libtvm_runtime_cuda.so")
_GLIBCS = range(41, 16, -1)


def pins(backends: Iterable[str]) -> tuple[str, ...]:
    """Return the pip requirements of backends: the versions that are installed here.

    What compiles and what runs must be of one version. Unknown backends need nothing.
    """
    names = {"numpy", *(n for backend in backends for n in _NEEDS.get(backend, ()))}
    return tuple(sorted(f"{name}=={importlib.metadata.version(name)}" for name in names))


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
