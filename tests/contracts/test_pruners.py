"""Every pruner keeps its promise: the contract that ships, and how much each one removes."""

import pytest
import torch
from torch import nn

from hwbench import pruners
from hwbench.errors import StageError, UserError
from hwbench.protocols import Pruned, Pruner
from hwbench.pruners import _blocks, _heads
from hwbench.registry import PRUNERS
from hwbench.testing import PrunerContract
from hwbench.traits import PrunerTraits
from hwbench.workloads._resnet8 import ResNet8
from hwbench.workloads.zoo.imagenet import ViTTiny
from tests import nets

PATTERNS = {
    "block": ("4x1", "1x4", "2x1", "3x5"),
    "channel": ("channel", "filter"),
    "nm": ("2:4", "1:4"),
}
"""Of pruners that make many, and of those that the model here has nothing for, those tried."""


def _pruner(pattern: str) -> tuple[Pruner, PrunerTraits]:
    kind = pruners.for_pattern(pattern)
    return PRUNERS.create(kind), PRUNERS.traits(kind)


def _model(pattern: str = "") -> nn.Module:
    """Return a ResNet-8; a small ViT for what only transformers and deep nets have."""
    torch.manual_seed(0)
    if pattern in ("head", "depth"):
        return ViTTiny(32, 4, 4, 8, 16, 10).eval()
    return _resnet()


def _resnet() -> nn.Module:
    torch.manual_seed(0)
    return nets.warmed(ResNet8(3, 10, (16, 32, 64), 2), nets.images(16, 16))


@pytest.mark.parametrize("pattern", ["4:2", "2:2", "0:4", "x", "4x", "0x1", "4 x 1", "", "2:4:8"])
def test_nonsense_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UserError, match="no pruner makes"):
        pruners.for_pattern(pattern)


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


class Exact(PrunerContract):
    """The contract, and how much each pattern removes from the model of the tests."""

    def patterns(self) -> tuple[str, ...]:
        return PATTERNS.get(self.kind, self.traits.patterns)

    def model(self, pattern: str) -> nn.Module:
        return _model(pattern)

    def check_reached(self, pattern: str, wanted: float, dense: nn.Module, made: Pruned) -> None:
        super().check_reached(pattern, wanted, dense, made)
        _reaches(pattern, wanted, dense, made.model, made.masks)


for kind in PRUNERS.kinds():
    globals()[f"Test_{kind}"] = type(f"Test_{kind}", (Exact,), {"kind": kind})
