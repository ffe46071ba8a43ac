"""PyTorch: eager, compiled, or as a CUDA graph; dense, 2:4 or in blocks, layer by layer.

The artifact is a graph as JSON and weights as safetensors, rebuilt on the device by torch alone:
no pickle, and no tie to the version that wrote it.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwbench.errors import StageError
from hwbench.protocols import Backend, Session
from hwbench.records import (
    Candidate,
    CompiledModel,
    LayerNote,
    OnnxModel,
    Roofline,
    TargetProfile,
)
from hwbench.traits import AGREES, DTYPES, BackendTraits

if TYPE_CHECKING:
    import numpy as np
    import torch


def _tolerance(options: Mapping[str, Any]) -> float:
    short = {"tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}
    return short.get(str(options.get("precision")), AGREES)


TRAITS = BackendTraits(
    requires={"torch": "torch", "numpy": "numpy"},
    host_distributions=("torch", "safetensors", "onnx"),
    device_distributions=("torch", "triton", "safetensors"),
    tolerance=_tolerance,
    resident_bytes=1 << 30,
    naming=("precision", "mode", "l2"),
    input_dtypes=DTYPES,
    devices=("cpu", "cuda"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """How the network is run.

    ``device``: ``cuda`` is the GPU that the target names. ``mode``: ``compile`` is
    ``torch.compile``, ``graph`` a CUDA graph that is replayed, ``compile+graph`` a CUDA graph of
    what ``torch.compile`` made. ``precision``: of weights and
    activations (``tf32``: float32 with short products; ``int8``: linear layers with 8-bit
    weights and activations quantised as they come, the rest in bf16 on a GPU, in fp32 on a CPU).
    ``sparse``: ``auto`` measures 2:4 and block kernels layer by layer and takes them where they
    win, ``force`` takes them wherever they can run, ``off`` never. ``l2``: ``cold`` empties the
    GPU's cache before every timed call.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    mode: Literal["eager", "compile", "graph", "compile+graph"] = "eager"
    precision: Literal["fp32", "tf32", "bf16", "fp16", "int8"] = "fp32"
    sparse: Literal["auto", "force", "off"] = "auto"
    l2: Literal["warm", "cold"] = "warm"


class TorchSession:
    """A network on its device, with its inputs there."""

    def __init__(self, net: Callable[..., Any], options: Options, shapes: Sequence[Any]) -> None:
        """Keep the network; nothing runs yet."""
        import torch

        self._torch = torch
        self._net = net
        self._options = options
        self._shapes = shapes
        self._dtype = _dtype(options)
        self._inputs: list[torch.Tensor] = []
        self._found: Any = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._scratch: torch.Tensor | None = None
        self.layers: tuple[str, ...] = ()

    @functools.cached_property
    def _events(self) -> tuple[Any, Any]:
        event: Callable[..., Any] = self._torch.cuda.Event
        return event(enable_timing=True), event(enable_timing=True)

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Copy the inputs to the device, in the precision of the network."""
        torch = self._torch
        if len(inputs) != len(self._shapes):
            what = f"got {len(inputs)} inputs"
            raise StageError("measure", what, expected=f"{len(self._shapes)} inputs")
        for value, (shape, kind) in zip(inputs, self._shapes, strict=True):
            if list(value.shape[1:]) != shape[1:] or str(value.dtype) != kind:
                found = f"{value.dtype} of shape {value.shape}"
                raise StageError("measure", f"got {found}", expected=f"{kind} of shape {shape}")
        with translated("measure"):
            given = []
            for value in inputs:
                tensor = torch.from_numpy(value.copy())
                to = self._dtype if tensor.is_floating_point() else tensor.dtype
                given.append(tensor.to(self._options.device, to))
            if self._graph is not None and _alike(given, self._inputs):
                for old, new in zip(self._inputs, given, strict=True):
                    old.copy_(new)
                return
            self._inputs, self._graph = given, None
            if "graph" in self._options.mode:
                self._capture()

    def invoke(self) -> None:
        """Run one inference, and wait until the GPU has finished it."""
        with translated("measure"):
            self._run()
            if self._options.device == "cuda":
                self._torch.cuda.synchronize()

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs, short formats as float32."""
        found = self._found
        tensors = [found] if isinstance(found, self._torch.Tensor) else list(found)
        short = (self._torch.bfloat16, self._torch.float16)
        with translated("measure"):
            plain = [t.float() if t.dtype in short else t for t in tensors]
            return [t.detach().cpu().numpy().copy() for t in plain]

    @property
    def clock(self) -> str:
        """What calls are timed by; empty: the worker's stopwatch."""
        if self._options.device != "cuda":
            return ""
        return f"CUDA events, L2 {self._options.l2}"

    def time_call(self) -> int:
        """Return the nanoseconds of one call by CUDA events.

        The stream is empty before it, so gaps between kernels count and waking up does not.
        """
        with translated("measure"):
            if self._options.l2 == "cold":
                self._empty_cache()
            start, end = self._events
            self._torch.cuda.synchronize()
            start.record()
            self._run()
            end.record()
            end.synchronize()
            nanoseconds: int = round(start.elapsed_time(end) * 1e6)
            return nanoseconds

    def device_memory(self) -> dict[str, int]:
        """Return the peaks of torch's allocator in bytes; empty on a CPU."""
        if self._options.device != "cuda":
            return {}
        cuda = self._torch.cuda
        return {"allocated": cuda.max_memory_allocated(), "reserved": cuda.max_memory_reserved()}

    def roofline(self) -> Roofline:
        """Return each layer's seconds in place, and what the device can do."""
        from hwbench.backends import _torch_roof

        def whole() -> float:
            if self.clock:
                return self.time_call() * 1e-9
            begun = time.perf_counter()
            self.invoke()
            return time.perf_counter() - begun

        with translated("measure"):
            return _torch_roof.measured(self._net, self._inputs, self._options, self.layers, whole)

    def _run(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        with self._torch.inference_mode():
            self._found = self._net(*self._inputs)

    def _capture(self) -> None:
        """Record one inference."""
        from hwbench.backends._torch_time import captured

        with self._torch.inference_mode():
            self._graph = captured(self._run, self._torch.device(self._options.device))

    def _empty_cache(self) -> None:
        if self._scratch is None:
            from hwbench.backends._torch_time import SCRATCH_BYTES

            self._scratch = self._torch.empty(
                SCRATCH_BYTES, dtype=self._torch.int8, device=self._options.device
            )
        self._scratch.zero_()


class TorchBackend:
    """PyTorch on a CPU or an NVIDIA GPU."""

    def __init__(self, options: Options) -> None:
        """Keep the options; raises `StageError` for a combination that cannot be."""
        self._options = options
        if options.device == "cpu":
            for wrong in (options.mode, options.precision):
                if wrong in ("graph", "compile+graph", "tf32"):
                    raise StageError("compile", f"{wrong} needs a GPU", mend="device: cuda")

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return what can be made of every layer's zeros; the device measures what pays."""
        from hwbench.backends._torch_layers import prospects

        if self._options.device == "cpu" or self._options.sparse == "off":
            why = (
                "sparse kernels are switched off"
                if self._options.sparse == "off"
                else "torch multiplies zeros like any other number on a CPU"
            )
            return tuple(LayerNote(layer.name, False, why) for layer in model.layers)
        return prospects(model)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Write the graph and its weights for the candidate's batch."""
        from hwbench.backends import _torch_graph, _torch_net

        _torch_graph.write(
            model.path, candidate.batch, folder, (_torch_net.GRAPH, _torch_net.WEIGHTS)
        )
        # For those who run the artifact without us.
        shutil.copyfile(_torch_net.__file__, folder / "torch_net.py")
        return _torch_net.GRAPH

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Write a graph that copies its input."""
        import json

        from safetensors.torch import save_file

        from hwbench.backends import _torch_net

        node = {"op": "Mul", "in": ["x", "one"], "out": ["y"], "with": {}}
        shapes = [[[1, 1], "float32"]]
        graph = {"format": 1, "inputs": ["x"], "outputs": ["y"], "nodes": [node], "shapes": shapes}
        (folder / _torch_net.GRAPH).write_text(json.dumps(graph))
        import torch

        save_file({"one": torch.ones(1)}, str(folder / _torch_net.WEIGHTS))
        return _torch_net.GRAPH

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a session on the device; compiling and capturing happen at the first call."""
        import json

        import torch

        from hwbench.backends import _torch_layers, _torch_net

        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        options = self._options
        require(options.device)
        with translated("measure"):
            net = _torch_net.load(artifact.parent).eval()
            shapes = json.loads(artifact.read_text())["shapes"]
            torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
            if options.device == "cuda":
                torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
                torch.backends.cudnn.benchmark = True
                net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            net = _torch_layers.cast(net, _dtype(options)).to(options.device)
            notes = _torch_layers.choose(net, _examples(shapes, options), options)
            ready = torch.compile(net, dynamic=False) if "compile" in options.mode else net
            if options.device == "cuda":
                # The peak is that of running: choosing held dense and packed weights at once.
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        session = TorchSession(ready, options, shapes)
        session.layers = notes
        return session

    def versions(self) -> Mapping[str, str]:
        """Return the version of torch, and of CUDA and the GPU where that is the device."""
        import torch

        found = {"torch": str(torch.__version__)}
        if self._options.device == "cuda":
            require("cuda")
            found["cuda"] = str(torch.version.cuda)
            found["gpu"] = torch.cuda.get_device_name(0)
        return found

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script for torch alone; the artifact carries what reads it."""
        return _SCRIPT.format(
            entry=entry,
            device=self._options.device,
            kind=str(_dtype_name(self._options)),
            shape=(compiled.candidate.batch, *compiled.input_shape),
            dtype=compiled.input_dtype,
        )


def require(device: str) -> None:
    """Raise `StageError` saying why there is no GPU to work on; nothing for a CPU."""
    if device != "cuda":
        return
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.get_device_name(0)
    except (RuntimeError, AssertionError) as error:
        said = str(error).strip().splitlines()[0][:200]
        raise StageError("measure", f"not available: {said}", mend=_mend(said)) from error


def _mend(said: str) -> str:
    if "too old" in said:
        return "update NVIDIA's driver, or install a torch made for an older CUDA"
    if "not compiled" in said:
        return "install torch for CUDA on the device (pytorch.org says how)"
    return "does nvidia-smi list a GPU there?"


@contextlib.contextmanager
def translated(stage: str) -> Iterator[None]:
    """Turn whatever torch raises inside the block into a `StageError`."""
    import torch

    from hwbench.backends._torch_time import foreign

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StageError(stage, f"the GPU is out of memory: {_first(error)}") from error
    except foreign() as error:
        raise StageError(stage, f"torch: {type(error).__name__}: {_first(error)}") from error


def _first(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")[:300]


def _alike(given: Sequence[torch.Tensor], before: Sequence[torch.Tensor]) -> bool:
    return [(g.shape, g.dtype) for g in given] == [(b.shape, b.dtype) for b in before]


def _dtype_name(options: Options) -> str:
    if options.precision == "int8":
        return "bfloat16" if options.device == "cuda" else "float32"
    return {"bf16": "bfloat16", "fp16": "float16"}.get(options.precision, "float32")


@functools.cache
def _dtype(options: Options) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, _dtype_name(options))
    return found


def _examples(shapes: Sequence[Any], options: Options) -> list[torch.Tensor]:
    """Return inputs of the right shapes to measure layers on."""
    import torch

    made = []
    for shape, kind in shapes:
        dtype: torch.dtype = getattr(torch, kind)
        if dtype.is_floating_point:
            random = torch.Generator().manual_seed(0)
            made.append(torch.randn(shape, generator=random).to(options.device, _dtype(options)))
        else:
            made.append(torch.zeros(shape, dtype=dtype, device=options.device))
    return made


_SCRIPT = '''\
"""Run the model of this folder: python run.py [inputs.npy], one batch of shape {shape}."""
import pathlib, sys
import numpy as np, torch

folder = (pathlib.Path(__file__).parent / "{entry}").parent
sys.path.insert(0, str(folder))
import torch_net

x = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros({shape}, "{dtype}")
net = torch_net.load(folder).to("{device}", torch.{kind})
with torch.inference_mode():
    y = net(torch.from_numpy(x).to("{device}", torch.{kind}))
for part in (y if isinstance(y, (list, tuple)) else [y]):
    print(part.float().cpu().numpy())
'''

PLUGIN: type[Backend] = TorchBackend
