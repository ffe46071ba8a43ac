"""How good are the predictions? This prints the table of docs/prediction.md.

``python -m hwbench.instruments.predict_validate``.

Every network of ncnn's published table is predicted by a fit that has not seen its family (the
network and its int8 version; in some rows its relatives neither, such as resnet50 for resnet18),
and held against the published time.
Exit 0: the bars hold. 1: one does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hwbench.errors import Exit
from hwbench.instruments import predict_fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

APART = 1.25
"""Published times this far apart must be ordered right; nearer ones are ties."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one board: errors as shares, pairs at least `APART` apart.

    ``pairs`` are those whose published times are so far apart, ``told`` those whose predicted
    ones are, which hwbench does not call ties. ``bar`` is the mean error that it must not exceed
    (None: no bar, for comparison only).
    """

    model: str
    core: str
    networks: int
    mean_error: float
    median_error: float
    largest_error: float
    worst: str
    rank_correlation: float
    pairs: int
    pairs_right: int
    told: int
    told_right: int
    bar: float | None = None

    @property
    def held(self) -> bool:
        """Whether the bar holds: the mean error, and every pair ordered right."""
        return self.bar is None or (self.mean_error <= self.bar and self.pairs_right == self.pairs)


def validate() -> list[Row]:
    """Return the rows of the table, the ones with a bar first."""
    data = predict_fit.published()
    return sorted(_rows(data), key=lambda row: row.bar is None)


def _rows(data: Mapping[str, Any]) -> Iterator[Row]:
    for core, board in predict_fit.BOARDS.items():
        for int8 in (False, True):
            names = predict_fit.networks(data, board, int8)
            seconds = predict_fit.times(data, board, names)
            is_goal = core == "cortex-a72" and not int8
            label = "operator classes" + (", int8 networks too" if int8 else "")
            what = predict_fit.features(data, names)
            yield from _fitted(label, core, names, what, seconds, 0.16 if is_goal else None)
        if core in data["counts"]:
            yield from _counted(data, core, board)


def _counted(data: Mapping[str, Any], core: str, board: str) -> Iterator[Row]:
    import numpy as np

    names = [n for n in predict_fit.networks(data, board, int8=True) if n in data["counts"][core]]
    seconds = predict_fit.times(data, board, names)
    counts = predict_fit.counted(data, core, names)
    label = "counts: instructions and misses"
    # The table of the Cortex-A76 is one of fp16, and no bar for what is predicted: fp32.
    bar = 0.12 if data["boards"][board]["arithmetic"] != "fp16" else None
    yield from _fitted(label, core, names, counts, seconds, bar)
    priced = predict_fit.priced(data, core, names)
    yield row("cycles by llvm-mca, nothing fitted", core, names, priced, seconds)
    classes = predict_fit.left_out(predict_fit.features(data, names), seconds, names)
    both = np.sqrt(predict_fit.left_out(counts, seconds, names) * classes)
    yield row("geometric mean of counts and classes", core, names, both, seconds)
    macs = predict_fit.features(data, names, one=True)
    yield row(
        "multiply-adds alone", core, names, predict_fit.left_out(macs, seconds, names), seconds
    )


def _fitted(
    label: str,
    core: str,
    names: Sequence[str],
    what: NDArray[np.float64],
    seconds: NDArray[np.float64],
    bar: float | None,
) -> Iterator[Row]:
    yield row(label, core, names, predict_fit.left_out(what, seconds, names), seconds, bar)
    wide = predict_fit.left_out(what, seconds, names, wide=True)
    yield row(f"{label}; relatives left out too", core, names, wide, seconds)


def row(
    model: str,
    core: str,
    names: Sequence[str],
    predicted: NDArray[np.float64],
    seconds: NDArray[np.float64],
    bar: float | None = None,
) -> Row:
    """Return how good predicted seconds are against the published ones."""
    import numpy as np
    from scipy import stats

    errors = abs(predicted - seconds) / seconds
    pairs, told_apart = (
        _ordered(seconds, predicted, seconds),
        _ordered(predicted, predicted, seconds),
    )
    return Row(
        model=model,
        core=core,
        networks=len(names),
        mean_error=float(errors.mean()),
        median_error=float(np.median(errors)),
        largest_error=float(errors.max()),
        worst=names[int(errors.argmax())],
        rank_correlation=float(stats.spearmanr(predicted, seconds).statistic),
        pairs=len(pairs),
        pairs_right=sum(pairs),
        told=len(told_apart),
        told_right=sum(told_apart),
        bar=bar,
    )


def _ordered(
    apart: NDArray[np.float64], predicted: NDArray[np.float64], seconds: NDArray[np.float64]
) -> list[bool]:
    """Return, for each pair that differs enough in `apart`, whether it is ordered right."""
    return [
        bool((predicted[i] - predicted[j]) * (seconds[i] - seconds[j]) > 0)
        for i in range(len(apart))
        for j in range(i)
        if max(apart[i], apart[j]) >= APART * min(apart[i], apart[j])
    ]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the docs."""
    heads = ("model", "core", "networks", "MAPE", "median", "largest error",
             "Spearman", f"pairs ≥ {APART} × apart", "told apart", "bar")  # fmt: skip
    lines = [heads, ("---",) * len(heads)]
    for r in rows:
        bar = "" if r.bar is None else f"≤ {r.bar:.0%}, all pairs: {'held' if r.held else 'MISSED'}"
        largest = f"{r.largest_error:.0%} ({r.worst})"
        lines.append(
            (r.model, r.core, str(r.networks), f"{r.mean_error:.1%}", f"{r.median_error:.1%}",
             largest, f"{r.rank_correlation:.3f}", f"{r.pairs_right} of {r.pairs}",
             f"{r.told_right} of {r.told}", bar)
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    rows = validate()
    if parser.parse_args().json:
        text = json.dumps([asdict(r) | {"held": r.held} for r in rows], indent=1)
    else:
        text = markdown(rows)
    sys.stdout.write(text + "\n")
    return Exit.FINE if all(r.held for r in rows) else Exit.MISSED


if __name__ == "__main__":
    sys.exit(main())
