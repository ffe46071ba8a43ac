"""The default task: nothing shared between splits, cheap, and as large as promised."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hwbench.errors import UserError
from hwbench.protocols import Split, Trainable
from hwbench.registry import WORKLOADS
from hwbench.workloads import p32

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def test_splits_share_no_digit() -> None:
    from sklearn.datasets import load_digits

    known = {picture.tobytes() for picture in (load_digits().images / 16).astype(np.float32)}
    seen: set[bytes] = set()
    for split in SPLITS:
        pictures, labels = p32._digits(split, seed=0)
        own = {picture.tobytes() for picture in pictures}
        assert own <= known
        assert not own & seen
        assert set(labels.tolist()) == set(range(10))
        seen |= own
    assert len(seen) == len(known)


def test_splits_share_no_column_of_a_photograph() -> None:
    taken = [set(range(round(low * 640), round(high * 640))) for low, high in p32._COLUMNS.values()]
    assert not taken[0] & taken[1]
    assert not taken[1] & taken[2]
    assert not taken[0] & taken[2]
    for split, columns in zip(SPLITS, taken, strict=True):
        assert [photo.shape[1] for photo in p32._photographs(split)] == [len(columns)] * 2
        assert len(columns) >= 96  # room for the largest crop


@pytest.mark.parametrize("size", [32, 33, 50, 96])
def test_the_area_filter_keeps_the_mean_and_agrees_with_torch_where_it_divides(size: int) -> None:
    shrink = p32._area_filter(size)
    assert np.allclose(shrink.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(shrink.sum(axis=0), 32 / size, atol=1e-6)
    if size % 32 == 0:
        image = torch.rand(1, 1, size, size)
        wanted = torch.nn.functional.interpolate(image, size=32, mode="area")[0, 0].numpy()
        assert np.allclose(shrink @ image[0, 0].numpy() @ shrink.T, wanted, atol=1e-6)


def test_pixels_are_those_of_photographs_and_digits() -> None:
    inputs, labels = WORKLOADS.create("p32", {"train": 300}).data("train")
    assert inputs.shape == (300, 3, 32, 32)
    assert labels.dtype == torch.int64
    pixels = inputs * 0.25 + 0.45
    assert -1e-5 <= pixels.min() < 0.1
    assert 0.9 < pixels.max() <= 1 + 1e-5
    assert labels.bincount(minlength=10).min() > 10


def test_the_digit_stands_out_of_its_background() -> None:
    backgrounds = np.full((50, 3, 32, 32), 0.4, np.float32)
    pictures = np.ones((50, 8, 8), np.float32)
    pasted = p32._paste(backgrounds, pictures, np.random.default_rng(0))
    raised = (pasted > 0.41).all(axis=1).sum(axis=(1, 2))
    assert raised.min() > 8 * 8
    assert raised.max() <= 28 * 28
    assert (pasted >= 0.4 - 1e-6).all()


def test_seeds_differ_and_sizes_are_kept() -> None:
    first, second = (
        WORKLOADS.create("p32", {"validation": 20, "seed": seed}).data("validation")
        for seed in (0, 1)
    )
    assert len(first[0]) == 20
    assert not torch.equal(first[0], second[0])


def test_no_images_is_refused() -> None:
    with pytest.raises(UserError, match="0 images"):
        WORKLOADS.create("p32", {"test": 0})


def test_the_network_has_3_million_macs_and_a_stride_2_stem() -> None:
    model = WORKLOADS.create("p32").model().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() // 2 == 3_125_888
    assert model.stem.stride == (2, 2)
    assert sum(p.numel() for p in model.parameters()) == 77_946


def test_training_images_move_by_up_to_two_pixels() -> None:
    workload = WORKLOADS.create("p32", {"train": 10})
    assert isinstance(workload, Trainable)
    seen: list[torch.Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.zeros(len(x), 10, requires_grad=True)

    image = torch.zeros(1, 3, 32, 32)
    image[0, :, 16, 16] = 1
    for _ in range(60):
        workload.train_step(Spy(), image, torch.tensor([0]))
    places = {tuple(x[0, 0].nonzero()[0].tolist()) for x in seen}
    assert {p for place in places for p in place} == {14, 15, 16, 17, 18}
    assert all(x.shape == image.shape for x in seen)


def test_the_larger_network_has_layers_to_choose_from() -> None:
    workload = WORKLOADS.create("p32", {"network": "resnet18"})
    model = workload.model().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert counter.get_total_flops() // 2 == 8_762_624
