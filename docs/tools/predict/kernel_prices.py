"""Price the kernels of the backends for the Cortex-A72, by class of layer, pattern and sparsity.

``python docs/tools/predict/kernel_prices.py [CLASS ...]`` compiles layers for the board, counts
them under QEMU (see hwbench/prediction/counts.py for what that needs) and writes what they take, as
a share of what the operator classes say of the dense layer, to hwbench/prediction/prices.json. With
classes named, the others there are kept.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwbench import config, export, files
from hwbench.compile import compile_model
from hwbench.prediction import counts, price
from hwbench.records import Candidate, CompiledModel, OnnxModel, TargetProfile

CORE = "cortex-a72"
# By class: outputs, inputs, kernel, stride, groups, height and width of the image.
LAYERS: dict[str, tuple[tuple[int, int, int, int, int, int], ...]] = {
    "pointwise": ((256, 256, 1, 1, 1, 28),),
    "winograd": ((64, 64, 3, 1, 1, 28), (128, 128, 3, 1, 1, 14)),
    "spatial": ((128, 64, 3, 2, 1, 28),),
    "depthwise": ((128, 128, 3, 1, 128, 28),),
}
DENSE = ("onnxruntime", "tvm", "tvm_sparse")
BLOCKS = {"unstructured": 1, "2x1": 2, "4x1": 4}
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


def layer(shape: tuple[int, ...], rows: int, sparsity: float, path: Path) -> OnnxModel:
    """Write one convolution with random zeros in blocks of so many outputs; return its record."""
    outputs, inputs, kernel, stride, groups, size = shape
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((outputs, inputs // groups, kernel, kernel)).astype(np.float32)
    blocks = rng.random((outputs // rows, *weights.shape[1:])) >= sparsity
    weights *= blocks.repeat(rows, axis=0)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], name="layer", kernel_shape=[kernel, kernel],
        pads=[kernel // 2] * 4, strides=[stride, stride], group=groups,
    )  # fmt: skip
    out = size // stride
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, out, out])
    graph = helper.make_graph([node], "layer", [x], [y], [numpy_helper.from_array(weights, "w")])
    document = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(document, path)
    return export.read(path)[0]


def variants(groups: int) -> Iterator[tuple[str, float, int, tuple[str, ...]]]:
    """Yield (pattern, sparsity, rows of a block, backends), the dense layer first."""
    yield "dense", 0.0, 1, DENSE
    for pattern, rows in BLOCKS.items() if groups == 1 else ():
        for sparsity in SPARSITIES:
            yield pattern, sparsity, rows, ("tvm_sparse",)


def price_class(name: str, target: TargetProfile, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the shares of one class of layers, by backend, pattern and sparsity."""
    made: list[tuple[str, str, float, float, CompiledModel]] = []
    for number, shape in enumerate(LAYERS[name]):
        for pattern, sparsity, rows, backends in variants(shape[4]):
            stem = f"{name}{number}-{pattern}-{sparsity}"
            model = layer(shape, rows, sparsity, folder / f"{stem}.onnx")
            base = price.predict(model, CORE).seconds
            for kind in backends:
                spec = next(s for s in target.backends if s.kind == kind)
                candidate = Candidate(model.spec, spec, target.name)
                compiled = compile_model(candidate, model, target, folder / f"{stem}-{kind}")
                made.append((kind, pattern, sparsity, base, compiled))
            sys.stderr.write(f"compiled {stem}\n")
    found = counts.count([compiled for *_, compiled in made], CORE)
    logs: dict[tuple[str, str, float], list[float]] = {}
    for kind, pattern, sparsity, base, compiled in made:
        counted = found[compiled.digest]
        if isinstance(counted, Exception):
            raise counted
        seconds = price.from_counts(counted, CORE).seconds
        sys.stderr.write(f"{kind} {name} {pattern} {sparsity}: {seconds * 1e3:.2f} ms\n")
        logs.setdefault((kind, pattern, sparsity), []).append(math.log(seconds / base))
    shares: dict[str, dict[str, Any]] = {}
    for (kind, pattern, sparsity), each in logs.items():
        mean = round(math.exp(sum(each) / len(each)), 3)
        shares.setdefault(kind, {}).setdefault(pattern, {})[str(sparsity)] = mean
    return shares


def main(names: Sequence[str]) -> None:
    """Write the prices of the classes named, or of all."""
    path = Path(price.__file__).with_name("prices.json")
    prices = json.loads(path.read_text())["prices"] if names else {}
    target = config.load_target("rpi4")
    for name in names or LAYERS:
        with tempfile.TemporaryDirectory() as folder:
            shares = price_class(name, target, Path(folder))
        for kind, found in shares.items():
            prices.setdefault(kind, {})[name] = found
    written = {
        "made_by": "python docs/tools/predict/kernel_prices.py",
        "about": f"counted under QEMU for {CORE}; share of what the operator classes say of the "
        "dense layer; geometric mean over layers (outputs, inputs, kernel, stride, groups, image)",
        "layers": LAYERS,
        "prices": prices,
    }
    files.write(path, json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
