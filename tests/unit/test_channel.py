"""Channel pruning: what leaves, how far, and torch-pruning's traps one by one."""

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hwbench.errors import StageError
from hwbench.pruners import _channels
from hwbench.pruners._channels import Width, kept
from hwbench.records import to_json
from hwbench.registry import PRUNERS
from hwbench.workloads._resnet8 import ResNet8
from tests import nets


def _resnet(widths: tuple[int, int, int] = (16, 32, 64)) -> nn.Module:
    torch.manual_seed(0)
    return nets.warmed(ResNet8(3, 10, widths, 2), nets.images(16, 16))


def _prune(model: nn.Module, example: torch.Tensor, sparsity: float, **more: Any) -> Any:
    words: dict[str, Any] = {"criterion": "l2", "scope": "local", **more}
    spec = nets.spec("channel", sparsity=sparsity, **words)
    made: Any = PRUNERS.create("channel").prune(model, example, spec, sparsity)
    return made


def _widths(model: nn.Module) -> dict[str, int]:
    return {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def _width(
    *scores: float, dense: int = 0, blocks: int = 1, floor: int = 1, multiple: int = 1
) -> Width:
    return Width("x", dense or len(scores) * blocks, tuple(scores), blocks, floor, multiple)


# ------------------------------------------------------------------------------ how many


@pytest.mark.parametrize(
    ("dense", "multiple", "sparsity", "left"),
    [
        (16, 1, 0.25, 12),
        (16, 8, 0.25, 16),  # torch-pruning's round_to would make this 8: 50 %
        (16, 8, 0.5, 8),
        (32, 8, 0.25, 24),
        (64, 16, 0.5, 32),
        (20, 8, 0.1, 16),
        (20, 8, 0.0, 20),
    ],
)
def test_widths_are_rounded_to_the_nearest_multiple(
    dense: int, multiple: int, sparsity: float, left: int
) -> None:
    width = _width(*range(dense), floor=8, multiple=multiple)
    assert kept([width], sparsity, nets.spec("channel", "l2", "local")) == [left]


def test_jointly_the_lowest_scores_go_first() -> None:
    widths = [_width(1, 2, 3, 4), _width(0.1, 0.2, 5, 6)]
    assert kept(widths, 0.5, nets.spec("channel", "l2", "global")) == [2, 2]
    assert kept(
        [_width(5, 6, 7, 8), _width(1, 2, 3, 4)], 0.25, nets.spec("channel", "l2", "global")
    ) == [4, 2]


def test_a_floor_holds_and_the_others_make_up_for_it() -> None:
    weak, strong = _width(*[0.1] * 10, floor=8), _width(*[1.0] * 30, floor=8)
    assert kept([weak, strong], 0.5, nets.spec("channel", "l2", "global")) == [8, 12]


@given(
    widths=st.lists(
        st.builds(
            lambda scores, floor, blocks: _width(*scores, floor=floor, blocks=blocks),
            st.lists(st.floats(0, 10), min_size=1, max_size=30),
            st.integers(1, 8),
            st.sampled_from([1, 2, 4]),
        ),
        min_size=1,
        max_size=5,
    ),
    sparsity=st.floats(0, 0.99),
    jointly=st.booleans(),
)
def test_no_layer_grows_or_falls_below_its_floor(
    widths: list[Width], sparsity: float, jointly: bool
) -> None:
    spec = nets.spec("channel", "l2", "global" if jointly else "local")
    for width, count in zip(widths, kept(widths, sparsity, spec), strict=True):
        assert min(width.floor, width.now) <= count <= width.now
        gone = width.lowest(count)
        assert len(gone) == len(set(gone)) == width.now - count


def test_grouped_channels_leave_from_every_block() -> None:
    assert sorted(_width(3, 1, 2, blocks=2).lowest(4)) == [1, 4]


def test_at_least_eight_channels_and_a_tenth_stay() -> None:
    for scope in ("local", "global"):
        made = _prune(_resnet((16, 32, 128)), nets.images(1, 16), 0.97, scope=scope)
        widths = _widths(made.model)
        assert min(widths.values()) >= 8
        assert widths["block3.conv1"] >= 13


# ------------------------------------------------------------------------------ which


def test_the_output_layer_is_found_by_shape_and_kept() -> None:
    """The last layer defined is not the last that runs."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = nn.Linear(32, 10)
            self.body = nn.Linear(12, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.answer(self.body(x).relu())
            return y

    made = _prune(Odd(), torch.randn(2, 12), 0.5)
    assert made.model.answer.weight.shape == (10, 16)


def test_the_channels_of_lowest_group_norm_go() -> None:
    """By hand: a channel's score sums its squares in every layer it runs through."""
    model: Any = nn.Sequential(nn.Linear(4, 16, bias=False), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.fill_(0.1)
        model[0].weight[2] = 0.5
        model[2].weight[:, 5] = 9.0
        model[0].weight[5] = 0.4
        model[0].weight[7] = 0.6
    made = _prune(model, torch.ones(1, 4), 2 / 16)
    assert made.structure["cuts"] == [["0", [2, 7]]]


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("criterion", ["l2", "l1", "random"])
def test_the_cut_model_equals_the_dense_one_without_those_channels(
    criterion: str, scope: str
) -> None:
    """Oracle: silence the removed channels in the dense model by their batch norms."""
    dense = _resnet()
    made = _prune(dense, nets.images(1, 16), 0.5, criterion=criterion, scope=scope)
    silent = copy.deepcopy(dense)
    norms = {"stem": ["norm", "block1.norm2"]}
    for block in ("block1", "block2", "block3"):
        norms[f"{block}.conv1"] = [f"{block}.norm1"]
        norms[f"{block}.shortcut"] = norms[f"{block}.conv2"] = [f"{block}.norm2"]
    with torch.no_grad():
        for layer, gone in made.structure["cuts"]:
            for name in norms[layer]:
                norm: Any = silent.get_submodule(name)
                norm.weight[gone] = 0.0
                norm.bias[gone] = 0.0
            shortcut = layer.rpartition(".")[0] + ".shortcut"
            if layer.endswith((".shortcut", ".conv2")):
                side: Any = silent.get_submodule(shortcut)
                side.weight[gone] = 0.0
                side.bias[gone] = 0.0
    inputs = nets.images(4, 16)
    torch.testing.assert_close(made.model.eval()(inputs), silent(inputs), rtol=1e-4, atol=1e-4)


def test_two_pruners_share_nothing() -> None:
    """torch-pruning's default dicts are shared by all its pruners: ours never meet them."""
    _prune(nets.Grouped(), nets.images(), 0.5)
    made = _prune(_resnet(), nets.images(1, 16), 0.5)
    again = _prune(_resnet(), nets.images(1, 16), 0.5)
    assert made.structure == again.structure


def test_groups_of_channels_stay_equal() -> None:
    made = _prune(nets.Grouped(), nets.images(), 0.5)
    conv, norm = made.model.conv, made.model.norm
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.GroupNorm)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (16, 16, 4)
    assert (norm.num_channels, norm.num_groups) == (16, 4)
    assert made.model(nets.images()).shape == (2, 10)


def test_depthwise_layers_follow_their_input() -> None:
    made = _prune(nets.warmed(nets.Depthwise(), nets.images(8)), nets.images(), 0.5)
    spatial = made.model.spatial
    assert isinstance(spatial, nn.Conv2d)
    assert (spatial.groups, spatial.in_channels) == (8, 8)


def test_attention_is_named_as_not_pruned_and_keeps_its_width() -> None:
    example = torch.randn(2, 5, 12)
    made = _prune(nets.Attention(), example, 0.5)
    assert any("nn.MultiheadAttention is not pruned" in note for note in made.notes)
    attention = made.model.attention
    assert isinstance(attention, nn.MultiheadAttention)
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (32, 4, 8)
    assert made.model.up.weight.shape == (32, 32)
    assert made.model(example).shape == (2, 10)


@pytest.mark.parametrize("criterion", ["l2", "random"])
@pytest.mark.parametrize("model", [nets.Shuffle(), nets.Windows()], ids=["shuffle", "windows"])
def test_shuffles_and_windows_are_refused_clearly(model: nn.Module, criterion: str) -> None:
    assert model(nets.images()).shape == (2, 10)
    with pytest.raises(StageError, match="torch-pruning cannot cut this model"):
        _prune(model, nets.images(), 0.5, criterion=criterion)


def test_a_cut_that_changes_what_is_computed_is_caught() -> None:
    """A graph that says it removed other channels than it did must not pass."""
    before, example = _resnet(), nets.images(2, 16)
    after = copy.deepcopy(before)
    graph = _channels.Graph(after, example)
    graph.remove("block1.conv1", [0, 1, 2, 3])
    _channels.check(before, after, graph, example)
    after.hwbench_cuts = [["block1.conv1", [4, 5, 6, 7]]]  # type: ignore[assignment]
    with pytest.raises(StageError, match="zeroed channels"):
        _channels.check(before, after, graph, example)


def test_nothing_removed_is_a_failure_not_a_copy() -> None:
    with pytest.raises(StageError, match="is none"):
        _prune(_resnet((8, 8, 8)), nets.images(1, 16), 0.5)


# ------------------------------------------------------------------------------ again from record


def test_a_model_cut_in_steps_is_rebuilt_in_one_go() -> None:
    example = nets.images(1, 16)
    model, widths = _resnet(), []
    for sparsity in (0.25, 0.4, 0.5):
        made = _prune(model, example, sparsity)
        model = made.model
        widths.append(_widths(model)["block3.conv1"])
    assert widths == [48, 38, 32]  # shares of the dense model's 64, not of what was left
    structure = json.loads(json.dumps(to_json(made.structure)))
    fresh = PRUNERS.create("channel").restore(_resnet(), example, structure)
    fresh.load_state_dict(model.state_dict())
    inputs = nets.images(3, 16)
    assert torch.equal(fresh(inputs), model.eval()(inputs))


@pytest.mark.parametrize("structure", [{}, {"cuts": "x"}, {"cuts": [["nowhere", [1]]]}])
def test_a_damaged_record_is_a_stage_error(structure: dict[str, object]) -> None:
    with pytest.raises(StageError):
        PRUNERS.create("channel").restore(_resnet(), nets.images(1, 16), structure)
