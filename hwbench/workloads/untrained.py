"""Networks with random weights, for studies of latency, memory and energy alone.

What they answer means nothing, so that their accuracy is "not available"; what they cost does not
depend on the values of their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwbench.errors import UserError
from hwbench.protocols import Split, Workload
from hwbench.traits import WorkloadTraits

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

TRAITS = WorkloadTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
    unscored="random weights, which nobody trained: a study of cost alone",
)
_STREAMS: dict[Split, int] = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True, slots=True)
class Options:
    """Which network, and how large.

    ``net``: ``mlp``, ``vit`` (patches of 16; 12 blocks of 768 are ViT-B) or ``resnet50``.
    ``width``: of a layer or block; 64 is the usual ResNet-50. ``depth``: layers or blocks; of
    ``resnet50`` those of the third stage, usually 6. ``size``: of the images' sides.
    ``classes``: outputs of the network. ``samples``: in each split.
    """

    net: Literal["mlp", "vit", "resnet50"] = "mlp"
    width: int = 64
    depth: int = 2
    size: int = 32
    classes: int = 10
    samples: int = 32


class Untrained:
    """A network as it was initialised, and noise for it to look at."""

    metric = "top1"

    def __init__(self, options: Options) -> None:
        """Check the sizes."""
        for name in ("width", "depth", "size", "classes", "samples"):
            if getattr(options, name) < 1:
                what = f"{name}: {getattr(options, name)}"
                raise UserError(what, where="workload untrained", expected="1 or more")
        if options.net == "vit" and options.size % 16:
            what = f"size: {options.size}"
            raise UserError(what, where="workload untrained", expected="a multiple of 16")
        self._options = options

    def model(self) -> nn.Module:
        """Return the network with torch's own initialisation."""
        from hwbench.workloads import _untrained_nets as nets

        options = self._options
        if options.net == "mlp":
            return nets.mlp(options.width, options.depth, options.classes)
        if options.net == "vit":
            return nets.Vit(options.size, 16, options.width, options.depth, options.classes)
        return nets.ResNet(options.width, (3, 4, options.depth, 3), options.classes)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return noise: (n, width) for the MLP, else images (n, 3, size, size); labels are 0."""
        import torch

        options = self._options
        shape = (options.width,) if options.net == "mlp" else (3, options.size, options.size)
        stream = torch.Generator().manual_seed(_STREAMS[split])
        labels = torch.zeros(options.samples, dtype=torch.int64)
        return torch.randn((options.samples, *shape), generator=stream), labels

    def train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of a batch: gradients for criteria that want them."""
        from torch.nn import functional as F

        return F.cross_entropy(model(inputs), labels)

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return 0: nothing here is right or wrong (see ``unscored``)."""
        return 0.0


PLUGIN: type[Workload] = Untrained
