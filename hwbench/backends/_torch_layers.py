"""What a layer's zeros can be turned into on a GPU, chosen per layer by measuring. Not a plug-in.

A layer is replaced only where its replacement is faster on this device, at this batch, beside the
dense layer in turn: forced 2:4 at batch 1 has been seen at a tenth of the dense speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwbench.backends._torch_net import Conv2d, Linear
from hwbench.records import LayerNote, OnnxModel

FASTER = 0.97
"""A replacement must take less than this share of the dense layer's time."""
BLOCKS = (64, 32, 16)
LEAST_EMPTY = 0.5
"""Share of blocks that must be empty before a block kernel is tried."""
_ROUNDS, _CALLS = 7, 10


class Options(Protocol):
    """What of the backend's options decides about layers."""

    @property
    def device(self) -> str:
        """Where the network runs: ``cpu`` or ``cuda``."""

    @property
    def precision(self) -> str:
        """Of weights and activations; ``int8`` is a form of its own."""

    @property
    def sparse(self) -> str:
        """``auto``, ``force`` or ``off``."""


class Kernel(Protocol):
    """Multiplies rows (m, inputs) by a packed weight: (m, outputs), without the bias."""

    def __call__(self, rows: Tensor, /) -> Tensor:
        """Return the products."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to run a layer: its name, and what packs its weight (outputs, inputs)."""

    name: str
    pack: Callable[[Tensor], Kernel]


class Replaced(nn.Module):
    """A layer whose products come from a packed weight; a convolution goes by im2col."""

    def __init__(self, layer: Linear | Conv2d, kernel: Kernel) -> None:
        """Keep the kernel, the bias and the geometry."""
        super().__init__()
        self.kernel = kernel
        self.bias = layer.bias
        self.conv = _geometry(layer) if isinstance(layer, Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        """Return what the dense layer returns."""
        if self.conv is None:
            found = self._products(x.reshape(-1, x.shape[-1]))
            return found.reshape(*x.shape[:-1], -1)
        rows, (n, high, wide) = im2col(x, self.conv)
        found = self._products(rows)
        return found.reshape(n, high, wide, -1).permute(0, 3, 1, 2)

    def _products(self, rows: Tensor) -> Tensor:
        found = self.kernel(rows)
        return found if self.bias is None else found + self.bias


@dataclass(frozen=True, slots=True)
class _Shape:
    size: tuple[int, int]
    stride: tuple[int, ...]
    pads: tuple[int, ...]


def _geometry(layer: Conv2d) -> _Shape:
    high, wide = layer.weight.shape[2:]
    return _Shape((int(high), int(wide)), layer.stride, layer.pads)


def im2col(x: Tensor, shape: _Shape) -> tuple[Tensor, tuple[int, int, int]]:
    """Return rows (n·h·w, kh·kw·c) of what each output sees, and n, h, w."""
    top, left, bottom, right = shape.pads
    if any(shape.pads):
        x = F.pad(x, (left, right, top, bottom))
    if shape.size == (1, 1):
        seen = x[:, :, :: shape.stride[0], :: shape.stride[1]].permute(0, 2, 3, 1)
    else:
        seen = x.unfold(2, shape.size[0], shape.stride[0]).unfold(3, shape.size[1], shape.stride[1])
        seen = seen.permute(0, 2, 3, 4, 5, 1)
    n, high, wide = (int(size) for size in seen.shape[:3])
    return seen.reshape(n * high * wide, -1), (n, high, wide)


def matrix(layer: Linear | Conv2d) -> Tensor:
    """Return the weight as (outputs, inputs); of a convolution as (o, kh·kw·c), as `im2col`."""
    if isinstance(layer, Linear):
        return layer.weight.detach()
    return layer.weight.detach().permute(0, 2, 3, 1).reshape(len(layer.weight), -1).contiguous()


def is_2_4(weight: Tensor) -> bool:
    """Return whether every four weights in a row hold two zeros or more, and some of them."""
    if weight.shape[1] % 4:
        return False
    kept = (weight.reshape(-1, 4) != 0).sum(1)
    return bool((kept <= 2).all()) and bool((kept > 0).any())


def block_size(weight: Tensor) -> int:
    """Return the largest block of which at least half are empty; 0: there is none."""
    for size in BLOCKS:
        if weight.shape[0] % size or weight.shape[1] % size:
            continue
        if empty_blocks(weight, size) >= LEAST_EMPTY:
            return size
    return 0


def empty_blocks(weight: Tensor, size: int) -> float:
    """Return the share of (size, size) blocks that hold nothing."""
    blocks = weight.reshape(weight.shape[0] // size, size, weight.shape[1] // size, size)
    return float((blocks == 0).all(3).all(1).float().mean())


def offers(weight: Tensor, options: Options) -> list[Offer]:
    """Return the ways besides the dense one in which a weight can be run, on this device."""
    found = []
    if options.precision == "int8":
        found.append(Offer("int8", pack_int8))
    if options.sparse == "off" or options.device != "cuda":
        return found
    if is_2_4(weight):
        found.append(Offer("2:4", pack_2_4))
    size = block_size(weight)
    if size:
        from hwbench.backends._torch_block import pack

        found.append(Offer(f"blocks {size}x{size}", lambda w: pack(w, size)))
    return found


class _Packed24:
    def __init__(self, weight: Tensor) -> None:
        self._weight: Any = torch.sparse.to_sparse_semi_structured(weight)

    def __call__(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self._weight)


def pack_2_4(weight: Tensor) -> Kernel:
    """Pack a 2:4 weight for the GPU's sparse tensor cores (cuSPARSELt or CUTLASS)."""
    return _Packed24(weight)


class _PackedInt8:
    """Weights with a scale a row; activations with a scale a row, taken from them as they come."""

    def __init__(self, weight: Tensor) -> None:
        scale = weight.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / 127.0
        self._scale = scale.t()
        self._weight = torch.round(weight.float() / scale).to(torch.int8).t()
        if weight.is_cuda and (weight.shape[0] % 8 or weight.shape[1] % 8):
            raise RuntimeError("sizes of a multiple of 8 are needed for int8")

    def __call__(self, rows: Tensor) -> Tensor:
        scale = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / 127.0
        short = torch.round(rows.float() / scale).to(torch.int8)
        missing = max(0, _LEAST_ROWS - len(short)) if rows.is_cuda else 0
        if missing:
            short = F.pad(short, (0, 0, 0, missing))
        products = torch._int_mm(short, self._weight)[: len(rows)]
        return (products.float() * scale * self._scale).to(rows.dtype)


_LEAST_ROWS = 32
"""cuBLAS's int8 product wants more than 16 rows."""


def pack_int8(weight: Tensor) -> Kernel:
    """Round a weight to 8 bits."""
    return _PackedInt8(weight)


# --------------------------------------------------------------------------------------------
# choosing


def cast(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the network with floats in `dtype`; scales of quantised models stay as they are."""
    return net.to(dtype)


def choose(net: nn.Module, examples: Sequence[Tensor], options: Options) -> tuple[str, ...]:
    """Replace in place the layers whose replacement wins; return a sentence on each that could.

    int8 is asked for by the recipe and taken wherever it can run; sparsity only where it is
    faster, unless it is forced.
    """
    layers = {n: m for n, m in net.named_modules() if isinstance(m, Linear | Conv2d)}
    possible = {n: found for n, m in layers.items() if (found := _offers(m, options))}
    if not possible:
        return ()
    seen = _inputs(net, {n: layers[n] for n in possible}, examples)
    said = []
    for name, found in possible.items():
        layer, example = layers[name], seen[name]
        best, words = _best(layer, example, found, options)
        said.append(f"{name} {tuple(layer.weight.shape)}: {words}")
        if best is not None:
            net.set_submodule(name, best)
    return tuple(said)


def _offers(layer: Linear | Conv2d, options: Options) -> list[Offer]:
    if isinstance(layer, Conv2d) and (
        layer.groups != 1 or tuple(layer.dilation) != (1, 1) or options.precision == "int8"
    ):
        return []
    return offers(matrix(layer), options)


def _inputs(
    net: nn.Module, layers: Mapping[str, nn.Module], examples: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return what each layer is given when the network runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen[name] = given[0]

        return hook

    handles = [m.register_forward_pre_hook(keep(n)) for n, m in layers.items()]
    with torch.inference_mode():
        net(*examples)
    for handle in handles:
        handle.remove()
    return seen


def _best(
    layer: Linear | Conv2d, example: Tensor, found: Sequence[Offer], options: Options
) -> tuple[nn.Module | None, str]:
    best, best_ratio, said = None, FASTER, []
    for offer in found:
        try:
            with torch.inference_mode():
                made = Replaced(layer, offer.pack(matrix(layer)))
                made(example)
                forced = options.sparse == "force" or offer.name == "int8"
                ratio = ratio_of(made, layer, example)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            first = (str(error).splitlines() or [""])[0]
            said.append(f"{offer.name} not possible ({first[:120]})")
            continue
        said.append(f"{offer.name} takes {ratio:.2f} of dense")
        if forced or ratio < best_ratio:
            best, best_ratio = made, min(ratio, best_ratio)
            said[-1] += ", taken"
    return best, "; ".join(said)


def ratio_of(one: nn.Module, other: nn.Module, example: Tensor) -> float:
    """Return the time of `one` over that of `other`: the median of rounds in turn."""
    for module in (one, other, one, other):
        _seconds(module, example)
    return statistics.median(
        _seconds(one, example) / _seconds(other, example) for _ in range(_ROUNDS)
    )


def _seconds(module: nn.Module, example: Tensor) -> float:
    if not example.is_cuda:
        begun = time.perf_counter()
        for _ in range(_CALLS):
            module(example)
        return time.perf_counter() - begun
    start, end = (_event() for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(_CALLS):
        module(example)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def prospects(model: OnnxModel) -> tuple[LayerNote, ...]:
    """Return, from the host's counts alone, which layers have zeros that a GPU could skip."""
    notes = []
    for layer in model.layers:
        if layer.groups != 1:
            notes.append(LayerNote(layer.name, False, "grouped: no sparse kernel"))
        elif layer.sparsity < 0.49:
            why = f"{layer.sparsity:.0%} zeros: too few for 2:4 or blocks"
            notes.append(LayerNote(layer.name, False, why))
        else:
            why = "2:4 or blocks are tried on the device, and taken where they win"
            notes.append(LayerNote(layer.name, True, why))
    return tuple(notes)
