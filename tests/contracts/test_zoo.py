"""Every network of the zoo by every pattern: pruned, or refused by name; never silently skipped."""

import json

import pytest
import torch
from torch import nn

from hwbench import pruners
from hwbench.errors import StageError
from hwbench.protocols import Pruned
from hwbench.records import to_json
from hwbench.registry import PRUNERS, WORKLOADS
from hwbench.workloads.zoo import networks
from tests import nets

PATTERNS = (
    "unstructured",
    "2:4",
    "4x1",
    "channel",
    "filter",
    "neuron",
    "mlp",
    "head",
    "depth",
)

REFUSED = {
    "filter": "lenet300 lstm gru vit vit_mha bert bert_mha",
    "neuron": "resnet8 resnet18 resnet50 mobilenet_v1 mobilenet_v2 ds_cnn unet lstm gru",
    "mlp": "resnet8 resnet18 resnet50 mobilenet_v1 mobilenet_v2 ds_cnn unet lstm gru",
    "channel": "lstm gru",
    "head": "lenet300 lenet5 resnet8 resnet18 resnet50 mobilenet_v1 mobilenet_v2 ds_cnn vgg unet "
    "lstm gru vit_mha bert_mha",
    "depth": "lenet300 lenet5 resnet50 mobilenet_v1 ds_cnn vgg unet lstm gru",
}
"""What cannot be, by the nature of the network. (A tiny ResNet-50 has one block a stage.)"""


def _model(name: str) -> tuple[nn.Module, torch.Tensor]:
    zoo = WORKLOADS.create("zoo", {"network": name, "tiny": True, "validation": 8})
    torch.manual_seed(0)
    inputs: torch.Tensor = zoo.data("validation")[0]
    return nets.warmed(zoo.model(), inputs), inputs


def _what_is_left(model: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in model.parameters())


def _pruned(name: str, pattern: str) -> tuple[nn.Module, torch.Tensor, Pruned]:
    model, inputs = _model(name)
    kind = pruners.for_pattern(pattern)
    pruner, traits = PRUNERS.create(kind), PRUNERS.traits(kind)
    spec = nets.spec(pattern, traits.criteria[0], traits.scopes[0], 0.5, options={})
    share = 0.6 if pattern == "depth" else 0.5
    return model, inputs, pruner.prune(model, inputs[:1], spec, share)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", sorted(networks()))
def test_pruned_or_refused_by_name(name: str, pattern: str) -> None:
    if name in REFUSED.get(pattern, "").split():
        with pytest.raises(StageError) as caught:
            _pruned(name, pattern)
        # The message names what is missing, and what to do instead.
        assert caught.value.mend or caught.value.expected
        if name.endswith("_mha") and pattern == "head":
            assert "nn.MultiheadAttention" in caught.value.what
        return
    model, inputs, made = _pruned(name, pattern)
    assert _what_is_left(made.model) < 0.98 * _what_is_left(model)
    with torch.no_grad():
        wanted, found = model(inputs), made.model.eval()(inputs)
    assert found.shape == wanted.shape
    assert found.isfinite().all()
    assert made.notes
    # It can be made again from the record, in a fresh model.
    fresh = PRUNERS.create(pruners.for_pattern(pattern)).restore(
        _model(name)[0], inputs[:1], json.loads(json.dumps(to_json(made.structure)))
    )
    fresh.load_state_dict(made.model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(inputs), found)


@pytest.mark.parametrize("name", ["vit_mha", "bert_mha"])
@pytest.mark.parametrize("pattern", ["channel", "mlp"])
def test_what_is_left_alone_beside_attention_is_said(name: str, pattern: str) -> None:
    *_, made = _pruned(name, pattern)
    assert any("nn.MultiheadAttention is not pruned" in note for note in made.notes)
