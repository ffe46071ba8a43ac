"""Groups of channels that leave together: found, scored, cut, checked and cut again from record.

Everything that knows torch-pruning is in this file.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch_pruning
from torch import Tensor, nn

from hwbench.errors import StageError
from hwbench.pruners._criteria import POOLED, lamp
from hwbench.pruners._heads import recognised
from hwbench.pruners._layers import evaluating, find_ends, run
from hwbench.pruners._masks import check_ratios, evidence_on

if TYPE_CHECKING:
    from hwbench.records import CompressionSpec

_CUTS = "hwbench_cuts"
"""Attribute of a cut model: what was removed so far, as ``[[layer, [channel, ...]], ...]``."""

_FOREIGN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch-pruning, or a model cut wrongly, raises."""


class Graph:
    """The dependency groups of a model, and the cuts made through them."""

    def __init__(self, model: nn.Module, example: Tensor, pattern: str = "channel") -> None:
        """Trace the model; raises `StageError` when torch-pruning cannot."""
        self._pattern = pattern
        self.notes: list[str] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._model = model
        classifier = find_ends(model, example).classifier
        with _quiet(), _translated(), evaluating(model):
            self._graph = torch_pruning.DependencyGraph().build_dependency(model, example)
            self.groups = self._prunable(classifier)

    @property
    def history(self) -> list[list[object]]:
        """Everything removed from the dense model so far, in order."""
        return list(getattr(self._model, _CUTS, []))

    def widths(self) -> Mapping[str, int]:
        """Return the width of every group by the name of its first layer."""
        return {self._names[g[0].dep.target.module]: len(g[0].idxs) for g in self.groups}

    def cut(self, removals: Sequence[Sequence[int]]) -> None:
        """Remove these channels of each group's first layer, with all that depends on them."""
        for group, channels in zip(self.groups, removals, strict=True):
            if channels:
                self.remove(self._names[group[0].dep.target.module], channels)

    def remove(self, layer: str, channels: Sequence[int]) -> None:
        """Remove output channels of a layer, with all that depends on them."""
        chosen = sorted(int(channel) for channel in channels)
        with _quiet(), _translated():
            self.members(layer, chosen).prune()
        setattr(self._model, _CUTS, [*self.history, [layer, chosen]])

    def members(self, layer: str, channels: Sequence[int]) -> Any:
        """Return torch-pruning's group of what depends on these output channels."""
        module = self._model.get_submodule(layer)
        function = self._graph.get_pruner_of_module(module).prune_out_channels
        return self._graph.get_pruning_group(module, function, list(channels))

    def _prunable(self, classifier: str | None) -> list[Any]:
        ignored = [self._model.get_submodule(classifier)] if classifier else []
        found, attention = [], set()
        heads = recognised(self._model)
        inner = {linear for layer in heads for linear in layer.projections}
        if heads:
            self.notes.append(
                "the widths inside attention are left to the pattern head: "
                + ", ".join(layer.name for layer in heads)
            )
        for group in self._graph.get_all_groups(
            ignored_layers=ignored, root_module_types=[*_ROOTS]
        ):
            tied = {
                self._names[dep.target.module]
                for dep, _ in group
                if isinstance(dep.target.module, nn.MultiheadAttention)
            }
            attention |= tied
            within = any(
                dep.target.module in inner and "out_channels" in dep.handler.__name__
                for dep, _ in group
            )
            if not tied and not within and _is(self._pattern, group):
                found.append(group)
        attention |= {n for m, n in self._names.items() if isinstance(m, nn.MultiheadAttention)}
        if attention:
            self.notes.append(
                "nn.MultiheadAttention is not pruned, nor the width it shares: "
                + ", ".join(sorted(attention))
            )
        return found


KINDS: Mapping[str, str] = {
    "channel": "a convolution or linear layer that does not make the output",
    "filter": "a convolution that does not make the output",
    "neuron": "a linear layer that does not make the output",
    "mlp": "a hidden width between two linear layers",
}
"""What each pattern removes the channels of."""


def _is(pattern: str, group: Any) -> bool:
    """Return whether a group is of the kind that a pattern removes channels from."""
    root = group[0].dep.target.module
    if pattern == "filter":
        return isinstance(root, nn.modules.conv._ConvNd)
    if pattern == "neuron":
        return isinstance(root, nn.Linear)
    if pattern == "mlp":
        modules = [dep.target.module for dep, _ in group]
        # A bare parameter (a place embedding) has a width too, and is no layer.
        heavy = [
            m
            for m in modules
            if not isinstance(m, nn.Module) or next(m.parameters(recurse=False), None) is not None
        ]
        return [isinstance(m, nn.Linear) for m in heavy] == [True, True] and heavy[0] is root
    return True


_ROOTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True, slots=True)
class Width:
    """One group's channels: how many there were and are, how much each matters, the bounds.

    ``scores`` has one entry per removable unit; with `blocks` > 1 (grouped convolution, group
    norm) a unit is the same place in every block, so that blocks stay of equal size.
    """

    name: str
    dense: int
    scores: tuple[float, ...]
    blocks: int
    floor: int
    multiple: int

    @property
    def now(self) -> int:
        """Channels at present."""
        return len(self.scores) * self.blocks

    def rounded(self, channels: float) -> int:
        """Return the nearest width that is allowed."""
        step = math.lcm(self.multiple, self.blocks)
        nearest = step * math.floor(channels / step + 0.5)
        lowest = step * math.ceil(self.floor / step)
        return min(max(nearest, lowest), self.now)

    def lowest(self, keep: int) -> list[int]:
        """Return the channels to remove so that `keep` stay: those with the lowest scores."""
        order = sorted(range(len(self.scores)), key=lambda unit: (self.scores[unit], unit))
        gone = order[: (self.now - keep) // self.blocks]
        return [unit + block * len(self.scores) for block in range(self.blocks) for unit in gone]


def width(
    group: Any,
    model: nn.Module,
    spec: CompressionSpec,
    bounds: tuple[int, float],
    evidence: Mapping[str, Tensor],
) -> Width:
    """Return a group's width, scores (normalised to mean 1, Fang et al. 2023) and bounds.

    It keeps at least as many channels as the first of `bounds` says, and at least 1 - the second
    of them.
    """
    min_width, max_ratio = bounds
    names = {module: name for name, module in model.named_modules()}
    name = names[group[0].dep.target.module]
    channels = len(group[0].idxs)
    removed = sum(len(gone) for layer, gone in getattr(model, _CUTS, []) if layer == name)
    blocks = _blocks(group)
    if channels % blocks:
        raise _beyond(f"the {channels} channels of {name} do not divide into {blocks} groups")
    raw = _importance(group, names, spec, evidence)
    scores = raw.view(blocks, -1).mean(dim=0)
    dense = channels + removed
    return Width(
        name=name,
        dense=dense,
        scores=tuple(scores.tolist()),
        blocks=blocks,
        floor=max(min(min_width, dense), math.ceil(dense * (1 - max_ratio) - 1e-9)),
        multiple=spec.channel_multiple,
    )


def kept(widths: Sequence[Width], sparsity: float, spec: CompressionSpec) -> list[int]:
    """Return how many channels each group keeps for a share of the dense channels to leave.

    On its own each group keeps its share (its own one, of a vector). Jointly, the lowest scores
    of all go first; the best channels that a group's floor protects do not compete, so that the
    share is still met.
    """
    if spec.scope == "vector":
        check_ratios(spec.ratios, [width.name for width in widths])
        return [
            width.rounded((1 - spec.ratios.get(width.name, 0)) * width.dense) for width in widths
        ]
    if spec.scope == "local":
        return [width.rounded((1 - sparsity) * width.dense) for width in widths]
    rivals = sorted(
        (score, index)
        for index, width in enumerate(widths)
        for score in sorted(width.scores)[: (width.now - width.rounded(0)) // width.blocks]
    )
    left = [width.now for width in widths]
    wanted = (1 - sparsity) * sum(width.dense for width in widths)
    for _, index in rivals:
        if sum(left) - widths[index].blocks / 2 < wanted:
            break
        left[index] -= widths[index].blocks
    return [width.rounded(count) for width, count in zip(widths, left, strict=True)]


def check(before: nn.Module, after: nn.Module, graph: Graph, example: Tensor) -> None:
    """Raise `StageError` unless the cut model runs and computes what it should.

    It must equal the model before with the same channels set to zero, or torch-pruning has
    followed the channels wrongly (channel shuffles, windows). Where a layer normalises across
    channels the two differ by nature, and only the shape of the output is checked.
    """
    with _translated():
        wanted, found = run(before, example), run(after, example)
    if wanted.shape != found.shape:
        raise _beyond(f"the output became {tuple(found.shape)}, it was {tuple(wanted.shape)}")
    if any(_mixes_channels(module) for module in before.modules()):
        return
    zeroed = copy.deepcopy(before)
    done = len(getattr(before, _CUTS, []))
    own = Graph(zeroed, example)
    # Groups are disjoint, so the channels of each can be read off the uncut model.
    for layer, channels in graph.history[done:]:
        for dep, indices in own.members(str(layer), channels):  # type: ignore[arg-type]
            _zero(dep, list(indices))
    wanted = run(zeroed, example)
    scale = float(wanted.abs().max()) + 1e-6
    error = float((wanted - found).abs().max()) / scale
    if not error <= 1e-3:
        raise _beyond(f"the cut model differs by {error:.1e} from one with zeroed channels")


def replay(model: nn.Module, example: Tensor, structure: Mapping[str, object]) -> None:
    """Cut a dense model in place, as recorded. Raises `StageError` when it does not fit."""
    cuts = structure.get("cuts")
    if not isinstance(cuts, list):
        raise StageError("compress", "the record of removed channels is missing its cuts")
    graph = Graph(model, example)
    for layer, channels in cuts:
        graph.remove(layer, channels)


def _importance(
    group: Any,
    names: Mapping[nn.Module, str],
    spec: CompressionSpec,
    evidence: Mapping[str, Tensor],
) -> Tensor:
    name = names[group[0].dep.target.module]
    if spec.criterion in POOLED:
        return _pooled(group, names, spec.criterion, evidence)
    if spec.criterion == "random":
        # By the layer's name, so that the order in which groups are found does not matter; and
        # hashed, because torch's generator keeps only the lower 32 bits of a seed.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{spec.seed} {name}".encode()))
        return torch.rand(len(group[0].idxs), generator=generator)
    with _translated():
        found = _SCORED[spec.criterion]()(group)
    if found is None and spec.criterion == "bn_scale":
        raise StageError(
            "compress",
            f"the criterion bn_scale needs a batch norm after {name}, and there is none",
            mend="take l2, taylor or fpgm",
        )
    if not isinstance(found, Tensor) or not bool(found.isfinite().all()):
        raise _beyond(f"no finite importance for {name}")
    found = found.detach().float()
    if spec.criterion == "lamp":
        # Of the channels' own norms: each over those that are at least as large.
        found = lamp(found, torch.Generator())
    return found


def _pooled(
    group: Any, names: Mapping[nn.Module, str], criterion: str, evidence: Mapping[str, Tensor]
) -> Tensor:
    """Return the sum of a score over every weight that leaves with a channel, mean 1."""
    total = torch.zeros(len(group[0].idxs))
    for item in group:
        module = item.dep.target.module
        kind = item.dep.handler.__name__
        if not isinstance(module, _ROOTS) or len(item.root_idxs) != len(item.idxs):
            continue
        parameter = f"{names[module]}.weight"
        if parameter not in evidence and module.weight.shape[1] == 1:
            continue  # depthwise: scored by its neighbours
        scores = evidence_on(parameter, criterion, evidence).float()
        transposed = bool(getattr(module, "transposed", False))
        along = int(("in_channels" in kind) != transposed)
        if along and getattr(module, "groups", 1) > 1:
            continue
        flat = scores.movedim(along, 0).flatten(1).sum(dim=1)
        total.index_add_(0, torch.tensor(list(item.root_idxs)), flat[list(item.idxs)])
    mean = float(total.mean())
    return total / mean if mean > 0 else total


_SCORED: Mapping[str, Callable[[], Any]] = {
    "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "lamp": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "bn_scale": torch_pruning.importance.BNScaleImportance,
    "fpgm": torch_pruning.importance.FPGMImportance,
}


def _blocks(group: Any) -> int:
    """Return into how many equal blocks grouped layers divide the channels of a group."""
    found = 1
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.GroupNorm):
            found = math.lcm(found, module.num_groups)
        elif isinstance(module, nn.modules.conv._ConvNd) and module.groups != module.out_channels:
            found = math.lcm(found, module.groups)
    return found


def _mixes_channels(module: nn.Module) -> bool:
    kind = type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        return True
    return "Norm" in kind and "BatchNorm" not in kind and "InstanceNorm" not in kind


@torch.no_grad()
def _zero(dep: Any, indices: list[int]) -> None:
    """Set to zero what a dependency would remove."""
    module = dep.target.module
    if not isinstance(module, nn.Module) or getattr(module, "weight", None) is None:
        return
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = bool(getattr(module, "transposed", False))
    if "in_channels" in dep.handler.__name__ and getattr(module, "groups", 1) > 1:
        return
    if "in_channels" in dep.handler.__name__ and weight.dim() > 1:
        weight.index_fill_(0 if transposed else 1, torch.tensor(indices), 0.0)
        return
    weight.index_fill_(1 if transposed else 0, torch.tensor(indices), 0.0)
    if isinstance(module.bias, Tensor):
        module.bias.index_fill_(0, torch.tensor(indices), 0.0)


def _beyond(what: str) -> StageError:
    return StageError(
        "compress",
        f"torch-pruning cannot cut this model by channels: {what}",
        expected="a model without channel shuffles, windows or hard-coded widths",
        mend="take head, mlp, unstructured, N:M or block pruning, or read widths from the tensors",
    )


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _FOREIGN as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise _beyond(f"{type(error).__name__}: {lines[0]}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch-pruning's prints and warnings off the screen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
