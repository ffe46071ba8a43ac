"""Kernels over words of four bytes: products that skip blocks of zeros, sums, maxima, changes.

See `hwbench.kernels.int8` for what words are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from hwbench.kernels import layouts
from hwbench.kernels.layouts import Layout
from hwbench.kernels.template import argument, finish, halo

BYTES = 4
LANES = 16
_MAGIC = float(1 << 23)
"""Added to a float below it, it leaves the float rounded half to even in the low bits."""


def padding(zero: int) -> int:
    """Return the word of four zero points, as a signed number."""
    return int(np.array([zero] * BYTES, np.uint8).view("<i4")[0])


def ungrouped(weights: NDArray[np.int8], groups: int, channels: int) -> NDArray[np.int8]:
    """Return weights (rows, channels / groups, ...) as (rows, channels, ...), zeros in between."""
    if groups == 1:
        return weights
    rows, per_group = weights.shape[:2]
    full = np.zeros((rows, channels, *weights.shape[2:]), np.int8)
    for row in range(rows):
        first = row * groups // rows * per_group
        full[row, first : first + per_group] = weights[row]
    return full


def encode(
    weights: NDArray[np.int8], words: int, places: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return per row its first step (rows + 1), and per step the place it reads and its word.

    ``weights`` are (rows, channels, height, width); ``places`` (words * taps) where a block of
    four channels stands at a tap. Blocks of zeros are left out.
    """
    rows, channels = weights.shape[:2]
    full = np.zeros((rows, words * BYTES, int(np.prod(weights.shape[2:]))), np.int8)
    full[:, :channels] = weights.reshape(rows, channels, -1)
    blocks = full.reshape(rows, words, BYTES, -1).transpose(0, 1, 3, 2)
    coded = np.ascontiguousarray(blocks).view("<i4").reshape(rows, -1)
    row, place = np.nonzero(coded)
    starts = np.concatenate([[0], np.cumsum((coded != 0).sum(1))]).astype(np.int32)
    values = coded[row, place].astype(np.int32)
    offsets = places[place].astype(np.int32)
    if not len(values):
        offsets = values = np.zeros(1, np.int32)
    return starts, offsets, values


@dataclass(frozen=True, slots=True)
class Dot:
    """What the loops of a kernel over words depend on; sizes count words, ``rows`` bytes."""

    tiles: int
    vx: tuple[int, ...]
    vy: tuple[int, ...]
    x_size: int
    rows: int
    steps: int
    images: int
    planes: int
    target: Layout
    masked: bool
    zero: int
    bounds: tuple[int, int]
    parallel: bool = False

    @property
    def y_size(self) -> int:
        """Words of the output."""
        return self.images * self.planes * self.target.plane


def _multiplied(sums: Any, x: Any, word: Any) -> Any:
    """Return sums (16 x int32) and four products of bytes each: vpdpbusd."""
    name = "llvm.x86.avx512.vpdpbusd.512"
    bytes_x, bytes_w = T.reinterpret("uint8x64", x), T.reinterpret("int8x64", word)
    return T.call_llvm_pure_intrin("int32x16", name, sums, bytes_x, bytes_w)


def _rounded(value: Any, zero: int, bounds: tuple[int, int]) -> Any:
    """Return a float rounded to a byte, as int32."""
    moved = value + T.float32(zero)
    kept = T.max(T.min(moved, T.float32(bounds[1])), T.float32(bounds[0]))
    return T.reinterpret("int32", kept + T.float32(_MAGIC)) & T.int32(255)


def _joined(parts: Sequence[Any]) -> Any:
    word = parts[0]
    for number, part in enumerate(parts[1:], 1):
        word = word | T.shift_left(part, T.int32(8 * number))
    return word


def _byte(word: Any, number: int) -> Any:
    return T.cast(T.shift_right(word, T.int32(8 * number)) & T.int32(255), "float32")


def dot_kernel(name: str, s: Dot) -> tirx.PrimFunc:
    """Return ``(x, tile x, tile y, starts, offsets, values, bias, factors[, mask], y)``.

    Four rows make a word: their sums wait in a small buffer until all four are there.
    """
    return finish(lambda: _Writer(s).write(), name)


class _Writer:
    """Writes one kernel; holds its buffers while the IR builder is open."""

    def __init__(self, shape: Dot) -> None:
        self.s, self.width = shape, len(shape.vx) * LANES

    def write(self) -> None:
        s = self.s
        self.x = argument("x", s.x_size, "int32")
        self.tx, self.ty = argument("tx", s.tiles, "int32"), argument("ty", s.tiles, "int32")
        self.starts = argument("starts", s.rows + 1, "int32")
        self.offsets = argument("offsets", s.steps, "int32")
        self.values = argument("values", s.steps, "int32")
        self.bias, self.factors = argument("bias", s.rows, "int32"), argument("factors", s.rows)
        self.mask = argument("mask", s.tiles * self.width) if s.masked else None
        self.y = argument("y", s.y_size, "int32")
        loop = T.parallel if s.parallel else T.serial
        with loop(0, s.tiles) as tile, T.serial(0, s.rows // BYTES) as four:
            waiting = T.alloc_buffer((BYTES * self.width,), "int32", scope="global")
            with T.serial(0, BYTES) as part:
                self._row(tile, four * BYTES + part, waiting, part * self.width)
            for v, vy in enumerate(s.vy):
                with T.vectorized(0, LANES) as lane:
                    word = self._word(tile, four, waiting, v * LANES + lane)
                    to = four * s.target.plane + self.ty[tile] + vy + lane
                    T.buffer_store(self.y, word, [to])
        _surround(self.y, s)

    def _row(self, tile: Any, row: Any, waiting: Any, to: Any) -> None:
        sums = T.alloc_buffer((self.width,), "int32", scope="local")
        for v in range(len(self.s.vx)):
            T.buffer_store(sums, T.Broadcast(self.bias[row], LANES), [_lanes(v * LANES)])
        with T.serial(0, self.starts[row + 1] - self.starts[row]) as step:
            at = self.starts[row] + step
            word = T.Broadcast(self.values[at], LANES)
            place = self.offsets[at] + self.tx[tile]
            for v, vx in enumerate(self.s.vx):
                added = _multiplied(sums[_lanes(v * LANES)], self.x[_lanes(place + vx)], word)
                T.buffer_store(sums, added, [_lanes(v * LANES)])
        for v in range(len(self.s.vx)):
            T.buffer_store(waiting, sums[_lanes(v * LANES)], [_lanes(to + v * LANES)])

    def _word(self, tile: Any, four: Any, waiting: Any, at: Any) -> Any:
        s, parts = self.s, []
        for part in range(BYTES):
            total = T.cast(waiting[part * self.width + at], "float32")
            scaled = total * self.factors[four * BYTES + part]
            parts.append(_rounded(scaled, s.zero, s.bounds))
        word = _joined(parts)
        if self.mask is None:
            return word
        real = self.mask[tile * self.width + at] > T.float32(0)
        return T.Select(real, word, T.int32(padding(s.zero)))


def pool_kernel(name: str, s: Dot, taps: Sequence[int], x_plane: int) -> tirx.PrimFunc:
    """Return ``(x, tile x, tile y[, mask], y)``: the maximum of bytes over taps."""
    width = len(s.vx) * LANES

    def body() -> None:
        x = argument("x", s.x_size, "int32")
        tx, ty = argument("tx", s.tiles, "int32"), argument("ty", s.tiles, "int32")
        mask = argument("mask", s.tiles * width) if s.masked else None
        y = argument("y", s.y_size, "int32")
        words = s.rows // BYTES
        with T.serial(0, s.images * words) as number:
            plane = number // words * s.planes + number % words
            with T.serial(0, s.tiles) as tile:
                for v, (vx, vy) in enumerate(zip(s.vx, s.vy, strict=True)):
                    start = plane * x_plane + tx[tile] + vx
                    read = [T.reinterpret("uint8x64", x[_lanes(start + tap)]) for tap in taps]
                    most = read[0]
                    for other in read[1:]:
                        most = T.max(most, other)
                    word = T.reinterpret("int32x16", most)
                    if mask is not None:
                        real = mask[_lanes(tile * width + v * LANES)] > T.Broadcast(
                            T.float32(0), LANES
                        )
                        word = T.Select(real, word, T.Broadcast(T.int32(0), LANES))
                    T.buffer_store(y, word, [_lanes(plane * s.target.plane + ty[tile] + vy)])
        _surround(y, s)

    return finish(body, name)


def add_kernel(
    name: str,
    size: int,
    grids: Sequence[tuple[float, int]],
    end: tuple[float, int],
    bounds: tuple[int, int],
) -> tirx.PrimFunc:
    """Return ``(a, b, y)``: the sum of two values in words, padding included."""

    def body() -> None:
        a, b = argument("a", size, "int32"), argument("b", size, "int32")
        y = argument("y", size, "int32")
        with T.serial(0, size // LANES) as part, T.vectorized(0, LANES) as lane:
            at = part * LANES + lane
            parts = []
            for number in range(BYTES):
                total = None
                for buffer, (scale, zero) in zip((a, b), grids, strict=True):
                    real = (_byte(buffer[at], number) - T.float32(zero)) * T.float32(scale)
                    total = real if total is None else total + real
                assert total is not None
                parts.append(_rounded(total / T.float32(end[0]), end[1], bounds))
            T.buffer_store(y, _joined(parts), [at])

    return finish(body, name)


def round_kernel(name: str, size: int, scale: float, zero: int) -> tirx.PrimFunc:
    """Return ``(x, y)``: floats as 8 bits can say them."""

    def body() -> None:
        x, y = argument("x", size), argument("y", size)

        def one(at: Any) -> None:
            byte = _rounded(x[at] / T.float32(scale), zero, (0, 255))
            T.buffer_store(y, (T.cast(byte, "float32") - T.float32(zero)) * T.float32(scale), [at])

        if size >= LANES:
            with T.serial(0, size // LANES) as part, T.vectorized(0, LANES) as lane:
                one(part * LANES + lane)
        if size % LANES:
            with T.serial(0, size % LANES) as rest:
                one(size // LANES * LANES + rest)

    return finish(body, name)


def pack_kernel(
    name: str, images: int, channels: int, pixels: int, layout: Layout, grid: tuple[float, int]
) -> tirx.PrimFunc:
    """Return ``(x, table, y)``: floats (images, channels, pixels) as words in a layout."""
    words = -(-channels // BYTES)
    planes = layouts.round_up(words, layouts.ROW_MULTIPLE)

    def body() -> None:
        x = argument("x", images * channels * pixels)
        table = argument("table", layout.plane, "int32")
        y = argument("y", images * planes * layout.plane, "int32")
        with T.serial(0, images * words) as number:
            image, four = number // words, number % words
            start = (image * planes + four) * layout.plane
            with T.serial(0, layout.plane // LANES) as part, T.vectorized(0, LANES) as lane:
                place = table[part * LANES + lane]
                parts = []
                for byte in range(BYTES):
                    channel = T.min(four * BYTES + byte, channels - 1)
                    value = x[(image * channels + channel) * pixels + T.max(place, 0)]
                    parts.append(_rounded(value / T.float32(grid[0]), grid[1], (0, 255)))
                word = T.Select(place >= 0, _joined(parts), T.int32(padding(grid[1])))
                T.buffer_store(y, word, [start + part * LANES + lane])

    return finish(body, name)


def unpack_kernel(
    name: str, shape: Sequence[int], planes: int, layout: Layout, grid: tuple[float, int]
) -> tirx.PrimFunc:
    """Return ``(x, table, y)``: words as floats (images, channels, height, width)."""
    images, channels, pixels = shape[0], shape[1], shape[2] * shape[3]

    def body() -> None:
        x = argument("x", images * planes * layout.plane, "int32")
        table = argument("table", pixels, "int32")
        y = argument("y", images * channels * pixels)
        with T.serial(0, images * channels) as number, T.serial(0, pixels) as pixel:
            image, channel = number // channels, number % channels
            word = x[(image * planes + channel // BYTES) * layout.plane + table[pixel]]
            byte = T.shift_right(word, channel % BYTES * 8) & T.int32(255)
            value = (T.cast(byte, "float32") - T.float32(grid[1])) * T.float32(grid[0])
            T.buffer_store(y, value, [number * pixels + pixel])

    return finish(body, name)


def _lanes(start: Any) -> Any:
    return T.Ramp(start, 1, LANES)


def _surround(y: Any, s: Dot) -> None:
    words, zero = s.rows // BYTES, T.int32(padding(s.zero))
    halo(y, s.target, s.images, words, s.planes, parallel=False, zero=zero)
