"""Products with 2:4 weights on sparse tensor cores, by cuSPARSELt and by CUTLASS.

cuSPARSELt has dozens of algorithms, may write its result turned, and may split the sum; which one
is fastest depends on the shape, so they are tried on the GPU. Its operators are torch's own
(``torch._cslt_*``), with the names and schemas of torch 2.7 to 2.13. Not a plug-in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hwbench.backends._torch_time import How, fastest, quiet

Choice = tuple[bool, int, int, int]
"""Whether the result is written turned, the algorithm, into how many parts cuSPARSELt splits the
sum, and how it puts them together (0: in one kernel, 1: in two)."""

_PLAIN: Choice = (True, 0, 1, -1)
_ALGORITHMS = 40
"""cuSPARSELt 0.6.2 numbers 37; what is not there is refused and left out."""
_CHOSEN: dict[tuple[object, ...], Choice] = {}


class Cusparselt:
    """A packed 2:4 weight; int8 weights give int32 products."""

    def __init__(self, weight: Tensor) -> None:
        """Pack a weight (outputs, inputs) of fp16, bf16 or int8."""
        self._shape = tuple(weight.shape)
        self._packed = torch._cslt_compress(weight.contiguous())
        self._short = weight.dtype == torch.int8
        self._multiple = 16 if self._short else 8
        self._choice = _PLAIN

    @property
    def nbytes(self) -> int:
        """The bytes of what is kept, its places included."""
        return int(self._packed.nbytes)

    @property
    def chosen(self) -> str:
        """The algorithm, and how its result is written."""
        turned, number, parts, _ = self._choice
        split = f", sum in {parts} parts" if parts > 1 else ""
        return f"cuSPARSELt {number}{', turned' if turned else ''}{split}"

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose the algorithm that is fastest for these rows (m, inputs)."""
        decides = (*self._shape, rows.dtype, len(rows), bias is None, how)
        if decides not in _CHOSEN:
            every = itertools.product((True, False), range(_ALGORITHMS))
            best = self._fastest([(turned, n, 1, -1) for turned, n in every], rows, bias, how)
            split = itertools.product((2, 4, 8), (0, 1))
            more = [(best[0], best[1], parts, mode) for parts, mode in split]
            _CHOSEN[decides] = self._fastest([best, *more], rows, bias, how)
        self._choice = _CHOSEN[decides]

    def _fastest(
        self, choices: list[Choice], rows: Tensor, bias: Tensor | None, how: How
    ) -> Choice:
        return choices[fastest([self._with(c, bias) for c in choices], rows, how)]

    def _with(self, choice: Choice, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda rows: self._multiply(rows, bias, choice)

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (m, outputs) of rows (m, inputs), the bias (outputs,) added."""
        return self._multiply(rows, bias, self._choice)

    def _multiply(self, rows: Tensor, bias: Tensor | None, choice: Choice) -> Tensor:
        turned, number, parts, mode = choice
        m = rows.shape[0]
        missing = -m % self._multiple
        if missing:
            rows = F.pad(rows, (0, 0, 0, missing))
        given: dict[str, Any] = {"out_dtype": torch.int32} if self._short else {}
        if parts > 1:
            given |= {"split_k": parts, "split_k_mode": mode}
        found = torch._cslt_sparse_mm(
            self._packed, rows.t(), bias=bias, transpose_result=turned, alg_id=number, **given
        )
        found = found if turned else found.t()
        return found[:m] if missing else found


class Halves:
    """A 2:4 weight cut in two along its inputs, both products under way at the same time.

    With few rows one product has too few tiles to keep a large GPU busy.
    """

    def __init__(self, weight: Tensor) -> None:
        """Pack a weight (outputs, inputs) of fp16 or bf16; its inputs are a multiple of 128."""
        if weight.shape[1] % 128:
            raise ValueError(f"{weight.shape[1]} inputs cannot be cut in two")
        self._half = weight.shape[1] // 2
        self._parts = [Cusparselt(part) for part in torch.split(weight, self._half, 1)]
        self._beside = torch.cuda.Stream(weight.device)  # type: ignore[no-untyped-call]

    @property
    def nbytes(self) -> int:
        """The bytes of what is kept, its places included."""
        return sum(part.nbytes for part in self._parts)

    @property
    def chosen(self) -> str:
        """What each half chose."""
        return f"two halves at once, {self._parts[0].chosen}"

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose the algorithm that is fastest for half of the inputs."""
        for part, half in zip(self._parts, self._cut(rows), strict=True):
            part.tune(half, None, how)

    def _cut(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(rows), 2, self._half).transpose(0, 1).contiguous()

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (m, outputs) of rows (m, inputs), the bias (outputs,) added."""
        halves = self._cut(rows)
        here = torch.cuda.current_stream()
        self._beside.wait_stream(here)
        with torch.cuda.stream(self._beside):
            second = self._parts[1](halves[1])
        first = self._parts[0](halves[0], bias)
        here.wait_stream(self._beside)
        # In a graph its memory is not given to others before this product is done.
        second.record_stream(here)
        return first + second


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
