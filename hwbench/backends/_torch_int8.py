"""Linear layers in 8 bits: weights with a scale a row, activations quantised as they come.

Dense products are cuBLAS's, products with 2:4 weights cuSPARSELt's, both with 32-bit sums. On a GPU
a row is quantised by one small kernel, and scales and bias are applied by another. Not a plug-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hwbench.backends._torch_time import How

_LEAST_ROWS = 32
"""cuBLAS's int8 product wants more than 16 rows."""
_LIMIT = 127.0
_TINY = 1e-12


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (outputs, inputs) in int8 and the scale of each output, float32."""
    scale = weight.abs().amax(1).float().clamp_min(_TINY) / _LIMIT
    short = torch.round(weight.float() / scale[:, None]).clamp(-_LIMIT, _LIMIT)
    return short.to(torch.int8), scale


class Int8:
    """A layer's weight in int8, and how its rows are multiplied."""

    def __init__(self, weight: Tensor, two_four: bool = False) -> None:
        """Quantise a weight (outputs, inputs); raises `RuntimeError` for sizes that do not fit."""
        short, self._scale = quantised(weight)
        self._sparse: Any = None
        if weight.is_cuda and (weight.shape[0] % 8 or weight.shape[1] % 8):
            raise RuntimeError("sizes of a multiple of 8 are needed for int8")
        if two_four:
            from hwbench.backends._torch_two_four import Cusparselt

            self._sparse = Cusparselt(short)
            self.nbytes = int(self._sparse.nbytes)
        else:
            self._weight = short.t()
            self.nbytes = short.nbytes
        self._rows: Callable[[Tensor, int], tuple[Tensor, Tensor]] = _rows
        self._finish: Callable[..., Tensor] = _finish
        if weight.is_cuda:
            from hwbench.backends import _torch_int8_kernels as kernels

            self._rows, self._finish = kernels.rows, kernels.finish

    @property
    def chosen(self) -> str:
        """How the 2:4 product is made; empty for a dense one."""
        return "" if self._sparse is None else str(self._sparse.chosen)

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose the 2:4 product that is fastest for these rows."""
        if self._sparse is not None:
            short, _ = self._rows(rows, self._least(rows))
            self._sparse.tune(short, None, how)

    def _least(self, rows: Tensor) -> int:
        return _LEAST_ROWS if rows.is_cuda and self._sparse is None else 1

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (m, outputs) of rows (m, inputs) in their format, the bias (outputs,) added."""
        short, scale = self._rows(rows, self._least(rows))
        if self._sparse is not None:
            products = self._sparse(short)
        else:
            products = torch._int_mm(short, self._weight)
        return self._finish(products, scale, self._scale, bias, rows)


def _rows(rows: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return rows in int8, padded to `least` of them, and the scale of each row."""
    scale = rows.abs().amax(1).float().clamp_min(_TINY) / _LIMIT
    short = torch.round(rows.float() / scale[:, None]).to(torch.int8)
    return F.pad(short, (0, 0, 0, max(0, least - len(short)))), scale


def _finish(
    products: Tensor, scale: Tensor, weights: Tensor, bias: Tensor | None, like: Tensor
) -> Tensor:
    """Return 32-bit products as numbers in the format of `like`, whose rows they belong to."""
    found = products[: len(like)].float() * scale[:, None] * weights
    return (found if bias is None else found + bias.float()).to(like.dtype)
