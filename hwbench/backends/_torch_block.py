"""A block-sparse product in Triton: rows times a weight of which only some blocks are kept.

The weight (outputs, inputs) is cut into square blocks; those that hold something are stored one
after the other, row of blocks by row of blocks (BSR). A program makes a tile of outputs for one row
of blocks and walks over the blocks of that row. Triton's interpreter (``TRITON_INTERPRET=1``)
runs it on a CPU for the tests. Not a plug-in.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = (16, 32, 64, 128)
_INTERPRETED = bool(triton.knobs.runtime.interpret)
"""The interpreter has no products in bfloat16: there everything is multiplied as float32."""


@triton.jit
def _products(
    x, data, columns, starts, y, m, k, n,
    SIZE: tl.constexpr, TILE: tl.constexpr, EXACT: tl.constexpr, PLAIN: tl.constexpr,  # noqa: N803  (Triton's way)
):  # fmt: skip
    band = tl.program_id(1)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = rows < m
    place = tl.arange(0, SIZE)
    found = tl.zeros((TILE, SIZE), dtype=tl.float32)
    for block in range(tl.load(starts + band), tl.load(starts + band + 1)):
        column = tl.load(columns + block) * SIZE
        left = tl.load(
            x + rows[:, None] * k + column + place[None, :], mask=inside[:, None], other=0.0
        )
        # Stored as (output, input); read as (input, output).
        right = tl.load(data + block * SIZE * SIZE + place[None, :] * SIZE + place[:, None])
        if PLAIN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        if EXACT:
            found += tl.dot(left, right, input_precision="ieee")
        else:
            found += tl.dot(left, right)
    where = y + rows[:, None] * n + band * SIZE + place[None, :]
    tl.store(where, found.to(y.dtype.element_ty), mask=inside[:, None])


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

    def __call__(self, rows: Tensor) -> Tensor:
        """Return (m, outputs) of rows (m, inputs)."""
        outputs, inputs = self._shape
        rows = rows.contiguous()
        m = len(rows)
        found = rows.new_empty((m, outputs))
        tile = next((t for t in _ROWS if m <= t), _ROWS[-1])
        grid = (triton.cdiv(m, tile), outputs // self._size)
        exact = rows.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        _products[grid](
            rows, self._data, self._columns, self._starts, found, m, inputs, outputs,
            SIZE=self._size, TILE=tile, EXACT=exact, PLAIN=_INTERPRETED,
        )  # fmt: skip
        return found


def pack(weight: Tensor, size: int) -> BlockKernel:
    """Return the kernel of a weight with empty blocks of that size."""
    return BlockKernel(weight, size)
