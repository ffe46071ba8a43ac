"""Every criterion and scope against an example worked by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwbench.compress import evidence
from hwbench.compress.sensitivity import allotted
from hwbench.errors import StageError
from hwbench.protocols import Split
from hwbench.pruners import _channels, _criteria, _masks
from hwbench.records import LayerCurve, Sensitivity
from tests import nets


def test_lamp_by_hand() -> None:
    """Squares 1, 4, 4, 16 over the sums of those at least as large: 25, 24, 20, 16."""
    found = _criteria.lamp(torch.tensor([[1.0, -2.0], [4.0, 2.0]]), torch.Generator())
    wanted = torch.tensor([[1 / 25, 4 / 24], [1.0, 4 / 20]])
    assert torch.allclose(found.float(), wanted)


def test_the_l2_norm_of_a_block_differs_from_its_l1_norm() -> None:
    """(3, 0) and (2, 2): the sums of values say 3 < 4, the sums of squares 9 > 8."""
    weight = torch.tensor([[3.0, 0.0, 2.0, 2.0]])
    scores = {
        name: _masks.pool(how(weight, torch.Generator()), 1, 2)[0].flatten().tolist()
        for name, how in (("magnitude", _criteria.magnitude), ("l2", _criteria.square))
    }
    assert scores == {"magnitude": [1.5, 2.0], "l2": [4.5, 4.0]}


def test_wanda_ranks_within_a_row() -> None:
    """|w| x norm is (2, 2·3, 1) and (40, 3, 50): each row has ranks 1, 2, 3 of its own."""
    weight, norms = torch.tensor([[2.0, -2, 1], [40, 1, 50]]), torch.tensor([[1.0, 3, 1]])
    found = _criteria.wanda(weight, norms)
    assert torch.allclose(found, torch.tensor([[2.0, 3, 1], [2, 1, 3]]) / 3)


def test_erk_by_hand() -> None:
    """Densities go with (2+2)/4 and (10+10)/100 as 5 : 1; 52 of 104 weights stay.

    Scale 52 / (4 · 1 + 100 · 0.2) = 2.17 would fill the small layer: it is dense, and the large
    one keeps 48 of 100.
    """
    assert _masks.erk([(2, 2), (10, 10)], 0.5) == pytest.approx([0.0, 0.52])
    # Sparser, both take part: 0.1 of 104 is 10.4; scale 10.4 / 24.
    assert _masks.erk([(2, 2), (10, 10)], 0.9) == pytest.approx([1 - 10.4 / 24, 1 - 10.4 / 120])


def test_a_vector_gives_each_layer_its_own_share() -> None:
    model = nn.Sequential(nn.Linear(4, 10), nn.Linear(10, 10))
    spec = nets.spec(scope="vector", ratios={"0": 0.25, "1": 0.5})
    made = _masks.prune_blocks(model, torch.zeros(1, 4), spec, 0.5, {}, 1, 1)
    assert [int((m == 0).sum()) for m in made.masks.values()] == [10, 50]


class _Line:
    """The loss is w · x, so the gradient is the sample."""

    metric = "score"

    def __init__(self, rows: list[list[float]]) -> None:
        self.rows = torch.tensor(rows)

    def model(self) -> nn.Linear:
        made = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            made.weight.copy_(torch.tensor([[3.0, -1.0]]))
        return made

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        return self.rows, torch.zeros(len(self.rows))

    def train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = model(inputs).mean()
        return loss

    def score(self, outputs: Any, labels: Any) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("criterion", "wanted"),
    [
        # Every batch is both samples: the gradient is their mean (2, 2); (3·2)², (-1·2)².
        ("taylor", [36.0, 4.0]),
        # Single samples (1, 4) and (3, 0): ½ · 9 · (1 + 9)/2 and ½ · 1 · (16 + 0)/2.
        ("hessian", [22.5, 4.0]),
        # Norms over both samples: √(1 + 9) and √16.
        ("wanda", [10**0.5, 4.0]),
    ],
)
def test_what_is_learnt_from_data_by_hand(criterion: str, wanted: list[float]) -> None:
    task = _Line([[1.0, 4.0], [3.0, 0.0]])
    spec = nets.spec("unstructured", criterion)
    found = evidence.gather(spec, task.model(), task)
    assert found["weight"].flatten().tolist() == pytest.approx(wanted)


def test_movement_likes_weights_that_grow() -> None:
    """The gradient is (2, 2): the step takes from both, so 3 shrinks and -1 grows."""
    task = _Line([[1.0, 4.0], [3.0, 0.0]])
    model = task.model()
    found = evidence.gather(nets.spec("unstructured", "movement"), model, task)["weight"][0]
    assert 0 < found[0] < found[1]
    # With a step of lr x 2 at a time, -Σ w g is -Σ (3 - 2 lr t) · 2 against Σ (1 + 2 lr t) · 2.
    steps = torch.arange(evidence.STEPS) * 0.1 * nets.spec().train.lr * 2
    apart = ((3 - steps) * 2).sum() + ((1 + steps) * 2).sum()
    assert (found[1] - found[0]).item() == pytest.approx(apart.item(), rel=1e-4)
    assert model.weight.tolist() == [[3.0, -1.0]], "the model itself is left as it is"


def test_a_loss_that_diverges_is_said() -> None:
    task = _Line([[float("inf"), 0.0], [0.0, 0.0]])
    with pytest.raises(StageError, match="the loss is"):
        evidence.gather(nets.spec("unstructured", "taylor"), task.model(), task)


class _Pair(nn.Module):
    """Two convolutions of 1 x 1 with a batch norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1, 1))
            self.norm.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(F.relu(self.norm(self.first(x))))
        return y


def _channel_scores(criterion: str, learnt: dict[str, Tensor]) -> list[float]:
    model = _Pair()
    graph = _channels.Graph(model, torch.randn(1, 1, 2, 2))
    spec = nets.spec("channel", criterion, "local")
    width = _channels.width(graph.groups[0], model, spec, (1, 0.9), learnt)
    return list(width.scores)


def test_channels_by_the_scale_of_their_batch_norm() -> None:
    scores = _channel_scores("bn_scale", {})
    assert [s / scores[0] for s in scores] == pytest.approx([1, 4, 2], rel=1e-4)


def test_channels_by_their_distance_from_the_others() -> None:
    """FPGM: filters 1, 2, 6 are 6, 5 and 9 away from the rest; the middle one is the least."""
    scores = _channel_scores("fpgm", {})
    assert sorted(range(3), key=scores.__getitem__)[-1] == 2


def test_channels_by_what_data_say_about_their_weights() -> None:
    """Sums over the outgoing and the incoming weights: 1 + (1 + 4), 2 + (2 + 5), 3 + (3 + 6)."""
    learnt = {
        "first.weight": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1),
        "last.weight": torch.tensor([[1.0, 2, 3], [4, 5, 6]]).view(2, 3, 1, 1),
    }
    scores = _channel_scores("taylor", learnt)
    assert [s * 9 for s in scores] == pytest.approx([6, 9, 12])


def test_channels_without_a_batch_norm_have_no_scale() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    graph = _channels.Graph(model, torch.randn(1, 1, 2, 2))
    with pytest.raises(StageError, match="bn_scale needs a batch norm after 0"):
        _channels.width(graph.groups[0], model, nets.spec("channel", "bn_scale"), (1, 0.9), {})


def test_shares_from_sensitivity_even_out_the_loss() -> None:
    """A layer that falls twice as fast loses half as much: 0.4 and 0.8 are 0.6 on average."""
    weak = LayerCurve("weak", 100, 0.9, (0.5, 1.0), (0.5, 0.1))
    firm = LayerCurve("firm", 100, 0.9, (0.5, 1.0), (0.7, 0.5))
    found = allotted(Sensitivity(nets.spec(), (weak, firm)), 0.6)
    assert found == pytest.approx({"weak": 0.4, "firm": 0.8}, abs=1e-4)
