"""Convolutions over 8 bits that skip zeros: four input channels in a word, one block of weights.

A word of 32 bits holds four neighbouring channels of a pixel in unsigned 8 bits, so that planes of
words have the layouts that planes of floats have, a quarter as many. A block of 1x4 weights is a
word too, and ``vpdpbusd`` (AVX-512 VNNI) adds its four products to each of sixteen sums; blocks
that are all zeros are not stored. Between two layers nothing but words is written.

Values mean what QuantizeLinear and DequantizeLinear say: ``scale * (byte - zero)``. Sums are exact;
one is scaled in float32 and rounded half to even, as ONNX Runtime does, so that a layer's bytes
differ from its bytes by one at most, where float32 rounds a tie differently.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from hwbench.errors import StageError
from hwbench.kernels import layouts, packed_int8
from hwbench.kernels.build import Machine
from hwbench.kernels.graph import Graph, Step
from hwbench.kernels.layouts import Layout
from hwbench.kernels.packed_int8 import BYTES, LANES, Dot, ungrouped
from hwbench.kernels.problem import overlapping, repeated
from hwbench.kernels.values import Planes

VECTORS = 7
"""Vectors of pixels a tile: found by timing layers of ResNet-18."""
WORDS = " in words"
"""Behind the name of a value: the same value in words."""


def planned(graph: Graph, machine: Machine) -> Graph:
    """Return a graph whose layers between two roundings to 8 bits work on words.

    Raises `StageError` for a quantized model on a processor without VNNI.
    """
    rounds = {step.output: step for step in graph.steps if step.kind == "round"}
    if not rounds:
        return graph
    _insist_on_vnni(machine)
    readers = defaultdict(list)
    for step in graph.steps:
        for name in {*step.inputs, *([step.residual] if step.residual else [])}:
            readers[name].append(step)
    steps: list[Step] = []
    over: set[str] = set()
    for step in graph.steps:
        ends = [r for r in readers[step.output] if r.kind == "round"]
        alone = len(ends) == 1 and graph.uses.get(step.output) == 1
        packed = _packed_step(step, ends[0], rounds, graph) if alone else None
        if packed is not None:
            over.add(ends[0].output)
            plain = dataclasses.replace(ends[0], kind="plain8", inputs=[packed.output])
            steps += [packed, plain]
        elif step.output not in over:
            steps.append(step)
    return _with_packed(graph, steps, rounds)


def _insist_on_vnni(machine: Machine) -> None:
    from tvm.target import codegen

    if machine.lanes == LANES and codegen.target_has_features("avx512vnni", machine.target):
        return
    raise StageError(
        "compile",
        f"tvm_sparse has int8 kernels for AVX-512 VNNI only, and {machine.mcpu} has none",
        mend="give it the fp32 model; onnxruntime runs the int8 one",
    )


def _packed_step(step: Step, end: Step, rounds: dict[str, Step], graph: Graph) -> Step | None:
    """Return a step on words for a step and the rounding behind it; None: it stays in floats."""
    inputs = [rounds.get(name) for name in step.inputs]
    shapes = [graph.shapes[name] for name in (*step.inputs, step.output) if name in graph.shapes]
    if any(i is None for i in inputs) or any(len(shape) != 4 for shape in shapes):
        return None
    kind = ""
    if step.kind == "conv" and step.coded is not None:
        kind = "dot8" if step.residual is None and step.activation in ("none", "clip") else ""
    elif step.kind == "pool" and not step.average:
        (one,) = (i for i in inputs if i is not None)
        same = (one.scale, one.zero) == (end.scale, end.zero)
        kind = "pool8" if same and (one.zero == 0 or step.window.halo == 0) else ""
    elif step.node.op_type == "Add" and len(step.inputs) == 2 and shapes[0] == shapes[1]:
        kind = "add8"
    if not kind:
        return None
    names = [name + WORDS for name in step.inputs]
    return dataclasses.replace(
        step, kind=kind, inputs=names, output=end.output + WORDS, scale=end.scale, zero=end.zero
    )


def _with_packed(graph: Graph, steps: Sequence[Step], rounds: dict[str, Step]) -> Graph:
    """Return the graph with these steps; what they read packed and no step makes is rounded."""
    outputs = {step.output for step in steps}
    lacking = {n for step in steps for n in step.inputs if n.endswith(WORDS)} - outputs
    ordered: list[Step] = []
    for step in steps:
        ordered.append(step)
        if step.kind == "round" and step.output + WORDS in lacking:
            ordered.append(dataclasses.replace(step, kind="words", output=step.output + WORDS))
    shapes = dict(graph.shapes)
    for name in rounds:
        if len(shape := graph.shapes[name]) == 4:
            shapes[name + WORDS] = (shape[0], -(-shape[1] // BYTES), *shape[2:])
    return dataclasses.replace(graph, steps=tuple(ordered), shapes=shapes)


class Writer(Protocol):
    """What the steps on words need of the module that is being written."""

    graph: Graph
    layouts: dict[tuple[int, int], Layout]
    threads: int
    values: dict[str, Any]

    def call(
        self, function: tirx.PrimFunc, arguments: list[Any], size: int, dtype: str = "float32"
    ) -> Any:
        """Emit a call of a kernel with a flat output."""

    def name(self, kind: str) -> str:
        """Return a fresh name."""

    def flat(self, name: str) -> Any:
        """Return a value as a contiguous flat tensor."""

    def reshaped(self, var: Any, shape: tuple[int, ...]) -> Any:
        """Return a flat value with the shape that ONNX says."""

    def placed(self, name: str, layout: Layout, fill: float = 0.0) -> Any:
        """Return a value's buffer in a layout."""

    def window_source(
        self, step: Step, target: Layout, fill: float = 0.0
    ) -> tuple[Any, Layout, int, list[tuple[int, int]]]:
        """Return (buffer, layout of its planes, phases, per tap (phase, offset)) for a window."""

    def window_target(self, step: Step) -> Layout:
        """Return the layout that a window's output is written in."""

    def note_packed(self, step: Step, name: str, stored: int, blocks: int) -> None:
        """Note what a layer in 8 bits became: so many of its blocks of weights are stored."""


class Int8Lowering:
    """Emits steps on words; part of the module that is being written."""

    def __init__(self, writer: Writer) -> None:
        """Keep what values are read from and calls are emitted with."""
        self.low = writer
        self.grids: dict[str, tuple[float, int]] = {}

    @property
    def rules(self) -> dict[str, Callable[[Step], Any]]:
        """What emits each kind of step."""
        return {
            "round": self._round,
            "words": self._pack,
            "plain8": self._unpack,
            "dot8": self._dot,
            "add8": self._add,
            "pool8": self._pool,
        }

    def _packed(self, step: Step, var: Any, layout: Layout) -> Planes:
        self.grids[step.output] = (step.scale, step.zero)
        images, planes = self.low.graph.shapes[step.output][:2]
        pad = packed_int8.padding(step.zero)
        return Planes(var, layout, images, planes, dtype="int32", pad=pad)

    def _round(self, step: Step) -> Any:
        low, shape = self.low, self.low.graph.shapes[step.output]
        size = math.prod(shape)
        function = packed_int8.round_kernel(low.name("round"), size, step.scale, step.zero)
        flat = low.call(function, [low.flat(step.inputs[0])], size)
        return low.reshaped(flat, shape)

    def _pack(self, step: Step) -> Planes:
        low, name = self.low, step.inputs[0]
        images, channels, height, width = low.graph.shapes[name]
        layout = low.layouts[height, width]
        table = layouts.gather_table(layout, np.arange(height * width).reshape(height, width))
        function = packed_int8.pack_kernel(
            low.name("words"), images, channels, height * width, layout, (step.scale, step.zero)
        )
        planes = layouts.round_up(-(-channels // BYTES), layouts.ROW_MULTIPLE)
        size = images * planes * layout.plane
        return self._packed(
            step, low.call(function, [low.flat(name), table], size, "int32"), layout
        )

    def _unpack(self, step: Step) -> Any:
        low, shape = self.low, self.low.graph.shapes[step.output]
        value: Planes = low.values[step.inputs[0]]
        table = value.layout.index().reshape(-1).astype(np.int32)
        function = packed_int8.unpack_kernel(
            low.name("floats"), shape, value.planes, value.layout, (step.scale, step.zero)
        )
        flat = low.call(function, [value.var, table], math.prod(shape))
        return low.reshaped(flat, shape)

    def _dot(self, step: Step) -> Planes:
        assert step.coded is not None
        assert step.bias is not None
        low, name = self.low, step.inputs[0]
        value: Planes = low.values[name]
        target = low.window_target(step)
        x, source, phases, taps = low.window_source(step, target, value.pad)
        x_plane = phases * source.plane
        inside = np.array([phase * source.plane + offset for phase, offset in taps])
        weights, scales = step.coded
        channels = low.graph.shapes[name.removesuffix(WORDS)][1]
        weights = ungrouped(weights, step.groups, channels)
        places = np.add.outer(np.arange(value.channels) * x_plane, inside).reshape(-1)
        starts, offsets, values = packed_int8.encode(weights, value.channels, places)
        scale, zero = self.grids[name]
        sums = weights.reshape(len(weights), -1).sum(1, dtype=np.int64)
        bias = np.rint(step.bias.astype(np.float64) / (scale * scales.astype(np.float64)))
        factors = scale * scales.astype(np.float64) / step.scale
        walk = layouts.tiles(source, target, step.window, VECTORS)
        mask = layouts.mask(target, walk)
        planes = layouts.round_up(-(-len(weights) // BYTES), layouts.ROW_MULTIPLE)
        shape = Dot(
            tiles=len(walk.x) * value.images,
            vx=walk.vx,
            vy=walk.vy,
            x_size=value.images * value.planes * x_plane,
            rows=layouts.round_up(len(weights), BYTES),
            steps=len(offsets),
            images=value.images,
            planes=planes,
            target=target,
            masked=mask is not None,
            zero=step.zero,
            bounds=_bounds(step),
            parallel=low.threads > 1 and not overlapping(walk, LANES),
        )
        rows = shape.rows - len(weights)
        constants: list[NDArray[Any]] = [
            repeated(walk.x, value.planes * x_plane, value.images),
            repeated(walk.y, planes * target.plane, value.images),
            np.pad(starts, (0, rows), mode="edge"),
            offsets,
            values,
            np.pad(bias - zero * sums, (0, rows)).astype(np.int32),
            np.pad(factors, (0, rows)).astype(np.float32),
        ]
        if mask is not None:
            constants.append(np.tile(mask, value.images))
        function = low.name("dot8")
        low.note_packed(step, function, int(starts[-1]), places.size * len(weights))
        var = low.call(
            packed_int8.dot_kernel(function, shape), [x, *constants], shape.y_size, "int32"
        )
        return self._packed(step, var, target)

    def _add(self, step: Step) -> Planes:
        low = self.low
        one: Planes = low.values[step.inputs[0]]
        second: Planes = low.values[step.inputs[1]]
        other = low.placed(step.inputs[1], one.layout, second.pad)
        size = one.images * one.planes * one.layout.plane
        grids = [self.grids[name] for name in step.inputs]
        function = packed_int8.add_kernel(
            low.name("add8"), size, grids, (step.scale, step.zero), _bounds(step)
        )
        return self._packed(step, low.call(function, [one.var, other], size, "int32"), one.layout)

    def _pool(self, step: Step) -> Planes:
        low = self.low
        value: Planes = low.values[step.inputs[0]]
        target = low.window_target(step)
        x, source, phases, taps = low.window_source(step, target, value.pad)
        walk = layouts.tiles(source, target, step.window, VECTORS)
        inside = [phase * source.plane + offset for phase, offset in taps]
        mask = layouts.mask(target, walk)
        shape = Dot(
            tiles=len(walk.x),
            vx=walk.vx,
            vy=walk.vy,
            x_size=value.images * value.planes * phases * source.plane,
            rows=value.channels * BYTES,
            steps=0,
            images=value.images,
            planes=value.planes,
            target=target,
            masked=mask is not None,
            zero=step.zero,
            bounds=(0, 255),
        )
        function = packed_int8.pool_kernel(low.name("pool8"), shape, inside, phases * source.plane)
        constants: list[NDArray[Any]] = [np.asarray(walk.x, np.int32), np.asarray(walk.y, np.int32)]
        constants += [] if mask is None else [mask]
        return self._packed(
            step, low.call(function, [x, *constants], shape.y_size, "int32"), target
        )


def _bounds(step: Step) -> tuple[int, int]:
    """Return the least and the largest byte that an activation lets through."""
    ends = [0, 255]
    if step.activation == "clip":
        for place, end in enumerate((step.low, step.high)):
            if end is not None:
                ends[place] = min(max(round(end / step.scale) + step.zero, 0), 255)
    return ends[0], ends[1]
