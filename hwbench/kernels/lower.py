"""Steps to one Relax module: own kernels where it counts, TVM's lowering for the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import tvm_ffi
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from hwbench.errors import StageError
from hwbench.kernels import build, columns, encode, layouts, moves, stencils, views
from hwbench.kernels.between import Between
from hwbench.kernels.build import Machine
from hwbench.kernels.graph import Graph, Step
from hwbench.kernels.int8 import Eight, planned
from hwbench.kernels.layouts import Blocked, Layout, Planar, Window
from hwbench.kernels.problem import Config, Kernel, Problem, Windowed, kernel, window_kernel
from hwbench.kernels.template import Epilogue
from hwbench.kernels.values import Held, Made, Planes
from hwbench.kernels.views import View
from hwbench.kernels.words import BYTES

Array = NDArray[Any]
Choose = Callable[[Problem], Config]

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger")
SMALLEST_BLOCK = 4
"""Blocks narrower than this spend more on halos than aligned loads save."""
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
    layers: list[Made] = field(default_factory=list)


def lower(graph: Graph, made: Machine, choose: Choose) -> Lowered:
    """Return the Relax module of a graph; `choose` picks the configuration of each layer.

    Raises `StageError` naming the operator that has no kernel and that TVM cannot lower.
    """
    with build.translated():
        return Lowering(planned(graph, made), made.lanes, choose, made.threads).run()


class Lowering:
    """Writes the Relax function of a graph; one instance, one `run`."""

    def __init__(self, graph: Graph, lanes: int, choose: Choose, threads: int = 1) -> None:
        """Keep what the steps need; `choose` picks a configuration for a problem."""
        self.graph, self.lanes, self.choose, self.threads = graph, lanes, choose, threads
        self.builder = relax.BlockBuilder()
        self.values: dict[str, Any] = {}
        self.cache: dict[Any, Any] = {}
        self.layouts = self._classes()
        self.count = 0
        self.layers: list[Made] = []
        self.shared: dict[str, str] = {}
        self.functions: dict[int, list[tuple[tirx.PrimFunc, Any]]] = {}
        self.between = Between(self)
        self.held: dict[str, Held] = {}
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
            **Eight(self).rules,
        }
        with self.builder.function("main", inputs):
            with self.builder.dataflow():
                for step in graph.steps:
                    self.values[step.output] = rules[step.kind](step)
                ends = [self.builder.emit_output(self._plain(name)) for name in graph.outputs]
            self.builder.emit_func_output(ends[0] if len(ends) == 1 else relax.Tuple(ends))
        module = relax.transform.InlinePrivateFunctions()(self.builder.finalize())
        # Values of 8 bits are offered as floats too, whether or not anything reads them.
        module = relax.transform.DeadCodeElimination()(module)
        layers = [
            dataclasses.replace(m, function=self.shared.get(m.function, "")) for m in self.layers
        ]
        return Lowered(module, layers)

    # ---- layouts

    def _classes(self) -> dict[tuple[int, int], Layout]:
        """Return one layout per image size, so that neighbours agree without copies."""
        halos: dict[tuple[int, int], int] = {}
        for step in self.graph.steps:
            if step.kind in ("conv", "pool", "dot8", "pool8"):
                for name, need in ((step.inputs[0], step.window.halo), (step.output, 0)):
                    size = self.graph.shapes[name][2:]
                    key = (size[0], size[1])
                    halos[key] = max(halos.get(key, 0), need)
        return {size: self._layout(*size, halo) for size, halo in halos.items()}

    def _layout(self, height: int, width: int, halo: int) -> Layout:
        found = layouts.blocked(height, width, self.lanes, halo, SMALLEST_BLOCK)
        if found is not None:
            return found
        plain = Planar.of(height, width, self.lanes, halo)
        # Rows of whole vectors, where they cost none: taps above and below are then aligned.
        whole = Planar.of(height, width, self.lanes, halo, layouts.round_up(plain.row, self.lanes))
        return whole if whole.core == plain.core else plain

    def _size(self, name: str) -> tuple[int, int]:
        shape = self.graph.shapes[name]
        return shape[2], shape[3]

    # ---- calls

    def call(
        self, function: tirx.PrimFunc, arguments: list[Any], size: int, dtype: str = "float32"
    ) -> Any:
        """Emit a call of a kernel; numpy arguments become constants of the module."""
        name = str(function.attrs["global_symbol"])
        made = [relax.const(a) if isinstance(a, np.ndarray) else a for a in arguments]
        variable = self._function(function, name)
        self.shared[name] = str(variable.name_hint)
        kind = relax.TensorType((size,), dtype)
        return self.builder.emit(relax.call_tir(variable, made, kind))

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

    def note_words(self, step: Step, name: str, stored: int, blocks: int) -> None:
        """Note what a layer in 8 bits became: so many of its blocks of weights are stored."""
        shape = self.graph.shapes[step.output]
        assert step.weights is not None
        flops = 2.0 * step.weights.size * shape[0] * shape[2] * shape[3]
        walked = 2.0 * BYTES * stored * shape[0] * shape[2] * shape[3]
        form = "dense" if stored >= 0.999 * blocks else "sparse"
        form = "depthwise" if 1 < step.groups == len(step.weights) else form
        density = float((step.weights != 0).mean())
        self.layers.append(
            Made(step.layer, name, form, density, flops, "int8 1x4", walked, per_load=BYTES)
        )

    def _constant(self, name: str) -> Any:
        return relax.const(self.graph.constants[name])

    def _plain(self, name: str) -> Any:
        """Return a value as a tensor of its ONNX shape."""
        value = self.values.get(name)
        if value is None:
            return self._constant(name)
        if not isinstance(value, Planes | View):
            return value
        key = (name, "plain")
        if key not in self.cache:
            shape = self.graph.shapes[name]
            if isinstance(value, Planes):
                self.cache[key] = self._unpacked(value, shape)
            else:
                self.cache[key] = self._gathered(value, shape)
        return self.cache[key]

    def _gathered(self, view: View, shape: tuple[int, ...]) -> Any:
        strides, size = views.row_major(shape), math.prod(shape)
        both = zip(view.strides, strides, strict=True)
        axes = [columns.Axis(n, pair) for n, pair in zip(shape, both, strict=True)]
        function = columns.copy_kernel(
            self.name("copy"), axes, (view.size, size), view.offset, view.scale
        )
        return self.builder.emit(relax.op.reshape(self.call(function, [view.var], size), shape))

    def window(self, name: str) -> View | None:
        """Return a value that lies in planes as a view of them; None for any other."""
        value, shape = self.values.get(name), self.graph.shapes[name]
        if isinstance(value, View):
            return value
        if not isinstance(value, Planes) or not isinstance(value.layout, Planar):
            return None
        layout, plane = value.layout, value.layout.plane
        size = value.images * value.planes * plane
        if len(shape) == 4:
            strides = (value.planes * plane, plane, layout.row, 1)
            return View(value.var, size, shape, strides, layout.lead)
        tokens = View(value.var, size, (layout.width, shape[-1]), (1, plane), layout.lead)
        return views.reshaped(tokens, shape)

    def flat(self, name: str) -> Any:
        """Return a value as one contiguous row."""
        shape = self.graph.shapes[name]
        return self.builder.emit(relax.op.reshape(self._plain(name), (math.prod(shape),)))

    def _unpacked(self, value: Planes, shape: tuple[int, ...]) -> Any:
        table = value.layout.index().reshape(-1).astype(np.int32)
        plane, pixels = value.layout.plane, len(table)
        tokens = len(shape) != 4  # planes of a linear layer: channels go last again
        move = moves.Move(
            images=value.images,
            channels=value.channels,
            x_image=value.planes * plane,
            x_channel=plane,
            y_image=value.channels * pixels,
            y_channel=1 if tokens else pixels,
            y_step=value.channels if tokens else 1,
            x_size=value.images * value.planes * plane,
            y_size=math.prod(shape),
            lanes=self.lanes,
            threads=self.threads,
        )
        flat = self._move("unpack", move, value.var, table)
        return self.builder.emit(relax.op.reshape(flat, shape))

    def _moved(self, name: str, table: NDArray[np.int32], key: Any, fill: float = 0.0) -> Any:
        """Return a value gathered by a table of plain or plane positions, planes rounded up."""
        key = (name, *key, fill)
        if key in self.cache:
            return self.cache[key]
        shape, value = self.graph.shapes[name], self.values[name]
        images, channels = shape[0], shape[1]
        planes = layouts.round_up(channels, layouts.ROW_MULTIPLE)
        if isinstance(value, Planes):
            var, each = value.var, value.layout.plane
            x_image, x_size = planes * each, images * planes * each
            dtype = value.dtype
        else:
            dtype = "float32"
            var, each = self.flat(name), shape[2] * shape[3]
            x_image, x_size = channels * each, math.prod(shape)
        move = moves.Move(
            images=images,
            channels=channels,
            x_image=x_image,
            x_channel=each,
            y_image=planes * len(table),
            y_channel=len(table),
            y_step=1,
            x_size=x_size,
            y_size=images * planes * len(table),
            lanes=self.lanes,
            threads=self.threads,
            fill=fill,
            dtype=dtype,
        )
        self.cache[key] = self._move("move", move, var, table)
        return self.cache[key]

    def _move(self, kind: str, move: moves.Move, var: Any, table: NDArray[np.int32]) -> Any:
        function, constants = moves.move_kernel(self.name(kind), move, table)
        return self.call(function, [var, *constants], move.y_size, move.dtype)

    def _index(self, name: str) -> NDArray[np.int64]:
        """Return where a value's pixels are inside a channel of its buffer."""
        value = self.values[name]
        if isinstance(value, Planes):
            return value.layout.index()
        height, width = self._size(name)
        return np.arange(height * width).reshape(height, width)

    def placed(self, name: str, layout: Layout, fill: float = 0.0) -> Any:
        """Return a value's buffer in a layout."""
        value = self.values[name]
        if isinstance(value, Planes) and value.layout == layout and fill == value.pad:
            return value.var
        return self._moved(name, layouts.gather_table(layout, self._index(name)), (layout,), fill)

    def window_source(
        self, step: Step, target: Layout, fill: float = 0.0
    ) -> tuple[Any, Layout, int, list[tuple[int, int]]]:
        """Return (buffer, layout of its planes, phases, per tap (phase, offset)) for a window."""
        name, window = step.inputs[0], step.window
        own = self.layouts[self._size(name)]
        value = self.values[name]
        if isinstance(value, Planes):
            own = value.layout
            assert value.dtype == "float32" or fill == value.pad
        if not layouts.reads_directly(own, target, window) and isinstance(target, Blocked):
            near = layouts.blocked(*self._size(name), self.lanes, window.halo, 1)
            if near is not None and layouts.reads_directly(near, target, window):
                own = near
        if layouts.reads_directly(own, target, window):
            taps = [(0, own.tap(*tap)) for tap in window.taps]
            return self.placed(name, own, fill), own, 1, taps
        assert isinstance(target, Planar)
        if window.stride == (1, 1):
            own = Planar.of(*self._size(name), self.lanes, window.halo, target.row)
            taps = [(0, own.tap(*tap)) for tap in window.taps]
            return self.placed(name, own, fill), own, 1, taps
        phase = layouts.phases(own, target, window)
        used = list(layouts.used_phases(window))
        taps = [(used.index(p), offset) for p, offset in layouts.phase_taps(phase, window)]
        table = layouts.phase_table(phase, self._index(name), window)
        return self._moved(name, table, (phase, tuple(used)), fill), phase, len(used), taps

    def window_target(self, step: Step) -> Layout:
        """Return the layout a window's output is written in: planar if the input has no blocks."""
        target = self.layouts[self._size(step.output)]
        if isinstance(target, Planar):
            return target
        near = layouts.blocked(*self._size(step.inputs[0]), self.lanes, step.window.halo, 1)
        if near is not None and layouts.reads_directly(near, target, step.window):
            return target
        return Planar.of(target.height, target.width, self.lanes, target.halo)

    def _epilogue(self, step: Step) -> Epilogue:
        return Epilogue(step.residual is not None, step.activation, step.low, step.high)

    # ---- steps

    def _conv(self, step: Step) -> Planes:
        assert step.weights is not None
        assert step.bias is not None
        images, channels = self.graph.shapes[step.inputs[0]][:2]
        target = self.window_target(step)
        held = self.held.pop(step.inputs[0], None)
        if held is not None and held.windowed.target != target:
            self._release(held)
            held = None
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
            found = Held(step, windowed, x)
            if step.residual is None and step.output in self.points and self._alone(step.output):
                self.held[step.output] = found
                return value
            return self._release(found, rest)
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
            None if held is None else held.windowed,
        )
        config = self.choose(problem)
        if held is not None and config.fuse:
            x = held.x
            self._note(held, "", step.layer)
        elif held is not None:
            x = self._release(held).var
        made = self._chosen(step, self.name("conv"), problem, config)
        return Planes(
            self.call(made.function, [x, *made.constants, *rest], problem.y_size),
            target,
            images,
            rows,
            sign,
        )

    def _alone(self, name: str) -> bool:
        """Return whether one step alone reads a value."""
        return self.graph.uses.get(name) == 1

    def _release(self, held: Held, rest: Sequence[Any] = ()) -> Planes:
        """Emit a depthwise layer as a kernel of its own."""
        name, windowed = self.name("depthwise"), held.windowed
        made = window_kernel(windowed, name)
        self._note(held, name)
        size = windowed.images * layouts.round_up(windowed.channels, layouts.ROW_MULTIPLE)
        size *= windowed.target.plane
        var = self.call(made.function, [held.x, *made.constants, *rest], size)
        value: Planes = dataclasses.replace(self.values[held.step.output], var=var)
        self.values[held.step.output] = value
        return value

    def _chosen(self, step: Step, name: str, problem: Problem, config: Config) -> Kernel:
        made = kernel(problem, config, name)
        form = "dense" if made.walked >= WALKS_ALL * problem.matrix.size else "sparse"
        pixels = problem.target.height * problem.target.width * problem.images
        besides = problem.before.flops if config.fuse and problem.before is not None else 0.0
        self.layers.append(
            Made(
                step.layer,
                name,
                form,
                problem.density,
                problem.flops + besides,
                config.label,
                2.0 * made.walked * pixels + besides,
                problem.signature,
                config.row_block,
            )
        )
        return made

    def _note(self, held: Held, name: str, within: str = "") -> None:
        step, flops = held.step, held.windowed.flops
        assert step.weights is not None
        density = float((step.weights != 0).mean())
        self.layers.append(
            Made(step.layer, name, "depthwise", density, flops, "", flops, within=within)
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
            self.layers.append(Made(step.layer, name, "sparse", density, flops, "SELL", walked))
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
            self.layers.append(Made(step.layer, name, "dense", density, flops, "rows", flops))
        flat = self.call(function, [self.flat(step.inputs[0]), *constants], tokens * rows)
        return self.builder.emit(relax.op.reshape(flat, self.graph.shapes[step.output]))

    def _over_tokens(self, step: Step, tokens: int) -> Planes:
        """Emit a linear layer as a 1x1 convolution over an image of one row of tokens."""
        assert step.weights is not None
        assert step.bias is not None
        rows, columns = step.weights.shape
        layout = Planar.of(1, tokens, self.lanes, 0)
        x = self._tokens(step.inputs[0], layout)
        rest = [self._tokens(step.residual, layout)] if step.residual else []
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
        made = self._chosen(step, name, problem, self.choose(problem))
        var = self.call(made.function, [x, *made.constants, *rest], problem.y_size)
        return Planes(var, layout, 1, rows)

    def _tokens(self, name: str, layout: Planar) -> Any:
        """Return a value (..., channels) as planes of tokens."""
        value = self.values.get(name)
        if isinstance(value, Planes) and value.layout == layout:
            return value.var
        if isinstance(value, View) and (found := self._as_planes(value, layout)) is not None:
            return found
        key = (name, "tokens")
        if key not in self.cache:
            shape = self.graph.shapes[name]
            channels = shape[-1]
            planes = layouts.round_up(channels, layouts.ROW_MULTIPLE)
            index = (np.arange(layout.width) * channels)[None]
            table = layouts.gather_table(layout, index)
            move = moves.Move(
                images=1,
                channels=channels,
                x_image=0,
                x_channel=1,
                y_image=0,
                y_channel=layout.plane,
                y_step=1,
                x_size=math.prod(shape),
                y_size=planes * layout.plane,
                lanes=self.lanes,
                threads=self.threads,
            )
            self.cache[key] = self._move("move", move, self.flat(name), table)
        return self.cache[key]

    def _as_planes(self, view: View, layout: Planar) -> Any:
        """Return a view's buffer if it has this layout; None if it must be copied."""
        flat = views.flat_tokens(view)
        if flat is None or view.scale != 1 or view.offset:
            return None
        size = layouts.round_up(flat.shape[1], layouts.ROW_MULTIPLE) * layout.plane
        return view.var if (flat.strides[1], view.size) == (layout.plane, size) else None

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
        made = window_kernel(windowed, self.name("pool"))
        size = images * windowed.x_planes * target.plane
        sign = isinstance(value, Planes) and value.sign
        var = self.call(made.function, [x, *made.constants], size)
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
        """Leave one operator to TVM's own ONNX importer."""
        node, graph = step.node, self.graph
        if node.op_type in QUANTIZED:
            raise StageError(
                "compile",
                f"tvm_sparse has no kernel for the quantized operator {step.name}",
                expected="pairs of QuantizeLinear (unsigned 8 bits) and DequantizeLinear",
                mend="give it the fp32 model; onnxruntime runs the int8 one",
            )
        own = self.between.apply(step)
        if own is not None:
            return own
        if len(node.output) != 1:
            raise _missing(step, "has several outputs")
        arguments = list(dict.fromkeys(step.inputs))
        module = _imported(step, graph)
        # The importer writes some operators (Clip) as kernels of their own beside ``main``.
        beside = {
            name: self.builder.add_func(module[name], self.name(name.name_hint))
            for name in module.get_global_vars()
            if name.name_hint != "main"
        }
        main = _Renamed(beside).visit_expr(module["main"]) if beside else module["main"]
        function = main.without_attr("global_symbol")
        variable = self.builder.add_func(function, self.name("other"))
        call = relax.Call(variable, [self._plain(name) for name in arguments])
        return self.builder.emit(call)


@mutator
class _Renamed(PyExprMutator):  # type: ignore[misc]
    """Puts functions of one module in the place of those of another."""

    def __init__(self, names: Mapping[Any, Any]) -> None:
        super().__init__()
        self._names = names

    def visit_global_var_(self, var: Any) -> Any:
        """Return the function's name in the other module."""
        return self._names.get(var, var)


def _imported(step: Step, graph: Graph) -> Any:
    """Return a Relax module with ``main`` for one ONNX node."""
    from tvm.relax.frontend.onnx import from_onnx

    node = step.node
    kinds = {str(k): v for k, v in graph.dtypes.items()}

    def info(name: str) -> onnx.ValueInfoProto:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kinds[name]))
        return helper.make_tensor_value_info(name, element, graph.shapes[name])

    inputs = list(dict.fromkeys(step.inputs))
    constants = [
        numpy_helper.from_array(graph.constants[name], name)
        for name in dict.fromkeys(node.input)
        if name in graph.constants
    ]
    single = helper.make_graph(
        [node], "one", [info(name) for name in inputs], [info(step.output)], constants
    )
    document = helper.make_model(single, opset_imports=[helper.make_opsetid("", graph.opset)])
    try:
        return from_onnx(document, opset=graph.opset, keep_params_in_input=False)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, LookupError) as error:
        raise _missing(step, str(error).strip().splitlines()[-1][:200]) from error


def _missing(step: Step, why: str) -> StageError:
    return StageError(
        "compile",
        f"no kernel for the operator {step.node.op_type} ({step.name}): {why}",
        mend="leave tvm_sparse out for this model, or replace the operator",
    )


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
        own = slice(group * rows // step.groups, (group + 1) * rows // step.groups)
        full[own, group * per_group : (group + 1) * per_group] = weights[own]
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
