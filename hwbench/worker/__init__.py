"""What runs on the device, from a zip: ``python3 worker.zip serve FOLDER`` (or ``run FOLDER``).

The *launcher* (`hwbench.worker.launcher`) is small, speaks JSON lines with the host and starts a
fresh *child* (`hwbench.worker.child`) for every artifact and generation. Children talk over pipes
of their own, so that an artifact may print what it likes. Nothing here needs more than the
standard library at import; a child then loads numpy and the one runtime under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

USAGE = "usage: worker.zip serve FOLDER | run [FOLDER] | child READ_FD WRITE_FD"


def main(arguments: Sequence[str]) -> int:
    """Play the role that the arguments name; return the exit status."""
    match list(arguments):
        case [zipped, "serve", folder]:
            from hwbench.worker import launcher

            return launcher.serve(Path(zipped), Path(folder))
        case [zipped, "run"]:
            return main([zipped, "run", str(Path(zipped).parent)])
        case [zipped, "run", folder]:
            from hwbench.worker import launcher

            return launcher.run(Path(zipped), Path(folder))
        case [_, "child", commands, answers]:
            from hwbench.worker import child

            return child.live(int(commands), int(answers))
        case _:
            raise SystemExit(USAGE)
