"""One recipe on one target under way: what every step of its night needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import measurement
from hwbench.pipeline.prepare import Prepared
from hwbench.pipeline.session import Context
from hwbench.records import Floor, NightlyPlan, Pin, Sitting
from hwbench.regress import FLOORS
from hwbench.studies.nightly.pinned_models import Model, PinnedArtifacts
from hwbench.studies.nightly.sessions import ArtifactPair


@dataclass(frozen=True, slots=True)
class EntryRun:
    """One entry of a night under way."""

    context: Context
    plan: NightlyPlan
    pin: Pin
    pinned: PinnedArtifacts
    prepared: Sequence[Prepared]
    pairs: Sequence[ArtifactPair]
    seed: int

    @property
    def folder(self) -> Path:
        """Where the raw samples of this entry go."""
        return self.context.run.folder

    def floor(self, metric: str) -> Floor:
        """Return what is no change, by the plan or as usual."""
        usual = FLOORS[metric]
        return dataclasses.replace(usual, share=self.plan.floors.get(metric, usual.share))

    def measure(self, pairs: Sequence[ArtifactPair], name: str, seed: int) -> Sitting:
        """Return a session of both sides of some pairs, with the pinned dense model as R."""
        context = self.context
        spec = dataclasses.replace(context.spec, seed=seed)
        models = [m.compiled for p in pairs for m in (p.pinned, p.tonight)]
        phase = "measure" if name == "first" else "confirm"
        return measurement.measure(
            models,
            reference(self.pinned).compiled,
            context.target,
            spec,
            context.split("validation").inputs,
            self.folder / name,
            lambda share, label: context.progress(phase, share, f"{context.recipe.name}: {label}"),
            empties=context.line.empties(models),
        )


def reference(pinned: PinnedArtifacts) -> Model:
    """Return the pinned dense model on the first backend that had one: R of every session."""
    return next(m for m in pinned.models if m.compiled.candidate.compression.is_dense)
