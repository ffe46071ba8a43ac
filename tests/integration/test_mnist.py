"""The bars of the literature on MNIST: skipped without the data (HWBENCH_MNIST)."""

import os
from pathlib import Path

import pytest

from hwbench import compress, config
from hwbench.records import CompressedModel, CompressionSpec, TargetProfile
from hwbench.registry import WORKLOADS
from hwbench.search import plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not os.environ.get("HWBENCH_MNIST"), reason="HWBENCH_MNIST names no folder with MNIST"
    ),
]


def _errors(recipe: str, folder: Path) -> dict[float, float]:
    """Return the error on the test split, in percent, by sparsity (0: dense), magnitude alone."""
    target: TargetProfile = config.load_target("local-cpu")
    specs: dict[str, CompressionSpec] = {}
    for candidate in plan(config.load_recipe(recipe), target):
        if candidate.compression.criterion == "magnitude":
            specs[candidate.compression.key] = candidate.compression
    spec = next(iter(specs.values()))
    workload = WORKLOADS.create("mnist", spec.workload.options)
    found: dict[float, float] = {}
    dense: CompressedModel | None = None
    for key, one in specs.items():
        (folder / key).mkdir()
        made = compress.compress(one, workload, dense, folder / key, lambda _: None)
        dense = made if one.is_dense else dense
        right = compress.score(compress.load(made, workload), workload, "test")
        found[one.sparsity] = 100 * (1 - right)
        chosen_by = {name: f"{100 * (1 - score):.2f} %" for name, score in made.scores.items()}
        print(f"{recipe} {one.sparsity:.4f}: {found[one.sparsity]:.2f} %; validation {chosen_by}")
    return found


def test_lenet_300_100(tmp_path: Path) -> None:
    """12 times fewer weights at no more than 1.9 % error, 56 times at no more than 2.3 %."""
    errors = _errors("mnist-lenet300", tmp_path)
    assert errors[0.916667] <= 1.9
    assert errors[0.982143] <= 2.3


def test_lenet_5(tmp_path: Path) -> None:
    """98 % of the weights gone at no more than 0.2 points above the dense model."""
    errors = _errors("mnist-lenet5", tmp_path)
    assert errors[0.98] <= errors[0.0] + 0.2
