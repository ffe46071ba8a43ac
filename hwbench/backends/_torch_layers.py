"""What a layer's zeros can be turned into on a GPU, chosen per layer by measuring. Not a plug-in.

A layer is replaced only where its replacement is faster on this device, at this batch, beside the
dense layer in turn, timed the way the session will run it: forced 2:4 at batch 1 has been seen at a
tenth of the dense speed. What answers otherwise than the dense layer is refused, however fast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwbench.backends._torch_net import Conv2d, Linear
from hwbench.backends._torch_time import How, foreign, ratio_of
from hwbench.errors import StageError
from hwbench.records import LayerNote, OnnxModel

FASTER = 0.97
"""A replacement must take less than this share of the dense layer's time."""
BLOCKS = (64, 32, 16)
LEAST_EMPTY = 0.5
"""Share of blocks that must be empty before a block kernel is tried."""
ALIKE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 3e-2, "int8": 1e-1}
"""How far a replacement's answers may be from the dense layer's, by precision: the norm of the
difference over the norm of the answers. Rounding stays far below, a wrong product far above."""


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

    @property
    def mode(self) -> str:
        """How it is run: as it is, compiled, in a CUDA graph."""

    @property
    def l2(self) -> str:
        """Whether the GPU's cache is ``cold`` or ``warm`` before a call."""


class Kernel(Protocol):
    """Multiplies rows (m, inputs) by a packed weight."""

    @property
    def nbytes(self) -> int:
        """The bytes of the weight as it is packed."""

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        """Choose what is fastest for rows like these, where there is a choice."""

    @property
    def chosen(self) -> str:
        """What was chosen, in a few words; empty: there was no choice."""

    def __call__(self, rows: Tensor, bias: Tensor | None = None, /) -> Tensor:
        """Return (m, outputs), the bias (outputs,) added."""


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
            found = self.kernel(x.reshape(-1, x.shape[-1]), self.bias)
            return found.reshape(*x.shape[:-1], -1)
        rows, (n, high, wide) = im2col(x, self.conv)
        found = self.kernel(rows, self.bias)
        return found.reshape(n, high, wide, -1).permute(0, 3, 1, 2)

    def tune(self, x: Tensor, how: How) -> None:
        """Choose what is fastest for an input like this one, where the kernel has a choice."""
        rows = x.reshape(-1, x.shape[-1]) if self.conv is None else im2col(x, self.conv)[0]
        self.kernel.tune(rows, self.bias, how)


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
    zeros = options.sparse != "off" and options.device == "cuda"
    pairs = zeros and is_2_4(weight)
    if options.precision == "int8":
        found.append(Offer("int8", pack_int8))
        if pairs:
            found.append(Offer("int8 2:4", pack_int8_2_4))
    elif pairs:
        found += pairs_offers(options)
    size = block_size(weight) if zeros else 0
    if size:
        from hwbench.backends._torch_block import pack

        found.append(Offer(f"blocks {size}x{size}", lambda w: pack(w, size)))
    return found


def pairs_offers(options: Options) -> list[Offer]:
    """Return the ways to multiply by a 2:4 weight on this GPU."""
    found = [Offer("2:4", pack_2_4)]
    if torch.cuda.get_device_capability()[0] == 8:  # torch has CUTLASS's for no other
        found.append(Offer("2:4 CUTLASS", pack_cutlass))
    return found


def pack_2_4(weight: Tensor) -> Kernel:
    """Pack a 2:4 weight for the GPU's sparse tensor cores."""
    from hwbench.backends._torch_two_four import Cusparselt

    return Cusparselt(weight)


def pack_cutlass(weight: Tensor) -> Kernel:
    """Pack a 2:4 weight for torch's own CUTLASS kernels."""
    from hwbench.backends._torch_two_four import Cutlass

    return Cutlass(weight)


def pack_int8(weight: Tensor) -> Kernel:
    """Round a weight to 8 bits."""
    from hwbench.backends._torch_int8 import Int8

    return Int8(weight)


def pack_int8_2_4(weight: Tensor) -> Kernel:
    """Round a 2:4 weight to 8 bits, for the GPU's sparse tensor cores."""
    from hwbench.backends._torch_int8 import Int8

    return Int8(weight, two_four=True)


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
    how = running(net, options)
    seen = _inputs(net, {n: layers[n] for n in possible}, examples)
    said = []
    for name, found in possible.items():
        layer, example = layers[name], seen[name]
        best, words = _best(layer, example, found, options, how)
        said.append(f"{name} {tuple(layer.weight.shape)}: {words}")
        if best is not None:
            net.set_submodule(name, best)
    return tuple(said)


def running(net: nn.Module, options: Options) -> How:
    """Return how the layers of a network will run: in a graph, and whether from the cache."""
    if options.device != "cuda":
        return How()
    cache = int(torch.cuda.get_device_properties(0).L2_cache_size)
    weights = sum(p.nbytes for p in net.parameters())
    cold = options.l2 == "cold" or weights > cache
    return How(graph=options.mode != "eager", evict=3 * cache // 2 if cold else 0)


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
    layer: Linear | Conv2d, example: Tensor, found: Sequence[Offer], options: Options, how: How
) -> tuple[nn.Module | None, str]:
    """Return what replaces a layer, None for nothing, and what each offer came to."""
    said: list[str] = []
    taken: tuple[float, nn.Module | None, int] = (FASTER, None, -1)
    for offer in found:
        try:
            made, ratio = tried(layer, example, offer, options, how)
        except foreign() as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            if example.is_cuda:
                _still_alive(offer.name, first)
            said.append(f"{offer.name} not possible ({first[:120]})")
            continue
        chosen = f" ({made.kernel.chosen})" if made.kernel.chosen else ""
        said.append(f"{offer.name}{chosen} takes {ratio:.2f} of dense")
        asked = options.sparse == "force" or offer.name.startswith("int8")
        if ratio < taken[0] or (asked and taken[1] is None):
            taken = (ratio, made, len(said) - 1)
    if taken[1] is not None:
        said[taken[2]] += ", taken"
    return taken[1], "; ".join(said)


def _still_alive(name: str, what: str) -> None:
    """Raise `StageError` where a kernel has left the GPU unusable for this process."""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise StageError(
            "measure",
            f"{name} broke the GPU's context: {what}",
            mend="sparse: off for this backend",
        ) from error


def tried(
    layer: Linear | Conv2d, example: Tensor, offer: Offer, options: Options, how: How
) -> tuple[Replaced, float]:
    """Return a layer's replacement and its time over the dense layer's; raises what it raises."""
    weight = matrix(layer)
    with torch.inference_mode():
        made = Replaced(layer, offer.pack(weight))
        made.tune(example, how)
        off = difference(made(example), layer(example))
        if not off <= ALIKE[options.precision]:
            raise ValueError(f"its answers are {off:.1%} off the dense layer's")

        def again() -> Replaced:
            other = Replaced(layer, offer.pack(weight.clone()))
            other.tune(example, how)
            return other

        sizes = (made.kernel.nbytes, layer.weight.nbytes)
        ratio = ratio_of(again, lambda: copy.deepcopy(layer), example, how, nbytes=sizes)
    return made, ratio


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over the norm of what is wanted; NaN where one is."""
    norm = wanted.float().norm().clamp_min(1e-30)
    return float((found.float() - wanted.float()).norm() / norm)


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
