"""Dense layers with output channels in the lanes.

A row of 14 or 7 pixels leaves lanes of 16 idle; channels come in multiples of 16. Each vector of
weights is multiplied by one pixel, repeated in every lane (the outer product of Goto and van de
Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"). Sums are turned to rows of
pixels before they are stored, so that the layouts around need not know. While one part of the
weights is used, the next one is fetched (in code for one thread): layers of few pixels read
theirs from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from hwbench.kernels.layouts import Planar, round_up
from hwbench.kernels.template import Epilogue, activate, argument, finish, halo

GROUP = 4
"""Lanes inside which shuffles are cheap."""
CHUNK = 16
"""Tiles at most that are stored together: their sums fit the first cache."""
AHEAD_BYTES = 256 << 10
"""Of weights that are asked for while as many are used: second-level caches hold both."""


@dataclass(frozen=True, slots=True)
class Dense:
    """What the loops depend on; sizes count elements.

    ``height`` vectors of output channels and ``pixels`` of a row make a tile; ``blocks`` are its
    positions over channels, ``tiles`` those over rows and images. ``left`` are the vectors of
    the target's core that tiles do not fill.
    """

    lanes: int
    taps: int
    height: int
    pixels: int
    blocks: int
    tiles: int
    left: tuple[int, ...]
    x_size: int
    y_size: int
    rows: int
    planes: int
    images: int
    target: Planar
    epilogue: Epilogue
    parallel: bool

    @property
    def channels(self) -> int:
        """Output channels of a block."""
        return self.height * self.lanes

    @property
    def cut(self) -> int:
        """Taps that are summed for all tiles of a chunk before the next ones are."""
        return -(-self.taps // -(-self.taps * self.channels * 4 // AHEAD_BYTES))

    @property
    def cuts(self) -> int:
        """Cuts of the taps, the last perhaps shorter."""
        return -(-self.taps // self.cut)

    @property
    def chunk(self) -> int:
        """Tiles that are stored together."""
        return -(-self.tiles // -(-self.tiles // CHUNK))

    @property
    def chunks(self) -> int:
        """Chunks of tiles, the last perhaps shorter."""
        return -(-self.tiles // self.chunk)

    @property
    def square(self) -> int:
        """Pixels that are turned together."""
        return side(self.pixels, self.lanes)

    @property
    def wide(self) -> int:
        """Pixels of a tile with those that fill its last square."""
        return round_up(self.pixels, self.square)


def side(pixels: int, lanes: int) -> int:
    """Return how many pixels are turned together: a power of two, 4 to a vector."""
    return min(max(1 << (pixels - 1).bit_length(), GROUP), lanes)


def firsts(rows: int, channels: int) -> NDArray[np.int32]:
    """Return the first row of each block; the last overlaps the one before, if need be."""
    return np.minimum(np.arange(0, rows, channels), rows - channels).astype(np.int32)


def packed(matrix: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Return a matrix (rows, taps) as (blocks, taps, channels of a block), flattened."""
    rows = firsts(len(matrix), channels)[:, None] + np.arange(channels)
    return np.ascontiguousarray(matrix[rows].transpose(0, 2, 1)).reshape(-1)


def dense_kernel(name: str, shape: Dense) -> tirx.PrimFunc:
    """Return the kernel that a shape describes.

    Its arguments are ``(x, tap offsets, tile x, tile y, first rows, weights, bias[, residual],
    y)``, the weights as `packed` gives them and a bias for each of their rows.
    """
    return finish(lambda: _Writer(shape).write(), name)


class _Writer:
    """Writes one kernel; holds its buffers while the IR builder is open."""

    def __init__(self, shape: Dense) -> None:
        self.s = shape

    def write(self) -> None:
        s = self.s
        self.x = argument("x", s.x_size)
        self.tap = argument("tap", s.taps, "int32")
        self.tx = argument("tx", s.tiles, "int32")
        self.ty = argument("ty", s.tiles, "int32")
        self.firsts = argument("firsts", s.blocks, "int32")
        self.weights = argument("weights", s.blocks * s.taps * s.channels)
        self.bias = argument("bias", s.blocks * s.channels)
        if s.epilogue.residual:
            self.residual = argument("residual", s.y_size)
        self.y = argument("y", s.y_size)
        self._clear()
        with (T.parallel if s.parallel else T.serial)(0, s.blocks) as block:
            size = s.chunk * s.pixels * s.channels
            self.sums = T.alloc_buffer((size,), "float32", scope="global")
            self.turned = T.alloc_buffer((s.lanes * s.chunk * s.wide,), "float32", scope="global")
            with T.serial(0, s.chunks) as chunk:
                self._chunk(block, chunk)
        halo(self.y, s.target, s.images, s.rows, s.planes, parallel=s.parallel)

    def _chunk(self, block: Any, chunk: Any) -> None:
        """Write a chunk of tiles: their sums, then channel by channel."""
        s = self.s
        first = chunk * s.chunk
        count = s.chunk if s.tiles % s.chunk == 0 else T.min(s.chunk, s.tiles - first)
        with T.serial(0, s.cuts) as cut:
            after = T.Select(chunk + 1 < s.chunks, block, block + 1) * s.taps
            following = T.Select(cut + 1 < s.cuts, block * s.taps + (cut + 1) * s.cut, after)
            with T.serial(0, count) as tile:
                self._tile(block, cut, first + tile, tile, following)
        with T.serial(0, s.height) as vector:
            with T.serial(0, count) as tile:
                self._turn(vector, tile)
            with T.serial(0, s.lanes) as channel, T.serial(0, count) as tile:
                row = self.firsts[block] + vector * s.lanes + channel
                self._row(row, channel, first + tile, tile)

    def _clear(self) -> None:
        """Write zeros to the padding between rows that no tile reaches."""
        s, layout = self.s, self.s.target
        if not s.left:
            return
        with (T.parallel if s.parallel else T.serial)(0, s.images * s.rows) as number:
            plane = (number // s.rows * s.planes + number % s.rows) * layout.plane
            for vector in s.left:
                at = plane + layout.lead + vector * s.lanes
                T.buffer_store(self.y, T.Broadcast(T.float32(0), s.lanes), [T.Ramp(at, 1, s.lanes)])

    def _tile(self, block: Any, cut: Any, tile: Any, number: Any, following: Any) -> None:
        """Write the sums of one tile, the `number`-th of its chunk, over one cut of the taps.

        ``following`` is the first tap, counted over all blocks, of the cut that comes next.
        """
        s = self.s
        sums = registers(s.pixels * s.height, s.lanes)
        places = [
            ((at % s.height * s.chunk + number) * s.pixels + at // s.height) * s.lanes
            for at in range(len(sums))
        ]
        for at, (accumulator, place) in enumerate(zip(sums, places, strict=True)):
            with T.vectorized(0, s.lanes) as lane:
                value = self.bias[block * s.channels + at % s.height * s.lanes + lane]
                if s.cuts > 1:
                    value = T.Select(cut == 0, value, self.sums[place + lane])
                T.buffer_store(accumulator, value, [lane])
        count = s.cut if s.taps % s.cut == 0 else T.min(s.cut, s.taps - cut * s.cut)
        part = T.min(number, s.height - 1) * s.cut
        with T.serial(0, count) as step:
            # In a closure for threads LLVM no longer knows that arguments do not overlap, and
            # would store every sum before it asks for anything.
            if not s.parallel:
                self._fetch(following, part + step)
            self._step(sums, block, tile, cut * s.cut + step)
        for accumulator, place in zip(sums, places, strict=True):
            with T.vectorized(0, s.lanes) as lane:
                T.buffer_store(self.sums, accumulator[lane], [place + lane])

    def _step(self, sums: Sequence[Any], block: Any, tile: Any, tap: Any) -> None:
        """Write one tap's products: each pixel with every vector of channels."""
        s = self.s
        weights = (block * s.taps + tap) * s.channels
        place = self.tap[tap] + self.tx[tile]
        for number, accumulator in enumerate(sums):
            pixel, channel = number // s.height, number % s.height * s.lanes
            with T.vectorized(0, s.lanes) as lane:
                product = self.weights[weights + channel + lane] * self.x[place + pixel]
                T.buffer_store(accumulator, accumulator[lane] + product, [lane])

    def _fetch(self, tap: Any, vector: Any) -> None:
        """Ask for a vector of weights behind a tap: memory is read while we compute.

        The first tiles of a chunk, one a vector of channels, ask for what the next cut needs.
        """
        s = self.s
        last = s.blocks * s.taps * s.channels - s.lanes
        place = T.address_of(self.weights[T.min(tap * s.channels + vector * s.lanes, last)])
        reading, second, data = T.int32(0), T.int32(2), T.int32(1)
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", place, reading, second, data))

    def _turn(self, vector: Any, tile: Any) -> None:
        """Write a vector of channels' sums over one tile, channel by channel."""
        s = self.s
        first = (vector * s.chunk + tile) * s.pixels
        for start in range(0, s.wide, s.square):
            pixels = [min(start + i, s.pixels - 1) for i in range(s.square)]
            square = [self.sums[T.Ramp((first + p) * s.lanes, 1, s.lanes)] for p in pixels]
            for at, column in enumerate(turned(square, s.lanes)):
                for part in range(s.lanes // s.square):
                    channel = part * s.square + at
                    lanes = [part * s.square + i for i in range(s.square)]
                    piece = column if len(lanes) == s.lanes else T.Shuffle([column], lanes)
                    place = (channel * s.chunk + tile) * s.wide + start
                    T.buffer_store(self.turned, piece, [T.Ramp(place, 1, s.square)])

    def _row(self, row: Any, channel: Any, tile: Any, number: Any) -> None:
        """Write one channel's pixels of a tile, after what follows the sum."""
        s = self.s
        y = row * s.target.plane + self.ty[tile]
        source = (channel * s.chunk + number) * s.wide
        for start in range(0, s.wide, s.square):
            with T.vectorized(0, s.square) as lane:
                value = self._ended(self.turned[source + start + lane], y + start + lane)
                if start + s.square > s.pixels:
                    # Behind the row: padding, or the next row, which is stored later.
                    value = T.Select(lane < s.pixels - start, value, T.float32(0))
                T.buffer_store(self.y, value, [y + start + lane])

    def _ended(self, value: Any, y: Any) -> Any:
        if self.s.epilogue.residual:
            value = value + self.residual[y]
        return activate(value, self.s.epilogue)


def registers(count: int, lanes: int) -> list[Any]:
    """Return so many vectors, a buffer each."""
    return [T.alloc_buffer((lanes,), "float32", scope="local") for _ in range(count)]


def turned(square: Sequence[Any], lanes: int) -> list[Any]:
    """Return vectors, one a pixel (4 at least, a power of two), turned to one a channel.

    Where there are fewer pixels than lanes, several channels share a vector: channel ``c`` is in
    vector ``c % pixels``, at lane ``c // pixels * pixels``. The steps are those that x86 has
    without a table of places: neighbours inside 4 lanes, then whole groups of 4.
    """
    count, whole = len(square), T.Ramp(0, 1, lanes)
    groups = np.arange(2 * lanes).reshape(-1, GROUP)
    steps = [_unpacked(groups, width) for width in (1, 2)]
    apart = (groups[::2].reshape(-1), groups[1::2].reshape(-1))
    steps += [apart] * (count.bit_length() - 1 - len(steps))
    # What lies where, as pixel * lanes + channel.
    held = np.arange(count * lanes).reshape(count, lanes)
    parts = list(square)
    for number, halves in enumerate(steps):
        bit = 1 << number
        mixtures, after = registers(count, lanes), held.copy()
        for row in range(count):
            pair, taken = [row & ~bit, row | bit], halves[int(row & bit > 0)]
            after[row] = np.concatenate(held[pair])[taken]
            mixed = T.Shuffle([parts[one] for one in pair], taken.tolist())
            T.buffer_store(mixtures[row], mixed, [whole])
        parts, held = [register[whole] for register in mixtures], after
    ordered: list[Any] = [None] * count
    for part, places in zip(parts, held, strict=True):
        pixels, channels = places // lanes, places % lanes
        order = np.lexsort((pixels, channels))
        done = bool((order == np.arange(lanes)).all())
        ordered[int(channels.min())] = part if done else T.Shuffle([part], order.tolist())
    return ordered


def _unpacked(groups: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lanes that two vectors give in turns, `width` at a time, from each group."""
    place = np.arange(GROUP)
    side, inside = place // width % 2, place // (2 * width) * width + place % width
    first, second = np.split(groups, 2)
    low, high = (
        np.where(side == 0, first[:, inside + half], second[:, inside + half]).reshape(-1)
        for half in (0, GROUP // 2)
    )
    return low, high
