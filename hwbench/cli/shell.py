"""Running the command line: what its errors end in."""

from __future__ import annotations

import sys
import traceback

import typer

from hwbench.cli.screen import complain
from hwbench.cli.verbs import app
from hwbench.errors import Exit, HwbenchError, UserError


def run(arguments: list[str]) -> int:
    """Run the command line with these arguments; return its exit code."""
    try:
        # typer turns Ctrl-C into the exit code 130.
        code = app(arguments, prog_name="hwbench", standalone_mode=False)
    except HwbenchError as error:
        complain(error)
        return error.exit_code
    except typer.TyperException as error:
        if not error.format_message():
            # No verb at all: typer has printed the help, and there is no more to say.
            return Exit.USAGE
        complain(UserError(error.format_message(), mend="hwbench --help, or hwbench VERB --help"))
        return Exit.USAGE
    except BrokenPipeError:
        # The reader of our output left (hwbench list | head): that is no error.
        sys.stderr.close()
        return Exit.FINE
    except Exception:  # noqa: BLE001  (the outermost frame: name the exit code, hide nothing)
        traceback.print_exc()
        print("\nThis is a bug in hwbench: please report it with the lines above.", file=sys.stderr)
        return Exit.BUG
    return int(code or Exit.FINE)
