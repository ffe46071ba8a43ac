"""The other kernels: windows over one plane, means, batch-1 linear layers."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from hwbench.kernels.layouts import Blocked, Layout
from hwbench.kernels.template import Epilogue, activate, argument, finish, halo


@dataclass(frozen=True, slots=True)
class WindowShape:
    """A depthwise convolution or a pooling; sizes count elements.

    ``kind`` is ``depthwise``, ``max`` or ``average``. ``taps`` are offsets inside a channel's
    input, which takes ``x_plane`` elements (all phases of it).
    """

    kind: str
    lanes: int
    taps: tuple[int, ...]
    tiles: int
    vx: tuple[int, ...]
    vy: tuple[int, ...]
    x_plane: int
    x_planes: int
    channels: int
    planes: int
    images: int
    masked: bool
    epilogue: Epilogue
    target: Layout
    parallel: bool = False


def window_kernel(name: str, s: WindowShape) -> tirx.PrimFunc:
    """Return ``(x, tile x, tile y[, weights, bias][, mask or scale][, residual], y)``.

    One plane in, one plane out: ``weights`` (channels * taps) and ``bias`` (planes) for
    ``depthwise``; ``scale`` (tiles * vectors * lanes) is what an average multiplies by.
    """

    def body() -> None:
        width = len(s.vx) * s.lanes
        x = argument("x", s.images * s.x_planes * s.x_plane)
        tx, ty = argument("tx", s.tiles, "int32"), argument("ty", s.tiles, "int32")
        weighted = s.kind == "depthwise"
        weights = argument("weights", s.channels * len(s.taps)) if weighted else None
        bias = argument("bias", s.planes) if weighted else None
        table = argument("table", s.tiles * width) if s.masked or s.kind == "average" else None
        size = s.images * s.planes * s.target.plane
        residual = argument("residual", size) if s.epilogue.residual else None
        y = argument("y", size)
        loop = T.parallel if s.parallel else T.serial
        with loop(0, s.images * s.channels) as number:
            image, channel = number // s.channels, number % s.channels
            x_start = (image * s.x_planes + channel) * s.x_plane
            y_start = (image * s.planes + channel) * s.target.plane
            with T.serial(0, s.tiles) as tile:
                sums = T.alloc_buffer((width,), "float32", scope="local")
                for t, tap in enumerate(s.taps):
                    for v, vx in enumerate(s.vx):
                        with T.vectorized(0, s.lanes) as lane:
                            at = v * s.lanes + lane
                            value = x[x_start + tx[tile] + (tap + vx) + lane]
                            if weights is not None:
                                assert bias is not None
                                before = bias[channel] if t == 0 else sums[at]
                                value = before + weights[channel * len(s.taps) + t] * value
                            elif t and s.kind == "max":
                                # Not a maximum: NaN on either side must win.
                                value = T.Select(sums[at] > value, sums[at], value)
                            elif t:
                                value = sums[at] + value
                            T.buffer_store(sums, value, [at])
                for v, vy in enumerate(s.vy):
                    with T.vectorized(0, s.lanes) as lane:
                        end = sums[v * s.lanes + lane]
                        to = y_start + ty[tile] + vy + lane
                        if residual is not None:
                            end = end + residual[to]
                        end = activate(end, s.epilogue)
                        if table is not None:
                            factor = table[tile * width + v * s.lanes + lane]
                            scaled = end * factor if s.kind == "average" else end
                            end = T.Select(factor > T.float32(0), scaled, T.float32(0))
                        T.buffer_store(y, end, [to])
        halo(y, s.target, s.images, s.channels, s.planes, parallel=s.parallel)

    return finish(body, name)


def mean_kernel(
    name: str, layout: Layout, images: int, planes: int, channels: int
) -> tirx.PrimFunc:
    """Return ``(x, y)``: the mean of each plane's pixels, y of images * channels."""
    lanes = layout.lanes
    if isinstance(layout, Blocked):
        first, (rows, run), step = layout.position(0, 0), layout.block, layout.step * lanes
    else:  # the zeros between rows add nothing
        first, rows, run, step = layout.lead, 1, layout.core // lanes, 0

    def body() -> None:
        x = argument("x", images * planes * layout.plane)
        y = argument("y", images * channels)
        with T.serial(0, images * channels) as number:
            start = (number // channels * planes + number % channels) * layout.plane + first
            sums = T.alloc_buffer((lanes,), "float32", scope="local")
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(sums, T.float32(0), [lane])
            loops = T.serial(0, rows), T.serial(0, run), T.vectorized(0, lanes)
            with loops[0] as row, loops[1] as vector, loops[2] as lane:
                value = x[start + row * step + vector * lanes + lane]
                T.buffer_store(sums, sums[lane] + value, [lane])
            total = sums[0]
            for lane in range(1, lanes):
                total = total + sums[lane]
            T.buffer_store(y, total * T.float32(1.0 / (layout.height * layout.width)), [number])

    return finish(body, name)


def sell_kernel(
    name: str,
    columns: int,
    rows: int,
    slices: int,
    steps: int,
    lanes: int,
    images: int,
    epilogue: Epilogue,
    unroll: int = 2,
) -> tirx.PrimFunc:
    """Return ``(x, slices, columns, values, bias, rows, y)`` for `encode.sell`.

    ``x`` images * columns; ``bias`` and ``rows`` slices * lanes; ``y`` images * rows. Lanes are
    rows: each step gathers one input a lane.
    """

    def body() -> None:
        x = argument("x", images * columns)
        starts = argument("slices", slices + 1, "int32")
        places = argument("columns", max(steps, 1) * lanes, "int32")
        values = argument("values", max(steps, 1) * lanes)
        bias, order = argument("bias", slices * lanes), argument("rows", slices * lanes, "int32")
        y = argument("y", images * rows)
        with T.serial(0, images) as image, T.serial(0, slices) as piece:
            sums = T.alloc_buffer((lanes * unroll,), "float32", scope="local")
            for u in range(unroll):
                with T.vectorized(0, lanes) as lane:
                    start = bias[piece * lanes + lane] if u == 0 else T.float32(0)
                    T.buffer_store(sums, start, [u * lanes + lane])
            with T.serial(0, (starts[piece + 1] - starts[piece]) // unroll) as number:
                for u in range(unroll):
                    with T.vectorized(0, lanes) as lane:
                        at = (starts[piece] + number * unroll + u) * lanes + lane
                        value = values[at] * x[image * columns + places[at]]
                        T.buffer_store(sums, sums[u * lanes + lane] + value, [u * lanes + lane])
            for u in range(1, unroll):
                with T.vectorized(0, lanes) as lane:
                    T.buffer_store(sums, sums[lane] + sums[u * lanes + lane], [lane])
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(sums, activate(sums[lane], epilogue), [lane])
            with T.serial(0, lanes) as lane:
                row = order[piece * lanes + lane]
                with T.If(row < rows), T.Then():
                    T.buffer_store(y, sums[lane], [image * rows + row])

    return finish(body, name)


def row_kernel(
    name: str, columns: int, rows: int, lanes: int, images: int, epilogue: Epilogue, count: int = 4
) -> tirx.PrimFunc:
    """Return ``(x, weights, bias, y)``: a dense linear layer on few rows of input.

    ``weights`` (blocks, columns, count * lanes): columns of a block of outputs side by side.
    """
    width = count * lanes
    blocks = -(-rows // width)

    def body() -> None:
        x = argument("x", images * columns)
        weights, bias = (
            argument("weights", blocks * columns * width),
            argument("bias", blocks * width),
        )
        y = argument("y", images * rows)
        with T.serial(0, images) as image, T.serial(0, blocks) as block:
            sums = T.alloc_buffer((width,), "float32", scope="local")
            for v in range(count):
                with T.vectorized(0, lanes) as lane:
                    at = v * lanes + lane
                    T.buffer_store(sums, bias[block * width + at], [at])
            with T.serial(0, columns) as column:
                for v in range(count):
                    with T.vectorized(0, lanes) as lane:
                        at = v * lanes + lane
                        value = weights[(block * columns + column) * width + at]
                        value = value * x[image * columns + column]
                        T.buffer_store(sums, sums[at] + value, [at])
            for v in range(count):
                with T.vectorized(0, lanes) as lane:
                    at = v * lanes + lane
                    T.buffer_store(sums, activate(sums[at], epilogue), [at])
            with T.serial(0, width) as lane, T.If(block * width + lane < rows), T.Then():
                T.buffer_store(y, sums[lane], [image * rows + block * width + lane])

    return finish(body, name)
