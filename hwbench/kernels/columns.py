"""Kernels between a transformer's linear layers: lanes are tokens, channels lie far apart.

Sums over channels (norms) and over keys (softmax) then run down the lanes: every lane has a sum
of its own and nothing is shuffled. The last vector of a row may hang over its end; what it
spoils belongs to the row that is written next, or to the padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from hwbench.kernels.layouts import cover
from hwbench.kernels.template import argument, exponential, finish


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop: so many steps, and the elements between two of them in each buffer."""

    extent: int
    strides: tuple[int, ...]


def _places(number: Any, axes: Sequence[Axis], count: int) -> list[Any]:
    """Return where in each of `count` buffers iteration `number` of the fused axes lies."""
    places: list[Any] = [0] * count
    inner = 1
    for axis in reversed(axes):
        index = number // inner % axis.extent
        places = [f + index * s for f, s in zip(places, axis.strides, strict=True)]
        inner *= axis.extent
    return places


def _each(vectors: int, lanes: int) -> Callable[[Any], None]:
    """Return what runs a statement for every lane of so many vectors, its place given."""

    def each(store: Any) -> None:
        for v in range(vectors):
            with T.vectorized(0, lanes) as lane:
                store(v * lanes + lane)

    return each


@dataclass(frozen=True, slots=True)
class Product:
    """``y[row, lane] = scale * sum over k of p[lane, k] * q[k, row]`` for a batch of matrices.

    Strides are those of (p, q, y). `width` lanes lie side by side in p and y; ``images`` are
    the batch's images, whose lanes follow each other in y; ``outer`` is the rest of the batch.
    """

    lanes: int
    outer: tuple[Axis, ...]
    rows: Axis
    images: Axis
    width: int
    k: Axis
    sizes: tuple[int, int, int]
    offsets: tuple[int, int]
    scale: float
    parallel: bool


def product_kernel(name: str, s: Product) -> tirx.PrimFunc:
    """Return ``(p, q, y)``: a register tile of rows by vectors, k innermost."""
    height = min(s.rows.extent, 4 if s.lanes == 8 else 8)
    firsts, vectors = cover(-(-s.width // s.lanes), 3 if s.lanes > 4 else 2)
    blocks = -(-s.rows.extent // height)
    size = vectors * s.lanes

    def body() -> None:
        p, q, y = (argument(n, size) for n, size in zip("pqy", s.sizes, strict=True))
        outer = math.prod(a.extent for a in s.outer)
        with (T.parallel if s.parallel else T.serial)(0, outer * blocks) as number:
            p0, q0, y0 = _places(number // blocks, s.outer, 3)
            # The last block may do rows of the one before again: to the same values.
            row = T.min(number % blocks * height, s.rows.extent - height)
            with T.serial(0, s.images.extent) as image, T.serial(0, len(firsts)) as tile:
                first = T.min(tile * vectors, firsts[-1]) * s.lanes
                at_p = p0 + image * s.images.strides[0] + first + s.offsets[0]
                at_q = q0 + image * s.images.strides[1] + row * s.rows.strides[1] + s.offsets[1]
                at_y = y0 + image * s.images.strides[2] + row * s.rows.strides[2] + first
                sums = T.alloc_buffer((height * size,), "float32", scope="local")
                _tile(sums, p, q, at_p, at_q, s, height, vectors)
                for r in range(height):
                    for v in range(vectors):
                        with T.vectorized(0, s.lanes) as lane:
                            end = sums[r * size + v * s.lanes + lane] * T.float32(s.scale)
                            to = at_y + r * s.rows.strides[2] + v * s.lanes + lane
                            T.buffer_store(y, end, [to])

    return finish(body, name)


def _tile(
    sums: Any, p: Any, q: Any, at_p: Any, at_q: Any, s: Product, height: int, vectors: int
) -> None:
    size = vectors * s.lanes
    for part in range(height * vectors):
        with T.vectorized(0, s.lanes) as lane:
            T.buffer_store(sums, T.float32(0), [part * s.lanes + lane])
    with T.serial(0, s.k.extent) as k:
        for r in range(height):
            for v in range(vectors):
                with T.vectorized(0, s.lanes) as lane:
                    at = r * size + v * s.lanes + lane
                    x = p[at_p + k * s.k.strides[0] + v * s.lanes + lane]
                    factor = q[at_q + k * s.k.strides[1] + r * s.rows.strides[1]]
                    T.buffer_store(sums, sums[at] + factor * x, [at])


@dataclass(frozen=True, slots=True)
class Softmax:
    """A softmax down `axis` for `width` lanes side by side; strides are those of (x, y)."""

    lanes: int
    outer: tuple[Axis, ...]
    width: int
    axis: Axis
    sizes: tuple[int, int]
    offset: int
    scale: float
    parallel: bool


def softmax_kernel(name: str, s: Softmax) -> tirx.PrimFunc:
    """Return ``(x, y)``: the maximum, then exponentials and their sum, then the quotients."""
    firsts, vectors = cover(-(-s.width // s.lanes), 3)
    size = vectors * s.lanes
    each = _each(vectors, s.lanes)

    def body() -> None:
        x, y = argument("x", s.sizes[0]), argument("y", s.sizes[1])
        outer = math.prod(a.extent for a in s.outer)
        with (T.parallel if s.parallel else T.serial)(0, outer) as number:
            x0, y0 = _places(number, s.outer, 2)
            with T.serial(0, len(firsts)) as tile:
                first = T.min(tile * vectors, firsts[-1]) * s.lanes
                most = T.alloc_buffer((size,), "float32", scope="local")
                sums = T.alloc_buffer((size,), "float32", scope="local")

                def value(step: Any, at: Any) -> Any:
                    place = x0 + first + s.offset + step * s.axis.strides[0] + at
                    return x[place] * T.float32(s.scale)

                def start(at: Any) -> None:
                    T.buffer_store(most, value(0, at), [at])
                    T.buffer_store(sums, T.float32(0), [at])

                def larger(step: Any, at: Any) -> None:
                    # Not a maximum: NaN on either side must win.
                    here = value(step, at)
                    T.buffer_store(most, T.Select(most[at] > here, most[at], here), [at])

                def raised(step: Any, at: Any) -> None:
                    place = y0 + first + step * s.axis.strides[1] + at
                    T.buffer_store(y, exponential(value(step, at) - most[at]), [place])
                    T.buffer_store(sums, sums[at] + y[place], [at])

                def divided(step: Any, at: Any) -> None:
                    place = y0 + first + step * s.axis.strides[1] + at
                    T.buffer_store(y, y[place] * sums[at], [place])

                each(start)
                for store in (larger, raised):
                    with T.serial(0, s.axis.extent) as step:
                        each(lambda at, f=store, n=step: f(n, at))
                each(lambda at: T.buffer_store(sums, T.float32(1) / sums[at], [at]))
                with T.serial(0, s.axis.extent) as step:
                    each(lambda at, n=step: divided(n, at))

    return finish(body, name)


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm of `tokens` lanes over channels `stride` elements apart."""

    lanes: int
    tokens: int
    channels: int
    x_size: int
    offset: int
    stride: int
    scale: float
    y_size: int
    plane: int
    epsilon: float
    parallel: bool


def norm_kernel(name: str, s: Norm) -> tirx.PrimFunc:
    """Return ``(x, gain, shift, y)``: y has a plane of tokens per channel (Ba et al. 2016)."""
    firsts, vectors = cover(-(-s.tokens // s.lanes), 3 if s.channels <= 256 else 1)
    size = vectors * s.lanes
    each = _each(vectors, s.lanes)
    share = T.float32(1.0 / s.channels)

    def body() -> None:
        x, gain = argument("x", s.x_size), argument("gain", s.channels)
        shift, y = argument("shift", s.channels), argument("y", s.y_size)
        with (T.parallel if s.parallel else T.serial)(0, len(firsts)) as tile:
            first = T.min(tile * vectors, firsts[-1]) * s.lanes
            mean = T.alloc_buffer((size,), "float32", scope="local")
            wide = T.alloc_buffer((size,), "float32", scope="local")

            def value(channel: Any, at: Any) -> Any:
                return x[first + s.offset + channel * s.stride + at] * T.float32(s.scale)

            def add(channel: Any, at: Any) -> None:
                T.buffer_store(mean, mean[at] + value(channel, at), [at])

            def spread(channel: Any, at: Any) -> None:
                away = value(channel, at) - mean[at]
                T.buffer_store(wide, wide[at] + away * away, [at])

            def normed(channel: Any, at: Any) -> None:
                away = (value(channel, at) - mean[at]) * wide[at]
                end = away * gain[channel] + shift[channel]
                T.buffer_store(y, end, [first + channel * s.plane + at])

            for buffer in (mean, wide):
                each(lambda at, b=buffer: T.buffer_store(b, T.float32(0), [at]))
            with T.serial(0, s.channels) as channel:
                each(lambda at, c=channel: add(c, at))
            each(lambda at: T.buffer_store(mean, mean[at] * share, [at]))
            with T.serial(0, s.channels) as channel:
                each(lambda at, c=channel: spread(c, at))
            deep = T.float32(s.epsilon)
            each(
                lambda at: T.buffer_store(
                    wide, T.float32(1) / T.sqrt(wide[at] * share + deep), [at]
                )
            )
            with T.serial(0, s.channels) as channel:
                each(lambda at, c=channel: normed(c, at))

    return finish(body, name)


def map_kernel(name: str, size: int, lanes: int, inputs: int, result: Any) -> tirx.PrimFunc:
    """Return ``(x..., y)``: ``y[i] = result(x[i]...)`` over flat buffers of `size` elements."""

    def body() -> None:
        given = [argument(f"x{i}", size) for i in range(inputs)]
        y = argument("y", size)
        width = lanes if size % lanes == 0 else 1
        with T.serial(0, size // width) as part, T.vectorized(0, width) as lane:
            at = part * width + lane
            T.buffer_store(y, result(*(x[at] for x in given)), [at])

    return finish(body, name)


def copy_kernel(
    name: str, axes: Sequence[Axis], sizes: tuple[int, int], offset: int, scale: float
) -> tirx.PrimFunc:
    """Return ``(x, y)``: a view (strides of x, y) copied element by element."""

    def body() -> None:
        x, y = argument("x", sizes[0]), argument("y", sizes[1])
        with T.serial(0, math.prod(a.extent for a in axes)) as number:
            source, to = _places(number, axes, 2)
            T.buffer_store(y, x[source + offset] * T.float32(scale), [to])

    return finish(body, name)
