"""The default task: real digits over real photographs, 32x32x3, ten classes, and a ResNet-8.

Digits (scikit-learn's ``load_digits``) are pasted on crops of the two photographs that ship with
scikit-learn, so nothing is downloaded. Train, validation and test share neither a digit nor a
column of a photograph. The task is limited by capacity: pruning costs accuracy here, which plain
digits would hide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwbench.errors import UserError
from hwbench.protocols import Split, Workload
from hwbench.traits import WorkloadTraits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int64]

TRAITS = WorkloadTraits(
    requires={"torch": "torch", "sklearn": "scikit-learn", "PIL": "pillow"},
    host_distributions=("torch", "scikit-learn", "pillow", "numpy"),
)

SIZE = 32
CLASSES = 10
SHIFT = 2
"""Pixels that a training image may move, each way."""

# Shares of the photograph's width and of the digits of each class. The gaps between the columns
# keep the correlation of neighbouring pixels from carrying over; 15 % of the width is just
# enough for the largest validation crop (96 pixels).
_COLUMNS: dict[Split, tuple[float, float]] = {
    "train": (0.0, 0.49),
    "validation": (0.5, 0.65),
    "test": (0.66, 1.0),
}
_DIGITS: dict[Split, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "validation": (0.6, 0.75),
    "test": (0.75, 1.0),
}
_STREAMS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class Options:
    """How many images, and which network.

    ``train``, ``validation``, ``test``: images of a split. ``seed``: decides which digit is in
    which split, and every drawing. ``network``: ``resnet8`` (3.2 M multiply-adds) or
    ``resnet18`` with 16 to 128 channels (8.8 M), where there is more to choose from by layer.
    """

    train: int = 4000
    validation: int = 2000
    test: int = 5000
    seed: int = 0
    network: Literal["resnet8", "resnet18"] = "resnet8"


class P32:
    """Digits on photographs; by default a ResNet-8 with a stride-2 stem (3.2 M multiply-adds)."""

    metric = "top1"
    pixels = (0.45, 0.25)

    def __init__(self, options: Options) -> None:
        """Check the sizes; nothing is drawn before a split is asked for."""
        for name in ("train", "validation", "test"):
            if getattr(options, name) < 1:
                raise UserError(
                    f"{getattr(options, name)} images",
                    where=f"workload p32, {name}",
                    expected="at least one image",
                )
        self.options = options
        self._drawn: dict[Split, tuple[Tensor, Tensor]] = {}

    def model(self) -> nn.Module:
        """Return a fresh ResNet-8 (widths 16, 32, 64) or ResNet-18 (16 to 128), by torch's seed."""
        import torch

        from hwbench.workloads._resnet8 import ResNet8, ResNet18

        model: nn.Module = (
            ResNet18(channels=3, classes=CLASSES, base=16, stem_stride=2)
            if self.options.network == "resnet18"
            else ResNet8(channels=3, classes=CLASSES, widths=(16, 32, 64), stem_stride=2)
        )
        # Trains a fifth faster on a CPU; the layout of a tensor is invisible to everything else.
        channels_last: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return channels_last

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return images (n, 3, 32, 32), float32, about zero mean, and labels (n,), int64."""
        if split not in self._drawn:
            self._drawn[split] = self._draw(split)
        return self._drawn[split]

    def train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of a batch moved by up to two pixels, edges repeated."""
        import torch
        from torch.nn import functional as F

        down, right = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
        padded = F.pad(inputs, (SHIFT,) * 4, mode="replicate")
        height, width = inputs.shape[2:]
        moved = padded[:, :, down : down + height, right : right + width]
        return F.cross_entropy(model(moved), labels)

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of rows whose largest output is the label's."""
        return float((outputs.argmax(axis=1) == labels).mean())

    def _draw(self, split: Split) -> tuple[Tensor, Tensor]:
        import numpy as np
        import torch

        count: int = getattr(self.options, split)
        rng = np.random.default_rng([self.options.seed, _STREAMS[split]])
        pictures, labels = _digits(split, self.options.seed)
        chosen = rng.integers(len(pictures), size=count)
        backgrounds = _backgrounds(_photographs(split), count, rng)
        images = _paste(backgrounds, pictures[chosen], rng)
        mean, scale = self.pixels
        images -= np.float32(mean)
        images /= np.float32(scale)
        return torch.from_numpy(images), torch.from_numpy(labels[chosen])


PLUGIN: type[Workload] = P32


def _photographs(split: Split) -> list[Floats]:
    """Return the columns of both photographs that belong to a split, (rows, columns, 3), 0..1."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    low, high = _COLUMNS[split]
    return [
        photo[:, round(low * photo.shape[1]) : round(high * photo.shape[1])].astype(np.float32)
        / np.float32(255)
        for photo in load_sample_images().images
    ]


def _digits(split: Split, seed: int) -> tuple[Floats, Integers]:
    """Return the 8x8 digits (0..1) of a split and their labels: a share of every class."""
    import numpy as np
    from sklearn.datasets import load_digits

    dataset = load_digits()
    # A stream of its own: the same order for every split, so that the shares are disjoint.
    rng = np.random.default_rng([seed, len(_STREAMS)])
    low, high = _DIGITS[split]
    members = []
    for label in range(CLASSES):
        order = rng.permutation(np.flatnonzero(dataset.target == label))
        members.append(order[round(low * len(order)) : round(high * len(order))])
    chosen = np.concatenate(members)
    return (dataset.images[chosen] / 16).astype(np.float32), dataset.target[chosen].astype(np.int64)


def _backgrounds(photos: list[Floats], count: int, rng: np.random.Generator) -> Floats:
    """Return `count` random crops (scale 1 to 3, half of them mirrored), (count, 3, 32, 32)."""
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    height, width = photos[0].shape[:2]
    side = rng.integers(SIZE, min(3 * SIZE, height, width) + 1, size=count)
    photo = rng.integers(len(photos), size=count)
    left = (rng.random(count) * (width - side + 1)).astype(np.int64)
    top = (rng.random(count) * (height - side + 1)).astype(np.int64)
    mirrored = rng.random(count) < 0.5
    crops = np.empty((count, 3, SIZE, SIZE), np.float32)
    stack = np.stack(photos).transpose(0, 3, 1, 2)
    # Crops of one size share their filter: two matrix products for all of them at once.
    for size in np.unique(side):
        which = np.flatnonzero(side == size)
        windows = sliding_window_view(stack, (size, size), axis=(2, 3))
        area = windows[photo[which], :, top[which], left[which]]
        shrink = _area_filter(int(size))
        crops[which] = shrink @ area @ shrink.T
    crops[mirrored] = crops[mirrored][..., ::-1]
    return crops


def _area_filter(size: int) -> Floats:
    """Return the (32, size) matrix that averages `size` pixels to 32 by the area they cover."""
    import numpy as np

    edges = np.arange(SIZE + 1) * (size / SIZE)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: Floats = (np.clip(covered, 0, None) * (SIZE / size)).astype(np.float32)
    return weights


def _paste(backgrounds: Floats, pictures: Floats, rng: np.random.Generator) -> Floats:
    """Return the backgrounds with one digit each: turned, resized, placed, in contrast."""
    import numpy as np

    count = len(backgrounds)
    side = rng.integers(16, 29, size=count)
    angle = np.deg2rad(rng.uniform(-15, 15, size=count))
    corner = (rng.random((2, count)) * (SIZE - side + 1)).astype(np.int64)
    strength = rng.uniform(0.6, 1.0, size=count).astype(np.float32)
    bright = rng.uniform(0.65, 1.0, size=(count, 3))
    dark = rng.uniform(0.0, 0.35, size=(count, 3))
    # Pixel centres in the coordinates of the digit's square, which spans -1..1.
    centre = np.arange(SIZE) + 0.5
    down = (centre - corner[0][:, None]) / side[:, None] * 2 - 1
    right = (centre - corner[1][:, None]) / side[:, None] * 2 - 1
    inside_rows = (abs(down) < 1).astype(np.float32)
    inside_columns = (abs(right) < 1).astype(np.float32)
    square = inside_rows[:, :, None] * inside_columns[:, None, :]
    alpha = (_turned(pictures, down, right, angle) * square * strength[:, None, None])[:, None]
    grey = backgrounds.mean(axis=1)
    mean = np.einsum("nij,ni,nj->n", grey, inside_rows, inside_columns) / side**2
    colour = np.where(mean[:, None] < 0.5, bright, dark).astype(np.float32)[:, :, None, None]
    mixed: Floats = backgrounds + (colour - backgrounds) * alpha
    return mixed


def _turned(pictures: Floats, down: np.ndarray, right: np.ndarray, angle: np.ndarray) -> Floats:
    """Return the digits (n, 8, 8) sampled bilinearly on turned (n, 32, 32) coordinates."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    grid = np.empty((len(pictures), SIZE, SIZE, 2), np.float32)
    grid[..., 0] = cosine * right[:, None, :] - sine * down[:, :, None]
    grid[..., 1] = sine * right[:, None, :] + cosine * down[:, :, None]
    framed = torch.from_numpy(np.pad(pictures, ((0, 0), (1, 1), (1, 1))))[:, None]
    turned: Floats = F.grid_sample(
        framed, torch.from_numpy(grid), mode="bilinear", align_corners=False
    ).numpy()
    return turned[:, 0]
