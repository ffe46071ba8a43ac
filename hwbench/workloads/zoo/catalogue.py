"""The networks of the zoo by name, in full and in tiny; ten classes each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from hwbench.workloads._resnet8 import ResNet8
from hwbench.workloads.zoo.imagenet import MobileNetV1, MobileNetV2, ResNet, ViTTiny
from hwbench.workloads.zoo.images import DSCNN, VGG, UNet
from hwbench.workloads.zoo.lenet import LeNet5, LeNet300
from hwbench.workloads.zoo.network import Network
from hwbench.workloads.zoo.sequences import Encoder, Recurrent

_LARGE, _SMALL, _TINY = (3, 224, 224), (3, 32, 32), (3, 16, 16)
_STEPS, _FEW = (49, 40), (5, 40)


def _resnet(tiny: bool, depths: tuple[int, ...], *, bottleneck: bool) -> nn.Module:
    own, base = ((1, 1, 1), 8) if tiny else (depths, 64)
    return ResNet(own, bottleneck=bottleneck, base=base, classes=10)


def _vit(tiny: bool) -> nn.Module:
    return ViTTiny(32, 4, 2, 8, 16, 10) if tiny else ViTTiny(classes=10)


def _encoder(tiny: bool, *, first: bool, builtin: bool) -> nn.Module:
    width, depth = (32, 2) if tiny else (256, 4)
    return Encoder(width, 4, depth, first=first, builtin=builtin)


NETWORKS: Mapping[str, Network] = {
    "lenet300": Network(lambda tiny: LeNet300(), (1, 28, 28), (1, 28, 28)),
    "lenet5": Network(lambda tiny: LeNet5(size=20 if tiny else 28), (1, 28, 28), (1, 20, 20)),
    "resnet8": Network(lambda tiny: ResNet8(3, 10, (16, 32, 64), 1), _SMALL, _TINY),
    "resnet18": Network(lambda tiny: _resnet(tiny, (2, 2, 2, 2), bottleneck=False), _LARGE, _SMALL),
    "resnet50": Network(lambda tiny: _resnet(tiny, (3, 4, 6, 3), bottleneck=True), _LARGE, _SMALL),
    "mobilenet_v1": Network(lambda tiny: MobileNetV1(0.25 if tiny else 1, 10), _LARGE, _SMALL),
    "mobilenet_v2": Network(lambda tiny: MobileNetV2(0.25 if tiny else 1, 10), _LARGE, _SMALL),
    "ds_cnn": Network(lambda tiny: DSCNN(16 if tiny else 64), (1, 49, 10), (1, 20, 10)),
    "vgg": Network(lambda tiny: VGG(8 if tiny else 64), _SMALL, _TINY),
    "unet": Network(lambda tiny: UNet(8 if tiny else 32), _SMALL, _TINY),
    "lstm": Network(lambda tiny: Recurrent(nn.LSTM, 16 if tiny else 128), _STEPS, _FEW),
    "gru": Network(lambda tiny: Recurrent(nn.GRU, 16 if tiny else 128), _STEPS, _FEW),
    "vit": Network(_vit, _LARGE, _TINY),
    "vit_mha": Network(lambda tiny: _encoder(tiny, first=True, builtin=True), _STEPS, _FEW),
    "bert": Network(lambda tiny: _encoder(tiny, first=False, builtin=False), _STEPS, _FEW),
    "bert_mha": Network(lambda tiny: _encoder(tiny, first=False, builtin=True), _STEPS, _FEW),
}
