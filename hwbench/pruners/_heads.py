"""Attention by hand: recognised, scored, and cut by heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwbench.errors import StageError
from hwbench.pruners import _modules
from hwbench.pruners._layers import run
from hwbench.records import CompressionSpec

_COUNTS = ("heads", "num_heads", "n_heads", "num_attention_heads")
_PACKED = ("qkv", "in_proj", "c_attn")
_APART = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("q", "k", "v"),
)
_OUT = ("out", "proj", "out_proj", "out_lin", "to_out", "dense", "o_proj", "c_proj")
_BESIDE = ("output", "out")
"""Modules beside the one with the heads in which the output's projection may be."""
_WIDTHS = ("attn_dim", "inner_dim", "all_head_size")
"""Attributes that hold heads x size, where a module has them."""

_CUTS = "hwbench_heads"
"""Attribute of a cut model: what was removed so far, as ``[{layer: [head, ...]}, ...]``."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention layer: its projections by name, and how many heads it has and had.

    ``projection`` is the one for the output, ``out`` its full name: BERT has it in a module
    beside.
    """

    name: str
    module: nn.Module
    count: str
    heads: int
    dense: int
    inputs: tuple[str, ...]
    out: str
    projection: nn.Linear

    @property
    def size(self) -> int:
        """Outputs of one head."""
        return self.projection.in_features // self.heads

    def _linear(self, name: str) -> nn.Linear:
        found = getattr(self.module, name)
        assert isinstance(found, nn.Linear)
        return found

    @property
    def projections(self) -> list[nn.Linear]:
        """The layers for queries, keys and values."""
        return [self._linear(name) for name in self.inputs]

    def rows(self, heads: Sequence[int]) -> list[int]:
        """Return the rows of the projections (of every part of a packed one) of some heads."""
        return [h * self.size + i for h in heads for i in range(self.size)]

    def parts(self, head: int) -> list[tuple[str, Tensor, Sequence[int] | None, int]]:
        """Return the weights of a head, as `_modules.score` wants them."""
        rows, width = self.rows([head]), self.heads * self.size
        found: list[tuple[str, Tensor, Sequence[int] | None, int]] = []
        for name in self.inputs:
            weight = self._linear(name).weight
            blocks = weight.shape[0] // width
            mine = [block * width + row for block in range(blocks) for row in rows]
            found.append((self._parameter(name), weight, mine, 0))
        return [*found, (f"{self.out}.weight", self.projection.weight, rows, 1)]

    def _parameter(self, name: str) -> str:
        return f"{self.name}.{name}.weight" if self.name else f"{name}.weight"

    def cut(self, gone: Sequence[int]) -> None:
        """Remove heads in place."""
        kept, width = [h for h in range(self.heads) if h not in set(gone)], self.heads * self.size
        rows = self.rows(kept)
        for name in self.inputs:
            linear = self._linear(name)
            blocks = linear.out_features // width
            _keep(linear, [b * width + row for b in range(blocks) for row in rows], along=0)
        _keep(self.projection, rows, along=1)
        setattr(self.module, self.count, len(kept))
        for attribute in _WIDTHS:
            if getattr(self.module, attribute, None) == width:
                setattr(self.module, attribute, len(rows))


def find(model: nn.Module) -> list[Attention]:
    """Return the attention layers that can lose heads, in the model's order.

    Raises `StageError` when there are none, naming any ``nn.MultiheadAttention``.
    """
    found = recognised(model)
    if found:
        return found
    tied = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    if tied:
        raise StageError(
            "compress",
            f"nn.MultiheadAttention cannot lose heads: {', '.join(tied)}",
            expected="attention with linear layers of its own for queries, keys and values",
            mend="take mlp, unstructured or N:M, or write the attention with nn.Linear",
        )
    raise StageError(
        "compress",
        "the model has no attention heads to prune",
        expected=f"modules with a number of heads ({', '.join(_COUNTS)}) and linear projections "
        "for queries, keys, values and output",
        mend="take channel, unstructured or N:M",
    )


def recognised(model: nn.Module) -> list[Attention]:
    """Return the attention layers that can lose heads; none is none."""
    return [a for name, module in model.named_modules() if (a := _read(name, module, model))]


def choose(
    found: Sequence[Attention],
    spec: CompressionSpec,
    sparsity: float,
    evidence: Mapping[str, Tensor],
    least: int,
) -> dict[str, list[int]]:
    """Return which heads leave each layer: the lowest scores, alone or against all others."""
    scores = [
        [
            _modules.score(layer.parts(head), spec, evidence, f"{layer.name} {head}")
            for head in range(layer.heads)
        ]
        for layer in found
    ]
    if spec.scope != "global":
        removals = {}
        for layer, own in zip(found, scores, strict=True):
            share = spec.ratios.get(layer.name, 0.0) if spec.scope == "vector" else sparsity
            count = round(share * layer.dense) - (layer.dense - layer.heads)
            units = [(layer.name, value) for value in own]
            removals[layer.name] = _modules.lowest(units, count, {layer.name: least})
        return removals
    units = [(la.name, value) for la, own in zip(found, scores, strict=True) for value in own]
    dense = sum(layer.dense for layer in found)
    count = round(sparsity * dense) - (dense - len(units))
    gone = set(_modules.lowest(units, count, {layer.name: least for layer in found}))
    removals, start = {}, 0
    for layer in found:
        removals[layer.name] = [h for h in range(layer.heads) if start + h in gone]
        start += layer.heads
    return removals


def cut(model: nn.Module, removals: Mapping[str, Sequence[int]]) -> None:
    """Remove heads in place and keep the record of it."""
    layers = {layer.name: layer for layer in find(model)}
    for name, gone in removals.items():
        if gone:
            layers[name].cut(gone)
    setattr(model, _CUTS, [*history(model), {name: list(gone) for name, gone in removals.items()}])


def history(model: nn.Module) -> list[dict[str, list[int]]]:
    """Return everything removed from the dense model so far, in order."""
    return list(getattr(model, _CUTS, []))


def check(
    before: nn.Module, after: nn.Module, removals: Mapping[str, Sequence[int]], example: Tensor
) -> None:
    """Raise `StageError` unless the cut model equals the whole one with those heads silenced."""
    silent = copy.deepcopy(before)
    with torch.no_grad():
        for layer in find(silent):
            columns = torch.tensor(layer.rows(removals[layer.name]), dtype=torch.long)
            layer.projection.weight.index_fill_(1, columns, 0.0)
    wanted = run(silent, example)
    try:
        found = run(after, example)
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise _beyond(f"without some of its heads it raises {line}") from error
    error_ = float((wanted - found).abs().max()) / (float(wanted.abs().max()) + 1e-6)
    if wanted.shape != found.shape or not error_ <= 1e-3:
        raise _beyond(f"it differs by {error_:.1e} from the model with those heads silenced")


def _beyond(what: str) -> StageError:
    return StageError(
        "compress",
        f"this model's attention cannot be cut by heads: {what}",
        expected="a forward that takes its shapes from the number of heads and the head's size",
        mend="take mlp, unstructured or N:M, or read the widths from the tensors",
    )


def _read(name: str, module: nn.Module, model: nn.Module) -> Attention | None:
    """Return a module as attention if it has all that it takes, else None."""
    count = next((c for c in _COUNTS if isinstance(getattr(module, c, None), int)), None)
    if count is None or isinstance(module, nn.MultiheadAttention):
        return None

    def linear(attribute: str) -> bool:
        return isinstance(getattr(module, attribute, None), nn.Linear)

    packed = next(((p,) for p in _PACKED if linear(p)), None)
    inputs = packed or next((trio for trio in _APART if all(map(linear, trio))), None)
    out = _output(name, module, model)
    if inputs is None or out is None:
        return None
    heads = int(getattr(module, count))
    removed = sum(len(step.get(name, [])) for step in history(model))
    found = Attention(name, module, count, heads, heads + removed, inputs, *out)
    width = heads * found.size
    fits = all(getattr(module, i).out_features == width * (3 if packed else 1) for i in inputs)
    return found if fits and found.projection.in_features == width else None


def _output(name: str, module: nn.Module, model: nn.Module) -> tuple[str, nn.Linear] | None:
    """Return the output's projection with its full name: in the module, or in one beside it."""
    homes = [(name, module)]
    above = name.rpartition(".")[0]
    if name:
        beside = model.get_submodule(above).named_children()
        homes += [(f"{above}.{n}" if above else n, m) for n, m in beside if n in _BESIDE]
    for home, found in homes:
        for own in _OUT:
            linear = getattr(found, own, None)
            if isinstance(linear, nn.Linear):
                return (f"{home}.{own}" if home else own), linear
    return None


def _keep(linear: nn.Linear, indices: Sequence[int], *, along: int) -> None:
    chosen = torch.tensor(list(indices), dtype=torch.long)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(along, chosen).clone())
    if along == 0:
        linear.out_features = len(chosen)
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias.detach().index_select(0, chosen).clone())
    else:
        linear.in_features = len(chosen)
