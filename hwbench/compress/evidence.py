"""What criteria learn from training samples: gradients, curvature, movement, activations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hwbench.compress import device
from hwbench.compress.training import answer, loss_by, refuse_divergence, seeded
from hwbench.protocols import Workload
from hwbench.pruners._layers import WeightedLayer, evaluating, weighted_layers

if TYPE_CHECKING:
    from hwbench.records import CompressionSpec

BATCHES = 20
"""Batches that gradients are averaged over: one is worse than the plain magnitude."""

SAMPLES = 128
"""Single samples that the curvature, and samples that activations, are taken from."""

STEPS = 60
"""Steps of training that movement is watched over."""


def gather(spec: CompressionSpec, model: nn.Module, workload: Workload) -> Mapping[str, Tensor]:
    """Return what the spec's criterion needs, by parameter name; nothing if it needs no data.

    It is learnt where the model is, and returned on the CPU. The model is left as it is. Raises
    `StageError` when a loss or an answer is not finite.
    """
    how = _HOW.get(spec.criterion)
    if how is None:
        return {}
    own = copy.deepcopy(model)
    with seeded(spec.seed):
        return {name: found.cpu() for name, found in how(spec, own, workload).items()}


def _taylor(spec: CompressionSpec, model: nn.Module, workload: Workload) -> Mapping[str, Tensor]:
    """Return the mean over batches of (w g)² (Molchanov et al. 2019, "Importance Estimation").

    The change of the loss, to first order, when a weight is removed.
    """
    total: dict[str, Tensor] = {}
    with evaluating(model):
        for _ in _gradients(spec, model, workload, BATCHES, spec.train.batch):
            _add(total, model, lambda weight, gradient: (weight * gradient).square())
    return _mean(total, BATCHES)


def _hessian(spec: CompressionSpec, model: nn.Module, workload: Workload) -> Mapping[str, Tensor]:
    """Return ½ h w², the diagonal h of the Hessian taken as the mean square of single gradients.

    Optimal Brain Damage (LeCun et al. 1990), with the empirical Fisher information for the
    curvature (Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning").
    """
    total: dict[str, Tensor] = {}
    with evaluating(model):
        for _ in _gradients(spec, model, workload, SAMPLES, 1):
            _add(total, model, lambda weight, gradient: 0.5 * (weight * gradient).square())
    return _mean(total, SAMPLES)


def _movement(spec: CompressionSpec, model: nn.Module, workload: Workload) -> Mapping[str, Tensor]:
    """Return the sum of -w g over a short training: weights that grow score high.

    Movement pruning (Sanh et al. 2020), with the masks decided once a pruning step instead of at
    every step. Shifted to be above 0; the order is all that counts.
    """
    lr = 0.1 * (spec.recovery or spec.train).lr
    total: dict[str, Tensor] = {}
    layers = weighted_layers(model)
    with evaluating(model):
        for _ in _gradients(spec, model, workload, STEPS, spec.train.batch):
            _add(total, model, lambda weight, gradient: -weight * gradient)
            with torch.no_grad():
                for layer in layers:
                    if layer.weight.grad is not None:
                        layer.weight.sub_(lr * layer.weight.grad * (layer.weight != 0))
    lowest = min((float(score.min()) for score in total.values()), default=0.0)
    spread = max((float(score.max()) for score in total.values()), default=0.0) - lowest
    return {name: score - lowest + 1e-6 * (spread or 1.0) for name, score in total.items()}


def _wanda(spec: CompressionSpec, model: nn.Module, workload: Workload) -> Mapping[str, Tensor]:
    """Return the L2 norm of every input channel over training samples, as wide as the weight."""
    squares: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(_listener(name, module, squares))
        for name, module in model.named_modules()
        if isinstance(module, _HEARD)
    ]
    try:
        answer(model.eval(), _samples(workload, SAMPLES, spec.seed)[0])
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for layer in weighted_layers(model):
        heard = squares.get(layer.parameter)
        if heard is not None and layer.weight.shape[1] == len(heard):
            ones = [1] * (layer.weight.dim() - 2)
            found[layer.parameter] = heard.sqrt().view(1, -1, *ones)
    return found


_HEARD = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LSTM, nn.GRU, nn.MultiheadAttention)
_HOW: Mapping[str, Callable[[CompressionSpec, nn.Module, Workload], Mapping[str, Tensor]]] = {
    "taylor": _taylor,
    "hessian": _hessian,
    "movement": _movement,
    "wanda": _wanda,
}


def _listener(name: str, module: nn.Module, squares: dict[str, Tensor]) -> Callable[..., None]:
    """Return a hook that adds up the squares of each input channel of a module's weights."""

    def add(parameter: str, values: Tensor, channels: int) -> None:
        flat = values.detach().movedim(channels, -1).flatten(0, -2)
        key = f"{name}.{parameter}" if name else parameter
        before = squares.get(key, torch.zeros(flat.shape[1], device=flat.device))
        squares[key] = before + flat.square().sum(dim=0)

    def hear(_: nn.Module, given: tuple[Tensor, ...], output: object) -> None:
        if isinstance(module, nn.LSTM | nn.GRU):
            # Only the first layer's input and the last layer's state are seen from outside.
            last = module.num_layers - 1
            add("weight_ih_l0", given[0], -1)
            assert isinstance(output, tuple)
            add(f"weight_hh_l{last}", output[0], -1)
        elif isinstance(module, nn.MultiheadAttention):
            add("in_proj_weight", given[0], -1)
        else:
            add("weight", given[0], -1 if isinstance(module, nn.Linear) else 1)

    return hear


def _gradients(
    spec: CompressionSpec, model: nn.Module, workload: Workload, count: int, size: int
) -> Iterator[None]:
    """Set the model's gradients to those of one batch of training samples after the other."""
    samples = device.Samples(_samples(workload, count * size, spec.seed), device.of(model))
    for index in range(count):
        chosen = torch.arange(index * size, (index + 1) * size) % len(samples)
        model.zero_grad(set_to_none=True)
        loss = loss_by(workload)(model, *samples.batch(chosen))
        refuse_divergence(loss, index, count, spec.train)
        loss.backward()  # type: ignore[no-untyped-call]
        yield


def _samples(workload: Workload, count: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs, labels = workload.data("train")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:count]
    return inputs[order], labels[order]


def _add(
    total: dict[str, Tensor], model: nn.Module, score: Callable[[Tensor, Tensor], Tensor]
) -> None:
    for layer in _with_gradient(model):
        assert layer.weight.grad is not None
        found = score(layer.weight.detach(), layer.weight.grad)
        total[layer.parameter] = total.get(layer.parameter, torch.zeros_like(found)) + found


def _with_gradient(model: nn.Module) -> list[WeightedLayer]:
    return [layer for layer in weighted_layers(model) if layer.weight.grad is not None]


def _mean(total: Mapping[str, Tensor], count: int) -> Mapping[str, Tensor]:
    return {name: score / count for name, score in total.items()}
