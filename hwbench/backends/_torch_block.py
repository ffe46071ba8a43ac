"""A block-sparse product in Triton: rows times a weight of which only some blocks are kept.

The weight (outputs, inputs) is cut into square blocks; those that hold something are stored one
after the other, row of blocks by row of blocks (BSR). A program makes a tile of outputs for one row
of blocks and walks over the blocks of that row; tile, warps and depth of the pipeline are chosen by
timing them on the GPU. Triton's interpreter (``TRITON_INTERPRET=1``) runs it on a CPU for the
tests. Not a plug-in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from hwbench.backends._torch_time import How, fastest

_TILES = (16, 32, 64, 128)
_INTERPRETED = bool(triton.knobs.runtime.interpret)
"""The interpreter has no products in bfloat16: there everything is multiplied as float32."""


@triton.jit
def _products(
    x, data, columns, starts, bias, y, m, k, n,
    SIZE: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,  # noqa: N803  (Triton's way)
    CUT: tl.constexpr, BIASED: tl.constexpr, EXACT: tl.constexpr, PLAIN: tl.constexpr,  # noqa: N803
):  # fmt: skip
    # Where there are few bands and few rows, several programs share a band's outputs.
    band = tl.program_id(1) // CUT
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = rows < m
    output = tl.program_id(1) % CUT * (SIZE // CUT) + tl.arange(0, SIZE // CUT)
    tap = tl.arange(0, SIZE * GROUP)
    # A step takes several blocks: their loads are under way together.
    member, place = tap // SIZE, tap % SIZE
    found = tl.zeros((TILE, SIZE // CUT), dtype=tl.float32)
    lines = x + rows[:, None] * k
    squares = data + output[:, None] * SIZE + (member * SIZE * SIZE + place)[None, :]
    last = tl.load(starts + band + 1)
    for block in range(tl.load(starts + band), last, GROUP):
        there = member < last - block
        column = tl.load(columns + block + member, mask=there, other=0) * SIZE + place
        # What the compiler cannot see: a block's columns lie side by side.
        column = tl.max_contiguous(tl.multiple_of(column, SIZE), SIZE)
        left = tl.load(lines + column[None, :], mask=inside[:, None], other=0.0)
        # Read as it is stored, (output, input), so that the loads are wide; turned on the way.
        right = tl.load(squares + block * SIZE * SIZE, mask=there[None, :], other=0.0)
        right = tl.trans(right)
        if PLAIN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        if EXACT:
            found += tl.dot(left, right, input_precision="ieee")
        else:
            found += tl.dot(left, right)
    if BIASED:
        found += tl.load(bias + band * SIZE + output).to(tl.float32)[None, :]
    where = y + rows[:, None] * n + band * SIZE + output[None, :]
    tl.store(where, found.to(y.dtype.element_ty), mask=inside[:, None])


@dataclass(frozen=True, slots=True)
class Launch:
    """How the kernel is launched.

    Rows of a tile, blocks of a step, programs that share a row of blocks, warps of a program,
    depth of its pipeline.
    """

    tile: int
    group: int = 1
    cut: int = 1
    warps: int = 4
    stages: int = 3


_CHOSEN: dict[tuple[object, ...], Launch] = {}
"""The launch that was fastest, by what decides it: shapes, kept blocks, format, rows, how."""


class BlockKernel:
    """A weight of which the empty blocks are left out."""

    def __init__(self, weight: Tensor, size: int) -> None:
        """Cut the weight (outputs, inputs); raises `ValueError` when it cannot be cut evenly."""
        outputs, inputs = weight.shape
        if outputs % size or inputs % size:
            raise ValueError(f"{outputs}x{inputs} is not cut evenly by {size}x{size}")
        blocks = weight.reshape(outputs // size, size, inputs // size, size).transpose(1, 2)
        kept = (blocks != 0).any(3).any(2)
        self._size, self._shape = size, (outputs, inputs)
        self._data = blocks[kept].contiguous()
        self._columns = kept.nonzero()[:, 1].to(torch.int32)
        counts = kept.sum(1).cumsum(0)
        self._starts = torch.cat([counts.new_zeros(1), counts]).to(torch.int32)
        self._launch: Launch | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of the blocks that are kept."""
        return self._data.nbytes

    @property
    def chosen(self) -> str:
        """The launch, once it was chosen."""
        launch = self._launch
        if launch is None:
            return ""
        sizes = f"{launch.tile} rows, {launch.group} blocks a step, {launch.cut} a band"
        return f"{sizes}, {launch.warps} warps, {launch.stages} deep"

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose the launch that is fastest for these rows (m, inputs)."""
        decides = (*self._shape, self._size, len(self._data), rows.dtype, len(rows), how)
        if decides not in _CHOSEN:
            offers = launches(len(rows), self._size, self._shape[0])
            place = fastest([self._with(launch, bias) for launch in offers], rows, how)
            _CHOSEN[decides] = offers[place]
        self._launch = _CHOSEN[decides]

    def _with(self, launch: Launch, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda rows: self._multiply(rows, bias, launch)

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (m, outputs) of rows (m, inputs), the bias (outputs,) added."""
        return self._multiply(rows, bias, self._launch or plain(len(rows), self._size))

    def _multiply(self, rows: Tensor, bias: Tensor | None, launch: Launch) -> Tensor:
        outputs, inputs = self._shape
        rows = rows.contiguous()
        m = rows.shape[0]
        found = rows.new_empty((m, outputs))
        grid = (triton.cdiv(m, launch.tile), outputs // self._size * launch.cut)
        exact = rows.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        _products[grid](
            rows, self._data, self._columns, self._starts,
            self._data if bias is None else bias, found, m, inputs, outputs,
            SIZE=self._size, TILE=launch.tile, GROUP=launch.group, CUT=launch.cut,
            BIASED=bias is not None, EXACT=exact, PLAIN=_INTERPRETED,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        return found


def plain(rows: int, size: int) -> Launch:
    """Return the launch that is taken where none was timed."""
    return Launch(_fitting(rows)[-1], max(1, 64 // size))


def launches(rows: int, size: int, outputs: int) -> list[Launch]:
    """Return the launches worth trying for rows (m, inputs) and a weight (outputs, inputs)."""
    found = []
    for tile in (t for t in reversed(_fitting(rows)[-2:]) if t >= min(rows, 64)):
        programs = triton.cdiv(rows, tile) * outputs // size
        # 16 outputs make a product; a GPU has a hundred multiprocessors and more to keep busy.
        cuts = [c for c in (1, 2, 4) if size // c >= 16 and (c == 1 or programs * c <= 256)]
        # Hopper's matrix unit takes four warps together; only large tiles have work for eight.
        for warps in (4, 8) if tile * size >= 4096 else (4,):
            for taps, depths in ((64, (2, 4)), (128, (3,)), (256, (2,))):
                group = max(1, taps // size)
                found += [Launch(tile, group, c, warps, d) for c in cuts for d in depths]
    return list(dict.fromkeys(found))


def _fitting(rows: int) -> list[int]:
    return [t for t in _TILES if t <= max(16, triton.next_power_of_2(rows))]


def pack(weight: Tensor, size: int) -> BlockKernel:
    """Return the kernel of a weight with empty blocks of that size."""
    return BlockKernel(weight, size)
