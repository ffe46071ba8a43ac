"""Calls of kernels: functions of the module, shared where two layers differ in weights alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm_ffi
from tvm import relax, tirx

from hwbench.kernels.graph import Graph, Step
from hwbench.kernels.packed_int8 import BYTES
from hwbench.kernels.values import LoweredLayer


class Emitter:
    """Emits calls into one Relax function and notes what each layer became."""

    def __init__(self, graph: Graph, threads: int) -> None:
        """Begin an empty module for a graph."""
        self.graph, self.threads = graph, threads
        self.builder = relax.BlockBuilder()
        self.values: dict[str, Any] = {}
        self.count = 0
        self.layers: list[LoweredLayer] = []
        self.shared: dict[str, str] = {}
        self.functions: dict[int, list[tuple[tirx.PrimFunc, Any]]] = {}

    def call(
        self, function: tirx.PrimFunc, arguments: list[Any], size: int, dtype: str = "float32"
    ) -> Any:
        """Emit a call of a kernel; numpy arguments become constants of the module."""
        name = str(function.attrs["global_symbol"])
        constants = [relax.const(a) if isinstance(a, np.ndarray) else a for a in arguments]
        variable = self._function(function, name)
        self.shared[name] = str(variable.name_hint)
        kind = relax.TensorType((size,), dtype)
        return self.builder.emit(relax.call_tir(variable, constants, kind))

    def _function(self, function: tirx.PrimFunc, name: str) -> Any:
        """Return the module's function: layers that differ in their weights alone share one."""
        nameless = function.without_attr("global_symbol")
        alike = self.functions.setdefault(int(tvm_ffi.structural_hash(nameless)), [])
        for known, variable in alike:
            if tvm_ffi.structural_equal(known, nameless):
                return variable
        alike.append((nameless, self.builder.add_func(function, name)))
        return alike[-1][1]

    def name(self, kind: str) -> str:
        """Return a fresh name for a function."""
        self.count += 1
        return f"{kind}_{self.count}"

    def reshaped(self, var: Any, shape: tuple[int, ...]) -> Any:
        """Return a flat value with the shape that ONNX says."""
        return self.builder.emit(relax.op.reshape(var, shape))

    def note_packed(self, step: Step, name: str, stored: int, blocks: int) -> None:
        """Note what a layer in 8 bits became: so many of its blocks of weights are stored."""
        shape = self.graph.shapes[step.output]
        assert step.weights is not None
        flops = 2.0 * step.weights.size * shape[0] * shape[2] * shape[3]
        walked = 2.0 * BYTES * stored * shape[0] * shape[2] * shape[3]
        form = "dense" if stored >= 0.999 * blocks else "sparse"
        form = "depthwise" if 1 < step.groups == len(step.weights) else form
        density = float((step.weights != 0).mean())
        self.layers.append(
            LoweredLayer(step.layer, name, form, density, flops, "int8 1x4", walked, per_load=BYTES)
        )
