"""Products with 2:4 weights on sparse tensor cores, by cuSPARSELt and by CUTLASS.

cuSPARSELt has dozens of algorithms and may write its result turned; what is fastest depends on the
shape and is looked for on the GPU. Only algorithms are run that its own search proposes: one that
does not suit a shape can end in an illegal instruction, and then nothing runs on the GPU any more
in this process (seen on an H100 with 512x1024 in fp16 and one row, sums split in parts). Its
operators are torch's own (``torch._cslt_*``), as in torch 2.7 to 2.13. Not a plug-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hwbench.backends._torch_time import How, fastest, quiet

Choice = tuple[bool, int]
"""Whether the result is written turned, and the algorithm."""

_PLAIN: Choice = (True, 0)
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
            choices = [
                (t, n) for t in (True, False) for n in sorted({0, self._search(rows, bias, t)})
            ]
            place = fastest([self._with(c, bias) for c in choices], rows, how)
            _CHOSEN[decides] = choices[place]
        self._choice = _CHOSEN[decides]

    def _search(self, rows: Tensor, bias: Tensor | None, turned: bool) -> int:
        """Return the algorithm that cuSPARSELt's own search finds, 0 where it finds none."""
        try:
            return int(
                torch._cslt_sparse_mm_search(
                    self._packed,
                    self._padded(rows).t(),
                    bias=bias,
                    transpose_result=turned,
                    **self._given,
                )
            )
        except RuntimeError:
            return 0

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
