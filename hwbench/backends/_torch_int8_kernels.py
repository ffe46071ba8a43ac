"""The two small Triton kernels around an int8 product: quantise rows before it, scale after it.

Written with torch's operators each would be half a dozen passes over memory, more than the product
takes. Triton's interpreter (``TRITON_INTERPRET=1``) runs them on a CPU for the tests. Not a
plug-in.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDE = 1024
"""Outputs of a row that one program scales."""


@triton.jit
def _quantise(x, short, scales, k, m, WIDE: tl.constexpr):  # noqa: N803  (Triton's way)
    row = tl.program_id(0)
    place = tl.arange(0, WIDE)
    inside = place < tl.where(row < m, k, 0)  # rows that only fill up are zeros
    values = tl.load(x + row * k + place, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), axis=0), 1e-12) / 127.0
    # Half up instead of half to even: exact halves are as near to both.
    rounded = tl.floor(values / scale + 0.5)
    rounded = tl.minimum(tl.maximum(rounded, -127.0), 127.0)
    tl.store(short + row * k + place, rounded.to(tl.int8), mask=place < k)
    tl.store(scales + row, scale)


@triton.jit
def _scale(
    products, scales, weights, bias, y, n, across, down,
    BIASED: tl.constexpr, WIDE: tl.constexpr,  # noqa: N803  (Triton's way)
):  # fmt: skip
    row = tl.program_id(0)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = column < n
    found = tl.load(products + row * down + column * across, mask=inside, other=0).to(tl.float32)
    found = found * tl.load(scales + row) * tl.load(weights + column, mask=inside, other=0.0)
    if BIASED:
        found += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * n + column, found.to(y.dtype.element_ty), mask=inside)


def rows(x: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return rows (m, k) in int8, padded with zeros to `least` of them, and their scales (m,)."""
    x = x.contiguous()
    m, k = x.shape
    count = max(m, least)
    short = torch.empty((count, k), dtype=torch.int8, device=x.device)
    scales = torch.empty(count, dtype=torch.float32, device=x.device)
    _quantise[(count,)](x, short, scales, k, m, WIDE=triton.next_power_of_2(k), num_warps=8)
    return short, scales


def finish(
    products: Tensor, scale: Tensor, weights: Tensor, bias: Tensor | None, like: Tensor
) -> Tensor:
    """Return 32-bit products (m or more, n) as numbers in the format of `like` (m, ...)."""
    m, n = like.shape[0], weights.shape[0]
    found = torch.empty((m, n), dtype=like.dtype, device=like.device)
    down, across = products.stride()
    _scale[(m, triton.cdiv(n, _WIDE))](
        products, scale, weights, weights if bias is None else bias, found, n, across, down,
        BIASED=bias is not None, WIDE=_WIDE, num_warps=4,
    )  # fmt: skip
    return found
