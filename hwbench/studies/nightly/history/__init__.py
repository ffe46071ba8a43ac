"""What all nights left: one file a run and target, only ever added to, readable with pandas.

::

    reports/history/<target>/<number>-<run>.jsonl     one night: a head, its pairs, its readings
    reports/history/<target>/pins/<recipe>-<number>-<artifacts>.json

A file is never written again. Histories of two machines merge by copying files; nights are
ordered by their number, because clocks are set back now and then. A line that cannot be read is
reported and left out, the rest of its file counts.
"""

from hwbench.studies.nightly.history.files import load_pins, next_number, pin, read, write
from hwbench.studies.nightly.history.frame import COLUMNS, History, load, series

__all__ = [
    "COLUMNS",
    "History",
    "load",
    "load_pins",
    "next_number",
    "pin",
    "read",
    "series",
    "write",
]
