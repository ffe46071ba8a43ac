"""Distillation: the dense model's answers as a second teacher (Hinton et al. 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.compress.training import first_of, loss_by
from hwbench.protocols import Workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.compress.training import Loss


def taught(workload: Workload, teacher: nn.Module, share: float, temperature: float) -> Loss:
    """Return the loss (1 - share) x the workload's + share x the distance to the teacher.

    The teacher sees exactly what the model sees, the workload's augmentation included. For a
    workload scored by ``top1`` the distance is T² KL(teacher / T, model / T) of the first output's
    classes (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"), else the mean
    square of the difference.
    """
    teacher.eval()
    own_loss = loss_by(workload)

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        seen: list[tuple[tuple[object, ...], object]] = []
        handle = model.register_forward_hook(lambda _, given, out: seen.append((given, out)))
        try:
            own = own_loss(model, inputs, labels)
        finally:
            handle.remove()
        far = [_distance(teacher, *call, workload.metric, temperature) for call in seen]
        return (1 - share) * own + share * sum(far[1:], far[0]) / len(far) if far else own

    return loss


def _distance(
    teacher: nn.Module, given: tuple[object, ...], output: object, metric: str, temperature: float
) -> Tensor:
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        wanted = first_of(teacher(*given))
    found = first_of(output)
    if metric != "top1" or found.dim() < 2:
        return F.mse_loss(found, wanted)
    soft = F.log_softmax(found / temperature, dim=1)
    aim = F.log_softmax(wanted / temperature, dim=1)
    return F.kl_div(soft, aim, reduction="batchmean", log_target=True) * temperature**2
