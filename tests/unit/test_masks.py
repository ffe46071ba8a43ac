"""Weight, N:M and block masks against numbers worked out by hand, and for any shape."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwbench.errors import StageError, UserError
from hwbench.pruners import _criteria, _masks, nm
from hwbench.pruners._layers import find_ends, weighted_layers
from hwbench.registry import PRUNERS
from tests import nets


def _linear(weight: list[list[float]]) -> nn.Linear:
    rows = torch.tensor(weight)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(rows)
    return layer


def _prune(pattern: str, model: nn.Module, example: torch.Tensor, **more: Any) -> Any:
    name = {":": "nm", "x": "block"}.get(next((c for c in pattern if c in ":x"), ""), pattern)
    spec = nets.spec(pattern, **more)
    made: Any = PRUNERS.create(name).prune(model, example, spec, spec.sparsity)
    return made


# ------------------------------------------------------------------------------ criteria


def test_magnitude_is_the_absolute_value() -> None:
    found = _criteria.magnitude(torch.tensor([-3.0, 0.5, 0.0]), torch.Generator())
    assert found.tolist() == [3.0, 0.5, 0.0]


def test_random_is_uniform_above_zero_and_by_its_generator() -> None:
    weight = torch.zeros(200, 50)
    first, second = (_criteria.random(weight, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert 0 < first.min() <= first.max() <= 1
    assert first.mean().item() == pytest.approx(0.5, abs=0.01)


# ------------------------------------------------------------------------------ unstructured


def test_global_compares_all_layers() -> None:
    model = nn.Sequential(_linear([[1, 2], [3, 4]]), _linear([[10, 20], [0.5, 40]]))
    made = _prune("unstructured", model, torch.ones(1, 2), sparsity=0.5)
    assert made.model[0].weight.tolist() == [[0, 0], [0, 4]]
    assert made.model[1].weight.tolist() == [[10, 20], [0, 40]]


def test_local_gives_each_layer_its_share_and_leaves_the_ends_alone() -> None:
    layers: list[Any] = [
        [[1, 2], [3, 4]],
        [[-10, 20], [30, 40]],
        [[0.1, 0.2], [0.3, 0.4]],
        [[1, 1], [1, 2]],
    ]
    model = nn.Sequential(*(_linear(weight) for weight in layers))
    made = _prune("unstructured", model, torch.ones(1, 2), scope="local", sparsity=0.5)
    kept = [layer.weight for layer in made.model]
    assert kept[0].tolist() == layers[0]
    assert kept[1].tolist() == [[0, 0], [30, 40]]
    assert kept[2].tolist() == torch.tensor([[0, 0], [0.3, 0.4]]).tolist()
    assert kept[3].tolist() == layers[3]
    assert "stem and classifier left alone: 0, 3" in made.notes


def test_ties_go_in_order_so_that_the_share_is_exact() -> None:
    made = _prune("unstructured", _linear([[1] * 10]), torch.ones(1, 10), sparsity=0.3)
    assert made.masks["weight"].tolist() == [[0] * 3 + [1] * 7]


def test_a_layer_that_lost_everything_is_named() -> None:
    model = nn.Sequential(_linear([[1, 1]]), _linear([[9], [9]]))
    made = _prune("unstructured", model, torch.ones(1, 2), sparsity=0.5)
    assert "0 lost all its weights" in made.notes


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    kernel=st.sampled_from([1, 3]),
    sparsity=st.floats(0, 0.99),
)
def test_any_share_is_met_to_half_a_weight(
    rows: int, columns: int, kernel: int, sparsity: float
) -> None:
    model = nn.Conv2d(columns, rows, kernel, padding=kernel // 2, bias=False)
    made = _prune("unstructured", model, torch.ones(1, columns, 4, 4), sparsity=sparsity)
    mask = made.masks["weight"]
    assert abs(int((mask == 0).sum()) - sparsity * mask.numel()) <= 0.5 + 1e-6


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(sparsity: float) -> None:
    with pytest.raises(UserError, match="sparsity"):
        _prune("unstructured", _linear([[1, 2]]), torch.ones(1, 2), sparsity=sparsity)


# ------------------------------------------------------------------------------ N:M


def test_two_of_four_along_the_input_channels() -> None:
    score = torch.tensor([[1.0, 4.0, 3.0, 2.0, 8.0, 5.0, 6.0, 7.0]])
    assert nm.group_mask(score, 2, 4).tolist() == [[0, 1, 1, 0, 1, 0, 0, 1]]


def test_groups_of_a_convolution_lie_across_channels_at_one_kernel_position() -> None:
    score = torch.zeros(1, 4, 1, 2)
    score[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    score[0, :, 0, 1] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    mask = nm.group_mask(score, 1, 4)
    assert mask[0, :, 0, 0].tolist() == [0, 0, 0, 1]
    assert mask[0, :, 0, 1].tolist() == [1, 0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    of=st.integers(2, 5),
    data=st.data(),
)
def test_every_group_keeps_n_and_the_best(
    shape: tuple[int, int, int, int], of: int, data: st.DataObject
) -> None:
    kept = data.draw(st.integers(1, of - 1))
    score = torch.rand((shape[0], shape[1] * of, *shape[2:]))
    mask = nm.group_mask(score, kept, of)
    for o, y, x in torch.cartesian_prod(*(torch.arange(shape[i]) for i in (0, 2, 3))).tolist():
        for start in range(0, score.shape[1], of):
            group, chosen = score[o, start : start + of, y, x], mask[o, start : start + of, y, x]
            assert chosen.sum() == kept
            assert group[chosen == 1].min() >= group[chosen == 0].max()


def test_on_the_way_to_two_of_four_lies_three_of_four() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    pruner = PRUNERS.create("nm")
    spec = nets.spec("2:4", scope="local")
    for wanted, zeros in ((0.0, 0), (0.2, 0), (0.25, 16), (0.4, 16), (0.5, 32)):
        made = pruner.prune(model, torch.ones(1, 8), spec, wanted)
        assert int((made.masks["1.weight"] == 0).sum()) == zeros


def test_channels_that_m_does_not_divide_are_left_alone_and_named() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 8))
    made = _prune("2:4", model, torch.ones(1, 8), scope="local")
    assert set(made.masks) == {"1.weight"}
    assert any("2 (6)" in note for note in made.notes)


def test_n_of_m_that_fits_nowhere_fails_with_the_reason() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 8))
    with pytest.raises(StageError, match="2:4 applies to no layer"):
        _prune("2:4", model, torch.ones(1, 8), scope="local")


def test_n_of_m_refuses_more_than_it_gives() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(StageError, match="cannot be 80"):
        _prune("2:4", model, torch.ones(1, 8), scope="local", sparsity=0.8)


# ------------------------------------------------------------------------------ blocks


def test_two_by_one_blocks_leave_together() -> None:
    weight: list[list[float]] = [[1, 8, 5], [1, 2, 5], [9, 0.5, 3], [9, 0.5, 3]]
    made = _prune("2x1", _linear(weight), torch.ones(1, 3), sparsity=0.5)
    # means: 1 5 5 / 9 .5 3 → the lowest three of six
    assert made.masks["weight"].tolist() == [[0, 1, 1], [0, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_ragged_blocks_compete_by_their_mean() -> None:
    weight: list[list[float]] = [[1, 1, 1], [1, 1, 1], [2, 2, 0.9]]
    made = _prune("2x2", _linear(weight), torch.ones(1, 3), sparsity=1 / 9)
    assert made.masks["weight"].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]


def test_kernel_positions_are_blocks_of_their_own() -> None:
    model = nn.Conv2d(1, 4, (1, 2), bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[9, 1], [9, 1], [9, 1], [9, 20]]).view(4, 1, 1, 2))
    made = _prune("4x1", model, torch.ones(1, 1, 4, 4), sparsity=0.5)
    assert made.masks["weight"].view(4, 2).tolist() == [[1, 0]] * 4


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 9),
    inputs=st.integers(1, 9),
    kernel=st.sampled_from([(), (3,), (2, 3)]),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
)
def test_pooling_agrees_with_a_loop(
    outputs: int, inputs: int, kernel: tuple[int, ...], rows: int, columns: int
) -> None:
    score = torch.rand((outputs, inputs, *kernel))
    means, sizes = _masks.pool(score, rows, columns)
    flat = score.reshape(outputs, inputs, -1)
    keep = torch.rand(means.shape) < 0.5
    mask = _masks.unpool(keep, score.shape, rows, columns).reshape(flat.shape)
    assert sizes.sum() == score.numel()
    for r, k, c in torch.cartesian_prod(*(torch.arange(n) for n in means.shape)).view(-1, 3):
        block = flat[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns, k]
        assert block.numel() == sizes[r, k, c]
        assert torch.allclose(block.mean(), means[r, k, c])
        part = mask[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns, k]
        assert bool((part == float(keep[r, k, c])).all())


# ------------------------------------------------------------------------------ who takes part


def test_depthwise_weights_are_left_alone_in_every_scope() -> None:
    for scope in ("global", "local"):
        made = _prune("unstructured", nets.Depthwise(), nets.images(), scope=scope)
        assert "spatial.weight" not in made.masks
        assert "depthwise weights left alone: spatial" in made.notes
        assert bool((made.model.spatial.weight != 0).all())


def test_attention_projections_can_be_masked() -> None:
    made = _prune("unstructured", nets.Attention(), torch.randn(2, 5, 12))
    assert {"attention.in_proj_weight", "attention.out_proj.weight"} <= set(made.masks)


def test_a_shared_weight_is_listed_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [layer.parameter for layer in weighted_layers(model)] == ["0.weight"]


def test_the_ends_are_found_by_running_not_by_name() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(4, 3)  # misleading on purpose
            self.last = nn.Linear(3, 3)
            self.stem = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.last(self.classifier(x))
            y: torch.Tensor = hidden * self.stem(hidden).sum(1, keepdim=True)
            return y

    ends = find_ends(Backwards().train(), torch.ones(2, 4))
    assert (ends.stem, ends.classifier) == ("classifier", "last")
