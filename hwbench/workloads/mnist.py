"""MNIST with the two LeNets of the pruning literature.

The data are not shipped: ``folder`` (or the environment variable ``HWBENCH_MNIST``) names a folder
with ``train.npz`` (60 000 digits) and ``test.npz`` (10 000), each with the arrays ``x`` (n, 28,
28), uint8, and ``y`` (n,), int64. Training images drawn at random, always the same, are the
validation split: copies of MNIST that are sorted by digit do no harm.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hwbench.errors import UserError
from hwbench.protocols import Split, Workload
from hwbench.traits import WorkloadTraits

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

TRAITS = WorkloadTraits(
    requires={"torch": "torch"},
    host_distributions=("torch", "numpy"),
)
VARIABLE = "HWBENCH_MNIST"
_MEAN, _DEVIATION = 0.1307, 0.3081


@dataclass(frozen=True, slots=True)
class Options:
    """``folder``: where the data are ("": what HWBENCH_MNIST says); ``network``: which LeNet.

    ``validation``: how many of the training images choose; ``shift``: pixels that a training
    image may move, each way.
    """

    folder: str = ""
    network: Literal["lenet300", "lenet5"] = "lenet300"
    validation: int = 5000
    shift: int = 0


class Mnist:
    """Handwritten digits (LeCun et al. 1998), about zero mean and unit variance."""

    metric = "top1"

    def __init__(self, options: Options) -> None:
        """Keep the options; nothing is read before a split is asked for."""
        self.options = options
        self._read: dict[Split, tuple[Tensor, Tensor]] = {}

    def model(self) -> nn.Module:
        """Return a fresh LeNet, initialised from torch's seed."""
        from hwbench.workloads.zoo.lenet import LeNet5, LeNet300

        return LeNet300() if self.options.network == "lenet300" else LeNet5()

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return images (n, 1, 28, 28), float32, and labels (n,), int64.

        Raises `UserError` when the data are not there or not as expected.
        """
        if split not in self._read:
            self._read[split] = self._split(split)
        return self._read[split]

    def train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of a batch, moved by up to ``shift`` pixels."""
        import torch
        from torch.nn import functional as F

        shift = self.options.shift
        if shift:
            down, right = torch.randint(0, 2 * shift + 1, (2,)).tolist()
            height, width = inputs.shape[2:]
            padded = F.pad(inputs, (shift,) * 4, mode="replicate")
            inputs = padded[:, :, down : down + height, right : right + width]
        return F.cross_entropy(model(inputs), labels)

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of rows whose largest output is the label's."""
        return float((outputs.argmax(axis=1) == labels).mean())

    def _split(self, split: Split) -> tuple[Tensor, Tensor]:
        import numpy as np
        import torch

        images, labels = _arrays(self._file("test" if split == "test" else "train"))
        if split != "test":
            held_out = self.options.validation
            if not 0 < held_out < len(images):
                what = f"{held_out} of {len(images)} training images for validation"
                raise UserError(what, where="workload mnist", expected="more than 0, less than all")
            order = np.random.default_rng(0).permutation(len(images))
            chosen = order[:-held_out] if split == "train" else order[-held_out:]
            images, labels = images[chosen], labels[chosen]
        scaled = torch.from_numpy(images).float().div_(255).sub_(_MEAN).div_(_DEVIATION)
        return scaled.unsqueeze(1), torch.from_numpy(labels).long()

    def _file(self, name: str) -> Path:
        folder = self.options.folder or os.environ.get(VARIABLE, "")
        path = Path(folder) / f"{name}.npz"
        if not folder or not path.is_file():
            raise UserError(
                f"there is no {path}" if folder else "MNIST's folder is not named",
                where="workload mnist",
                expected="train.npz and test.npz with the arrays x (n, 28, 28) and y (n,)",
                mend=f"export {VARIABLE}=/path/to/mnist, or workload: {{folder: ...}}",
            )
        return path


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of a file; raises `UserError` when they are not as expected."""
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            images, labels = stored["x"], stored["y"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    if images.shape[1:] != (28, 28) or images.dtype != np.uint8 or len(images) != len(labels):
        what = f"holds {images.dtype} of {images.shape} and {len(labels)} labels"
        raise UserError(what, where=str(path), expected="uint8 of (n, 28, 28) and n labels")
    return images, labels


PLUGIN: type[Workload] = Mnist
