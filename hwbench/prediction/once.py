"""In the emulated board: run each artifact once between two marks, for blockcount to count.

``python -m hwbench.prediction.once JOBS.json`` prints a JSON line an artifact: whether a stretch
was marked for it, and why it failed if it did.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import HwbenchError
from hwbench.registry import BACKENDS

if TYPE_CHECKING:
    pass


def main(path: Path) -> None:
    """Run the jobs of a file, one after the other."""
    for job in json.loads(path.read_text()):
        marked, failure = _run(job)
        print(json.dumps({"marked": marked, "failure": failure}), flush=True)  # noqa: T201


def _run(job: Mapping[str, Any]) -> tuple[bool, str]:
    import numpy as np

    backend = BACKENDS.create(job["backend"], job["options"])
    try:
        session = backend.load(Path(job["entry"]), 1)
        session.set_inputs([np.full(job["shape"], 0.01, job["dtype"])])
        session.invoke()  # allocates what it needs
        _tell(os.PRIO_USER)
        session.invoke()  # fills the caches
    except HwbenchError as error:
        return False, error.what
    _tell(os.PRIO_PROCESS)
    try:
        session.invoke()
    except HwbenchError as error:
        return True, error.what
    finally:
        _tell(os.PRIO_PROCESS)
        _tell(os.PRIO_PGRP)
    return True, ""


def _tell(which: int) -> None:
    """Tell blockcount to look on (user), begin or end a count (process), look away (group)."""
    os.getpriority(which, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
