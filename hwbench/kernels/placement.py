"""Where values lie: one layout per image size, and what brings a value into another layout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from hwbench.kernels import columns, layout_transforms, layouts, views
from hwbench.kernels.emit import Emitter
from hwbench.kernels.graph import Graph, Step
from hwbench.kernels.layout_transforms import LayoutTransform
from hwbench.kernels.layouts import Blocked, Layout, Planar
from hwbench.kernels.values import Planes
from hwbench.kernels.views import View

SMALLEST_BLOCK = 4
"""Blocks narrower than this spend more on halos than aligned loads save."""


class Placement(Emitter):
    """Returns values in the layout that a step reads, copied once where they lie otherwise."""

    def __init__(self, graph: Graph, lanes: int, threads: int) -> None:
        """Choose the layouts of a graph."""
        super().__init__(graph, threads)
        self.lanes = lanes
        self.cache: dict[Any, Any] = {}
        self.layouts = self._classes()

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
        blocked = layouts.blocked(height, width, self.lanes, halo, SMALLEST_BLOCK)
        if blocked is not None:
            return blocked
        plain = Planar.of(height, width, self.lanes, halo)
        # Rows of whole vectors, where they cost none: taps above and below are then aligned.
        whole = Planar.of(height, width, self.lanes, halo, layouts.round_up(plain.row, self.lanes))
        return whole if whole.core == plain.core else plain

    def _size(self, name: str) -> tuple[int, int]:
        shape = self.graph.shapes[name]
        return shape[2], shape[3]

    def plain(self, name: str) -> Any:
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

    def _constant(self, name: str) -> Any:
        return relax.const(self.graph.constants[name])

    def flat(self, name: str) -> Any:
        """Return a value as one contiguous row."""
        shape = self.graph.shapes[name]
        return self.builder.emit(relax.op.reshape(self.plain(name), (math.prod(shape),)))

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

    def _gathered(self, view: View, shape: tuple[int, ...]) -> Any:
        strides, size = views.row_major(shape), math.prod(shape)
        both = zip(view.strides, strides, strict=True)
        axes = [columns.Axis(n, pair) for n, pair in zip(shape, both, strict=True)]
        function = columns.copy_kernel(
            self.name("copy"), axes, (view.size, size), view.offset, view.scale
        )
        return self.builder.emit(relax.op.reshape(self.call(function, [view.var], size), shape))

    def _unpacked(self, value: Planes, shape: tuple[int, ...]) -> Any:
        table = value.layout.index().reshape(-1).astype(np.int32)
        plane, pixels = value.layout.plane, len(table)
        tokens = len(shape) != 4  # planes of a linear layer: channels go last again
        move = LayoutTransform(
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
        layout = self.layouts[self._size(name)]
        value = self.values[name]
        if isinstance(value, Planes):
            layout = value.layout
            assert value.dtype == "float32" or fill == value.pad
        if not layouts.reads_directly(layout, target, window) and isinstance(target, Blocked):
            near = layouts.blocked(*self._size(name), self.lanes, window.halo, 1)
            if near is not None and layouts.reads_directly(near, target, window):
                layout = near
        if layouts.reads_directly(layout, target, window):
            taps = [(0, layout.tap(*tap)) for tap in window.taps]
            return self.placed(name, layout, fill), layout, 1, taps
        assert isinstance(target, Planar)
        if window.stride == (1, 1):
            layout = Planar.of(*self._size(name), self.lanes, window.halo, target.row)
            taps = [(0, layout.tap(*tap)) for tap in window.taps]
            return self.placed(name, layout, fill), layout, 1, taps
        phase = layouts.phases(layout, target, window)
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

    def tokens(self, name: str, layout: Planar) -> Any:
        """Return a value (..., channels) as planes of tokens."""
        value = self.values.get(name)
        if isinstance(value, Planes) and value.layout == layout:
            return value.var
        if isinstance(value, View) and (planes := self._as_planes(value, layout)) is not None:
            return planes
        key = (name, "tokens")
        if key not in self.cache:
            shape = self.graph.shapes[name]
            channels = shape[-1]
            count = layouts.round_up(channels, layouts.ROW_MULTIPLE)
            index = (np.arange(layout.width) * channels)[None]
            table = layouts.gather_table(layout, index)
            move = LayoutTransform(
                images=1,
                channels=channels,
                x_image=0,
                x_channel=1,
                y_image=0,
                y_channel=layout.plane,
                y_step=1,
                x_size=math.prod(shape),
                y_size=count * layout.plane,
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
        move = LayoutTransform(
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

    def _move(self, kind: str, move: LayoutTransform, var: Any, table: NDArray[np.int32]) -> Any:
        function, constants = layout_transforms.transform_kernel(self.name(kind), move, table)
        return self.call(function, [var, *constants], move.y_size, move.dtype)

    def _index(self, name: str) -> NDArray[np.int64]:
        """Return where a value's pixels are inside a channel of its buffer."""
        value = self.values[name]
        if isinstance(value, Planes):
            return value.layout.index()
        height, width = self._size(name)
        return np.arange(height * width).reshape(height, width)
