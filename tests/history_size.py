"""How long a long history takes: ``python -m tests.history_size [READINGS]`` (default 100,000).

Writes nights of 5 recipes x 8 candidates x 7 metrics, then loads them and renders the newest
night's report, and prints the seconds of each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hwbench.records import Change, Night, Pair, Reading
from hwbench.studies.nightly import history
from hwbench.studies.nightly.run import render

METRICS = ("latency_p50", "load_time", "energy", "peak_memory", "process_memory",
           "artifact_bytes", "compile_time")  # fmt: skip
RECIPES, CANDIDATES = 5, 8


def night(number: int, rng: np.random.Generator) -> Night:
    """Return a night of 280 readings."""
    pairs = tuple(
        Pair(f"recipe{r}", "here", True, tuple(readings(rng)), segment=f"s{number // 100}")
        for r in range(RECIPES)
    )
    started = (
        f"20{30 + number // 336:02}-{1 + number // 28 % 12:02}-{1 + number % 28:02}T02:00:00+00:00"
    )
    return Night(f"run{number}", number, started, f"c{number}", "host", "nightly", pairs)


def readings(rng: np.random.Generator) -> list[Reading]:
    """Return the readings of one pair, all within their noise."""
    found = []
    for candidate in range(CANDIDATES):
        for metric in METRICS:
            ratio = float(np.exp(rng.normal(0, 0.004)))
            change = Change(1e-3, 1e-3 * ratio, ratio, ratio * 0.988, ratio * 1.012)
            found.append(Reading(f"candidate {candidate}", metric, "measured", 0.01, change))
    return found


def main() -> None:
    """Print how long it takes."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rng = np.random.default_rng(0)
    nights = -(-wanted // (RECIPES * CANDIDATES * len(METRICS)))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "history"
        for number in range(1, nights + 1):
            newest = night(number, rng)
            history.write(root, newest, "here")
        start, begun = time.perf_counter(), time.process_time()
        found = history.load(root)
        loaded = time.perf_counter()
        render(newest, found, Path(name) / "report")
        done, cpu = time.perf_counter(), time.process_time() - begun
        size = (Path(name) / "report/report.html").stat().st_size
        took = f"load {loaded - start:.1f} s, render {done - loaded:.1f} s, {cpu:.1f} CPU seconds"
        print(
            f"{len(found.readings)} readings of {nights} nights: {took}; page {size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()
