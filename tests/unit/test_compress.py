"""The compress room on the toy task: what it promises about weights, scores and files."""

import copy
import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hwbench import compress
from hwbench.compress import training
from hwbench.errors import StageError
from hwbench.protocols import Workload
from hwbench.records import CompressedModel, CompressionSpec, TrainSpec, WorkloadSpec
from hwbench.registry import PRUNERS, WORKLOADS
from tests import nets

TOY = WorkloadSpec("toy")
TRAIN = TrainSpec(epochs=4, lr=0.1)
HEAL = TrainSpec(epochs=2, lr=0.03)


@pytest.fixture(scope="module")
def toy() -> Workload:
    return WORKLOADS.create("toy")


@pytest.fixture(scope="module")
def dense(toy: Workload, tmp_path_factory: pytest.TempPathFactory) -> CompressedModel:
    folder = tmp_path_factory.mktemp("dense")
    return compress.compress(CompressionSpec(TOY, TRAIN), toy, None, folder, lambda share: None)


def _spec(pattern: str, sparsity: float = 0.5, **more: Any) -> CompressionSpec:
    words = {"channel": ("l2", "local"), "2:4": ("magnitude", "local")}
    criterion, scope = words.get(pattern, ("magnitude", "global"))
    spec = CompressionSpec(TOY, TRAIN, pattern, criterion, scope, sparsity, recovery=HEAL)
    return dataclasses.replace(spec, **more)


def _numpy_state() -> list[int]:
    state: Any = np.random.get_state()
    return list(state[1])


def _made(
    spec: CompressionSpec, toy: Workload, dense: CompressedModel, folder: Path
) -> CompressedModel:
    return compress.compress(spec, toy, dense, folder, lambda share: None)


def test_the_toy_trains_to_a_decent_score(dense: CompressedModel) -> None:
    assert set(dense.scores) == {"trained"}
    assert dense.scores["trained"] > 0.95
    assert dense.seconds > 0


def test_what_is_written_loads_without_pickle(dense: CompressedModel, toy: Workload) -> None:
    assert {path.name for path in dense.folder.iterdir()} == {
        "weights.safetensors",
        "structure.json",
    }
    document = json.loads((dense.folder / "structure.json").read_text())
    assert (document["pattern"], document["structure"]) == ("dense", {})
    assert "stem.weight" in load_file(dense.folder / "weights.safetensors")
    model: Any = compress.load(dense, toy)
    assert not model.training
    assert compress.score(model, toy) == dense.scores["trained"]


@pytest.mark.parametrize(
    ("pattern", "sparsity", "schedule", "steps"),
    [
        ("unstructured", 0.8, "oneshot", 1),
        ("unstructured", 0.8, "cubic", 4),
        ("2:4", 0.5, "oneshot", 1),
        ("2:4", 0.5, "linear", 3),
        ("4x1", 0.5, "linear", 3),
        ("channel", 0.5, "oneshot", 1),
        ("channel", 0.5, "cubic", 3),
    ],
)
def test_every_pattern_and_schedule_reaches_what_was_asked(
    toy: Workload,
    dense: CompressedModel,
    tmp_path: Path,
    pattern: str,
    sparsity: float,
    schedule: str,
    steps: int,
) -> None:
    shares: list[float] = []
    spec = _spec(pattern, sparsity, schedule=schedule, steps=steps)
    made = compress.compress(spec, toy, dense, tmp_path, shares.append)
    assert set(made.scores) == {"pruned", "bn_reestimated", "finetuned"}
    assert made.scores["finetuned"] > 0.9
    assert made.notes
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    model: Any = compress.load(made, toy)
    assert compress.score(model, toy) == made.scores["finetuned"]
    if pattern == "channel":
        assert model.conv.weight.shape == (8, 8, 3, 3)
        return
    ends = (model.stem.weight, model.head.weight) if pattern == "2:4" else ()
    weights = [
        p for n, p in model.named_parameters() if p.dim() > 1 and all(p is not e for e in ends)
    ]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros / sum(w.numel() for w in weights) == pytest.approx(sparsity, abs=0.002)


def test_zeros_are_exact_and_nothing_of_the_masks_is_left(
    toy: Workload, dense: CompressedModel, tmp_path: Path
) -> None:
    made = _made(_spec("unstructured", 0.9), toy, dense, tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    assert set(state) == set(compress.load(dense, toy).state_dict())
    zeros = torch.cat([value[value == 0] for value in state.values() if value.is_floating_point()])
    assert not bool(torch.signbit(zeros).any())  # +0: compressors and kernels compare bits
    assert not any(
        nn.utils.parametrize.is_parametrized(module)
        for module in compress.load(made, toy).modules()
    )


def test_the_same_spec_gives_the_same_weights_and_leaves_random_states_alone(
    toy: Workload, dense: CompressedModel, tmp_path: Path
) -> None:
    states = []
    for index, name in enumerate(("a", "b")):
        torch.manual_seed(index)
        random.seed(index)
        np.random.seed(index)
        before = (torch.get_rng_state(), random.getstate(), _numpy_state())
        (tmp_path / name).mkdir()
        _made(_spec("4x1", schedule="cubic", steps=2), toy, dense, tmp_path / name)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
        assert before[2] == _numpy_state()
        states.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert states[0] == states[1]


def test_seeds_differ(toy: Workload, tmp_path: Path) -> None:
    scores = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        spec = CompressionSpec(TOY, TrainSpec(epochs=0), seed=seed)
        compress.compress(spec, toy, None, folder, lambda share: None)
        scores.append(load_file(folder / "weights.safetensors")["stem.weight"])
    assert not torch.equal(scores[0], scores[1])


@pytest.mark.parametrize("recovery", [None, TrainSpec(epochs=0)])
def test_without_recovery_the_norms_are_still_estimated_again(
    toy: Workload, dense: CompressedModel, tmp_path: Path, recovery: TrainSpec | None
) -> None:
    spec = _spec("unstructured", 0.8, recovery=recovery, schedule="cubic", steps=5)
    made = _made(spec, toy, dense, tmp_path)
    assert set(made.scores) == {"pruned", "bn_reestimated"}
    ours: Any = compress.load(made, toy)
    theirs: Any = compress.load(dense, toy)
    assert not torch.equal(ours.norm1.running_mean, theirs.norm1.running_mean)


def test_bn_reestimation_brings_accuracy_back_without_training(
    toy: Workload, dense: CompressedModel, tmp_path: Path
) -> None:
    """The rule of the design page: statistics, not weights, are what one-shot pruning breaks."""
    made = _made(_spec("unstructured", 0.85, recovery=None), toy, dense, tmp_path)
    assert made.scores["bn_reestimated"] >= made.scores["pruned"]
    model: Any = compress.load(dense, toy)
    with torch.no_grad():  # statistics as wrong as can be
        for norm in (model.norm1, model.norm2, model.norm3):
            norm.running_mean.add_(3)
            norm.running_var.mul_(9)
    broken = compress.score(model, toy)
    assert training.reestimate_norms(model, toy, seed=0) == 3
    assert broken < 0.7 < 0.95 < compress.score(model, toy)


def test_reestimation_is_the_plain_average_and_wakes_no_dropout(toy: Workload) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.norm = nn.BatchNorm2d(3, momentum=0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.norm(self.dropout(x))
            return y

    net = Net()
    training.reestimate_norms(net, toy, seed=1)
    inputs, _ = toy.data("train")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1))[:1000]
    wanted = inputs[order].mean((0, 2, 3))
    torch.testing.assert_close(net.norm.running_mean, wanted, rtol=1e-4, atol=1e-5)
    assert net.norm.momentum == 0.3
    assert not net.norm.training


def test_zero_epochs_keep_the_workloads_model_as_it_is(toy: Workload, tmp_path: Path) -> None:
    spec = CompressionSpec(TOY, TrainSpec(epochs=0), seed=5)
    made = compress.compress(spec, toy, None, tmp_path, lambda share: None)
    with training.seeded(5):
        wanted = toy.model().state_dict()
    found = compress.load(made, toy).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_divergence_fails_with_the_step_and_a_mend(
    toy: Workload, dense: CompressedModel, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"training diverged: the loss is (nan|inf)") as caught:
        _made(_spec("unstructured", recovery=TrainSpec(2, lr=1e8)), toy, dense, tmp_path)
    assert caught.value.stage == "compress"
    assert "learning rate" in caught.value.mend
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_not_finite_have_no_score(toy: Workload) -> None:
    model: Any = toy.model()
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(StageError, match="256 of 256 outputs are not finite"):
        compress.score(model, toy)


def test_a_model_that_raises_is_a_failure_with_its_reason(toy: Workload) -> None:
    with pytest.raises(StageError, match="the model raised RuntimeError"):
        compress.score(nn.Linear(5, 4), toy)


@pytest.mark.parametrize("damage", ["missing", "torn", "other", "newer"])
def test_damaged_files_are_a_stage_error(
    toy: Workload, dense: CompressedModel, tmp_path: Path, damage: str
) -> None:
    for path in dense.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights, structure = tmp_path / "weights.safetensors", tmp_path / "structure.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other":
        structure.write_text("{}")
    else:
        structure.write_text(json.dumps({"version": 99, "pattern": "dense", "structure": {}}))
    with pytest.raises(StageError, match="cannot load the compressed model") as caught:
        compress.load(dataclasses.replace(dense, folder=tmp_path), toy)
    assert str(tmp_path) in caught.value.where


def test_a_learning_rate_rises_then_falls_to_nothing() -> None:
    train = TrainSpec(epochs=1, lr=0.2, warmup=0.25)
    rates = [training.one_cycle(step, 100, train) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[25] == pytest.approx(0.2)
    assert rates[62] == pytest.approx(0.1, abs=0.01)
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert training.one_cycle(0, 10, TrainSpec(lr=0.5, warmup=0)) == 0.5


def test_parts_of_a_recovery_see_the_samples_of_the_whole(toy: Workload) -> None:
    """Training 0..1 and 0..½..1 draw the same batches: pruning in between changes no data."""
    seen: list[list[int]] = []

    class Spy:
        metric, model, score = toy.metric, toy.model, toy.score

        def data(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.arange(100.0)[:, None], torch.zeros(100)

        def train_step(
            self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor
        ) -> torch.Tensor:
            seen[-1] += inputs[:, 0].int().tolist()
            loss: torch.Tensor = model(inputs).sum() * 0
            return loss

    for parts in ([0.0, 1.0], [0.0, 0.5, 1.0]):
        seen.append([])
        for start, stop in itertools.pairwise(parts):
            training.fit(
                nn.Linear(1, 1),
                Spy(),
                TrainSpec(epochs=2, batch=10),
                seed=0,
                masks={},
                start=start,
                stop=stop,
                progress=lambda share: None,
            )
    assert seen[0] == seen[1]
    assert sorted(seen[0]) == sorted([*range(100)] * 2)


def test_a_pruned_model_can_be_copied() -> None:
    """torch.nn.utils.prune breaks deepcopy; plain masks do not."""
    spec = nets.spec("unstructured")
    model = nets.Depthwise()
    made = PRUNERS.create("unstructured").prune(model, nets.images(), spec, 0.5)
    made.model(nets.images()).sum().backward()
    twin = copy.deepcopy(made.model)
    assert torch.equal(twin(nets.images()), made.model(nets.images()))
