"""A finished study, as a program or a notebook wants it: frames, arrays, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench import report
from hwbench.errors import UserError
from hwbench.records import Candidate, Decision, Result, Study

if TYPE_CHECKING:
    import pandas as pd

PASSES = ("latency", "head-to-head")


@dataclass(frozen=True, slots=True)
class StudyResults:
    """What a study came to, and the folder that it is kept in.

    In a notebook it shows its decision, its table and its picture.
    """

    study: Study
    folder: Path

    @property
    def decision(self) -> Decision:
        """Which model to ship, why, and where every other one stands."""
        return self.study.decision

    @property
    def chosen(self) -> Candidate | None:
        """The candidate to ship, None where there is none."""
        key = self.decision.chosen
        return next((r.candidate for r in self.study.results if r.candidate.key == key), None)

    @property
    def model(self) -> Path:
        """The folder of the chosen model: ONNX, compiled artifact, manifest, ``run.py``."""
        return self.folder / "model"

    def frame(self) -> pd.DataFrame:
        """Return one row a candidate, indexed by its key, every figure in SI units.

        Columns: ``candidate`` and ``backend`` (labels), ``status``, ``failure``, then for each
        metric its value, ``METRIC_low`` and ``METRIC_high`` (its interval) and ``METRIC_source``.
        What is not known is missing (NaN), never 0.
        """
        import pandas as pd

        standings = {s.candidate: s.status for s in self.decision.standings}
        rows = [_row(result, standings) for result in self.study.results]
        return pd.DataFrame(rows).set_index("key") if rows else pd.DataFrame()

    def samples(self, kind: str = "latency") -> pd.DataFrame:
        """Return every timed call: one row a call, seconds.

        `kind` is ``latency`` (the session of all candidates) or ``head-to-head`` (the
        confirmation). Columns: ``key`` (the candidate's; several share an artifact), ``artifact``,
        ``role`` (candidate, reference, shadow), ``generation`` (fresh process), ``round``,
        ``seconds``. Raises `UserError` when the run kept none.
        """
        import pandas as pd

        if kind not in PASSES:
            raise UserError(f"there are no samples of {kind!r}", expected=" or ".join(PASSES))
        home = self.folder / "samples" / ("head-to-head" if kind == "head-to-head" else "")
        paths = sorted(home.glob("latency-*.jsonl"))
        if not paths:
            raise UserError(f"no samples of {kind} were kept", where=str(home))
        keys = {r.artifact: r.candidate.key for r in reversed(self.study.results) if r.artifact}
        parts = [part for path in paths for part in _calls(path, keys)]
        return pd.DataFrame(parts).explode("seconds", ignore_index=True).astype({"seconds": float})

    def picture(self) -> bytes:
        """Return the picture of the Pareto fronts, PNG."""
        return report.picture(self.study)

    def _repr_markdown_(self) -> str:
        return report.decision_markdown(self.study)

    def _repr_png_(self) -> bytes:
        return self.picture()

    def __str__(self) -> str:
        return self.decision.reason


def _row(result: Result, standings: Mapping[str, str]) -> dict[str, Any]:
    candidate = result.candidate
    row: dict[str, Any] = {
        "key": candidate.key,
        "candidate": candidate.compression.label,
        "backend": candidate.backend.label,
        "precision": candidate.export.precision,
        "status": standings.get(candidate.key, ""),
        "failure": result.failure.message if result.failure is not None else "",
    }
    for metric, value in result.values.items():
        row[metric] = value.value
        row[f"{metric}_low"], row[f"{metric}_high"] = value.low, value.high
        row[f"{metric}_source"] = value.source.value
    return row


def _calls(path: Path, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            process = json.loads(line)
        except json.JSONDecodeError:  # torn by a crash
            continue
        rows += [
            {
                "key": keys.get(process["artifact"], ""),
                "artifact": process["artifact"],
                "role": process["role"],
                "generation": process["generation"],
                "round": visit["round"],
                "seconds": visit["wall"],
            }
            for visit in process.get("visits", ())
        ]
    return rows
