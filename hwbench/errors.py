"""Every error hwbench raises on purpose, and the exit code each of them ends in.

::

    HwbenchError
      UserError      someone can fix it: a message, no traceback        exit 2
      StageError     one candidate failed: recorded, the run goes on
      TargetError    the device is unusable: this target stops          exit 3

Anything else that surfaces is a bug and ends in exit 70 with its traceback.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable


class Exit(enum.IntEnum):
    """The exit codes of the command line, the only list of them."""

    FINE = 0
    MISSED = 1
    """A regression, or a goal that no candidate meets."""
    USAGE = 2
    """Wrong usage, recipe, target or workload: the message says how to mend it."""
    TARGET = 3
    """The device cannot be reached, or what it measured cannot be trusted."""
    BUG = 70
    """An error nobody foresaw (``EX_SOFTWARE``): the traceback is shown."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C; the same command goes on where it stopped."""


class HwbenchError(Exception):
    """An error with the four things a reader needs: where, what, expected, how to mend."""

    exit_code = Exit.BUG

    def __init__(self, what: str, *, where: str = "", expected: str = "", mend: str = "") -> None:
        """Keep the parts apart, so that they can be laid out or written as JSON."""
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.mend = mend

    def __str__(self) -> str:
        """Return the parts that are there, as one readable message."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.mend:
            lines.append(f"mend: {self.mend}")
        return "\n  ".join(lines)


class UserError(HwbenchError):
    """Wrong usage, configuration, recipe, target or workload."""

    exit_code = Exit.USAGE


class StageError(HwbenchError):
    """One candidate failed in one stage; it becomes a `Failure` and the run goes on."""

    def __init__(
        self, stage: str, what: str, *, where: str = "", expected: str = "", mend: str = ""
    ) -> None:
        """Keep the name of the room in which the candidate failed."""
        super().__init__(what, where=where, expected=expected, mend=mend)
        self.stage = stage


class TargetError(HwbenchError):
    """The device cannot be reached, or is unfit to measure on."""

    exit_code = Exit.TARGET


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` or a list of the known words, for a mend line."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}? (known: {', '.join(choices)})"
    return f"known: {', '.join(choices) or 'none'}"
