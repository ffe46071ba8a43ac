"""Apache TVM: Relax on the host, and on the device its small runtime without the compiler."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwbench.backends import _tvm_cuda
from hwbench.errors import StageError
from hwbench.protocols import Backend, Session
from hwbench.records import Candidate, CompiledModel, LayerNote, OnnxModel, TargetProfile
from hwbench.registry import is_remote
from hwbench.traits import DTYPES, BackendTraits

if TYPE_CHECKING:
    import numpy as np

TRAITS = BackendTraits(
    requires={
        "tvm": "apache-tvm==0.27.0.post1",
        # 0.1.15, which pip would take, crashes in meta_schedule.
        "tvm_ffi": "apache-tvm-ffi==0.1.14.post0",
    },
    host_distributions=("apache-tvm", "apache-tvm-ffi", "onnx"),
    device_distributions=("apache-tvm", "apache-tvm-ffi"),
    board_distributions=("apache-tvm", "apache-tvm-ffi", "typing_extensions"),
    # The processor "host" is the one that compiles, and tuning times kernels there.
    compiles="on_target",
    input_dtypes=DTYPES,
    devices=("cpu", "cuda"),
)

_WHY = "TVM's dense kernels multiply zeros like any other number: no speed-up expected from them"
_FOREIGN = (RuntimeError, ValueError)
# What the importer lets through when it meets a model that it does not know.
_IMPORT = (*_FOREIGN, TypeError, LookupError, AttributeError, AssertionError)
_CPU, _POOLED = 1, 2
_TRIPLES = "such as aarch64-linux-gnu or x86_64-linux-gnu"
Tuning = dict[Literal["minutes"], float]
_PROCESSORS = "such as cortex-a72, cortex-a76, x86-64-v3, skylake-avx512, or host"


@dataclass(frozen=True, slots=True)
class Options:
    """What the code is made for.

    ``mcpu``: the processor as LLVM names it (``cortex-a72``); ``host`` is the one we run on.
    Without it TVM falls back to the oldest of its kind and is 3 times slower. ``mtriple``: the
    system, as in ``aarch64-linux-gnu`` (empty: this one). ``cc``: the compiler that links (empty:
    that of ``mtriple``). ``schedule``: tile the kernels for registers; off, TVM's own lowering
    is left, 10 to 40 times slower. ``device``: ``cuda`` is the GPU that the target names, its
    kernels scheduled by TVM's rules. ``arch``: what they are made for, as in ``sm_90`` (empty:
    what the target's file says of the GPU). ``tuning``: ``{minutes: 5}`` searches better schedules
    for so long a network, timed on this machine's CPU or on the board that is reached by ssh, over
    all runs together (MetaSchedule; not given: not at all).
    """

    mcpu: str = "host"
    mtriple: str = ""
    cc: str = ""
    schedule: bool = True
    device: Literal["cpu", "cuda"] = "cpu"
    arch: str = ""
    tuning: Tuning | None = None


class TvmSession:
    """A Relax executable in TVM's virtual machine."""

    def __init__(self, machine: Any) -> None:
        """Keep the entry function; looking it up is not part of a call."""
        self._machine = machine
        self._main = machine["main"]
        self._inputs: tuple[Any, ...] = ()
        self._held: list[np.ndarray] = []
        self._result: Any = None

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Hand over the inputs in memory aligned as TVM's vector code expects."""
        import tvm_ffi

        self._held = [_aligned(x) for x in inputs]
        self._inputs = tuple(tvm_ffi.from_dlpack(x) for x in self._held)

    def invoke(self) -> None:
        """Run one inference."""
        try:
            self._result = self._main(*self._inputs)
        except _FOREIGN as error:
            raise StageError("measure", _say(error)) from error

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs."""
        import numpy as np

        result = self._result
        tensors = [result] if hasattr(result, "shape") else list(result)
        return [np.from_dlpack(t).copy() for t in tensors]


class TvmGpuSession(TvmSession):
    """The same on a GPU: inputs are copied there once, and its own clock times the calls."""

    layers: tuple[str, ...] = ()
    clock = "CUDA events, L2 warm"

    def __init__(self, machine: Any, memory: _tvm_cuda.Memory) -> None:
        """Keep the entry function and the way to the GPU's memory."""
        super().__init__(machine)
        self._memory = memory

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Copy the inputs to the GPU."""
        with _translated("measure"):
            self._inputs = tuple(self._memory.put(x) for x in inputs)

    def invoke(self) -> None:
        """Run one inference, and wait until the GPU has finished it."""
        super().invoke()
        with _translated("measure"):
            self._memory.wait()

    def time_call(self) -> int:
        """Return the nanoseconds of one call by CUDA events."""
        self._memory.begin()
        super().invoke()
        return self._memory.end()

    def device_memory(self) -> dict[str, int]:
        """Return nothing: TVM keeps no books, the driver does."""
        return {}

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs."""
        result = self._result
        tensors = [result] if hasattr(result, "shape") else list(result)
        with _translated("measure"):
            return [self._memory.get(t) for t in tensors]


class TvmBackend:
    """TVM with dense kernels."""

    def __init__(self, options: Options) -> None:
        """Keep the options."""
        self._options = options
        self._planned: dict[str, int] = {}
        self._heard: Callable[[float], None] | None = None

    def listen(self, heard: Callable[[float], None]) -> None:
        """Tell `heard` the share of its time that tuning has used."""
        self._heard = heard

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return that no layer gains from zeros."""
        return tuple(LayerNote(layer.name, False, _WHY) for layer in model.layers)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Compile the ONNX file for a fixed batch into a shared library."""
        import onnx
        from tvm.relax.frontend.onnx import from_onnx

        shape = [candidate.batch, *model.input_shape]
        with _translated("compile", _IMPORT), warnings.catch_warnings():
            # The importer warns of what it then fails on, and of what is none of our business.
            warnings.simplefilter("ignore")
            module = from_onnx(onnx.load(str(model.path)), shape_dict={model.input_name: shape})
        with _translated("compile"):
            return self._build(module, candidate.threads, folder, target, model.digest)

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Compile the copy of one number."""
        from tvm import relax, topi

        with _translated("compile"):
            build = relax.BlockBuilder()
            x = relax.Var("x", relax.TensorType((1, 1), "float32"))
            with build.function("main", [x]):
                build.emit_func_output(build.emit_te(topi.identity, x))
            return self._build(build.get(), 1, folder, target)

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a session; needs TVM's runtime library only, not its compiler."""
        # TVM reads this once, when its thread pool starts.
        os.environ["TVM_NUM_THREADS"] = str(threads)
        ffi = _runtime()
        on_gpu = self._options.device == "cuda"
        devices = [_CPU, 0, _POOLED]  # which kind, its first, pooled memory
        if on_gpu:
            _tvm_cuda.prepare(ffi, _libraries(), artifact.parent)
            devices = [_tvm_cuda.GPU, 0, _POOLED, *devices]
        with _translated("measure"):
            machine = ffi.load_module(str(artifact))["vm_load_executable"]()
            machine["vm_initialization"](*devices)
            if on_gpu:
                return TvmGpuSession(machine, _tvm_cuda.Memory(ffi, _libraries()))
        return TvmSession(machine)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of TVM and of its foreign function interface."""
        _runtime()
        if self._options.device == "cuda":
            _tvm_cuda.installed(_libraries())
        names = ("apache-tvm", "apache-tvm-ffi")
        return {name: importlib.metadata.version(name) for name in names}

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script for TVM's runtime alone."""
        on_gpu = self._options.device == "cuda"
        return (_GPU_SCRIPT if on_gpu else _SCRIPT).format(
            entry=entry,
            threads=compiled.candidate.threads,
            shape=(compiled.candidate.batch, *compiled.input_shape),
            dtype=compiled.input_dtype,
        )

    def planned_memory(self, model: OnnxModel) -> int | None:
        """Return the bytes of activations that TVM planned for `model` when it compiled it."""
        return self._planned.get(model.digest)

    def _build(
        self,
        module: Any,
        threads: int,
        folder: Path,
        profile: TargetProfile,
        name: str | None = None,
    ) -> str:
        import tvm

        from hwbench.backends import _tvm_schedule
        from hwbench.kernels.build import fused, planned

        on_gpu, arch = self._options.device == "cuda", self._arch(profile)
        target = _tvm_cuda.target(arch, self._target()) if on_gpu else self._target()
        module = fused(module, target)
        if self._options.tuning is not None and name is not None:
            module = self._tuned(module, threads, profile)
        if on_gpu:
            module = _tvm_cuda.schedule(module, target)
        elif self._options.schedule:
            module = _tvm_schedule.schedule(module, target, parallel=threads > 1)
        self._planned[name or ""] = planned(module, target)
        executable = tvm.compile(module, target)
        executable.export_library(str(folder / "model.so"), fcompile=self._linker())
        if on_gpu:
            _tvm_cuda.write_kernels(executable, arch, folder)
        return "model.so"

    def _tuned(self, module: Any, threads: int, profile: TargetProfile) -> Any:
        """Return a fused module with the best schedules that tuning has found on the device."""
        from hwbench.backends import _tvm_board, _tvm_tuning
        from hwbench.kernels import build, memory

        options = self._options
        assert options.tuning is not None
        minutes = options.tuning.get("minutes", 0.0)
        if not 0 < minutes < math.inf:
            what = f"tvm cannot tune for {minutes} minutes"
            raise StageError("compile", what, expected="a number above 0, as in {minutes: 5}")
        if not options.schedule:
            raise StageError(
                "compile",
                "tvm was told to tune and not to schedule",
                mend="leave schedule or tuning out: tuning starts from our schedule",
            )
        if options.device != "cpu":
            what = "tvm's tuning times kernels of the CPU only"
            raise StageError("compile", what, mend="leave tuning out where device is cuda")
        made = build.machine(options.mcpu, options.mtriple, threads)
        spec = profile.connection
        if spec is not None and is_remote(spec):
            kept = memory.of(made, memory.default().with_name(f"tuned-{profile.name}.json"))
            with _tvm_board.opened(spec, made, self._linker()) as board:
                return _tvm_tuning.tuned(module, made, minutes * 60, kept, self._heard, board)
        if not made.native:
            raise StageError(
                "compile",
                f"tvm tunes by timing, and code for {made.mcpu} {made.mtriple} cannot run here",
                mend=profile.how_to_reach or "leave tuning out for this target",
            )
        kept = memory.of(made, memory.default().with_name("tuned.json"))
        return _tvm_tuning.tuned(module, made, minutes * 60, kept, self._heard)

    def _arch(self, profile: TargetProfile) -> str:
        """Return what a GPU's kernels are made for: the option, else what the profile says."""
        capability = profile.gpu.capability if profile.gpu is not None else ""
        return self._options.arch or (f"sm_{capability.replace('.', '')}" if capability else "")

    def _target(self) -> Any:
        import tvm
        from tvm.target import codegen

        mcpu = self._options.mcpu
        if mcpu == "host":
            mcpu = str(codegen.llvm_get_system_cpu())
        mtriple = self._options.mtriple or str(codegen.llvm_get_system_triple())
        # LLVM ends the process on a system it does not know, and takes a processor that it does
        # not know for the oldest.
        known = [str(name) for name in codegen.llvm_get_targets()]
        if not mtriple.startswith(tuple(known)):
            raise StageError("compile", f"LLVM knows no mtriple {mtriple!r}", expected=_TRIPLES)
        if not codegen.llvm_is_valid_cpu(mcpu, mtriple):
            raise StageError(
                "compile", f"LLVM knows no mcpu {mcpu!r} for {mtriple}", expected=_PROCESSORS
            )
        described = {"kind": "llvm", "mcpu": mcpu}
        if self._options.mtriple:
            described["mtriple"] = self._options.mtriple
        return tvm.target.Target(described)

    def _linker(self) -> Callable[..., Any] | None:
        from tvm.support import cc

        name = self._options.cc or (f"{self._options.mtriple}-gcc" if self._options.mtriple else "")
        name = name or "cc"
        if shutil.which(name) is None:
            raise StageError(
                "compile",
                f"no compiler {name!r} to link for {self._options.mtriple or 'this machine'}",
                mend="install it, for example: apt install gcc-aarch64-linux-gnu "
                "libc6-dev-arm64-cross (or gcc for this machine)",
            )
        linker: Callable[..., Any] = cc.cross_compiler(name)
        return linker


@functools.cache
def _runtime() -> Any:
    """Return `tvm_ffi` with TVM's runtime library loaded (not `tvm`: that is the compiler)."""
    import ctypes

    with _without_torch():
        import tvm_ffi
    folder = _libraries()
    for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):
        if not (folder / name).exists():
            continue
        try:
            ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise StageError("measure", f"TVM's {name} does not load: {error}") from error
    return tvm_ffi


def _libraries() -> Path:
    """Return the folder of TVM's libraries."""
    found = importlib.util.find_spec("tvm")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "lib"


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Keep `tvm_ffi` from importing torch where it is installed: 200 MB that no device has."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _aligned(value: np.ndarray) -> np.ndarray:
    """Return a copy that starts at a multiple of 64 bytes."""
    import numpy as np

    room = np.empty(value.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


@contextlib.contextmanager
def _translated(stage: str, foreign: tuple[type[Exception], ...] = _FOREIGN) -> Iterator[None]:
    try:
        yield
    except foreign as error:
        raise StageError(stage, _say(error)) from error


def _say(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"TVM: {(lines or [type(error).__name__])[-1][:300]}"


_SCRIPT = '''\
"""Run the model of this folder: python run.py [inputs.npy], one batch of shape {shape}."""
import ctypes, importlib.util, os, pathlib, sys
os.environ["TVM_NUM_THREADS"] = "{threads}"
import numpy as np, tvm_ffi

# The runtime alone: TVM's compiler need not be there.
runtime = pathlib.Path(importlib.util.find_spec("tvm").origin).parent / "lib"
for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):
    ctypes.CDLL(str(runtime / name), ctypes.RTLD_GLOBAL)
model = pathlib.Path(__file__).parent / "{entry}"
machine = tvm_ffi.load_module(str(model))["vm_load_executable"]()
machine["vm_initialization"](1, 0, 2)
x = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros({shape}, "{dtype}")
room = np.empty(x.nbytes + 64, np.uint8)
start = -room.ctypes.data % 64  # its vector code expects 64-byte boundaries
aligned = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
aligned[...] = x
y = machine["main"](tvm_ffi.from_dlpack(aligned))
for tensor in [y] if hasattr(y, "shape") else y:
    print(np.from_dlpack(tensor))
'''

_GPU_SCRIPT = '''\
"""Run the model of this folder on the GPU: python run.py [inputs.npy], one batch of {shape}."""
import pathlib, sys
import numpy as np, tvm, tvm_ffi
from tvm import relax

model = pathlib.Path(__file__).parent / "{entry}"
# The kernels were translated when the model was compiled: no CUDA compiler is needed.
kernels = model.with_name("kernels.cubin").read_bytes()
tvm_ffi.register_global_func("tvm_callback_cuda_compile", lambda _: kernels, override=True)
machine = relax.VirtualMachine(tvm.runtime.load_module(str(model)), tvm.cuda())
x = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros({shape}, "{dtype}")
y = machine["main"](tvm.runtime.tensor(x, tvm.cuda()))
for tensor in [y] if hasattr(y, "numpy") else y:
    print(tensor.numpy())
'''

PLUGIN: type[Backend] = TvmBackend
