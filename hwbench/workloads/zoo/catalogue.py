"""The networks of the zoo by name, in full and in tiny."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.workloads._resnet8 import ResNet8
from hwbench.workloads.zoo import Network
from hwbench.workloads.zoo.lenet import LeNet5, LeNet300

NETWORKS: Mapping[str, Network] = {
    "lenet300": Network(lambda tiny: LeNet300(), (1, 28, 28), (1, 28, 28)),
    "lenet5": Network(lambda tiny: LeNet5(size=20 if tiny else 28), (1, 28, 28), (1, 20, 20)),
    "resnet8": Network(lambda tiny: ResNet8(3, 10, (16, 32, 64), 1), (3, 32, 32), (3, 16, 16)),
}
