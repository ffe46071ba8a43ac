"""Products with 2:4 weights on sparse tensor cores, by cuSPARSELt and by CUTLASS.

cuSPARSELt has dozens of algorithms and may write its result turned; what is fastest depends on the
shape and is looked for on the GPU. Its own operators are torch's (``torch._cslt_*``), as in torch
2.7 to 2.13. Not a plug-in.

On an H100 (cuSPARSELt 0.8) looking for an algorithm, by us and by cuSPARSELt itself, ended in an
illegal instruction for 512 outputs in fp16, after which nothing runs on the GPU any more in that
process; with 1024 outputs and more, some fifty shapes and rows in bf16 and int8, it never did. So
smaller layers, for which 2:4 never paid, are run by the default algorithm alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hwbench.backends._torch_time import How, fastest, quiet

Choice = tuple[bool, int]
"""Whether the result is written turned, and the algorithm."""

_PLAIN: Choice = (True, 0)
_ALGORITHMS = 40
"""cuSPARSELt 0.6.2 numbers 37; what is not there is refused and left out."""
_SEARCHED = 1024
"""Layers of fewer outputs are not searched for."""
_CHOSEN: dict[tuple[object, ...], Choice] = {}


class Cusparselt:
    """A packed 2:4 weight; int8 weights give int32 products."""

    def __init__(self, weight: Tensor) -> None:
        """Pack a weight (outputs, inputs) of fp16, bf16 or int8."""
        self._shape = tuple(weight.shape)
        self._packed = torch._cslt_compress(weight.contiguous())
        self._short = weight.dtype == torch.int8
        self._multiple = 16 if self._short else 8
        self._given: dict[str, Any] = {"out_dtype": torch.int32} if self._short else {}
        self._choice = _PLAIN

    @property
    def nbytes(self) -> int:
        """The bytes of what is kept, its places included."""
        return int(self._packed.nbytes)

    @property
    def chosen(self) -> str:
        """The algorithm, and how its result is written."""
        turned, number = self._choice
        return f"cuSPARSELt {number}{', turned' if turned else ''}"

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose the algorithm that is fastest for these rows (m, inputs)."""
        decides = (*self._shape, rows.dtype, len(rows), bias is None, how)
        if decides not in _CHOSEN:
            numbers = range(_ALGORITHMS if self._shape[0] >= _SEARCHED else 1)
            choices = list(itertools.product((True, False), numbers))
            place = fastest([self._with(choice, bias) for choice in choices], rows, how)
            _CHOSEN[decides] = choices[place]
        self._choice = _CHOSEN[decides]

    def _padded(self, rows: Tensor) -> Tensor:
        missing = -rows.shape[0] % self._multiple
        return F.pad(rows, (0, 0, 0, missing)) if missing else rows

    def _with(self, choice: Choice, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda rows: self._multiply(rows, bias, choice)

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (m, outputs) of rows (m, inputs), the bias (outputs,) added."""
        return self._multiply(rows, bias, self._choice)

    def _multiply(self, rows: Tensor, bias: Tensor | None, choice: Choice) -> Tensor:
        turned, number = choice
        m = rows.shape[0]
        products = torch._cslt_sparse_mm(
            self._packed, self._padded(rows).t(), bias=bias, transpose_result=turned,
            alg_id=number, **self._given,
        )  # fmt: skip
        products = products if turned else products.t()
        return products[:m] if m % self._multiple else products


class Cutlass:
    """A packed 2:4 weight for torch's own CUTLASS kernels, fp16 and bf16."""

    def __init__(self, weight: Tensor) -> None:
        """Pack a weight (outputs, inputs)."""
        from torch.sparse import SparseSemiStructuredTensorCUTLASS

        with quiet():
            self._weight: Any = SparseSemiStructuredTensorCUTLASS.from_dense(weight.contiguous())
        self._bytes = weight.nbytes * 9 // 16

    @property
    def nbytes(self) -> int:
        """The bytes of what is kept: half of the weights, and two bits for each of them."""
        return self._bytes

    @property
    def chosen(self) -> str:
        """Nothing: there is one kernel."""
        return ""

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose nothing: there is one kernel."""

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (m, outputs) of rows (m, inputs), the bias (outputs,) added."""
        return F.linear(rows, self._weight, bias)
