"""The criteria and schedules that a recipe can name: what each is and needs, said once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["oneshot", "linear", "cubic", "iterative", "lr_rewinding", "lottery", "scratch"]


@dataclass(frozen=True, slots=True)
class CriterionTraits:
    """What a criterion is.

    ``learns_from``: ``weights`` alone, training ``data``, or a short ``training`` at the
    recovery's rate. ``control``: it is there for the others to beat.
    """

    doc: str
    learns_from: Literal["weights", "data", "training"] = "weights"
    control: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleTraits:
    """What a schedule is.

    ``steps``: pruning steps unless told otherwise. ``stepwise``: whether a recipe may ask for
    another number. ``retrains``: whether it repeats the first training, or its end.
    ``afresh``: whether it trains from the beginning, so that there is nothing to recover.
    ``control``: it is there for the others to beat.
    """

    doc: str
    steps: int = 8
    stepwise: bool = True
    retrains: bool = False
    afresh: bool = False
    control: bool = False


CRITERIA: Mapping[str, CriterionTraits] = {
    "magnitude": CriterionTraits("the absolute value of each weight (Han et al. 2015)"),
    "l1": CriterionTraits("the L1 norm of all that leaves together (Li et al. 2017)"),
    "l2": CriterionTraits("the L2 norm of all that leaves together (Li et al. 2017)"),
    "lamp": CriterionTraits("the square over the larger squares of its layer (Lee et al. 2021)"),
    "bn_scale": CriterionTraits("the scale of the channel's batch norm (Liu et al. 2017)"),
    "fpgm": CriterionTraits("the distance of a filter from all others (He et al. 2019)"),
    "taylor": CriterionTraits(
        "the change of the loss to first order, squared (Molchanov et al. 2019)", "data"
    ),
    "hessian": CriterionTraits(
        "the change of the loss to second order, by the Fisher diagonal (LeCun et al. 1990)", "data"
    ),
    "movement": CriterionTraits(
        "whether weights grow in a short training (Sanh et al. 2020)", "training"
    ),
    "wanda": CriterionTraits("weight times norm of its input, by rows (Sun et al. 2023)", "data"),
    "random": CriterionTraits("by chance: a control", control=True),
}
"""By name, what every criterion is; which of them a pruner takes, its own traits say."""

SCHEDULES: Mapping[Schedule, ScheduleTraits] = {
    "oneshot": ScheduleTraits("all at once, then recovery", steps=1, stepwise=False),
    "linear": ScheduleTraits("by equal shares of the dense weights, during recovery"),
    "cubic": ScheduleTraits("fast first, slower as weights get scarce (Zhu & Gupta 2017)"),
    "iterative": ScheduleTraits("by equal shares of the weights that are left (Han et al. 2015)"),
    "lr_rewinding": ScheduleTraits(
        "repeats the end of the training after every step (Renda et al. 2020)",
        steps=3,
        retrains=True,
    ),
    "lottery": ScheduleTraits(
        "trains the pruned net again from an early epoch (Frankle & Carbin 2019)",
        steps=3,
        retrains=True,
        afresh=True,
    ),
    "scratch": ScheduleTraits(
        "trains the pruned shape from fresh weights: a control",
        steps=1,
        stepwise=False,
        retrains=True,
        afresh=True,
        control=True,
    ),
}
"""By name, what every schedule is."""


def criterion(name: str) -> CriterionTraits:
    """Return what a criterion is; one that is not in `CRITERIA` is its pruner's own."""
    return CRITERIA.get(name, CriterionTraits("of the pruner's own"))


def usual_steps(schedule: Schedule) -> int:
    """Return a schedule's pruning steps unless told otherwise: few where each is a training."""
    return SCHEDULES[schedule].steps
