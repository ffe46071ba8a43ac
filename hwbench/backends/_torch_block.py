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
    SIZE: tl.constexpr, TILE: tl.constexpr, BIASED: tl.constexpr,  # noqa: N803  (Triton's way)
    EXACT: tl.constexpr, PLAIN: tl.constexpr,  # noqa: N803
):  # fmt: skip
    band = tl.program_id(1)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = rows < m
    place = tl.arange(0, SIZE)
    found = tl.zeros((TILE, SIZE), dtype=tl.float32)
    lines = x + rows[:, None] * k + place[None, :]
    squares = data + place[:, None] * SIZE + place[None, :]
    for block in range(tl.load(starts + band), tl.load(starts + band + 1)):
        column = tl.load(columns + block) * SIZE
        left = tl.load(lines + column, mask=inside[:, None], other=0.0)
        # Read as it is stored, (output, input), so that the loads are wide; turned on the way.
        right = tl.trans(tl.load(squares + block * SIZE * SIZE))
        if PLAIN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        if EXACT:
            found += tl.dot(left, right, input_precision="ieee")
        else:
            found += tl.dot(left, right)
    if BIASED:
        found += tl.load(bias + band * SIZE + place).to(tl.float32)[None, :]
    where = y + rows[:, None] * n + band * SIZE + place[None, :]
    tl.store(where, found.to(y.dtype.element_ty), mask=inside[:, None])


@dataclass(frozen=True, slots=True)
class Launch:
    """How the kernel is launched: rows of a tile, warps of a program, depth of its pipeline."""

    tile: int
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
        return f"{launch.tile} rows, {launch.warps} warps, {launch.stages} deep" if launch else ""

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose the launch that is fastest for these rows (m, inputs)."""
        decides = (*self._shape, self._size, len(self._data), rows.dtype, len(rows), how)
        if decides not in _CHOSEN:
            offers = launches(len(rows), self._size)
            place = fastest([self._with(launch, bias) for launch in offers], rows, how)
            _CHOSEN[decides] = offers[place]
        self._launch = _CHOSEN[decides]

    def _with(self, launch: Launch, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda rows: self._multiply(rows, bias, launch)

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (m, outputs) of rows (m, inputs), the bias (outputs,) added."""
        return self._multiply(rows, bias, self._launch or launches(len(rows), self._size)[0])

    def _multiply(self, rows: Tensor, bias: Tensor | None, launch: Launch) -> Tensor:
        outputs, inputs = self._shape
        rows = rows.contiguous()
        m = rows.shape[0]
        found = rows.new_empty((m, outputs))
        grid = (triton.cdiv(m, launch.tile), outputs // self._size)
        exact = rows.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        _products[grid](
            rows, self._data, self._columns, self._starts,
            self._data if bias is None else bias, found, m, inputs, outputs,
            SIZE=self._size, TILE=launch.tile, BIASED=bias is not None, EXACT=exact,
            PLAIN=_INTERPRETED, num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        return found


def launches(rows: int, size: int) -> list[Launch]:
    """Return the launches worth trying; the first is what is taken untried."""
    fitting = [t for t in _TILES if t <= max(16, triton.next_power_of_2(rows))]
    found = [Launch(fitting[-1])]
    for tile in reversed(fitting[-3:]):
        # Hopper's matrix unit takes four warps together; small tiles have no work for so many.
        for warps in (4, 8) if tile * size >= 4096 else (2, 4):
            found += [Launch(tile, warps, stages) for stages in (2, 4)]
    return list(dict.fromkeys(found))


def pack(weight: Tensor, size: int) -> BlockKernel:
    """Return the kernel of a weight with empty blocks of that size."""
    return BlockKernel(weight, size)
