"""One layer to compute: what is asked for, and the kernel that a configuration makes of it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from hwbench.kernels import dense, encode, layouts, stencils, template
from hwbench.kernels.layouts import Layout, Planar, Window
from hwbench.kernels.template import Epilogue

Array = NDArray[Any]


class Reading(enum.Enum):
    """How a kernel over lists reads its input; the value is what a label says of it."""

    IN_PLACE = ""
    """From where it lies."""
    PACKED = "pack"
    """The taps of a tile are copied side by side first."""
    SHIFTED = "shift"
    """From copies of the input, moved so that every tap is aligned."""
    FUSED = "pack depthwise"
    """Packed, and what is packed is the output of the depthwise layer before."""

    @property
    def packs(self) -> bool:
        """Whether a tile's taps are copied first."""
        return self in (Reading.PACKED, Reading.FUSED)


@dataclass(frozen=True, slots=True)
class RowLists:
    """Blocks of ``row_block`` outputs share a list of taps, ``group`` lists are walked together.

    ``vectors`` of pixels a tile, ``k_block`` taps at a time.
    """

    vectors: int
    k_block: int
    row_block: int = 1
    group: int = 1
    reading: Reading = Reading.IN_PLACE

    @property
    def label(self) -> str:
        """The configuration on one line, for tables and for files."""
        return _label(self)

    @property
    def lists(self) -> str:
        """Which rows share a list, in words."""
        rows = self.row_block
        return "with a list per row" if rows == 1 else f"a list per {rows} rows"


@dataclass(frozen=True, slots=True)
class PairLists:
    """Two rows share the list of the taps that both have and no more (`encode.encode_pairs`)."""

    vectors: int
    k_block: int
    reading: Reading = Reading.IN_PLACE
    row_block: ClassVar[int] = 2
    group: ClassVar[int] = 1

    @property
    def label(self) -> str:
        """The configuration on one line, for tables and for files."""
        return _label(self)

    @property
    def lists(self) -> str:
        """Which rows share a list, in words."""
        return "with shared and own lists per 2 rows"


@dataclass(frozen=True, slots=True)
class OutputLanes:
    """A dense kernel: ``row_block`` vectors of output channels by ``pixels`` (see `dense`)."""

    pixels: int
    row_block: int
    reading: ClassVar[Reading] = Reading.IN_PLACE

    @property
    def label(self) -> str:
        """The configuration on one line, for tables and for files."""
        return f"across {self.row_block}x{self.pixels}"

    @property
    def lists(self) -> str:
        """What stands in the place of lists, in words."""
        return "with output channels in the lanes"


Lists = RowLists | PairLists
"""Configurations that go over lists of taps."""
Config = RowLists | PairLists | OutputLanes
"""One way to compute a layer: the parameters of a kernel, all sizes in their own units."""


def _label(config: Lists) -> str:
    size = f"V{config.vectors} K{config.k_block} {config.row_block}x1 G{config.group}"
    kind = "pairs" if isinstance(config, PairLists) else ""
    return " ".join(part for part in (size, kind, config.reading.value) if part)


WHOLE = 1 << 20
"""A K block that no layer fills: no blocking."""
WINDOW_VECTORS = 7
"""Vectors a tile of a depthwise layer or pooling."""


NOTHING = Epilogue()


@dataclass(frozen=True, slots=True)
class Windowed:
    """A depthwise convolution or pooling over planes; see `stencils.WindowShape`."""

    kind: str
    source: Layout
    target: Layout
    window: Window
    taps: tuple[int, ...]
    x_plane: int
    x_planes: int
    channels: int
    images: int
    epilogue: Epilogue = NOTHING
    weights: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    table: NDArray[np.float32] | None = None
    threads: int = 1

    @property
    def flops(self) -> float:
        """Floating-point operations of a depthwise convolution, two a multiply-add."""
        pixels = self.target.height * self.target.width
        return 2.0 * len(self.taps) * self.channels * pixels * self.images


@dataclass(frozen=True, slots=True)
class Problem:
    """A convolution or linear layer over planes.

    ``matrix`` (rows, taps) float32, ``bias`` (rows,); tap ``t`` reads ``offsets[t]`` elements
    behind a tile's position. One image takes ``x_image`` elements of the input. ``before`` is
    the depthwise layer that makes this 1x1 layer's input, in the same layout and for it alone.
    """

    source: Layout
    target: Layout
    window: Window
    offsets: NDArray[np.int64]
    matrix: NDArray[np.float32]
    bias: NDArray[np.float32]
    x_image: int
    images: int
    epilogue: Epilogue
    threads: int = 1
    before: Windowed | None = None

    @property
    def rows(self) -> int:
        """Output channels."""
        return len(self.matrix)

    @property
    def planes(self) -> int:
        """Planes of the output buffer."""
        return layouts.round_up(self.rows, layouts.ROW_MULTIPLE)

    @property
    def density(self) -> float:
        """Share of weights that are not zero."""
        return float(np.count_nonzero(self.matrix)) / max(self.matrix.size, 1)

    @property
    def block_density(self) -> tuple[float, float]:
        """Share of weights that blocks of 2 and of 4 rows store."""
        stored = []
        for height in (2, 4):
            whole = self.matrix[: self.rows // height * height]
            blocks = whole.reshape(-1, height, self.matrix.shape[1])
            stored.append(float((blocks != 0).any(1).mean()) if whole.size else 1.0)
        return stored[0], stored[1]

    @property
    def flops(self) -> float:
        """Floating-point operations of the dense layer, two a multiply-add."""
        pixels = self.target.height * self.target.width
        return 2.0 * self.matrix.size * pixels * self.images

    @property
    def y_size(self) -> int:
        """Elements of the output buffer."""
        return self.images * self.planes * self.target.plane

    @property
    def signature(self) -> str:
        """What decides which configuration is fastest (the weights' places hardly do)."""
        s, t = self.source, self.target
        kinds = f"{type(s).__name__}{s.height}x{s.width} {type(t).__name__}{t.height}x{t.width}"
        shape = f"{self.rows}x{self.matrix.shape[1]} {self.window.kernel} {self.window.stride}"
        pairs, fours = self.block_density
        after = ""
        if self.before is not None:
            kind = type(self.before.source).__name__
            after = f" after {kind} {self.before.window.kernel} {self.before.window.stride}"
        return (
            f"{kinds} {shape} n{self.images} L{t.lanes} t{self.threads} "
            f"{self.density:.1f}/{pairs:.1f}/{fours:.1f}{after}"
        )


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function and the constants it takes after its input (before a residual and the output).

    ``walked`` is the number of multiply-adds per pixel that it does, padding included.
    """

    function: tirx.PrimFunc
    constants: tuple[Array, ...]
    walked: int


def kernel(problem: Problem, config: Config, name: str) -> Kernel:
    """Return the kernel that computes `problem` as `config` says."""
    if isinstance(config, OutputLanes):
        return _output_lanes(problem, config, name)
    p = problem
    taps = p.matrix.shape[1]
    k_block = min(config.k_block, taps)
    before = p.before if config.reading is Reading.FUSED else None
    places = np.arange(taps) % k_block if config.reading.packs else p.offsets
    shifts: tuple[int, ...] = ()
    if config.reading is Reading.SHIFTED:
        shifts, places = _shifted(p)
    # Places in a panel are small numbers.
    short = config.reading.packs and k_block <= np.iinfo(np.int16).max
    source, window, x_image = p.source, p.window, p.x_image
    if before is not None:
        source, window = before.source, before.window
        x_image = before.x_planes * before.x_plane
    walk = layouts.tiles(source, p.target, window, config.vectors)
    mask = layouts.mask(p.target, walk)
    y_image = p.planes * p.target.plane
    tile_x, tile_y = repeated(walk.x, x_image, p.images), repeated(walk.y, y_image, p.images)
    # A thread has rows of its own, so that tiles need not be many; but a depthwise layer would
    # then be computed by each.
    by_tile = (
        config.reading is Reading.FUSED
        and len(tile_x) >= p.threads
        and not overlapping(walk, p.target.lanes)
    )
    firsts = [0] if by_tile else _parts(p, config)
    coded = _encoded(p, config, k_block, places, firsts)
    shape = template.Shape(
        lanes=p.target.lanes,
        taps=taps,
        tiles=len(tile_x),
        vx=walk.vx,
        vy=walk.vy,
        x_size=p.images * x_image,
        y_size=p.y_size,
        rows=p.rows,
        k_block=k_block,
        row_block=config.row_block,
        group=config.group,
        segments=len(coded.rows) // config.group,
        steps=len(coded.values) // (config.group * config.row_block),
        pack=config.reading.packs,
        masked=mask is not None,
        epilogue=p.epilogue,
        target=p.target,
        images=p.images,
        planes=p.planes,
        parallel=p.threads > 1 and (by_tile or len(firsts) > 1),
        parts=len(firsts),
        stencil=None if before is None else template.Stencil(before.taps, before.epilogue),
        pairs=isinstance(config, PairLists),
        offsets=len(coded.offsets),
        short=short,
        shifts=shifts,
    )
    bias = np.zeros(p.planes, np.float32)
    bias[: p.rows] = p.bias
    starts = p.offsets if before is None else np.arange(taps) * before.x_plane
    tables: list[Array] = list(coded.arrays)
    if short:
        tables[3] = coded.offsets.astype(np.int16)
    constants = [starts.astype(np.int32), tile_x, tile_y, *tables, bias]
    if before is not None and before.weights is not None and before.bias is not None:
        constants += [np.ascontiguousarray(before.weights.reshape(-1)), before.bias]
    if mask is not None:
        constants.append(np.tile(mask, p.images))
    return Kernel(template.sparse_kernel(name, shape), tuple(constants), coded.stored)


def _output_lanes(p: Problem, config: OutputLanes, name: str) -> Kernel:
    """Return the dense kernel with output channels in the lanes."""
    source, target = p.source, p.target
    assert isinstance(source, Planar)
    assert isinstance(target, Planar)
    taps, channels = p.matrix.shape[1], config.row_block * target.lanes
    columns, pixels = layouts.cover(target.width, config.pixels)
    spots = [(row, column) for row in range(target.height) for column in columns]
    x, y = (tuple(s.lead + s.tap(*spot) for spot in spots) for s in (source, target))
    stored = layouts.round_up(pixels, dense.side(pixels, target.lanes))
    blocks = dense.firsts(p.rows, channels)
    shape = dense.Dense(
        lanes=target.lanes,
        taps=taps,
        height=config.row_block,
        pixels=pixels,
        blocks=len(blocks),
        tiles=len(spots) * p.images,
        left=layouts.unwritten(target, y, stored),
        x_size=p.images * p.x_image,
        y_size=p.y_size,
        rows=p.rows,
        planes=p.planes,
        images=p.images,
        target=target,
        epilogue=p.epilogue,
        parallel=p.threads > 1,
    )
    constants: list[Array] = [
        p.offsets.astype(np.int32),
        repeated(x, p.x_image, p.images),
        repeated(y, p.planes * target.plane, p.images),
        blocks,
        dense.packed(p.matrix, channels),
        p.bias[blocks[:, None] + np.arange(channels)].reshape(-1),
    ]
    walked = len(blocks) * channels * taps
    return Kernel(dense.dense_kernel(name, shape), tuple(constants), walked)


def _parts(p: Problem, config: Lists) -> list[int]:
    """Return the first row of each thread's part: whole blocks and groups, shared out evenly."""
    unit = config.row_block * config.group
    each = layouts.round_up(-(-p.rows // p.threads), unit)
    firsts = list(range(0, p.rows, each))
    # A last part of less than a block could reach past the planes.
    alone = layouts.ROW_MULTIPLE % config.row_block and p.rows - firsts[-1] < config.row_block
    return [0] if alone else firsts


def _encoded(
    p: Problem, config: Lists, k_block: int, places: NDArray[np.int64], firsts: Sequence[int]
) -> encode.Encoded:
    """Return the weights as lists, those of the rows from each of `firsts` on by themselves."""
    coded = []
    for first, end in zip(firsts, [*firsts[1:], p.rows], strict=True):
        rows = p.matrix[first:end]
        if isinstance(config, PairLists):
            coded.append(encode.encode_pairs(rows, places, k_block))
        else:
            coded.append(encode.encode(rows, places, k_block, config.row_block, config.group))
    return coded[0] if len(coded) == 1 else encode.joined(coded, firsts)


def _shifted(p: Problem) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Return by how much copies of the input are moved, and each tap's place in these copies."""
    lanes = p.target.lanes
    # The nearest whole vector: half of the lanes up or down.
    rest = (p.offsets + lanes // 2) % lanes - lanes // 2
    shifts, copy = np.unique(rest, return_inverse=True)
    return tuple(map(int, shifts)), copy * (p.images * p.x_image) + p.offsets - rest


def repeated(positions: tuple[int, ...], image: int, images: int) -> NDArray[np.int32]:
    """Return tile positions for every image of the batch, one after the other."""
    starts = np.arange(images)[:, None] * image
    return np.asarray(starts + np.asarray(positions)[None], np.int32).reshape(-1)


def overlapping(walk: layouts.Tiles, lanes: int) -> bool:
    """Return whether two tiles write the same elements: threads must not then share the work."""
    spots = np.add.outer(np.asarray(walk.y), np.asarray(walk.vy)).reshape(-1)
    return bool(np.diff(np.sort(spots)).min(initial=lanes) < lanes)


def window_kernel(w: Windowed, name: str) -> Kernel:
    """Return the kernel of a depthwise convolution or pooling."""
    walk = layouts.tiles(w.source, w.target, w.window, WINDOW_VECTORS)
    planes = layouts.round_up(w.channels, layouts.ROW_MULTIPLE)
    constants: list[Array] = [np.asarray(walk.x, np.int32), np.asarray(walk.y, np.int32)]
    if w.weights is not None and w.bias is not None:
        bias = np.zeros(planes, np.float32)
        bias[: w.channels] = w.bias
        constants += [np.ascontiguousarray(w.weights.reshape(-1)), bias]
    mask = layouts.mask(w.target, walk)
    if w.table is not None:
        constants.append(_picked(w.table, w.target, walk))
    elif mask is not None:
        constants.append(mask)
    shape = stencils.WindowShape(
        kind=w.kind,
        lanes=w.target.lanes,
        taps=w.taps,
        tiles=len(walk.x),
        vx=walk.vx,
        vy=walk.vy,
        x_plane=w.x_plane,
        x_planes=w.x_planes,
        channels=w.channels,
        planes=planes,
        images=w.images,
        masked=mask is not None,
        epilogue=w.epilogue,
        target=w.target,
        parallel=w.threads > 1,
    )
    return Kernel(stencils.window_kernel(name, shape), tuple(constants), len(w.taps))


def _picked(image: NDArray[np.float32], target: Layout, walk: layouts.Tiles) -> NDArray[np.float32]:
    """Return an image's values in the order of a walk (0 for padding)."""
    plane = np.zeros(target.plane, np.float32)
    plane[target.index()] = image
    spots = np.asarray(walk.y)[:, None, None] + np.asarray(walk.vy)[None, :, None]
    return np.ascontiguousarray(plane[spots + np.arange(target.lanes)].reshape(-1))
