"""Which weights of a model can be pruned, and which layers are its stem and its classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class WeightedLayer:
    """A weight that masks may cover: output channels first, input channels second.

    ``parameter`` is its name in ``model.named_parameters()``, ``layer`` its module's name.
    """

    layer: str
    parameter: str
    weight: nn.Parameter
    depthwise: bool


def weighted_layers(model: nn.Module) -> list[WeightedLayer]:
    """Return the weights of convolutions, linear, recurrent and attention layers, each once.

    A weight that two modules share is listed under the first name.
    """
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = []
    for layer, module in model.named_modules():
        for weight in _weights_of(module):
            parameter = names.pop(id(weight), None)
            if parameter is not None:
                depthwise = isinstance(module, _CONVOLUTIONS) and weight.shape[1] == 1
                depthwise = depthwise and module.groups > 1
                found.append(WeightedLayer(layer, parameter, weight, depthwise))
    return found


@dataclass(frozen=True, slots=True)
class Ends:
    """The modules where data enters and leaves: names, or None when no such module is called."""

    stem: str | None
    classifier: str | None


def find_ends(model: nn.Module, example: Tensor) -> Ends:
    """Return the first weighted module that runs, and the last whose output has the model's shape.

    Names and the order of definition say nothing reliable, so the model is run once on `example`.
    """
    calls: list[tuple[str, torch.Size]] = []

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                calls.append((name, output.shape))

        return hook

    handles = [
        module.register_forward_hook(note(name))  # type: ignore[arg-type]
        for name, module in model.named_modules()
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear))
    ]
    try:
        shape = run(model, example).shape
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        return Ends(None, None)
    fitting = [name for name, found in calls if found == shape]
    return Ends(calls[0][0], fitting[-1] if fitting else calls[-1][0])


def run(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's output in evaluation mode, without gradients; its mode is kept."""
    with evaluating(model), torch.no_grad():
        output = model(inputs)
    return output if isinstance(output, Tensor) else torch.as_tensor(output[0])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and back into its own mode afterwards."""
    modes: Mapping[nn.Module, bool] = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _weights_of(module: nn.Module) -> list[nn.Parameter]:
    if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
        # A parametrised weight is a plain tensor computed on the fly: no mask would hold on it.
        return [module.weight] if isinstance(module.weight, nn.Parameter) else []
    if isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        # Rows are gates, columns inputs or the state: what masks and N:M groups want.
        return [w for n, w in module.named_parameters() if n.startswith("weight_")]
    if isinstance(module, nn.MultiheadAttention):
        found = (module.in_proj_weight, module.q_proj_weight, module.k_proj_weight)
        return [weight for weight in (*found, module.v_proj_weight) if weight is not None]
    return []
