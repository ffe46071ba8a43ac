"""The command line: ``hwbench VERB``."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from hwbench.errors import Exit, HwbenchError


def main() -> NoReturn:
    """Run the command line; exit with one of `Exit`."""
    # A service manager's stop is worth the same words and care as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Imported here, so that Ctrl-C during the second it takes ends as it does later.
        from hwbench import registry

        registry.check()
        from hwbench.cli.shell import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except HwbenchError as error:
        # A plug-in is wrong, and the command line is built of them: there is none to say it nicer.
        print(f"error {error}", file=sys.stderr)
        code = error.exit_code
    if code == Exit.INTERRUPTED:
        print("stopped; finished work is kept: the same command goes on", file=sys.stderr)
    sys.exit(code)
