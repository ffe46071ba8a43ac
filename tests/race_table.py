"""The table that samplers race on: 200 and more real evaluations on p32, without training.

``python -m tests.race_table tests/data/search/p32.jsonl`` trains the dense model once and prunes
it in every way below; each line is one candidate: its axes, and its costs relative to the dense
model. Accuracy is measured on the validation split after batch norms were estimated again;
multiply-adds and weights that are not zero are counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from hwbench import files
from hwbench.compress import compress, load
from hwbench.errors import StageError
from hwbench.records import CompressionSpec, TrainSpec, WorkloadSpec
from hwbench.registry import WORKLOADS

TRAIN = TrainSpec(epochs=18, lr=0.1)
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def specs() -> Iterator[CompressionSpec]:
    grid = {
        "channel": (("l2", "l1", "lamp", "bn_scale", "fpgm", "random"), ("local", "global")),
        "unstructured": (("magnitude", "lamp", "random"), ("local", "global", "erk")),
        "4x1": (("magnitude", "random"), ("local", "global")),
        "1x4": (("magnitude", "random"), ("local", "global")),
    }
    for pattern, (criteria, scopes) in grid.items():
        for criterion in criteria:
            for scope in scopes:
                for share in SHARES:
                    yield CompressionSpec(
                        WorkloadSpec("p32"),
                        TRAIN,
                        pattern=pattern,
                        criterion=criterion,
                        scope=scope,
                        sparsity=share,
                        healing="bn",
                    )


def counted(model: nn.Module, example: Tensor) -> tuple[float, float]:
    """Multiply-adds with a weight that is not zero, and those weights."""
    found = [0.0, 0.0]

    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        left = float(module.weight.count_nonzero())
        found[0] += left * (output[0, 0].numel() if output.dim() == 4 else 1)
        found[1] += left

    handles = [
        m.register_forward_hook(hook)
        for m in model.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    return found[0], found[1]


def main(path: Path) -> None:
    workload = WORKLOADS.create("p32")
    example = workload.data("validation")[0][:1]
    lines = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        first = next(specs()).dense
        (home / "dense").mkdir()
        dense = compress(first, workload, None, home / "dense", lambda _: None)
        macs, weights = counted(load(dense, workload), example)
        errors = 1 - dense.scores["trained"]
        for number, spec in enumerate(specs()):
            folder = home / str(number)
            folder.mkdir()
            line: dict[str, object] = {
                "pattern": spec.pattern,
                "criterion": spec.criterion,
                "scope": spec.scope,
                "sparsity": spec.sparsity,
            }
            try:
                made = compress(spec, workload, dense, folder, lambda _: None)
            except StageError as error:
                lines.append(json.dumps({**line, "failed": error.what}))
                continue
            own = counted(load(made, workload), example)
            costs = {
                "top1": round((1 - made.scores["bn_reestimated"]) / errors, 4),
                "effective_macs": round(own[0] / macs, 4),
                "nonzero_parameters": round(own[1] / weights, 4),
            }
            lines.append(json.dumps({**line, "costs": costs}))
    files.write(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
