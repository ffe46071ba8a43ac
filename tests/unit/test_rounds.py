"""Lottery tickets, learning-rate rewinding, distillation: on the toy task."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hwbench import compress
from hwbench.compress import rounds
from hwbench.compress.distillation import taught
from hwbench.compress.training import fit, seeded
from hwbench.protocols import Workload
from hwbench.records import CompressedModel, CompressionSpec, TrainSpec, WorkloadSpec
from hwbench.registry import WORKLOADS

OPTIONS = {"train": 256, "validation": 128}
TOY = WorkloadSpec("toy", OPTIONS)
TRAIN = TrainSpec(epochs=3, lr=0.1)
BASE = CompressionSpec(
    TOY, TRAIN, "unstructured", sparsity=0.75, steps=2, recovery=TrainSpec(epochs=1, lr=0.03)
)


def _quiet(_share: float) -> None:
    pass


@pytest.fixture(scope="module")
def toy() -> Workload:
    return WORKLOADS.create("toy", OPTIONS)


@pytest.fixture(scope="module")
def dense(toy: Workload, tmp_path_factory: pytest.TempPathFactory) -> CompressedModel:
    folder = tmp_path_factory.mktemp("dense")
    return compress.compress(BASE.dense, toy, None, folder, _quiet)


def _fresh(toy: Workload, seed: int) -> dict[str, torch.Tensor]:
    with seeded(seed):
        return toy.model().state_dict()


@pytest.mark.parametrize("pattern", ["unstructured", "channel"])
def test_a_ticket_starts_from_the_weights_of_the_beginning(
    toy: Workload, dense: CompressedModel, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frankle & Carbin 2019: what is left of the weights is exactly what it was before training."""
    starts: list[dict[str, torch.Tensor]] = []
    kept: list[int] = []

    def spy(model: nn.Module, *_: Any, masks: Any, **__: Any) -> None:
        starts.append({k: v.clone() for k, v in model.state_dict().items()})
        kept.append(sum(int(m.sum()) for m in masks.values()))

    monkeypatch.setattr(rounds, "fit", spy)
    words = {"criterion": "l2", "scope": "local"} if pattern == "channel" else {}
    spec = dataclasses.replace(BASE, pattern=pattern, schedule="lottery", recovery=None, **words)  # type: ignore[arg-type]
    rounds.draw(spec, toy, compress.load(dense, toy), _quiet)
    first = _fresh(toy, spec.seed)
    assert len(starts) == 2
    if pattern == "channel":
        # The values that are left come from the first weights, in a smaller shape.
        stem = {row.numpy().tobytes() for row in first["stem.weight"]}
        assert {row.numpy().tobytes() for row in starts[-1]["stem.weight"]} < stem
        return
    for start in starts:
        left = start["stem.weight"] != 0
        assert torch.equal(start["stem.weight"][left], first["stem.weight"][left])
    # Two rounds, half of the weights each: 1 - 0.5 * 0.5 = 75 % are gone.
    assert kept[0] == pytest.approx(2 * kept[1], rel=0.01)


def test_a_late_ticket_goes_back_to_its_epoch(toy: Workload) -> None:
    spec = dataclasses.replace(BASE, schedule="lottery", rewind=1)
    early = rounds._early(spec, toy).state_dict()
    with seeded(spec.seed):
        model = toy.model()
    fit(model, toy, TRAIN, seed=0, masks={}, stop=1 / 3, progress=_quiet)
    assert all(torch.equal(early[k], v) for k, v in model.state_dict().items())


def test_a_random_ticket_keeps_the_net_and_not_the_weights(
    toy: Workload, dense: CompressedModel, tmp_path: Path
) -> None:
    states, scores = [], []
    for ticket in ("winning", "random"):
        (tmp_path / ticket).mkdir()
        spec = dataclasses.replace(
            BASE,
            schedule="lottery",
            ticket=ticket,
            steps=1,
            recovery=None,
        )
        made = compress.compress(spec, toy, dense, tmp_path / ticket, _quiet)
        states.append(compress.load(made, toy).state_dict())
        scores.append(made.scores["finetuned"])
    winning, chance = (state["conv.weight"] for state in states)
    assert torch.equal(winning != 0, chance != 0)
    assert not torch.equal(winning, chance)
    assert min(scores) > 0.8
    assert spec.label == "unstructured 75 % magnitude global lottery 1-step random-ticket"


def test_learning_rate_rewinding_repeats_the_end_of_the_training(
    toy: Workload, dense: CompressedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, Any]] = []

    def spy(_m: nn.Module, _w: Workload, train: TrainSpec, *, start: Any, **__: Any) -> None:
        calls.append((train, start))

    monkeypatch.setattr(rounds, "fit", spy)
    spec = dataclasses.replace(BASE, schedule="lr_rewinding")
    made, _ = rounds.rewind(spec, toy, compress.load(dense, toy), _quiet)
    assert [train for train, _ in calls] == [TRAIN, TRAIN]
    assert [start for _, start in calls] == pytest.approx([2 / 3, 2 / 3])
    zeros = sum(int((m == 0).sum()) for m in made.masks.values())
    assert zeros / sum(m.numel() for m in made.masks.values()) == pytest.approx(0.75, abs=0.001)


def test_the_cost_of_a_schedule_in_epochs() -> None:
    costs = {
        name: dataclasses.replace(BASE, schedule=name, steps=2).epochs
        for name in ("cubic", "lr_rewinding", "lottery")
    }
    assert costs == {"cubic": 1, "lr_rewinding": 2, "lottery": 6}


class _Given(nn.Module):
    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows.expand(len(x), -1)


def test_distillation_by_hand(toy: Workload) -> None:
    """Logits (0, ln 3) against (0, 0): KL = ½ ln(½/¼) + ½ ln(½/¾) at T = 1."""
    model, teacher = _Given([[0.0, 1.0986122886681098]]), _Given([[0.0, 0.0]])
    inputs, labels = torch.zeros(2, 3), torch.tensor([1, 1])
    own = -torch.tensor(0.75).log()
    apart = 0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log()
    loss = taught(toy, teacher, 0.25, 1.0)(model, inputs, labels)
    assert loss.item() == pytest.approx((0.75 * own + 0.25 * apart).item(), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.rows.grad is not None
    assert teacher.rows.grad is None


def test_distillation_heals(toy: Workload, dense: CompressedModel, tmp_path: Path) -> None:
    spec = dataclasses.replace(BASE, healing="distill", schedule="cubic", begin=0.2)
    made = compress.compress(spec, toy, dense, tmp_path, _quiet)
    assert made.scores["finetuned"] > 0.8
    assert spec.label.endswith("cubic 2-steps 20-66.7% distill")


def test_shares_by_sensitivity_meet_the_whole(
    toy: Workload, dense: CompressedModel, tmp_path: Path
) -> None:
    spec = dataclasses.replace(BASE, scope="sensitivity", sparsity=0.6, healing="bn", recovery=None)
    found = compress.sensitivity(spec, toy, dense, _quiet)
    assert [curve.score for curve in found.curves] == [dense.scores["trained"]] * len(found.curves)
    made = compress.compress(spec, toy, dense, tmp_path, _quiet)
    state = compress.load(made, toy).state_dict()
    zeros = {c.layer: int((state[f"{c.layer}.weight"] == 0).sum()) for c in found.curves}
    assert sum(zeros.values()) / sum(c.units for c in found.curves) == pytest.approx(0.6, abs=0.01)
    assert made.spec == spec


@pytest.mark.parametrize("pattern", ["unstructured", "channel"])
def test_a_net_from_scratch_has_the_shape_fresh_weights_and_the_whole_budget(
    toy: Workload, dense: CompressedModel, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Liu et al. 2019: the control is the pruned shape, trained as long as all of pruning took."""
    seen: list[tuple[dict[str, torch.Tensor], TrainSpec]] = []

    def spy(model: nn.Module, _w: Any, train: TrainSpec, **_: Any) -> None:
        seen.append(({k: v.clone() for k, v in model.state_dict().items()}, train))

    monkeypatch.setattr(rounds, "fit", spy)
    words: dict[str, Any] = {"criterion": "l2", "scope": "local"} if pattern == "channel" else {}
    own = dataclasses.replace(BASE, pattern=pattern, schedule="scratch", steps=1, **words)
    made, scores = rounds.anew(own, toy, compress.load(dense, toy), _quiet)
    ((start, train),) = seen
    assert train == dataclasses.replace(TRAIN, epochs=4)
    assert own.epochs == 4
    assert set(scores) == {"finetuned"}
    fresh = _fresh(toy, own.seed + 1_000_003)
    weight = start["conv.weight"]
    if pattern == "unstructured":
        mask = made.masks["conv.weight"]
        assert torch.equal(weight, fresh["conv.weight"] * mask)
        gone = sum(int((m == 0).sum()) for m in made.masks.values())
        assert gone / sum(m.numel() for m in made.masks.values()) == pytest.approx(0.75, abs=0.01)
    else:
        assert weight.numel() < 0.5 * fresh["conv.weight"].numel()
        assert torch.isin(weight, fresh["conv.weight"]).all()
