"""Steps to one Relax module: own kernels where it counts, TVM's lowering for the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from hwbench.kernels import build, encode, fallback, layouts, stencils
from hwbench.kernels.activation_ops import ActivationOps
from hwbench.kernels.build import Machine
from hwbench.kernels.graph import Graph, Step
from hwbench.kernels.int8 import Int8Lowering, planned
from hwbench.kernels.layouts import Layout, Planar, Window
from hwbench.kernels.placement import Placement
from hwbench.kernels.problem import (
    Config,
    Kernel,
    Problem,
    Reading,
    Windowed,
    kernel,
    window_kernel,
)
from hwbench.kernels.template import Epilogue
from hwbench.kernels.values import LoweredLayer, PendingDepthwise, Planes

Choose = Callable[[Problem], Config]

FEW_ROWS = 4
"""Up to so many rows of input a linear layer runs row by row, not over planes."""
WALKS_ALL = 0.95
"""Share of the weights from which a kernel counts as dense: what it skips, it skips by chance."""
SELL_BELOW = 0.6
"""Density below which gathering inputs beats streaming a dense batch-1 linear layer."""


@dataclass(slots=True)
class Lowered:
    """The module and what was decided on the way."""

    module: Any
    layers: list[LoweredLayer] = field(default_factory=list)


def lower(graph: Graph, machine: Machine, choose: Choose) -> Lowered:
    """Return the Relax module of a graph; `choose` picks the configuration of each layer.

    Raises `StageError` naming the operator that has no kernel and that TVM cannot lower.
    """
    with build.translated():
        return Lowering(planned(graph, machine), machine.lanes, choose, machine.threads).run()


class Lowering(Placement):
    """Writes the Relax function of a graph; one instance, one `run`."""

    def __init__(self, graph: Graph, lanes: int, choose: Choose, threads: int = 1) -> None:
        """Keep what the steps need; `choose` picks a configuration for a problem."""
        super().__init__(graph, lanes, threads)
        self.choose = choose
        self.activation_ops = ActivationOps(self)
        self.pending: dict[str, PendingDepthwise] = {}
        self.points = {s.inputs[0] for s in graph.steps if _is_point(s)}

    def run(self) -> Lowered:
        """Return the module with its function ``main``."""
        graph = self.graph
        inputs = [
            relax.Var(name, relax.TensorType(graph.shapes[name], graph.dtypes[name]))
            for name in graph.inputs
        ]
        self.values.update(zip(graph.inputs, inputs, strict=True))
        rules: dict[str, Callable[[Step], Any]] = {
            "conv": self._conv,
            "linear": self._linear,
            "pool": self._pool,
            "mean": self._mean,
            "other": self._other,
            **Int8Lowering(self).rules,
        }
        with self.builder.function("main", inputs):
            with self.builder.dataflow():
                for step in graph.steps:
                    self.values[step.output] = rules[step.kind](step)
                ends = [self.builder.emit_output(self.plain(name)) for name in graph.outputs]
            self.builder.emit_func_output(ends[0] if len(ends) == 1 else relax.Tuple(ends))
        module = relax.transform.InlinePrivateFunctions()(self.builder.finalize())
        # Values of 8 bits are offered as floats too, whether or not anything reads them.
        module = relax.transform.DeadCodeElimination()(module)
        layers = [
            dataclasses.replace(m, function=self.shared.get(m.function, "")) for m in self.layers
        ]
        return Lowered(module, layers)

    def _conv(self, step: Step) -> Planes:
        assert step.weights is not None
        assert step.bias is not None
        images, channels = self.graph.shapes[step.inputs[0]][:2]
        target = self.window_target(step)
        earlier = self.pending.pop(step.inputs[0], None)
        if earlier is not None and earlier.windowed.target != target:
            self._release(earlier)
            earlier = None
        x, source, phases, taps = self.window_source(step, target)
        rest = [self.placed(step.residual, target)] if step.residual else []
        planes = layouts.round_up(channels, layouts.ROW_MULTIPLE)
        x_plane = phases * source.plane
        rows = len(step.weights)
        inside = [phase * source.plane + offset for phase, offset in taps]
        sign = step.activation == "clip" and step.low is not None and step.low >= 0
        if step.groups == channels == rows and step.groups > 1:
            windowed = Windowed(
                "depthwise",
                source,
                target,
                step.window,
                tuple(inside),
                x_plane,
                planes,
                rows,
                images,
                self._epilogue(step),
                step.weights,
                step.bias,
                threads=self.threads,
            )
            value = Planes(None, target, images, rows, sign)
            self.values[step.output] = value
            pending = PendingDepthwise(step, windowed, x)
            if step.residual is None and step.output in self.points and self._alone(step.output):
                self.pending[step.output] = pending
                return value
            return self._release(pending, rest)
        offsets = np.add.outer(np.arange(channels) * x_plane, inside).reshape(-1)
        problem = Problem(
            source,
            target,
            step.window,
            offsets.astype(np.int64),
            _matrix(step, channels),
            step.bias,
            planes * x_plane,
            images,
            self._epilogue(step),
            self.threads,
            None if earlier is None else earlier.windowed,
        )
        config = self.choose(problem)
        if earlier is not None and config.reading is Reading.FUSED:
            x = earlier.x
            self._note(earlier, "", step.layer)
        elif earlier is not None:
            x = self._release(earlier).var
        chosen = self._chosen(step, self.name("conv"), problem, config)
        return Planes(
            self.call(chosen.function, [x, *chosen.constants, *rest], problem.y_size),
            target,
            images,
            rows,
            sign,
        )

    def _alone(self, name: str) -> bool:
        """Return whether one step alone reads a value."""
        return self.graph.uses.get(name) == 1

    def _release(self, pending: PendingDepthwise, rest: Sequence[Any] = ()) -> Planes:
        """Emit a depthwise layer as a kernel of its own."""
        name, windowed = self.name("depthwise"), pending.windowed
        window = window_kernel(windowed, name)
        self._note(pending, name)
        size = windowed.images * layouts.round_up(windowed.channels, layouts.ROW_MULTIPLE)
        size *= windowed.target.plane
        var = self.call(window.function, [pending.x, *window.constants, *rest], size)
        value: Planes = dataclasses.replace(self.values[pending.step.output], var=var)
        self.values[pending.step.output] = value
        return value

    def _chosen(self, step: Step, name: str, problem: Problem, config: Config) -> Kernel:
        chosen = kernel(problem, config, name)
        form = "dense" if chosen.walked >= WALKS_ALL * problem.matrix.size else "sparse"
        pixels = problem.target.height * problem.target.width * problem.images
        fused = problem.before if config.reading is Reading.FUSED else None
        besides = fused.flops if fused is not None else 0.0
        self.layers.append(
            LoweredLayer(
                step.layer,
                name,
                form,
                problem.density,
                problem.flops + besides,
                config.label,
                2.0 * chosen.walked * pixels + besides,
                problem.signature,
                config.row_block,
            )
        )
        return chosen

    def _note(self, pending: PendingDepthwise, name: str, within: str = "") -> None:
        step, flops = pending.step, pending.windowed.flops
        assert step.weights is not None
        density = float((step.weights != 0).mean())
        self.layers.append(
            LoweredLayer(step.layer, name, "depthwise", density, flops, "", flops, within=within)
        )

    def _linear(self, step: Step) -> Any:
        assert step.weights is not None
        assert step.bias is not None
        shape = self.graph.shapes[step.inputs[0]]
        tokens = math.prod(shape[:-1])
        if tokens <= FEW_ROWS and step.residual is None:
            return self._few(step, tokens)
        return self._over_tokens(step, tokens)

    def _few(self, step: Step, tokens: int) -> Any:
        """Emit a linear layer on a few rows: lanes are outputs."""
        assert step.weights is not None
        assert step.bias is not None
        matrix, lanes, (rows, columns) = step.weights, self.lanes, step.weights.shape
        name, epilogue = self.name("linear"), self._epilogue(step)
        density = float((matrix != 0).mean())
        flops = 2.0 * matrix.size * tokens
        if density < SELL_BELOW:
            coded = encode.sell(matrix, lanes)
            slices = len(coded.slices) - 1
            bias = np.append(step.bias, np.float32(0))[coded.rows].astype(np.float32)
            function = stencils.sell_kernel(
                name, columns, rows, slices, int(coded.slices[-1]), lanes, tokens, epilogue
            )
            constants = [coded.slices, coded.columns, coded.values, bias, coded.rows]
            walked = 2.0 * coded.stored * tokens
            self.layers.append(
                LoweredLayer(step.layer, name, "sparse", density, flops, "SELL", walked)
            )
        else:
            width = 4 * lanes
            blocks = -(-rows // width)
            full = np.zeros((blocks * width, columns), np.float32)
            full[:rows] = matrix
            bias = np.zeros(blocks * width, np.float32)
            bias[:rows] = step.bias
            packed = np.ascontiguousarray(full.reshape(blocks, width, columns).transpose(0, 2, 1))
            function = stencils.row_kernel(name, columns, rows, lanes, tokens, epilogue)
            constants = [packed.reshape(-1), bias]
            self.layers.append(
                LoweredLayer(step.layer, name, "dense", density, flops, "rows", flops)
            )
        flat = self.call(function, [self.flat(step.inputs[0]), *constants], tokens * rows)
        return self.builder.emit(relax.op.reshape(flat, self.graph.shapes[step.output]))

    def _over_tokens(self, step: Step, tokens: int) -> Planes:
        """Emit a linear layer as a 1x1 convolution over an image of one row of tokens."""
        assert step.weights is not None
        assert step.bias is not None
        rows, columns = step.weights.shape
        layout = Planar.of(1, tokens, self.lanes, 0)
        x = self.tokens(step.inputs[0], layout)
        rest = [self.tokens(step.residual, layout)] if step.residual else []
        planes = layouts.round_up(columns, layouts.ROW_MULTIPLE)
        problem = Problem(
            layout,
            layout,
            Window((1, 1)),
            np.arange(columns) * layout.plane,
            step.weights,
            step.bias,
            planes * layout.plane,
            1,
            self._epilogue(step),
            self.threads,
        )
        name = self.name("linear")
        chosen = self._chosen(step, name, problem, self.choose(problem))
        var = self.call(chosen.function, [x, *chosen.constants, *rest], problem.y_size)
        return Planes(var, layout, 1, rows)

    def _pool(self, step: Step) -> Planes:
        images, channels = self.graph.shapes[step.inputs[0]][:2]
        target, value = self.window_target(step), self.values[step.inputs[0]]
        kind = "average" if step.average else "max"
        safe = kind == "average" or step.window.halo == 0
        safe = safe or (isinstance(value, Planes) and value.sign)
        x, source, phases, taps = self.window_source(step, target, 0.0 if safe else -math.inf)
        windowed = Windowed(
            kind,
            source,
            target,
            step.window,
            tuple(phase * source.plane + offset for phase, offset in taps),
            phases * source.plane,
            layouts.round_up(channels, layouts.ROW_MULTIPLE),
            channels,
            images,
            table=_shares(step, self._size(step.inputs[0]), target),
            threads=self.threads,
        )
        pooling = window_kernel(windowed, self.name("pool"))
        size = images * windowed.x_planes * target.plane
        sign = isinstance(value, Planes) and value.sign
        var = self.call(pooling.function, [x, *pooling.constants], size)
        return Planes(var, target, images, channels, sign)

    def _mean(self, step: Step) -> Any:
        images, channels = self.graph.shapes[step.inputs[0]][:2]
        value = self.values[step.inputs[0]]
        if not isinstance(value, Planes):
            layout: Layout = Planar.of(*self._size(step.inputs[0]), self.lanes, 0)
            value = Planes(self.placed(step.inputs[0], layout), layout, images, channels)
        function = stencils.mean_kernel(
            self.name("mean"), value.layout, images, value.planes, channels
        )
        flat = self.call(function, [value.var], images * channels)
        return self.builder.emit(relax.op.reshape(flat, self.graph.shapes[step.output]))

    def _other(self, step: Step) -> Any:
        """Leave one operator to views and small kernels of ours, else to TVM."""
        fallback.refuse_quantized(step)
        value = self.activation_ops.apply(step)
        return fallback.imported(self, step) if value is None else value

    def _epilogue(self, step: Step) -> Epilogue:
        return Epilogue(step.residual is not None, step.activation, step.low, step.high)


def _is_point(step: Step) -> bool:
    """Return whether a step is a 1x1 convolution of stride 1 over all channels."""
    return step.kind == "conv" and step.groups == 1 and step.window == Window((1, 1))


def _matrix(step: Step, channels: int) -> NDArray[np.float32]:
    """Return a convolution's weights as (outputs, channels * taps), zeros between groups."""
    assert step.weights is not None
    weights = np.asarray(step.weights, np.float32)
    rows, per_group = weights.shape[:2]
    if step.groups == 1:
        return np.ascontiguousarray(weights.reshape(rows, -1))
    full = np.zeros((rows, channels, *weights.shape[2:]), np.float32)
    for group in range(step.groups):
        members = slice(group * rows // step.groups, (group + 1) * rows // step.groups)
        full[members, group * per_group : (group + 1) * per_group] = weights[members]
    return np.ascontiguousarray(full.reshape(rows, -1))


def _shares(step: Step, size: tuple[int, int], target: Layout) -> NDArray[np.float32] | None:
    """Return per output pixel what its sum is multiplied by; None for a maximum."""
    if not step.average:
        return None
    kernel_size = math.prod(step.window.kernel)
    if step.average == "all":
        return np.full((target.height, target.width), 1 / kernel_size, np.float32)
    window = dataclasses.replace(step.window)
    (sh, sw), counts = window.stride, np.zeros((target.height, target.width))
    rows, columns = np.mgrid[: target.height, : target.width]
    for i, j in window.taps:
        y, x = rows * sh + i, columns * sw + j
        counts += (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return (1 / np.maximum(counts, 1)).astype(np.float32)
