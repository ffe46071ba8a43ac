"""What happens to operators between the heavy layers: views where possible, else own kernels.

Every rule returns the step's value, or None where TVM's own lowering is to be used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import helper
from tvm import tirx

from hwbench.kernels import columns, layouts, views
from hwbench.kernels.columns import Axis
from hwbench.kernels.graph import Graph, Step
from hwbench.kernels.layouts import Planar
from hwbench.kernels.template import Epilogue, activate
from hwbench.kernels.views import View

MAPS = {"Gelu": "gelu", "Sigmoid": "sigmoid", "Relu": "clip"}
"""Operators of one input that become an activation of the template."""


class Writer(Protocol):
    """What the rules need of the module that is being written."""

    graph: Graph
    lanes: int
    threads: int

    def call(self, function: tirx.PrimFunc, arguments: list[Any], size: int) -> Any:
        """Emit a call of a kernel with a flat output."""

    def name(self, kind: str) -> str:
        """Return a fresh name."""

    def window(self, name: str) -> View | None:
        """Return a value that lies in planes as a view; None for any other."""

    def flat(self, name: str) -> Any:
        """Return a value as a contiguous flat tensor."""


Rule = Callable[[Step], View | None]


class ActivationOps:
    """The rules; `apply` finds the one for a step."""

    def __init__(self, writer: Writer) -> None:
        """Keep the writer."""
        self.w = writer
        self.rules: dict[str, Rule] = {
            "Reshape": self._reshape,
            "Flatten": self._reshape,
            "Squeeze": self._reshape,
            "Unsqueeze": self._reshape,
            "Transpose": self._transpose,
            "Slice": self._slice,
            "Gather": self._gather,
            "MatMul": self._product,
            "Softmax": self._softmax,
            "LayerNormalization": self._norm,
            "Mul": self._pair,
            "Div": self._pair,
            "Add": self._pair,
            **dict.fromkeys(MAPS, self._map),
        }

    def apply(self, step: Step) -> View | None:
        """Return the step's value, or None: TVM's then."""
        rule = self.rules.get(step.node.op_type)
        floats = all(self.w.graph.dtypes.get(n) == "float32" for n in (*step.inputs, step.output))
        return rule(step) if rule is not None and step.inputs and floats else None

    # ---- bookkeeping

    def _shape(self, step: Step) -> tuple[int, ...]:
        return self.w.graph.shapes[step.output]

    def _numbers(self, name: str) -> NDArray[Any] | None:
        return self.w.graph.constants.get(name)

    def _reshape(self, step: Step) -> View | None:
        view = self.w.window(step.inputs[0])
        return None if view is None else views.reshaped(view, self._shape(step))

    def _transpose(self, step: Step) -> View | None:
        view = self.w.window(step.inputs[0])
        if view is None:
            return None
        backwards = list(range(len(view.shape)))[::-1]
        return views.transposed(view, attributes(step).get("perm", backwards))

    def _slice(self, step: Step) -> View | None:
        view = self.w.window(step.inputs[0])
        given = [self._numbers(name) for name in step.node.input[1:]]
        if view is None or len(given) < 2 or any(g is None for g in given):
            return None
        lists = [[int(v) for v in g] for g in given if g is not None]
        begins = lists[0]
        axes = lists[2] if len(lists) > 2 else list(range(len(begins)))
        steps = lists[3] if len(lists) > 3 else [1] * len(begins)
        if any(s < 1 for s in steps):
            return None
        shape = self._shape(step)
        for begin, axis, stride in zip(begins, axes, steps, strict=True):
            extent = view.shape[axis]
            first = min(max(begin + extent if begin < 0 else begin, 0), extent)
            view = views.sliced(view, axis % len(shape), first, stride, shape[axis])
        return view

    def _gather(self, step: Step) -> View | None:
        view, index = self.w.window(step.inputs[0]), self._numbers(step.node.input[1])
        if view is None or index is None or index.size != 1:
            return None
        axis = attributes(step).get("axis", 0) % len(view.shape)
        first = int(index.reshape(-1)[0]) % view.shape[axis]
        return views.reshaped(views.sliced(view, axis, first, 1, 1), self._shape(step))

    # ---- numbers

    def _any(self, name: str) -> View | None:
        """Return a view of a value wherever it is; None for a constant."""
        if name in self.w.graph.constants:
            return None
        shape = self.w.graph.shapes[name]
        whole = View(self.w.flat, math.prod(shape), shape, views.row_major(shape))
        return self.w.window(name) or dataclasses.replace(whole, var=self.w.flat(name))

    def _product(self, step: Step) -> View | None:
        """Multiply two activations; the one whose rows lie side by side gives the lanes."""
        if len(step.node.input) != 2 or len(step.inputs) != 2:
            return None
        shape = self._shape(step)
        one, two = self._any(step.inputs[0]), self._any(step.inputs[1])
        if one is None or two is None or min(len(one.shape), len(two.shape)) < 2 or len(shape) < 2:
            return None
        one, two = _broad(one, shape[:-2]), _broad(two, shape[:-2])
        flipped = False
        if not self._lanes_of(one, -2):
            one, two = views.transposed(two, _swap(two)), views.transposed(one, _swap(one))
            flipped = True
            if not self._lanes_of(one, -2):
                one = self._copied(one)
        product = self._multiplied(one, two)
        return views.transposed(product, _swap(product)) if flipped else product

    def _lanes_of(self, view: View, axis: int) -> bool:
        """Return whether an axis lies side by side, with room to read a whole vector at its end."""
        over = layouts.round_up(view.shape[axis], self.w.lanes) - view.shape[axis]
        return view.strides[axis] == 1 and view.end + over <= view.size

    def _copied(self, view: View) -> View:
        """Return the view in a buffer of its own with its last axis but one side by side."""
        room = layouts.round_up(view.shape[-2], self.w.lanes)
        order = (*range(len(view.shape) - 2), len(view.shape) - 1, len(view.shape) - 2)
        padded = (*(view.shape[a] for a in order[:-1]), room)
        strides = tuple(views.row_major(padded)[order.index(a)] for a in range(len(order)))
        size = math.prod(padded)
        axes = [Axis(view.shape[a], (view.strides[a], strides[a])) for a in order]
        function = columns.copy_kernel(
            self.w.name("copy"), axes, (view.size, size), view.offset, view.scale
        )
        return View(self.w.call(function, [view.var], size), size, view.shape, strides)

    def _multiplied(self, one: View, two: View) -> View:
        batch, (width, depth), rows = one.shape[:-2], one.shape[-2:], two.shape[-1]
        images = batch[0] if batch else 1
        plane = Planar.of(1, images * width, self.w.lanes, 0).plane
        count = math.prod(batch[1:]) * rows
        size = layouts.round_up(count, layouts.ROW_MULTIPLE) * plane
        inner = tuple(s * rows * plane for s in views.row_major(batch[1:]))
        strides = (*((width,) if batch else ()), *inner, 1, plane)
        product = columns.Product(
            lanes=self.w.lanes,
            outer=tuple(
                Axis(n, (one.strides[a], two.strides[a], strides[a]))
                for a, n in enumerate(batch)
                if a
            ),
            rows=Axis(rows, (0, two.strides[-1], plane)),
            images=Axis(images, (one.strides[0], two.strides[0], width) if batch else (0, 0, 0)),
            width=width,
            k=Axis(depth, (one.strides[-1], two.strides[-2], 0)),
            sizes=(one.size, two.size, size),
            offsets=(one.offset, two.offset),
            scale=one.scale * two.scale,
            parallel=self.w.threads > 1,
        )
        function = columns.product_kernel(self.w.name("product"), product)
        var = self.w.call(function, [one.var, two.var], size)
        return View(var, size, (*batch, width, rows), strides)

    def _softmax(self, step: Step) -> View | None:
        view = self.w.window(step.inputs[0])
        if view is None:
            return None
        rank = len(view.shape)
        axis = attributes(step).get("axis", -1) % rank
        side = [a for a in range(rank) if view.strides[a] == 1 and view.shape[a] > 1 and a != axis]
        if not side or not self._lanes_of(view, side[0]):
            return None
        # Ascending in memory, so that what hangs over is written again.
        rest = [a for a in range(rank) if a not in (axis, side[0]) and view.shape[a] > 1]
        rest.sort(key=lambda a: -view.strides[a])
        if any(view.strides[a] < view.shape[side[0]] for a in rest):
            return None
        # What hangs over must not reach the next element of the axis: it is read again.
        whole = layouts.round_up(view.shape[side[0]], self.w.lanes)
        if view.shape[axis] > 1 and view.strides[axis] < whole:
            return None
        softmax = columns.Softmax(
            lanes=self.w.lanes,
            outer=tuple(Axis(view.shape[a], (view.strides[a],) * 2) for a in rest),
            width=view.shape[side[0]],
            axis=Axis(view.shape[axis], (view.strides[axis],) * 2),
            sizes=(view.size, view.size),
            offset=view.offset,
            scale=view.scale,
            # Two images in one row: the one that hangs over must come first.
            parallel=self.w.threads > 1 and len(rest) <= 1,
        )
        function = columns.softmax_kernel(self.w.name("softmax"), softmax)
        var = self.w.call(function, [view.var], view.size)
        return dataclasses.replace(view, var=var, offset=0, scale=1.0)

    def _norm(self, step: Step) -> View | None:
        given = attributes(step)
        numbers = [self._numbers(name) for name in step.node.input[1:]]
        shape = self.w.graph.shapes[step.inputs[0]]
        last = given.get("axis", -1) in (-1, len(shape) - 1)
        if not last or not numbers or any(n is None for n in numbers):
            return None
        if any(n is not None and n.size != shape[-1] for n in numbers):
            return None
        view = self._any(step.inputs[0])
        flat = views.flat_tokens(view) if view is not None else None
        if flat is None or not self._lanes_of(flat, 0):
            if view is None or len(shape) < 2 or math.prod(shape[:-1]) < self.w.lanes:
                return None
            whole = views.reshaped(view, (math.prod(shape[:-1]), shape[-1]))
            if whole is None:
                return None
            flat = self._copied(whole)
        tokens, channels = flat.shape
        layout = Planar.of(1, tokens, self.w.lanes, 0)
        size = layouts.round_up(channels, layouts.ROW_MULTIPLE) * layout.plane
        norm = columns.Norm(
            lanes=self.w.lanes,
            tokens=tokens,
            channels=channels,
            x_size=flat.size,
            offset=flat.offset,
            stride=flat.strides[1],
            scale=flat.scale,
            y_size=size,
            plane=layout.plane,
            epsilon=given.get("epsilon", 1e-5),
            parallel=False,
        )
        function = columns.norm_kernel(self.w.name("norm"), norm)
        gain = np.asarray(numbers[0], np.float32).reshape(-1)
        shift = np.asarray(numbers[1] if len(numbers) > 1 else 0 * gain, np.float32).reshape(-1)
        var = self.w.call(function, [flat.var, gain, shift], size)
        return views.reshaped(View(var, size, flat.shape, (1, layout.plane)), shape)

    # ---- element by element

    def _map(self, step: Step) -> View | None:
        view = self.w.window(step.inputs[0])
        if view is None:
            return None
        kind = MAPS[step.node.op_type]
        if attributes(step).get("approximate", b"none") == b"tanh":
            kind += "_tanh"
        epilogue = Epilogue(activation=kind, low=0.0)
        return self._mapped("map", [view], lambda x: activate(x, epilogue))

    def _pair(self, step: Step) -> View | None:
        """Add or multiply a value and a constant, or two that lie alike."""
        operator = step.node.op_type
        names = list(step.node.input)
        if names[0] in self.w.graph.constants and operator != "Div":
            names.reverse()
        view, number = self.w.window(names[0]), self._numbers(names[1])
        if view is None or view.shape != self._shape(step):
            return None
        divides = operator == "Div" and number is not None and bool(number.all())
        if number is not None and number.size == 1 and (divides or operator == "Mul"):
            factor = float(number.reshape(-1)[0])
            return dataclasses.replace(
                view, scale=view.scale / factor if divides else view.scale * factor
            )
        other = self._laid(view, number) if number is not None else self.w.window(names[1])
        alike = ("size", "shape", "strides", "offset")
        if operator == "Div" or other is None:
            return None
        if any(getattr(view, a) != getattr(other, a) for a in alike):
            return None
        if operator == "Add":
            return self._mapped("sum", [view, other], lambda x, y: x + y)
        return self._mapped("times", [view, other], lambda x, y: x * y)

    def _laid(self, view: View, number: NDArray[Any]) -> View | None:
        """Return a constant laid out as a view is."""
        try:
            whole = np.broadcast_to(number, view.shape)
        except ValueError:
            return None
        buffer = np.zeros(view.size, np.float32)
        buffer[view.index()] = whole
        return dataclasses.replace(view, var=buffer, scale=1.0)

    def _mapped(self, kind: str, given: list[View], result: Callable[..., Any]) -> View | None:
        first = given[0]
        if first.size > 2 * math.prod(first.shape):
            return None  # a small part of a buffer: not worth doing all of it
        scales = [v.scale for v in given]

        def scaled(*values: Any) -> Any:
            return result(
                *(
                    v if s == 1 else v * tirx.const(s, "float32")
                    for v, s in zip(values, scales, strict=True)
                )
            )

        name = self.w.name(kind)
        function = columns.map_kernel(name, first.size, self.w.lanes, len(given), scaled)
        var = self.w.call(function, [v.var for v in given], first.size)
        return dataclasses.replace(first, var=var, scale=1.0)


def attributes(step: Step) -> Mapping[str, Any]:
    """Return a step's ONNX attributes."""
    return {a.name: helper.get_attribute_value(a) for a in step.node.attribute}


def _swap(view: View) -> tuple[int, ...]:
    rank = len(view.shape)
    return (*range(rank - 2), rank - 1, rank - 2)


def _broad(view: View, batch: tuple[int, ...]) -> View:
    """Return a view with the batch axes of a product, repeated where it has fewer."""
    batch_shape, more = view.shape[:-2], len(batch) - len(view.shape[:-2])
    strides = tuple(0 if n == 1 else s for n, s in zip(batch_shape, view.strides, strict=False))
    return dataclasses.replace(
        view, shape=(*batch, *view.shape[-2:]), strides=((0,) * more + strides + view.strides[-2:])
    )
