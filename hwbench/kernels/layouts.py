"""Where the pixels of an activation live: padded planar, and lane-blocked.

A tensor of ``n`` images and ``c`` channels is one flat float32 buffer of ``n * planes * plane``
elements, ``planes >= c``. All offsets in this module count float32 elements. A *tap* of a
convolution is a constant offset from an output's position to the input it reads, so that the
kernels need no index arithmetic in their inner loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROW_MULTIPLE = 8
"""Buffers hold a multiple of this many planes, so that row blocks and groups never overhang."""


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple that is not below `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry of a convolution or pooling: kernel, stride, dilation, pads (top, left)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, bottom, right, as ONNX has them."""

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Return the output's height and width for an input's (ONNX, rounding down)."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        top, left, bottom, right = self.pads
        return (
            (height + top + bottom - dh * (kh - 1) - 1) // sh + 1,
            (width + left + right - dw * (kw - 1) - 1) // sw + 1,
        )

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Every tap as (rows, columns) from the output's position times the stride."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return [
            (i * dh - self.pads[0], j * dw - self.pads[1]) for i in range(kh) for j in range(kw)
        ]

    @property
    def halo(self) -> int:
        """How many zeros around the image the taps may read."""
        return max(self.pads)


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a kernel walks the output: a table of start positions, and static vector offsets.

    ``x`` and ``y`` hold, per tile, the position of its first vector in the input's and the
    output's plane; ``vx`` and ``vy`` the offset of each of its vectors from there.
    """

    x: tuple[int, ...]
    y: tuple[int, ...]
    vx: tuple[int, ...]
    vy: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Planar:
    """Padded planar: zeros, then `height` rows `row` apart, then zeros; whole vectors.

    The `halo` zeros between two rows serve both the end of one and the start of the next, so
    ``row >= width + halo``. A plane is an odd number of vectors: planes a power of two apart
    would fall on the same cache sets.
    """

    height: int
    width: int
    lanes: int
    halo: int
    row: int

    @staticmethod
    def of(height: int, width: int, lanes: int, halo: int, row: int = 0) -> Planar:
        """Return the layout with the shortest rows that hold the halo (or `row` if longer)."""
        return Planar(height, width, lanes, halo, max(width + halo, row))

    @property
    def lead(self) -> int:
        """Elements before the first pixel: zeros, a whole number of vectors."""
        return round_up(self.halo * (self.row + 1), self.lanes)

    @property
    def core(self) -> int:
        """Elements the rows take, rounded up to whole vectors."""
        return round_up(self.height * self.row, self.lanes)

    @property
    def plane(self) -> int:
        """Elements a channel takes. Room behind the core: the last vector's taps read there."""
        size = self.lead + self.core + self.halo * (self.row + 1) + self.lanes
        vectors = -(-size // self.lanes)
        return (vectors + 1 - vectors % 2) * self.lanes

    def index(self) -> NDArray[np.int64]:
        """Return the element index of every pixel, shape (height, width)."""
        rows, columns = np.mgrid[: self.height, : self.width]
        return np.asarray(self.lead + rows * self.row + columns, np.int64)

    def tap(self, rows: int, columns: int) -> int:
        """Return the offset of the pixel that lies so many rows and columns away."""
        return rows * self.row + columns

    def zeroed(self) -> list[tuple[int, int]]:
        """Return the vectors outside the core as (first element, number of vectors)."""
        lanes, end = self.lanes, self.lead + self.core
        return [(0, self.lead // lanes), (end, (self.plane - end) // lanes)]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Lane-blocked: the image cut into ``grid`` blocks, one a lane; a vector is one pixel of each.

    Every tap is then an aligned load, and a stride is only a longer step. Each block carries
    its own `halo`, copied from its neighbours after the layer that wrote it. Height and width
    must be divisible by the grid; a vector of zeros stands before and after the blocks.
    """

    height: int
    width: int
    lanes: int
    halo: int
    grid: tuple[int, int]

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of a block without its halo."""
        return self.height // self.grid[0], self.width // self.grid[1]

    @property
    def step(self) -> int:
        """Vectors from one row of a block to the next."""
        return self.block[1] + 2 * self.halo

    @property
    def vectors(self) -> int:
        """Vectors of a plane that belong to blocks and halos."""
        return (self.block[0] + 2 * self.halo) * self.step

    @property
    def plane(self) -> int:
        """Elements a channel takes: an odd number of vectors."""
        whole = self.vectors + 2
        return (whole + 1 - whole % 2) * self.lanes

    def position(self, row: int, column: int) -> int:
        """Return the element where the vector of a block's pixel starts."""
        return (1 + (row + self.halo) * self.step + column + self.halo) * self.lanes

    def index(self) -> NDArray[np.int64]:
        """Return the element index of every pixel, shape (height, width)."""
        rows, columns = np.mgrid[: self.height, : self.width]
        (high, wide), lanes = self.block, self.lanes
        vector = 1 + (rows % high + self.halo) * self.step + columns % wide + self.halo
        lane = rows // high * self.grid[1] + columns // wide
        return np.asarray(vector * lanes + lane, np.int64)

    def tap(self, rows: int, columns: int) -> int:
        """Return the offset of the pixel that lies so many rows and columns away."""
        return (rows * self.step + columns) * self.lanes


Layout = Planar | Blocked

GRIDS = {16: (4, 4), 8: (2, 4), 4: (2, 2)}
"""Blocks down and across for each number of lanes."""


def blocked(height: int, width: int, lanes: int, halo: int, smallest: int) -> Blocked | None:
    """Return the lane-blocked layout of an image, or None where it does not fit.

    `smallest` is the least width of a block: below it the halos outweigh the pixels.
    """
    grid = GRIDS[lanes]
    if height % grid[0] or width % grid[1]:
        return None
    layout = Blocked(height, width, lanes, halo, grid)
    return layout if min(layout.block) >= max(smallest, halo, 1) else None


def reads_directly(source: Layout, target: Layout, window: Window) -> bool:
    """Return whether taps into `source` can be constant offsets for outputs in `target`."""
    if window.halo > source.halo:
        return False
    if isinstance(source, Planar) and isinstance(target, Planar):
        return window.stride == (1, 1)
    if not (isinstance(source, Blocked) and isinstance(target, Blocked)):
        return False
    (sh, sw), (kh, kw), (dh, dw) = window.stride, window.kernel, window.dilation
    top, left = window.pads[:2]
    past = max(dh * (kh - 1) - top - (sh - 1), dw * (kw - 1) - left - (sw - 1), top, left)
    return (
        past <= source.halo
        and source.grid == target.grid
        and source.block == (target.block[0] * sh, target.block[1] * sw)
    )


def tiles(source: Layout, target: Layout, window: Window, vectors: int) -> Tiles:
    """Return tiles of up to `vectors` vectors over `target`, reading from `source`.

    Tiles may overlap at the end of a row or of the image: they are computed twice, to the same
    values. `reads_directly` must hold.
    """
    if isinstance(source, Blocked) and isinstance(target, Blocked):
        return _blocked_tiles(source, target, window.stride, vectors)
    assert isinstance(source, Planar)
    assert isinstance(target, Planar)
    lanes = target.lanes
    if source.row == target.row:
        starts, count = cover(target.core // lanes, vectors)
        pairs = [(source.lead + s * lanes, target.lead + s * lanes) for s in starts]
    else:
        # Rows of different length: row by row, upwards, so that what overhangs the end of a row
        # is overwritten by the row after it.
        starts, count = cover(-(-target.width // lanes), vectors)
        pairs = [
            (source.lead + i * source.row + s * lanes, target.lead + i * target.row + s * lanes)
            for i in range(target.height)
            for s in starts
        ]
        # What no row reaches is written first, as padding: the pixels beside it are overwritten.
        past = target.lead + target.core - count * lanes
        missed = unwritten(target, [y for _, y in pairs], count * lanes)
        pairs = [(source.lead, min(target.lead + v * lanes, past)) for v in missed] + pairs
    along = tuple(v * lanes for v in range(count))
    return Tiles(tuple(x for x, _ in pairs), tuple(y for _, y in pairs), along, along)


def unwritten(target: Planar, starts: Sequence[int], length: int) -> tuple[int, ...]:
    """Return the vectors of the core with elements beyond all tiles, of `length` from `starts`."""
    written = np.zeros(target.plane, bool)
    for start in starts:
        written[start : start + length] = True
    core = written[target.lead : target.lead + target.core].reshape(-1, target.lanes)
    return tuple(np.flatnonzero(~core.all(1)).tolist())


def _blocked_tiles(
    source: Blocked, target: Blocked, stride: tuple[int, int], vectors: int
) -> Tiles:
    (high, wide), (sh, sw) = target.block, stride
    ups, rows = cover(high, max(1, min(vectors // wide, high)))
    acrosses, count = cover(wide, vectors)
    spots = [(i, j) for i in ups for j in acrosses]
    cells = [(i, j) for i in range(rows) for j in range(count)]
    return Tiles(
        tuple(source.position(i * sh, j * sw) for i, j in spots),
        tuple(target.position(i, j) for i, j in spots),
        tuple(source.tap(i * sh, j * sw) for i, j in cells),
        tuple(target.tap(i, j) for i, j in cells),
    )


def cover(whole: int, part: int) -> tuple[list[int], int]:
    """Return starts of pieces of equal size (at most `part`) that cover `whole`, and the size."""
    pieces = math.ceil(whole / part)
    size = math.ceil(whole / pieces)
    return [min(i * size, whole - size) for i in range(pieces)], size


def mask(target: Layout, walk: Tiles) -> NDArray[np.float32] | None:
    """Return 1 for the pixels and 0 for the padding a walk writes, in its order; None: no padding.

    Shape (tiles, vectors, lanes), flattened.
    """
    if isinstance(target, Blocked):
        return None
    real = np.zeros(target.plane, np.float32)
    real[target.index()] = 1
    spots = np.asarray(walk.y)[:, None, None] + np.asarray(walk.vy)[None, :, None]
    picked = real[spots + np.arange(target.lanes)]
    return None if picked.all() else np.ascontiguousarray(picked.reshape(-1))


def phases(source: Layout, target: Planar, window: Window) -> Planar:
    """Return the layout of one phase of an image that a strided window reads.

    Phase (a, b) holds the pixels ``(i * stride + a, j * stride + b)``; with them side by side as
    channels, the window becomes one of stride 1 (the polyphase identity).
    """
    (sh, sw), taps = window.stride, window.taps
    high, wide = -(-source.height // sh), -(-source.width // sw)
    low = min(min(t[0] // sh, t[1] // sw) for t in taps)
    past = max(
        max(t[0] // sh + target.height - high, t[1] // sw + target.width - wide) for t in taps
    )
    return Planar.of(high, wide, target.lanes, max(-low, past, 0), target.row)


def phase_taps(layout: Planar, window: Window) -> list[tuple[int, int]]:
    """Return per tap (phase, offset in its plane); phases are numbered ``a * stride + b``."""
    sh, sw = window.stride
    return [(i % sh * sw + j % sw, layout.tap(i // sh, j // sw)) for i, j in window.taps]


def used_phases(window: Window) -> Sequence[int]:
    """Return the phases that some tap reads, sorted: a strided 1x1 window reads only one."""
    sh, sw = window.stride
    return sorted({i % sh * sw + j % sw for i, j in window.taps})


def gather_table(target: Layout, source: NDArray[np.int64], fill: int = -1) -> NDArray[np.int32]:
    """Return per element of a target plane which source element it holds, -1 for padding.

    `source` (height, width) is the source's element index of each pixel. Halos of a blocked
    layout hold their neighbours' pixels.
    """
    table = np.full(target.plane, fill, np.int64)
    if isinstance(target, Planar):
        table[target.index()] = source
        return table.astype(np.int32)
    (high, wide), around = target.block, target.halo
    padded = np.pad(source, around, constant_values=fill)
    for i in range(-around, high + around):
        for j in range(-around, wide + around):
            at = target.position(i, j)
            ring = padded[i + around :: high, j + around :: wide]
            down, across = target.grid
            table[at : at + target.lanes] = ring[:down, :across].reshape(-1)
    return table.astype(np.int32)


def phase_table(target: Planar, source: NDArray[np.int64], window: Window) -> NDArray[np.int32]:
    """Return the tables of the phases a window uses, one after the other."""
    sh, sw = window.stride
    tables = []
    for phase in used_phases(window):
        pixels = source[phase // sw :: sh, phase % sw :: sw]
        whole = np.full((target.height, target.width), -1, np.int64)
        whole[: pixels.shape[0], : pixels.shape[1]] = pixels
        tables.append(gather_table(target, whole))
    return np.concatenate(tables)
