"""Our kernels of 8 bits against ONNX Runtime: ``python -m hwbench.instruments.kernel_bench_int8``.

Networks with random weights, 1x4 blocks (four input channels) of which so many per cent are zeros,
quantized as hwbench does it. Ratios are of seconds that the thread really ran, in turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from hwbench.instruments import kernel_bench

HEAD = """\
| network | zeros | ORT fp32 | ORT int8 | ours | × over fp32 (10–90 %) | × over int8 | differ |
|---|---|---|---|---|---|---|---|"""


def prune(model: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """Return a copy with that share of the 1x4 blocks of each convolution at zero.

    The least by the sum of magnitudes; the stem and depthwise layers stay dense.
    """
    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    for initializer in pruned.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.ndim != 4 or array.shape[1] % 4 or not share:
            continue
        blocks = array.reshape(len(array), -1, 4, *array.shape[2:])
        size = np.abs(blocks).sum(2, keepdims=True)
        masked = (blocks * (size > np.quantile(size, share))).reshape(array.shape)
        masked = np.ascontiguousarray(masked, np.float32)
        initializer.CopyFrom(numpy_helper.from_array(masked, initializer.name))
    return pruned


def line(name: str, model: onnx.ModelProto, share: float, rounds: int, threads: int) -> str:
    """Return one line of the table."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        onnx.save(prune(model, share), str(path))
        small = kernel_bench.quantized(path, x)
        module, _ = kernel_bench.compiled(small, x, threads)
        floats, bytes_ = (
            kernel_bench.session(str(path), threads),
            kernel_bench.session(str(small), threads),
        )
        calls: list[Callable[[], Any]] = [
            lambda: floats.run(None, {"x": x}),
            lambda: bytes_.run(None, {"x": x}),
            module.invoke,
        ]
        expected = calls[1]()[0]
        module.invoke()
        differ = float((module.outputs()[0] != expected).mean())
        taken = kernel_bench.race(calls, rounds, 1, threads)
    ratios = taken[:, :1] / taken[:, 2:], taken[:, 1:2] / taken[:, 2:]
    low, high = np.percentile(ratios[0], [10, 90])
    fp32, int8, sparse = np.median(taken, 0) * 1e3
    return (
        f"| {name} | {share:.0%} | {fp32:.2f} ms | {int8:.2f} ms | {sparse:.2f} ms | "
        f"**{np.median(ratios[0]):.2f}** ({low:.2f}–{high:.2f}) | "
        f"**{np.median(ratios[1]):.2f}** | {differ:.1%} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m hwbench.instruments.kernel_bench_int8")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenet_v1"])
    parser.add_argument("--zeros", nargs="+", type=int, default=[0, 50, 70, 80, 90, 95])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    sys.stdout.write(HEAD + "\n")
    for name in given.networks:
        model = kernel_bench.exported(name)
        for zeros in given.zeros:
            row = line(name, model, zeros / 100, given.rounds, given.threads)
            sys.stdout.write(row + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
