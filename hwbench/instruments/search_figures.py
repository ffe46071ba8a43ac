"""Figures on searching, from finished runs.

``python -m hwbench.instruments.search_figures --help`` says more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwbench import stats, store
from hwbench.errors import Exit, HwbenchError, UserError
from hwbench.instruments.sampler_race import Entry, race
from hwbench.records import Point, Study
from hwbench.search.plan import plan
from hwbench.search.space import points

_NAME = "python -m hwbench.instruments.search_figures"
_PHASES = ("search", "prepare", "measure", "score")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of the command line in `arguments` (the process's by default)."""
    parser = argparse.ArgumentParser(
        prog="python -m hwbench.instruments.search_figures", description=__doc__
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    fronts = verbs.add_parser("fronts", help="hypervolume and time of runs, beside the first one")
    fronts.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    races = verbs.add_parser("race", help="samplers at equal budget on a grid search's history")
    races.add_argument("run", type=Path, help="a finished latency-first run, or a table of lines")
    races.add_argument("--trials", type=int, default=40)
    races.add_argument("--seeds", type=int, default=5)
    parsed = parser.parse_args(arguments)
    try:
        if parsed.verb == "fronts":
            _fronts(parsed.runs)
        else:
            _race(parsed.run, parsed.trials, range(parsed.seeds))
    except HwbenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    return Exit.FINE


def volume(study: Study) -> float:
    """Return the hypervolume of a study's results, relative to its own dense reference."""
    reference = next(
        r for r in study.results if r.candidate.compression.is_dense and r.failure is None
    )
    costs = [stats.costs_of(r, reference, study.recipe.objectives) for r in study.results]
    return stats.ruled([c for c in costs if c is not None])


def _fronts(folders: Sequence[Path]) -> None:
    first: tuple[float, float] | None = None
    for folder in folders:
        study = store.read_study(folder)
        figures = (volume(study), sum(study.seconds.get(phase, 0.0) for phase in _PHASES))
        first = first or figures
        share = f"{figures[0] / first[0]:.1%} of the first's" if first[0] else "n/a"
        time = f"{figures[1] / first[1]:.1%} of its time" if first[1] else "n/a"
        line = {"run": str(folder), "strategy": study.recipe.search.strategy}
        line |= {"hypervolume": f"{figures[0]:.4f}", "share": share}
        line |= {"seconds": f"{figures[1]:.1f}", "of": time}
        _say(json.dumps(line))


def table_of(folder: Path) -> list[Entry]:
    """Return a run's search history as a table; raises `UserError` where it tried nothing.

    A file holds a table by itself: a JSON object a line, its words and numbers the axes and
    ``costs`` what it costs (absent: it failed).
    """
    if folder.is_file():
        return [_entry(json.loads(line)) for line in folder.read_text().splitlines()]
    study = store.read_study(folder)
    if not study.tried:
        raise UserError(
            "this run searched nothing", where=str(folder), mend="search.strategy=latency_first"
        )
    candidates = {c.key: c for c in plan(study.recipe, study.target)}
    known = [(candidates[t.candidate], t) for t in study.tried if t.candidate in candidates]
    where = points([candidate for candidate, _ in known])
    return [Entry(point, t.costs) for point, (_, t) in zip(where, known, strict=True)]


def _entry(line: dict[str, Any]) -> Entry:
    costs = line.pop("costs", None)
    line.pop("failed", None)
    names = {name: word for name, word in line.items() if isinstance(word, str)}
    numbers = {name: float(n) for name, n in line.items() if not isinstance(n, str)}
    return Entry(Point(names, numbers), costs)


def _race(folder: Path, trials: int, seeds: Sequence[int]) -> None:
    table = table_of(folder)
    entrants = [("random", {}), *(("optuna", {"algorithm": a}) for a in ("tpe", "nsga2"))]
    _say(f"{len(table)} candidates, {trials} trials, {len(seeds)} seeds; cached evaluations")
    for ran in race(table, entrants, trials, seeds):
        name = " ".join([ran.sampler, *ran.options.values()])
        shares = ", ".join(f"{share:.1%}" for share in ran.shares)
        _say(f"{name}: {ran.median:.1%} of the hypervolume (median of {shares})")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
