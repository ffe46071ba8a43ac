"""Training and healing: the optimiser's loop, batch-norm statistics, validation scores."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from hwbench import cuda
from hwbench.compress import device
from hwbench.errors import StageError
from hwbench.protocols import Split, Trainable, Workload
from hwbench.records import TrainSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

Progress = Callable[[float], None]
Loss = Callable[["nn.Module", "Tensor", "Tensor"], "Tensor"]
"""Of a model, inputs and labels; `Workload.train_step` is one."""

NORM_SAMPLES = 1000
"""Training samples that batch-norm statistics are estimated on again."""

_BATCH = 250


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch (its GPUs too), numpy and random inside; the caller's streams go on afterwards."""
    import numpy as np
    import torch

    legacy, plain = np.random.get_state(), random.getstate()
    # A GPU that nothing was started on has no stream yet.
    gpus = range(torch.cuda.device_count()) if cuda.started() else ()
    with torch.random.fork_rng(devices=gpus, device_type="cuda"):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(legacy)
            random.setstate(plain)


def within(progress: Progress, start: float, end: float) -> Progress:
    """Return a progress that fills `start` to `end` of the given one, 5 % kept for the rest."""
    return lambda share: progress(0.02 + 0.95 * (start + share * (end - start)))


def one_cycle(step: float, total: float, train: TrainSpec) -> float:
    """Return the learning rate at a step: up in a line, down along a cosine (Smith 2018)."""
    rise = train.warmup * total
    if step < rise:
        return train.lr * step / rise
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1e-9)))


def loss_by(workload: Workload) -> Loss:
    """Return the workload's own loss; raises `StageError` for one that cannot be trained."""
    if isinstance(workload, Trainable):
        return workload.train_step
    raise StageError(
        "compress",
        "the workload cannot be trained: it has no train_step",
        expected="train: {epochs: 0}, recover: {epochs: 0}, and a criterion that needs no gradient",
        mend="give it a train_step(model, inputs, labels) that returns the loss of a batch",
    )


def fit(
    model: nn.Module,
    workload: Workload,
    train: TrainSpec,
    *,
    seed: int,
    masks: Mapping[str, Tensor],
    start: float = 0.0,
    stop: float = 1.0,
    loss_of: Loss | None = None,
    progress: Progress,
) -> None:
    """Train in place from share `start` to `stop` of the one cycle; masked weights stay zero.

    It works where the model is; the masks may be elsewhere. `loss_of` replaces the workload's own
    loss. SGD with Nesterov momentum 0.9. The order of samples depends on `seed` and the epoch
    alone.
    Raises `StageError` when the loss is not finite.
    """
    import torch

    where = device.of(model)
    samples = device.Samples(workload.data("train"), where)
    per_epoch = math.ceil(len(samples) / train.batch)
    total = train.epochs * per_epoch
    first, last = round(start * total), round(stop * total)
    loss_of = loss_of or loss_by(workload)
    parameters = dict(model.named_parameters())
    held = [(parameters[name], mask.to(where)) for name, mask in masks.items()]
    optimizer = torch.optim.SGD(
        [weight for weight in parameters.values() if weight.requires_grad],
        lr=train.lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=train.weight_decay,
    )
    model.train()
    with seeded(seed + first):
        for step in range(first, last):
            batch = _batch(step, per_epoch, len(samples), train.batch, seed)
            if len(batch) < 2 <= len(samples):
                continue  # batch norm has no variance of one sample
            # Half a step on: the very first and last steps would have the rate 0.
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(step + 0.5, total, train)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model, *samples.batch(batch))
            refuse_divergence(loss, step, total, train)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for weight, mask in held:
                    weight.mul_(mask)
            progress((step + 1 - first) / (last - first))
    model.eval()


def reestimate_norms(model: nn.Module, workload: Workload, *, seed: int) -> int:
    """Return how many batch norms got fresh statistics, in place, from training samples.

    Their mean and variance belong to the model before pruning; the plain average over about
    1000 samples replaces them. All else runs in evaluation mode (no dropout).
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return 0
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    inputs, _ = workload.data("train")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for batch in torch.split(order[:NORM_SAMPLES], _BATCH):
            if len(batch) > 1:
                answer(model, inputs[batch])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    return len(norms)


def score(model: nn.Module, workload: Workload, split: Split = "validation") -> float:
    """Return the workload's score of the model on a split (the compress room reads validation).

    Raises `StageError` when an output or the score is not finite.
    """
    import numpy as np
    import torch

    inputs, labels = workload.data(split)
    model.eval()
    rows = []
    with torch.no_grad():
        for batch in torch.split(inputs, _BATCH):
            rows.append(answer(model, batch).cpu().numpy())
    outputs = np.concatenate(rows)
    bad = int((~np.isfinite(outputs)).any(axis=tuple(range(1, outputs.ndim))).sum())
    if bad:
        raise StageError("compress", f"{bad} of {len(outputs)} outputs are not finite")
    value = workload.score(outputs, labels.numpy())
    if not math.isfinite(value):
        raise StageError("compress", f"the score on the {split} split is {value}")
    return value


def _batch(step: int, per_epoch: int, samples: int, size: int, seed: int) -> Tensor:
    """Return the sample indices of a step, from its epoch's own permutation."""
    epoch, place = divmod(step, per_epoch)
    return _order(samples, seed * 100_003 + epoch)[place * size : (place + 1) * size]


@lru_cache(maxsize=1)
def _order(samples: int, seed: int) -> Tensor:
    import torch

    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))


def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's (first) output, where the model is; the inputs may be elsewhere.

    Raises `StageError` when the user's model raises.
    """
    try:
        output = model(inputs.to(device.of(model)))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        line = (str(error).splitlines() or [""])[0]
        what = f"the model raised {type(error).__name__}: {line}"
        raise StageError("compress", what, where=f"an input of {tuple(inputs.shape)}") from error
    return first_of(output)


def first_of(output: object) -> Tensor:
    """Return a model's output, or the first of several."""
    from torch import Tensor

    if isinstance(output, Tensor):
        return output
    assert isinstance(output, list | tuple)
    first: Tensor = output[0]
    return first


def refuse_divergence(loss: Tensor, step: int, total: int, train: TrainSpec) -> None:
    """Raise `StageError` when the loss of a step is not finite."""
    value = loss.item()
    if not math.isfinite(value):
        raise StageError(
            "compress",
            f"training diverged: the loss is {value} at step {step + 1} of {total}",
            mend=f"try a lower learning rate than {train.lr:g}",
        )
