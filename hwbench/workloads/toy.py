"""A task of seconds, for tests and smoke runs: noisy patterns, a tiny residual network.

It stands in for a real study wherever only the machinery is of interest; nothing measured on it
is worth quoting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import UserError
from hwbench.protocols import Split, Workload
from hwbench.traits import WorkloadTraits

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

TRAITS = WorkloadTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
)
_STREAMS: dict[Split, int] = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes, and how hard the task is.

    ``train``, ``validation``, ``test``: samples of a split. ``size``: of an image's sides.
    ``channels``: of an image. ``classes``: how many there are. ``width``: channels of the network.
    ``noise``: its deviation over the patterns, whose own is 1. ``seed``: of patterns and noise.
    """

    train: int = 1024
    validation: int = 256
    test: int = 256
    size: int = 8
    channels: int = 3
    classes: int = 4
    width: int = 16
    noise: float = 0.5
    seed: int = 0


class Toy:
    """Each class is a fixed random pattern; a sample is one pattern and Gaussian noise."""

    metric = "top1"

    def __init__(self, options: Options) -> None:
        """Check the sizes."""
        for name in ("train", "validation", "test", "size", "channels", "classes", "width"):
            if getattr(options, name) < 1:
                raise UserError(
                    f"{name}: {getattr(options, name)}", where="workload toy", expected="1 or more"
                )
        self.options = options

    def model(self) -> nn.Module:
        """Return a fresh network: stem, one residual pair, a stride-2 layer, a linear layer."""
        from hwbench.workloads._toy_net import ToyNet

        return ToyNet(self.options.channels, self.options.width, self.options.classes)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return images (n, channels, size, size), float32, and labels (n,), int64."""
        import torch

        options = self.options
        shape = (options.channels, options.size, options.size)
        shared = torch.Generator().manual_seed(options.seed * 10)
        patterns = torch.randn((options.classes, *shape), generator=shared)
        stream = torch.Generator().manual_seed(options.seed * 10 + _STREAMS[split])
        count: int = getattr(options, split)
        labels = torch.randint(options.classes, (count,), generator=stream)
        noise = torch.randn((count, *shape), generator=stream)
        return patterns[labels] + options.noise * noise, labels

    def train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of a batch."""
        from torch.nn import functional as F

        return F.cross_entropy(model(inputs), labels)

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of rows whose largest output is the label's."""
        return float((outputs.argmax(axis=1) == labels).mean())


PLUGIN: type[Workload] = Toy
