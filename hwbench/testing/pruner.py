"""What every pruner promises: a copy that is pruned, the same each time, and can be made again."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from hwbench import pruners
from hwbench.errors import StageError, UserError
from hwbench.records import CompressionSpec, TrainSpec, WorkloadSpec, to_json
from hwbench.registry import PRUNERS
from hwbench.testing._plugin import PluginContract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from hwbench.protocols import Pruned, Pruner
    from hwbench.traits import PrunerTraits

_SHARE = 0.5
_SIZE = 16


class PrunerContract(PluginContract):
    """A pruner named by ``kind``: every pattern, with every criterion and scope once."""

    family = PRUNERS

    def patterns(self) -> tuple[str, ...]:
        """Return the patterns that are tried: those of the traits, unless overridden."""
        return self.traits.patterns

    def model(self, pattern: str) -> nn.Module:
        """Return a fresh dense model in evaluation mode, the same each time; override it at will.

        It takes images of (batch, 3, 16, 16). A small vision transformer stands in where heads or
        whole blocks leave, a ResNet-8 elsewhere.
        """
        import torch

        torch.manual_seed(0)
        if self.traits.removes in ("heads", "blocks"):
            from hwbench.workloads.zoo.imagenet import ViTTiny

            return ViTTiny(32, 4, 4, 8, _SIZE, 10).eval()
        from hwbench.workloads._resnet8 import ResNet8

        return _warmed(ResNet8(3, 10, (16, 32, 64), 2))

    def check_reached(
        self, pattern: str, sparsity: float, dense: nn.Module, pruned: Pruned
    ) -> None:
        """Check that so much was removed; a subclass may know it more exactly."""
        before, after = _numbers(dense), _numbers(pruned.model)
        if self.traits.removes == "nothing":
            assert after == before
            return
        assert after < before
        if self.traits.removes == "weights":
            parameters = dict(pruned.model.named_parameters())
            assert pruned.masks
            for name, mask in pruned.masks.items():
                assert ((mask == 0) | (mask == 1)).all()
                assert not (parameters[name] != 0)[mask == 0].any()
            covered = sum(mask.numel() for mask in pruned.masks.values())
            zeros = sum(int((mask == 0).sum()) for mask in pruned.masks.values())
            assert zeros / covered == pytest.approx(sparsity, abs=0.1)

    # ------------------------------------------------------------------------ cases

    @property
    def traits(self) -> PrunerTraits:
        """What the pruner says of itself."""
        return PRUNERS.traits(self.kind)

    def pruner(self) -> Pruner:
        """Return an instance."""
        return PRUNERS.create(self.kind, self.options)

    def cases(self) -> list[tuple[str, str, str]]:
        """Return patterns with a criterion and a scope: each once, not each with each."""
        criteria, scopes = self.traits.criteria, self.traits.scopes
        patterns = self.patterns()
        return [
            (pattern, criterion, scope)
            for pattern in patterns
            for criterion in criteria
            for scope in scopes
            if criterion == criteria[0] or (scope == scopes[0] and pattern == patterns[0])
        ]

    def spec(self, pattern: str, criterion: str, scope: str, **more: Any) -> CompressionSpec:
        """Return a spec; the scope ``vector`` gives every layer the same share."""
        sparsity = self.share(pattern)
        fixed = CompressionSpec(
            WorkloadSpec("toy"), TrainSpec(epochs=1), pattern, criterion, scope, sparsity
        )
        spec = dataclasses.replace(fixed, **more)
        if scope != "vector":
            return spec
        layers = self.pruner().layers(self.model(pattern), _images(1), spec)
        assert sum(layers.values()) > 0
        return dataclasses.replace(spec, ratios=dict.fromkeys(layers, sparsity))

    def share(self, pattern: str) -> float:
        """Return the sparsity that is asked for."""
        fixed = self.traits.fixed_sparsity(pattern)
        return _SHARE if fixed is None else fixed

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of every case and of every pattern."""
        if "case" in metafunc.fixturenames:
            cases = self.cases()
            metafunc.parametrize("case", cases, ids=["-".join(case) for case in cases])
        elif "pattern" in metafunc.fixturenames:
            metafunc.parametrize("pattern", self.patterns())

    # ------------------------------------------------------------------------ tests

    def test_makes_its_patterns_alone(self, pattern: str) -> None:
        """It accepts what its traits name, and no other pruner makes the same."""
        assert self.traits.accepts(pattern)
        assert pruners.for_pattern(pattern) == self.kind
        others = [k for k in PRUNERS.kinds() if PRUNERS.traits(k).accepts(pattern)]
        assert others == [self.kind]

    def test_the_contract(self, case: tuple[str, str, str]) -> None:
        """It leaves its argument alone, is deterministic, and its structure rebuilds the shape."""
        import torch

        pattern, criterion, scope = case
        pruner, model, example = self.pruner(), self.model(pattern), _images(1)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.train()
        sparsity = self.share(pattern)
        spec, learnt = self.spec(pattern, criterion, scope, seed=3), _evidence(model)

        pruned = pruner.prune(model, example, spec, sparsity, learnt)

        assert model.training
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert not {id(p) for p in model.parameters()} & {id(p) for p in pruned.model.parameters()}
        self.check_reached(pattern, sparsity, model, pruned)

        torch.manual_seed(99)
        again = pruner.prune(model, example, spec, sparsity, learnt)
        assert _same(pruned.model, again.model)

        structure = json.loads(json.dumps(to_json(pruned.structure)))
        restored = pruner.restore(self.model(pattern), example, structure)
        restored.load_state_dict(pruned.model.state_dict())
        inputs = _images(5)
        with torch.no_grad():
            assert torch.equal(restored.eval()(inputs), pruned.model.eval()(inputs))

    def test_random_differs_with_the_seed(self, pattern: str) -> None:
        """The control is drawn anew for every seed."""
        if "random" not in self.traits.criteria:
            return
        model, sparsity = self.model(pattern), self.share(pattern)
        scope = self.traits.scopes[0]
        one, other = (
            self.pruner().prune(
                model, _images(1), self.spec(pattern, "random", scope, seed=seed), sparsity
            )
            for seed in (1, 2)
        )
        assert not _same(one.model, other.model) or dict(one.structure) != dict(other.structure)

    def test_words_that_it_does_not_know_are_refused(self, pattern: str) -> None:
        """An unknown criterion or scope is the user's mistake, with a suggestion."""
        if self.traits.removes == "nothing":
            return
        known = self.spec(pattern, self.traits.criteria[0], self.traits.scopes[0])
        specs = (
            dataclasses.replace(known, criterion="no-such"),
            dataclasses.replace(known, scope="no-such"),
        )
        for spec in specs:
            with pytest.raises(UserError, match="no-such"):
                self.pruner().prune(self.model(pattern), _images(1), spec, self.share(pattern))

    def test_a_model_with_nothing_to_prune_fails_clearly(self, pattern: str) -> None:
        """What has nothing to remove costs the candidate, with a reason."""
        from torch import nn

        if self.traits.removes == "nothing":
            return
        bare = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.BatchNorm1d(3 * _SIZE * _SIZE)).eval()
        spec = dataclasses.replace(
            self.spec(pattern, self.traits.criteria[0], self.traits.scopes[0]), ratios={}
        )
        with pytest.raises(StageError):
            self.pruner().prune(bare, _images(2), spec, self.share(pattern))


def _images(batch: int) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, _SIZE, _SIZE, generator=generator)


def _warmed(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode with batch-norm statistics and scales of its own."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
        model.train()
        model(_images(16))
    return model.eval()


def _evidence(model: nn.Module) -> Mapping[str, Tensor]:
    """Return something learnt from data about every weight, whatever the criterion."""
    return {name: p.detach().abs() + 0.1 for name, p in model.named_parameters() if p.dim() > 1}


def _numbers(model: nn.Module) -> int:
    """Return how many weights are not zero."""
    return sum(int((p != 0).sum()) for p in model.parameters())


def _same(one: nn.Module, other: nn.Module) -> bool:
    import torch

    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        left[key].shape == right[key].shape and torch.equal(left[key], right[key]) for key in left
    )
