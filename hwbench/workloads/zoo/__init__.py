"""Networks of the pruning literature in plain PyTorch, on made-up patterns.

LeNets, ResNets, MobileNets, DS-CNN, VGG, U-Net, LSTM, GRU, ViT and BERT-like encoders, with their
own attention and (``_mha``) with nn.MultiheadAttention.

For trying methods and runtimes on the shape of a real network. The task is that of ``toy`` at the
network's own input size, so accuracies say nothing about the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import UserError, did_you_mean
from hwbench.protocols import Split, Workload
from hwbench.traits import WorkloadTraits
from hwbench.workloads.zoo.network import Network

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

TRAITS = WorkloadTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
)


@dataclass(frozen=True, slots=True)
class Options:
    """``network``: one of the zoo's, ``tiny``: a few channels wide, for tests.

    ``train``, ``validation``, ``test``: samples per split; ``seed``: the patterns and the noise.
    """

    network: str = "lenet300"
    tiny: bool = False
    train: int = 512
    validation: int = 128
    test: int = 128
    seed: int = 0


class Zoo:
    """A network by name; each class is a fixed random pattern, a sample one pattern and noise."""

    metric = "top1"

    def __init__(self, options: Options) -> None:
        """Check the name; raises `UserError` with a suggestion."""
        known = networks()
        if options.network not in known:
            raise UserError(
                f"the zoo has no {options.network!r}",
                where="workload zoo",
                mend=did_you_mean(options.network, known),
            )
        self.options = options

    def model(self) -> nn.Module:
        """Return a fresh network, initialised from torch's seed."""
        return networks()[self.options.network].build(self.options.tiny)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return samples (n, the network's input), and labels (n,), int64."""
        import torch

        options, entry = self.options, networks()[self.options.network]
        shape = entry.tiny_shape if options.tiny else entry.shape
        counts = {"train": options.train, "validation": options.validation, "test": options.test}
        generator = torch.Generator().manual_seed(options.seed)
        patterns = torch.randn((10, *shape), generator=generator)
        generator.manual_seed(options.seed * 10 + 1 + list(counts).index(split))
        labels = torch.randint(10, (counts[split],), generator=generator)
        noise = torch.randn((len(labels), *shape), generator=generator)
        return patterns[labels] + 0.5 * noise, labels

    def train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of a batch; of a segmentation, that of its mean."""
        from torch.nn import functional as F

        logits = model(inputs)
        return F.cross_entropy(logits.flatten(2).mean(2) if logits.dim() > 2 else logits, labels)

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of rows whose largest output (mean over pixels) is the label's."""
        flat = outputs.reshape(*outputs.shape[:2], -1).mean(axis=2)
        return float((flat.argmax(axis=1) == labels).mean())


def networks() -> Mapping[str, Network]:
    """Return the zoo by name."""
    from hwbench.workloads.zoo import catalogue

    return catalogue.NETWORKS


PLUGIN: type[Workload] = Zoo
