"""The GPU that torch trains on here: its name and libraries, asked here or in a child process.

``python -m hwbench.cuda`` prints the answer as one line of JSON. The run itself asks that way: a
process that has touched CUDA holds memory of the GPU until it ends, and counts as a guest on it
while others are measured.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from hwbench.errors import UserError

_PATIENCE = 120.0


def here() -> str:
    """Return the GPU and the libraries that decide what comes of a training; starts CUDA.

    As in ``NVIDIA H100 80GB HBM3, CUDA 12.8, cuDNN 91002``. With several GPUs it is torch's
    current one, which ``CUDA_VISIBLE_DEVICES`` chooses. Raises `UserError` when torch cannot
    compute on one.
    """
    import torch

    if torch.version.cuda is None:
        raise _none(f"torch {torch.__version__} was built without CUDA")
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        name = torch.cuda.get_device_name()
        # A GPU too old for this torch has a name, and no kernel runs on it.
        torch.ones(1, device="cuda").add(1).item()
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        raise _none((str(error).splitlines() or [type(error).__name__])[0]) from error
    return f"{name}, CUDA {torch.version.cuda}" + (f", cuDNN {cudnn}" if cudnn else "")


def started() -> bool:
    """Return whether this process has touched CUDA."""
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def asked(where: str) -> str:
    """Return the same, found out by a child process, once; takes seconds.

    Raises `UserError`, at `where`, when there is no such GPU.
    """
    name, why = _told()
    if not name:
        raise _none(why, where)
    return name


@functools.cache
def _told() -> tuple[str, str]:
    """Return the GPU's name, or an empty one and why there is none."""
    command = [sys.executable, "-m", "hwbench.cuda"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"torch did not find one within {_PATIENCE:.0f} s"
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        return str(answer["name"]), str(answer["why"])
    except (IndexError, KeyError, TypeError, ValueError):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return "", f"the process that looked for one ended with code {done.returncode}: {said}"


def _none(why: str, where: str = "") -> UserError:
    return UserError(
        f"there is no GPU to train on: {why}",
        where=where,
        expected="device: cuda on a machine with an NVIDIA GPU, its driver, and a torch for CUDA",
        mend="take device: cpu, or install what is missing (docs/gpu.md, training on a GPU)",
    )


def main() -> None:
    """Print ``{"name": ..., "why": ...}``, one of them empty."""
    try:
        answer = {"name": here(), "why": ""}
    except UserError as error:
        answer = {"name": "", "why": error.what.partition(": ")[2]}
    print(json.dumps(answer))  # noqa: T201  (the answer to the process that asked)


if __name__ == "__main__":
    main()
