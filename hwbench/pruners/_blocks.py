"""Residual blocks: found by trying, and left out."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwbench.pruners._layers import run, weighted_layers


class Shortcut(nn.Module):
    """What is left of a residual block: its input comes out."""

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """Return the first argument."""
        return x


def find(model: nn.Module, example: Tensor) -> list[str]:
    """Return the names of the blocks whose output is their input once their weights are zero.

    Tried on a copy: norms across channels get their initial scales (a norm that stands last
    then changes nothing that is normalised already), and one block after the other is emptied.
    Of nested blocks the innermost counts.
    """
    own = copy.deepcopy(model)
    for module in own.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()
    heavy = {layer.layer for layer in weighted_layers(own)}
    found: list[str] = []
    for name, module in reversed(list(own.named_modules())):
        inside = any(layer == name or layer.startswith(f"{name}.") for layer in heavy)
        if not name or not inside or not any(True for _ in module.children()):
            continue
        if any(other.startswith(f"{name}.") for other in found):
            continue
        if _passes(own, module, example):
            found.append(name)
    return found[::-1]


def removed(model: nn.Module) -> list[str]:
    """Return the names of the blocks that are gone already."""
    return [name for name, module in model.named_modules() if isinstance(module, Shortcut)]


def remove(model: nn.Module, names: Sequence[str]) -> None:
    """Put a shortcut in the place of each block."""
    for name in names:
        place, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(place), leaf, Shortcut())


def parts(model: nn.Module, name: str) -> list[tuple[str, Tensor, Sequence[int] | None, int]]:
    """Return all weights of a block, as `_modules.score` wants them."""
    return [
        (layer.parameter, layer.weight, None, 0)
        for layer in weighted_layers(model)
        if layer.layer.startswith(f"{name}.")
    ]


def _passes(model: nn.Module, block: nn.Module, example: Tensor) -> bool:
    """Whether an emptied block gives back its input; the block is filled again."""
    seen: list[tuple[object, object]] = []

    def hook(module: nn.Module, given: tuple[object, ...], output: object) -> None:
        seen.append((given[0] if given else None, output))

    state = {name: value.clone() for name, value in block.state_dict().items()}
    handle = block.register_forward_hook(hook)
    try:
        with torch.no_grad():
            for module in block.modules():
                if not isinstance(module, nn.LayerNorm | nn.GroupNorm):
                    for parameter in module.parameters(recurse=False):
                        parameter.zero_()
        run(model, example)
    finally:
        handle.remove()
        block.load_state_dict(state)
    if len(seen) != 1:
        return False
    given, output = seen[0]
    if not isinstance(given, Tensor) or not isinstance(output, Tensor):
        return False
    if given.shape != output.shape:
        return False
    size = float(given.abs().max())
    return size > 0 and float((given - output).abs().max()) <= 1e-3 * size
