"""The one sparse kernel: a convolution or matrix product over lists of (offset, value), in TIR.

The loops know shapes but not weights, so that compile time does not grow with the non-zeros
(Elsen et al. 2020, "Fast Sparse ConvNets", generate code of this form for 1x1 layers). Blocking
over K keeps the part of the input that is being read in the first-level cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from hwbench.kernels.layouts import Blocked, Layout, Planar


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to a sum before it is stored: add a residual, then the activation.

    ``activation`` is ``none``, ``clip`` (to ``low``..``high``, None: open), ``hardswish``,
    ``sigmoid``, ``gelu`` or ``gelu_tanh``.
    """

    residual: bool = False
    activation: str = "none"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Stencil:
    """A depthwise layer that is computed while its output is packed: never stored, only read.

    ``taps`` are offsets inside a channel's input.
    """

    taps: tuple[int, ...]
    epilogue: Epilogue


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything a kernel's loops depend on; sizes count elements (float32 or int32)."""

    lanes: int
    taps: int
    tiles: int
    vx: tuple[int, ...]
    vy: tuple[int, ...]
    x_size: int
    y_size: int
    rows: int
    k_block: int
    row_block: int
    group: int
    segments: int
    steps: int
    pack: bool
    masked: bool
    epilogue: Epilogue
    target: Layout
    images: int
    planes: int
    parallel: bool = False
    stencil: Stencil | None = None
    pairs: bool = False
    """Two lists a pair of rows, see `encode.encode_pairs`; ``offsets`` then counts theirs."""
    offsets: int = 0
    parts: int = 1
    """Parts of the rows, each with blocks of its own: a thread each goes over all tiles."""
    short: bool = False
    """Offsets have 16 bits."""
    shifts: tuple[int, ...] = ()
    """The input is first copied once for each, moved by so many elements: taps are then aligned."""


def vectors(lanes: int, store: Callable[[Any], None]) -> None:
    """Write a vectorised loop over the lanes."""
    with T.vectorized(0, lanes) as lane:
        store(lane)


def finish(body: Callable[[], None], name: str) -> tirx.PrimFunc:
    """Return the function that `body` writes, with the root block Relax asks for."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        # 8 is opaque: nothing may be fused into it.
        T.func_attr({"global_symbol": name, "tirx.noalias": True, "op_pattern": 8})
        body()
    function = builder.get()
    block = s_tir.SBlock([], [], [], "root", function.body)
    realized = s_tir.SBlockRealize([], tirx.const(True, "bool"), block)
    return function.with_body(realized)


def argument(name: str, size: int, dtype: str = "float32") -> Any:
    """Declare the next argument: a flat buffer."""
    return T.match_buffer(T.arg(name, T.handle()), (size,), dtype)


def activate(value: Any, epilogue: Epilogue) -> Any:
    """Return the activation of a value. Comparisons are such that NaN stays NaN."""
    if epilogue.activation == "hardswish":
        gate = _clip(value * T.float32(1 / 6) + T.float32(0.5), 0.0, 1.0)
        return value * gate
    if epilogue.activation == "clip":
        return _clip(value, epilogue.low, epilogue.high)
    if epilogue.activation == "sigmoid":
        return sigmoid(value)
    if epilogue.activation == "gelu":
        return value * T.float32(0.5) * (T.float32(1) + _erf(value * T.float32(math.sqrt(0.5))))
    if epilogue.activation == "gelu_tanh":
        cube = value * value * value * T.float32(0.044715)
        return value * sigmoid((value + cube) * T.float32(math.sqrt(8 / math.pi)))
    return value


def exponential(x: Any) -> Any:
    """Return e to the x, to a relative 2e-7; 0 below -87 (no denormals), NaN stays NaN.

    A power of two times a Taylor polynomial on [-ln 2 / 2, ln 2 / 2]: unlike a call of the
    mathematical library it becomes vector code.
    """
    f = T.float32
    inside = _clip(x, -87.0, 88.0)
    power = T.floor(inside * f(1 / math.log(2)) + f(0.5))
    # ln 2 in two parts, the first with few bits, so that the difference is exact.
    rest = inside - power * f(0.693359375) - power * f(math.log(2) - 0.693359375)
    sums = f(1 / math.factorial(7))
    for n in range(6, -1, -1):
        sums = sums * rest + f(1 / math.factorial(n))
    whole = T.cast(power, "int32") + T.int32(127)
    powers = sums * T.reinterpret("float32", whole * T.int32(1 << 23))
    return T.Select(x < f(-87.0), f(0), powers)


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return T.float32(1) / (T.float32(1) + exponential(T.float32(0) - x))


def _erf(x: Any) -> Any:
    """Return the error function to 2e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    f = T.float32
    size = T.Select(x < f(0), f(0) - x, x)
    t = f(1) / (f(1) + f(0.3275911) * size)
    sums = f(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        sums = sums * t + f(factor)
    value = f(1) - sums * t * exponential(f(0) - x * x)
    return T.Select(x < f(0), f(0) - value, value)


def _clip(value: Any, low: float | None, high: float | None) -> Any:
    if low is not None:
        value = T.Select(value < T.float32(low), T.float32(low), value)
    if high is not None:
        value = T.Select(value > T.float32(high), T.float32(high), value)
    return value


def sparse_kernel(name: str, shape: Shape) -> tirx.PrimFunc:
    """Return the kernel that a shape describes.

    Its arguments are ``(x, tap offsets, tile x, tile y, blocks, rows, steps, offsets, values,
    bias[, depthwise weights, depthwise bias][, mask][, residual], y)``.
    ``y[row, tile] = activation(bias[row] + sum value * x[tile + offset] + residual[row, tile])``.
    With ``pack``, each tile's taps of a K block are copied side by side first (im2col of one
    tile), and offsets count vectors of taps instead. With a `Stencil` what is packed is the
    depthwise layer's output (channels * its taps weights, a bias a channel).
    """
    return finish(lambda: _Writer(shape).write(), name)


class _Writer:
    """Writes one kernel; holds its buffers while the IR builder is open."""

    def __init__(self, shape: Shape) -> None:
        self.s = shape

    def write(self) -> None:
        s = self.s
        k_blocks = -(-s.taps // s.k_block)
        self.x = argument("x", s.x_size)
        self.tap = argument("tap", s.taps, "int32")
        self.tx = argument("tx", s.tiles, "int32")
        self.ty = argument("ty", s.tiles, "int32")
        self.blocks = argument("blocks", s.parts * (k_blocks + 1), "int32")
        self.rows = argument("rows", s.segments * s.group, "int32")
        lists = s.segments * (2 if s.pairs else 1)
        self.steps = argument("steps", lists + 1, "int32")
        self.offsets = argument("offsets", s.offsets, "int16" if s.short else "int32")
        self.values = argument("values", s.steps * s.group * s.row_block)
        if s.pairs:
            self.starts = argument("starts", lists, "int32")
        self.bias = argument("bias", s.planes)
        self.width = len(s.vx) * s.lanes
        if s.stencil is not None:
            self.factors = argument("factors", s.taps * len(s.stencil.taps))
            self.shifts = argument("shifts", s.taps)
        if s.masked:
            self.mask = argument("mask", s.tiles * self.width)
        if s.epilogue.residual:
            self.residual = argument("residual", s.y_size)
        self.y = argument("y", s.y_size)
        if s.shifts:
            self._shift()
        loop = T.parallel if s.parallel else T.serial
        # The tiles of one part in their order, by one thread: some write over others.
        outer, inner = (loop, T.serial) if s.parts > 1 else (T.serial, loop)
        with outer(0, s.parts) as part, inner(0, s.tiles) as tile:
            panel = min(s.k_block, s.taps) * self.width
            self.panel = T.alloc_buffer((panel,), "float32", scope="global") if s.pack else None
            self.part = part * (k_blocks + 1)
            self._tile(tile, k_blocks)
        halo(self.y, s.target, s.images, s.rows, s.planes, parallel=s.parallel)

    def _shift(self) -> None:
        """Write copies of the input, moved so that every tap is a whole number of vectors away.

        Vectors that would reach over the input's ends are left out: no tap reads them.
        """
        s, x = self.s, self.x
        self.x = T.alloc_buffer((len(s.shifts) * s.x_size,), "float32", scope="global")
        for number, shift in enumerate(s.shifts):
            first, last = int(shift < 0), s.x_size // s.lanes - int(shift > 0)
            loop = T.parallel if s.parallel else T.serial
            with loop(0, last - first) as vector, T.vectorized(0, s.lanes) as lane:
                at = (vector + first) * s.lanes + lane
                T.buffer_store(self.x, x[at + shift], [number * s.x_size + at])

    def _tile(self, tile: Any, k_blocks: int) -> None:
        s = self.s
        last = s.taps - (k_blocks - 1) * s.k_block
        self._pack(tile, 0, s.k_block if k_blocks > 1 else s.taps)
        self._block(tile, 0, first=True, last=k_blocks == 1)
        if k_blocks > 2:
            with T.serial(0, k_blocks - 2) as middle:
                self._pack(tile, (middle + 1) * s.k_block, s.k_block)
                self._block(tile, middle + 1, first=False, last=False)
        if k_blocks > 1:
            self._pack(tile, (k_blocks - 1) * s.k_block, last)
            self._block(tile, k_blocks - 1, first=False, last=True)

    def _pack(self, tile: Any, start: Any, count: int) -> None:
        s, panel = self.s, self.panel
        if panel is None:
            return
        with T.serial(0, count) as tap:
            if s.stencil is not None:
                self._stencil(s.stencil, tile, start + tap, tap * self.width)
                return
            for v, vx in enumerate(s.vx):
                with T.vectorized(0, s.lanes) as lane:
                    value = self.x[self.tap[start + tap] + self.tx[tile] + vx + lane]
                    T.buffer_store(panel, value, [tap * self.width + v * s.lanes + lane])

    def _stencil(self, stencil: Stencil, tile: Any, channel: Any, to: Any) -> None:
        """Write one tile of a depthwise layer's channel to the panel."""
        s, count = self.s, len(stencil.taps)
        sums = T.alloc_buffer((self.width,), "float32", scope="local")
        for t, tap in enumerate(stencil.taps):
            for v, vx in enumerate(s.vx):
                with T.vectorized(0, s.lanes) as lane:
                    at = v * s.lanes + lane
                    value = self.x[self.tap[channel] + self.tx[tile] + (tap + vx) + lane]
                    before = sums[at] if t else self.shifts[channel]
                    value = before + self.factors[channel * count + t] * value
                    T.buffer_store(sums, value, [at])
        for v in range(len(s.vx)):
            with T.vectorized(0, s.lanes) as lane:
                at = v * s.lanes + lane
                T.buffer_store(self.panel, activate(sums[at], stencil.epilogue), [to + at])

    def _block(self, tile: Any, block: Any, *, first: bool, last: bool) -> None:
        s = self.s
        # Zero-based on purpose: with a start that is not zero, CanonicalizeLoop miscompiles
        # inner loops whose bounds depend on it.
        block = self.part + block
        with T.serial(0, self.blocks[block + 1] - self.blocks[block]) as number:
            segment = self.blocks[block] + number
            # The accumulators are indexed by constants alone once vectorised: they become
            # registers.
            size = s.group * s.row_block * self.width
            sums = T.alloc_buffer((size,), "float32", scope="local")
            self._each(
                lambda at, y, row, lane, v: T.buffer_store(
                    sums, self.bias[row] if first else self.y[y], [at]
                ),
                segment,
                tile,
            )
            self._lists(sums, segment, tile)
            self._each(
                lambda at, y, row, lane, v: T.buffer_store(
                    self.y, self._ended(sums[at], y, tile, v, lane) if last else sums[at], [y]
                ),
                segment,
                tile,
            )

    def _each(self, store: Callable[..., None], segment: Any, tile: Any) -> None:
        """Write `store(accumulator, y index, row, lane, vector)` for every accumulator."""
        s = self.s
        for g in range(s.group):
            for b in range(s.row_block):
                row = self.rows[segment * s.group + g] + b
                for v, vy in enumerate(s.vy):
                    at = (g * s.row_block + b) * self.width + v * s.lanes
                    with T.vectorized(0, s.lanes) as lane:
                        y = row * s.target.plane + self.ty[tile] + vy + lane
                        store(at + lane, y, row, lane, v)

    def _lists(self, sums: Any, segment: Any, tile: Any) -> None:
        """Write the loops over a segment's lists."""
        steps = self.steps
        if not self.s.pairs:
            with T.serial(0, steps[segment + 1] - steps[segment]) as step:
                self._step(sums, steps[segment] + step, tile)
            return
        for alone in (0, 1):
            number = segment * 2 + alone
            with T.serial(0, steps[number + 1] - steps[number]) as step:
                place = self.starts[number] + step * (1 + alone)
                self._pair(sums, steps[number] + step, [place, place + alone], tile)

    def _pair(self, sums: Any, step: Any, places: Sequence[Any], tile: Any) -> None:
        """Write one step of a pair of rows: each row's value times the input at its place."""
        s = self.s
        for v, vx in enumerate(s.vx):
            for row, place in enumerate(places):
                at = row * self.width + v * s.lanes
                with T.vectorized(0, s.lanes) as lane:
                    x = self._input(T.cast(self.offsets[place], "int32"), v, vx, lane, tile)
                    value = sums[at + lane] + self.values[step * 2 + row] * x
                    T.buffer_store(sums, value, [at + lane])

    def _input(self, place: Any, v: int, vx: int, lane: Any, tile: Any) -> Any:
        if self.panel is not None:
            return self.panel[place * self.width + v * self.s.lanes + lane]
        return self.x[place + self.tx[tile] + vx + lane]

    def _step(self, sums: Any, step: Any, tile: Any) -> None:
        s = self.s
        for g in range(s.group):
            place = T.cast(self.offsets[step * s.group + g], "int32")
            for b in range(s.row_block):
                value = self.values[(step * s.group + g) * s.row_block + b]
                for v, vx in enumerate(s.vx):
                    at = (g * s.row_block + b) * self.width + v * s.lanes
                    with T.vectorized(0, s.lanes) as lane:
                        x = self._input(place, v, vx, lane, tile)
                        T.buffer_store(sums, sums[at + lane] + value * x, [at + lane])

    def _ended(self, value: Any, y: Any, tile: Any, v: int, lane: Any) -> Any:
        s = self.s
        if s.epilogue.residual:
            value = value + self.residual[y]
        value = activate(value, s.epilogue)
        if s.masked:
            # Chosen, not multiplied: padding may have computed Inf or NaN.
            real = self.mask[tile * self.width + v * s.lanes + lane] > T.float32(0)
            value = T.Select(real, value, T.float32(0))
        return value


def halo(
    y: Any,
    layout: Layout,
    images: int,
    rows: int,
    planes: int,
    *,
    parallel: bool,
    zero: Any = None,
) -> None:
    """Write loops that fill the padding of every plane: `zero`, or the neighbours' edges."""
    zero = T.float32(0) if zero is None else zero
    with (T.parallel if parallel else T.serial)(0, images * rows) as number:
        plane = (number // rows * planes + number % rows) * layout.plane
        if isinstance(layout, Planar):
            _zeros(y, plane, layout, zero)
        elif layout.halo:
            _exchange(y, plane, layout, zero)


def _zeros(y: Any, plane: Any, layout: Planar, zero: Any) -> None:
    for first, count in layout.zeroed():
        if count:
            with T.serial(0, count) as vector, T.vectorized(0, layout.lanes) as lane:
                at = plane + first + vector * layout.lanes + lane
                T.buffer_store(y, zero, [at])


def _exchange(y: Any, plane: Any, layout: Blocked, zero: Any) -> None:
    """Write the halo of one plane: columns first, then whole rows, so that corners come along."""
    lanes, (down, across) = layout.lanes, layout.grid
    high, wide = layout.block

    def copy(to: Any, source: Any, shift: int, keep: Callable[[Any], Any]) -> None:
        with T.vectorized(0, lanes) as lane:
            value = T.Select(keep(lane), y[source + shift + lane], zero)
            T.buffer_store(y, value, [to + lane])

    with T.serial(0, high) as row:
        start = plane + layout.position(0, 0) + row * (layout.step * lanes)
        for k in range(layout.halo):
            left, right = (k - layout.halo) * lanes, (wide + k) * lanes
            copy(start + left, start + left + wide * lanes, -1, lambda e: e % across > 0)
            copy(start + right, start + k * lanes, 1, lambda e: e % across < across - 1)
    with T.serial(0, layout.step) as column:
        start = plane + layout.position(0, -layout.halo) + column * lanes
        for k in range(layout.halo):
            up, low = (k - layout.halo) * layout.step * lanes, (high + k) * layout.step * lanes
            inner = k * layout.step * lanes
            copy(
                start + up, start + up + high * layout.step * lanes, -across, lambda e: e >= across
            )
            copy(start + low, start + inner, across, lambda e: e < across * (down - 1))
