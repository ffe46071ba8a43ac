"""Attention heads and residual blocks, against examples worked by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwbench.errors import StageError
from hwbench.protocols import Pruner
from hwbench.pruners import _blocks, _heads
from hwbench.registry import PRUNERS
from hwbench.workloads.zoo.imagenet import Attention
from hwbench.workloads.zoo.sequences import Encoder, SelfAttention
from tests import nets


def _pruner(name: str) -> Pruner:
    return PRUNERS.create(name)


@pytest.mark.parametrize("kind", [Attention, SelfAttention])
def test_the_weakest_head_leaves(kind: type[nn.Module]) -> None:
    """Of four heads of size 2, the third has weights a hundred times smaller."""
    torch.manual_seed(0)
    model = nn.Sequential(kind(8, 4))
    example = torch.randn(2, 3, 8)
    layer = _heads.find(model)[0]
    assert (layer.heads, layer.size) == (4, 2)
    with torch.no_grad():
        for _, weight, indices, along in layer.parts(2):
            weight.index_copy_(
                along,
                torch.tensor(indices),
                weight.index_select(along, torch.tensor(indices)) / 100,
            )
    made = _pruner("head").prune(model, example, nets.spec("head", "l2", "local", 0.25), 0.25)
    assert made.structure == {"heads": [{"0": [2]}]}
    left = _heads.find(made.model)[0]
    assert (left.heads, left.dense) == (3, 4)
    packed = kind is Attention
    rows = {name: getattr(left.module, name).weight.shape for name in left.inputs}
    assert set(rows.values()) == {(18, 8) if packed else (6, 8)}
    # A third step of a schedule counts from the four heads there were.
    again = _pruner("head").prune(made.model, example, nets.spec("head", "l2", "local", 0.5), 0.5)
    assert _heads.find(again.model)[0].heads == 2


def test_globally_a_weak_layer_loses_more_and_keeps_one() -> None:
    torch.manual_seed(0)
    model = Encoder(8, 4, 2, first=True, builtin=False)
    with torch.no_grad():
        for weight in model.layers[0].attention.parameters():  # type: ignore[union-attr]
            weight.mul_(0.01)
    spec = nets.spec("head", "l1", "global", 0.5)
    made = _pruner("head").prune(model, torch.randn(1, 5, 40), spec, 0.5)
    assert [layer.heads for layer in _heads.find(made.model)] == [1, 3]


def test_heads_where_there_are_none() -> None:
    with pytest.raises(StageError, match="no attention heads"):
        _pruner("head").layers(nets.Depthwise(), nets.images(), nets.spec("head"))
    with pytest.raises(StageError, match=r"nn.MultiheadAttention cannot lose heads: attention"):
        _pruner("head").layers(nets.Attention(), torch.randn(1, 5, 12), nets.spec("head"))


def test_a_forward_with_fixed_widths_is_refused() -> None:
    class Fixed(SelfAttention):
        def forward(self, x: Tensor) -> Tensor:
            n, tokens = x.shape[:2]
            q, k, v = (m(x).view(n, tokens, 4, 2) for m in (self.query, self.key, self.value))
            y: Tensor = self.out((q * k * v).reshape(n, tokens, 8))
            return y

    spec = nets.spec("head", "l2", "local", 0.5)
    with pytest.raises(StageError, match="cannot be cut by heads"):
        _pruner("head").prune(nn.Sequential(Fixed(8, 4)), torch.randn(1, 3, 8), spec, 0.5)


class _Residual(nn.Module):
    def __init__(self, scale: float, *, last: bool = False) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(4, 4), last
        with torch.no_grad():
            self.linear.weight.fill_(scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(x + self.linear(x)) if self.last else x + self.linear(x)
        return y


def test_the_weakest_residual_blocks_leave() -> None:
    """Of three blocks with weights 3, 1 and 2, two thirds are the second and the third."""
    model = nn.Sequential(
        nn.Linear(2, 4), nn.ReLU(), _Residual(3.0), _Residual(1.0), _Residual(2.0), nn.Linear(4, 2)
    )
    example = torch.randn(3, 2)
    assert _blocks.find(model, example) == ["2", "3", "4"]
    made = _pruner("depth").prune(model, example, nets.spec("depth", "l2", sparsity=0.66), 0.66)
    assert made.structure == {"blocks": ["3", "4"]}
    left = nn.Sequential(*[model[i] for i in (0, 1, 2, 5)])
    assert torch.equal(made.model(example), left(example))
    # A schedule's next step counts from the three there were.
    rest = _pruner("depth").prune(
        made.model, example, nets.spec("depth", "l2", sparsity=0.99), 0.99
    )
    assert rest.structure == {"blocks": ["3", "4", "2"]}


def test_a_rectified_block_counts_behind_a_rectified_input_and_a_plain_layer_never() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), _Residual(1.0, last=True), nn.Linear(4, 4))
    assert _blocks.find(model, torch.randn(5, 2)) == ["2"]


def test_no_block_to_leave_out_and_less_than_one() -> None:
    spec = nets.spec("depth", "l2", sparsity=0.3)
    with pytest.raises(StageError, match="no residual block"):
        _pruner("depth").prune(nn.Sequential(nn.Linear(4, 4)), torch.randn(1, 4), spec, 0.3)
    model = nn.Sequential(nn.Linear(4, 4), _Residual(1.0))
    with pytest.raises(StageError, match="30% of 1 residual blocks is none"):
        _pruner("depth").prune(model, torch.randn(1, 4), spec, 0.3)


class _Apart(nn.Module):
    """Attention as BERT's in transformers: the output's projection stands in a module beside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.attention = nn.Module()
        self.attention.self = _Inner()
        self.attention.output = nn.Module()
        self.attention.output.dense = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.attention.output.dense(self.attention.self(x))  # type: ignore[union-attr, operator]
        found: Tensor = self.classifier((x + y).mean(1))
        return found


class _Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = 4, 2, 8
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], -1, self.attention_head_size)
        q, k, v = (m(x).view(shape).transpose(1, 2) for m in (self.query, self.key, self.value))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], -1)


def test_heads_whose_output_is_projected_in_a_module_beside() -> None:
    torch.manual_seed(0)
    model, example = _Apart(), torch.randn(1, 5, 8)
    made = _pruner("head").prune(model, example, nets.spec("head", "l2", "local", 0.5), 0.5)
    (left,) = _heads.find(made.model)
    assert (left.name, left.out, left.heads) == ("attention.self", "attention.output.dense", 2)
    assert left.projection.weight.shape == (8, 4)
    # Channels of any width leave the widths inside attention alone: heads would be mixed.
    narrow = PRUNERS.create("channel", {"min_width": 2})
    cut: Any = narrow.prune(model, example, nets.spec("channel", "l2", "local", 0.5), 0.5)
    assert cut.model.attention.self.query.weight.shape == (8, 4)
    assert any("inside attention are left" in note for note in cut.notes)


def test_a_block_that_is_called_by_keyword_leaves_too() -> None:
    assert torch.equal(_blocks.Shortcut()(torch.ones(2), mask=None), torch.ones(2))
