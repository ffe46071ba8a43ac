"""What every pruner promises, whichever file it is in."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from hwbench import pruners
from hwbench.errors import StageError, UserError
from hwbench.protocols import Pruner
from hwbench.pruners import _blocks, _heads
from hwbench.records import CompressionSpec, to_json
from hwbench.registry import PRUNERS
from hwbench.traits import PrunerTraits
from hwbench.workloads._resnet8 import ResNet8
from hwbench.workloads.zoo.imagenet import ViTTiny
from tests import nets

PATTERNS = (
    "dense",
    "channel",
    "filter",
    "head",
    "depth",
    "unstructured",
    "2:4",
    "1:4",
    "4x1",
    "1x4",
    "2x1",
    "3x5",
)


def _cases() -> list[tuple[str, str, str, str]]:
    cases = []
    for name in PRUNERS.kinds():
        kind = PRUNERS.traits(name)
        cases += [
            (name, pattern, criterion, scope)
            for pattern in PATTERNS
            if kind.accepts(pattern)
            for criterion in kind.criteria
            for scope in kind.scopes
            # Every criterion and every scope of a pattern at least once, not each with each.
            if criterion == kind.criteria[0] or scope == kind.scopes[0]
            # One block shape stands for all where only the criterion differs.
            if criterion == kind.criteria[0] or pattern not in ("1x4", "2x1", "3x5", "1:4")
        ]
    return cases


CASES = _cases()


def _pruner(pattern: str) -> tuple[Pruner, PrunerTraits]:
    kind = pruners.for_pattern(pattern)
    return PRUNERS.create(kind), PRUNERS.traits(kind)


def _spec(pattern: str, criterion: str, scope: str, wanted: float, **more: Any) -> CompressionSpec:
    """Return a spec; the scope vector gives every layer the same share."""
    spec = nets.spec(pattern, criterion, scope, wanted, **more)
    if scope != "vector":
        return spec
    pruner, _ = _pruner(pattern)
    layers = pruner.layers(_model(pattern), nets.images(1, 16), spec)
    assert sum(layers.values()) > 0
    return dataclasses.replace(spec, ratios=dict.fromkeys(layers, wanted))


def _evidence(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return something learnt from data about every weight, whatever the criterion."""
    return {name: p.detach().abs() + 0.1 for name, p in model.named_parameters() if p.dim() > 1}


def _own_sparsity(pattern: str) -> float:
    if ":" in pattern:
        kept, of = pattern.split(":")
        return 1 - int(kept) / int(of)
    return 0.5


def _model(pattern: str = "") -> nn.Module:
    """Return a ResNet-8; a small ViT for what only transformers and deep nets have."""
    torch.manual_seed(0)
    if pattern in ("head", "depth"):
        return ViTTiny(32, 4, 4, 8, 16, 10).eval()
    return _resnet()


def _resnet() -> nn.Module:
    torch.manual_seed(0)
    return nets.warmed(ResNet8(3, 10, (16, 32, 64), 2), nets.images(16, 16))


def test_every_pruner_has_a_pattern_tested_here() -> None:
    assert {name for name, *_ in CASES} == set(PRUNERS.kinds())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_exactly_one_pruner_makes_a_pattern(pattern: str) -> None:
    names = PRUNERS.kinds()
    accepting = [n for n in names if PRUNERS.traits(n).accepts(pattern)]
    assert accepting == [pruners.for_pattern(pattern)]


@pytest.mark.parametrize("pattern", ["4:2", "2:2", "0:4", "x", "4x", "0x1", "4 x 1", "", "2:4:8"])
def test_nonsense_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UserError, match="no pruner makes"):
        pruners.for_pattern(pattern)


@pytest.mark.parametrize(("name", "pattern", "criterion", "scope"), CASES)
def test_the_contract(name: str, pattern: str, criterion: str, scope: str) -> None:
    pruner = PRUNERS.create(name)
    model, example = _model(pattern), nets.images(1, 16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    wanted = _own_sparsity(pattern)
    spec, learnt = _spec(pattern, criterion, scope, wanted, seed=3), _evidence(model)

    made = pruner.prune(model, example, spec, wanted, learnt)

    # The argument is untouched, its mode included.
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in made.model.parameters()}
    _reaches(pattern, wanted, model, made.model, made.masks)

    # Deterministic for a seed, whatever the global random state.
    torch.manual_seed(99)
    again = pruner.prune(model, example, spec, wanted, learnt)
    ours, theirs = made.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    # The structure is plain JSON, and enough to load the weights into a fresh model.
    structure = json.loads(json.dumps(to_json(made.structure)))
    restored = pruner.restore(_model(pattern), example, structure)
    restored.load_state_dict(made.model.state_dict())
    inputs = nets.images(5, 16)
    assert torch.equal(restored.eval()(inputs), made.model.eval()(inputs))


def _reaches(
    pattern: str, wanted: float, dense: nn.Module, pruned: nn.Module, masks: object
) -> None:
    assert isinstance(masks, dict)
    if pattern == "dense":
        assert not masks
        ours, theirs = dense.state_dict(), pruned.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    elif pattern == "head":
        assert [(a.heads, a.dense) for a in _heads.find(dense)] == [(4, 4)] * 4
        assert sum(a.heads for a in _heads.find(pruned)) == 8
    elif pattern == "depth":
        assert len(_blocks.removed(pruned)) == 2
    elif pattern in ("channel", "filter"):
        counts = [sum(p.numel() for p in m.parameters()) for m in (dense, pruned)]
        # A share p of the channels takes about 1 - (1-p)² of the parameters.
        assert 1 - counts[1] / counts[0] == pytest.approx(1 - (1 - wanted) ** 2, abs=0.08)
    else:
        parameters = dict(pruned.named_parameters())
        covered = sum(mask.numel() for mask in masks.values())
        zeros = sum(int((parameters[name] == 0).sum()) for name in masks)
        assert zeros / covered == pytest.approx(wanted, abs=15 / covered * len(masks))
        for name, mask in masks.items():
            assert set(mask.unique().tolist()) <= {0.0, 1.0}
            assert torch.equal(parameters[name] != 0, mask != 0)


@pytest.mark.parametrize(
    ("pattern", "scope"), [("unstructured", "global"), ("4x1", "global"), ("channel", "local")]
)
def test_steps_nest(pattern: str, scope: str) -> None:
    """What one step of a schedule removed, the next does not bring back."""
    pruner, _ = _pruner(pattern)
    model, example = _model(), nets.images(1, 16)
    spec = nets.spec(pattern, "random", scope, 0.6)
    straight = pruner.prune(model, example, spec, 0.6)
    half = pruner.prune(model, example, spec, 0.3)
    full = pruner.prune(half.model, example, spec, 0.6)
    counts = [sum(p.numel() for p in m.model.parameters()) for m in (straight, full)]
    assert counts[0] == counts[1]
    for name, mask in full.masks.items():
        assert not (mask.bool() & ~half.masks[name].bool()).any()
    zeros = [sum(int((m == 0).sum()) for m in made.masks.values()) for made in (straight, full)]
    assert zeros[0] == pytest.approx(zeros[1], abs=4)


@pytest.mark.parametrize("pattern", ["unstructured", "channel", "2:4", "4x1"])
def test_unknown_words_get_a_suggestion(pattern: str) -> None:
    pruner, traits = _pruner(pattern)
    with pytest.raises(UserError, match="criterion 'magnitud'"):
        pruner.prune(
            _model(), nets.images(1), nets.spec(pattern, "magnitud", traits.scopes[0]), 0.5
        )
    with pytest.raises(UserError, match="scope 'everywhere'"):
        pruner.prune(
            _model(), nets.images(1), nets.spec(pattern, traits.criteria[0], "everywhere"), 0.5
        )


@pytest.mark.parametrize("pattern", ["unstructured", "channel", "2:4", "4x1"])
def test_a_model_with_nothing_to_prune_fails_clearly(pattern: str) -> None:
    pruner, traits = _pruner(pattern)
    spec = nets.spec(pattern, traits.criteria[0], traits.scopes[0])
    bare = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.BatchNorm1d(192))
    with pytest.raises(StageError, match="nothing to prune"):
        pruner.prune(bare, nets.images(2), spec, 0.5)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "channel"])
def test_ratios_of_a_layer_that_is_not_there(pattern: str) -> None:
    pruner, traits = _pruner(pattern)
    spec = nets.spec(pattern, traits.criteria[0], "vector", ratios={"block1.conv9": 0.5})
    with pytest.raises(StageError, match=r"block1\.conv9"):
        pruner.prune(_model(), nets.images(1, 16), spec, 0.5)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "channel"])
def test_a_criterion_from_data_without_data_fails_clearly(pattern: str) -> None:
    pruner, traits = _pruner(pattern)
    spec = nets.spec(pattern, "taylor", traits.scopes[0])
    with pytest.raises(StageError, match="needs data, and nothing was learnt"):
        pruner.prune(_model(), nets.images(1, 16), spec, 0.5)


def test_random_differs_with_the_seed() -> None:
    for name, pattern, criterion, scope in CASES:
        if criterion == "random":
            pruner = PRUNERS.create(name)
            wanted = _own_sparsity(pattern)
            made = [
                pruner.prune(
                    _model(pattern),
                    nets.images(1, 16),
                    nets.spec(pattern, criterion, scope, wanted, seed=seed),
                    wanted,
                )
                for seed in (1, 2)
            ]
            states = [m.model.state_dict() for m in made]
            same_shape = states[0].keys() == states[1].keys() and all(
                states[0][key].shape == states[1][key].shape for key in states[0]
            )
            assert not same_shape or any(
                not torch.equal(states[0][key], states[1][key]) for key in states[0]
            )
