"""How close each layer of a network comes to what the device can do. Not a plug-in.

A layer is timed in place: while the network runs once, each layer's real input is at hand, and the
layer is called with it again and again. Nothing of what is measured otherwise is under way then.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwbench.backends._torch_layers import Options, Replaced
from hwbench.backends._torch_net import Conv2d, Linear
from hwbench.backends._torch_time import SCRATCH_BYTES, event
from hwbench.records import LayerTime, Roofline

_WARM, _CALLS = 2, 7
_CYCLES = 1_000_000
"""Half a millisecond of a GPU: its queue is full before it gets to what is timed."""
_COPY_BYTES = {"cuda": 1 << 29, "cpu": 1 << 26}
_SIDES = {"cuda": (2048, 8192), "cpu": (512, 1024)}
"""Sides of the matrices whose product makes a ceiling: the larger one where it takes no time."""
_SHORT = 1e-3
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def measured(
    net: Callable[..., Any],
    inputs: Sequence[Tensor],
    options: Options,
    notes: Sequence[str],
    whole: Callable[[], float],
) -> Roofline:
    """Return the ceilings, and every layer that multiplies as it runs in this network.

    ``notes`` are the sentences of `_torch_layers.choose`; ``whole`` returns the seconds of one
    inference. A layer that a network calls twice is there twice.
    """
    # What torch.compile fuses cannot be told apart: its layers are timed as they are without it.
    plain = getattr(net, "_orig_mod", net)
    assert isinstance(plain, nn.Module)
    layers: dict[str, nn.Module] = {
        n: m for n, m in plain.named_modules() if isinstance(m, Linear | Conv2d | Replaced)
    }
    device = torch.device(options.device)
    clock = Clock(device, cold=_cold(layers.values(), options))
    said = dict(_words(notes, layers))
    found: list[LayerTime] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
            seconds = clock.seconds(lambda: module.forward(given[0]))
            found.append(_layer(name, module, given[0], answer, seconds, said, options))

        return hook

    with torch.inference_mode():
        seconds = statistics.median(whole() for _ in range(_CALLS))
        handles = [m.register_forward_hook(watch(n)) for n, m in layers.items()]
        try:
            plain(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        formats = sorted({layer.format for layer in found})
        rates = {kind: rate(kind, clock) for kind in formats}
        band = bandwidth(clock)
    reason = "" if found else "the network has no layer that multiplies by weights"
    return Roofline(band, rates, seconds, clock.words, tuple(found), reason)


class Clock:
    """Times calls on a device: by CUDA events while the queue is full, or by the stopwatch."""

    def __init__(self, device: torch.device, *, cold: bool) -> None:
        """Keep how; ``cold`` empties the GPU's cache before every call."""
        self.device = device
        self._cold = cold and device.type == "cuda"
        self._scratch: Tensor | None = None

    @property
    def words(self) -> str:
        """What it is, for people."""
        if self.device.type != "cuda":
            return "the stopwatch, caches warm"
        return f"CUDA events, L2 {'cold' if self._cold else 'warm'}"

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of one call: the median of some, after some."""
        for _ in range(_WARM):
            work()
        return statistics.median(self._once(work) for _ in range(_CALLS))

    def _once(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            begun = time.perf_counter()
            work()
            return time.perf_counter() - begun
        start, end = event(), event()
        # The GPU is kept busy until everything is in its queue: launching is not in the figure.
        torch.cuda._sleep(_CYCLES)  # type: ignore[no-untyped-call]
        if self._cold:
            self._empty().zero_()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def _empty(self) -> Tensor:
        if self._scratch is None:
            self._scratch = torch.empty(SCRATCH_BYTES, dtype=torch.int8, device=self.device)
        return self._scratch


def bandwidth(clock: Clock) -> float:
    """Return bytes/s of a copy in the device's memory: what is read and what is written."""
    size = _COPY_BYTES[clock.device.type]
    if clock.device.type == "cuda":
        size = min(size, int(torch.cuda.mem_get_info(clock.device)[0]) // 4)
    source = torch.zeros(size, dtype=torch.int8, device=clock.device)
    target = torch.empty_like(source)
    return 2 * size / clock.seconds(lambda: target.copy_(source))


def rate(kind: str, clock: Clock) -> float:
    """Return operations/s of a large matrix product in a number format."""
    best = 0.0
    for side in _SIDES[clock.device.type]:
        work = _product(kind, side, clock.device)
        seconds = clock.seconds(work)
        best = max(best, 2 * side**3 / seconds)
        if seconds > _SHORT:
            break
    return best


def _product(kind: str, side: int, device: torch.device) -> Callable[[], object]:
    dtype = _DTYPES.get(kind, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    if kind != "int8":
        return lambda: a @ b
    short, other = ((x * 20).to(torch.int8) for x in (a, b))
    # cuBLAS wants the second one by columns, as the layers' weights are.
    by_columns = other.t().contiguous().t()
    return lambda: torch._int_mm(short, by_columns)


# --------------------------------------------------------------------------------------------
# layers


def _layer(
    name: str,
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    seconds: float,
    said: dict[str, tuple[str, str]],
    options: Options,
) -> LayerTime:
    kernel, why = said.get(name, ("dense", ""))
    operations = 2.0 * y.numel() * _taps(module, x)
    return LayerTime(
        name=name,
        kernel=kernel,
        format=_format(kernel, options),
        seconds=seconds,
        operations=operations,
        multiplied=operations * _kept(module, kernel, x, y),
        nbytes=float(_stored(module) + x.nbytes + y.nbytes),
        why=why or "nothing else was tried: no zeros that it could skip",
    )


def _taps(module: nn.Module, x: Tensor) -> int:
    """Return how many products make one number of the answer."""
    if isinstance(module, Linear | Conv2d):
        return module.weight[0].numel()
    assert isinstance(module, Replaced)
    if module.conv is None:
        return x.shape[-1]
    high, wide = module.conv.size
    return high * wide * x.shape[1]


def _kept(module: nn.Module, kernel: str, x: Tensor, y: Tensor) -> float:
    """Return the share of products that a kernel does not skip."""
    if not isinstance(module, Replaced):
        return 1.0
    if "2:4" in kernel:
        return 0.5
    if kernel.startswith("blocks"):
        outputs = y.shape[-1] if module.conv is None else y.shape[1]
        return module.kernel.nbytes / (outputs * _taps(module, x) * x.element_size())
    return 1.0


def _stored(module: nn.Module) -> int:
    """Return the bytes of a layer's weights and bias as they are stored."""
    assert isinstance(module, Linear | Conv2d | Replaced)
    weight = module.kernel.nbytes if isinstance(module, Replaced) else module.weight.nbytes
    return weight + (module.bias.nbytes if module.bias is not None else 0)


def _format(kernel: str, options: Options) -> str:
    """Return the number format of a layer's products; int8 leaves some layers in another."""
    if options.precision != "int8":
        return options.precision
    return "int8" if kernel.startswith("int8") else "bf16" if options.device == "cuda" else "fp32"


def _cold(layers: Any, options: Options) -> bool:
    """Return whether the weights come from memory at every inference, as `How.evict` has it."""
    if options.device != "cuda":
        return False
    cache = int(torch.cuda.get_device_properties(0).L2_cache_size)
    return options.l2 == "cold" or sum(_stored(layer) for layer in layers) > cache


def _words(
    notes: Sequence[str], layers: dict[str, nn.Module]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each layer's kernel and why it was taken, from the sentences of who chose."""
    for note in notes:
        head, _, why = note.partition(": ")
        name = head.partition(" (")[0]
        taken = [part for part in why.split("; ") if part.endswith(", taken")]
        replaced = isinstance(layers.get(name), Replaced)
        kernel = taken[0].partition(" takes ")[0].partition(" (")[0] if taken else "dense"
        yield name, (kernel if replaced else "dense", why)
