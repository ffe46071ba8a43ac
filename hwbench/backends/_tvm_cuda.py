"""TVM on an NVIDIA GPU: schedules and kernels on the host, memory and the clock on the device.

The wheel's compiler writes CUDA C and leaves translating it to whoever loads the artifact. The
device has no compiler, so the host translates it with ``nvcc`` into ``kernels.cubin``, which stands
beside the artifact and is handed to TVM's runtime when that asks. Not a plug-in.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.backends import _cuda
from hwbench.errors import StageError

if TYPE_CHECKING:
    import numpy as np

KERNELS, BESIDE = "kernels.cubin", "kernels.json"
GPU = 2
"""The kind of device, as DLPack numbers them."""

_RUNTIME = "libtvm_runtime_cuda.so"
_ARCHITECTURE = "sm_"
_ASKED = "tvm_callback_cuda_compile"


# --------------------------------------------------------------------------------------------
# the host's half


def target(arch: str, host: Any) -> Any:
    """Return TVM's target for a GPU, with what every GPU since Volta has at least.

    `arch` is as in ``sm_90``, `host` the target of the code around the kernels. Raises
    `StageError` when nobody said which GPU it is.
    """
    import tvm

    if not arch.startswith(_ARCHITECTURE):
        raise StageError(
            "compile",
            f"which GPU to make code for is not known ({arch or 'no arch'})",
            expected="such as sm_90",
            mend="gpu: {capability: ...} in the target's file, or arch in the backend's options",
        )
    limits = {"max_num_threads": 1024, "max_threads_per_block": 1024, "thread_warp_size": 32}
    memory = {"max_shared_memory_per_block": 49152, "registers_per_block": 65536}
    described = {"kind": "cuda", "keys": ["cuda", "gpu"], "arch": arch, "host": host}
    return tvm.target.Target({**described, **limits, **memory})


def schedule(module: Any, target_: Any) -> Any:
    """Return a lowered module with every kernel bound to blocks and threads, by TVM's own rules."""
    from tvm.s_tir import dlight

    rules = (dlight.gpu.Matmul, dlight.gpu.GEMV, dlight.gpu.Reduction, dlight.gpu.GeneralReduction)
    with target_:
        return dlight.ApplyDefaultSchedule(*(rule() for rule in rules), dlight.gpu.Fallback())(
            module
        )


def write_kernels(executable: Any, arch: str, folder: Path) -> None:
    """Translate the CUDA C of a compiled module; raises `StageError` without ``nvcc``."""
    sources = [str(m.inspect_source()) for m in _imported(executable.mod) if m.kind == "cuda"]
    if len(sources) > 1:
        raise StageError("compile", f"TVM made {len(sources)} CUDA modules", expected="one")
    if not sources:
        return  # a model that computes nothing
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise StageError(
            "compile",
            "not available: there is no nvcc here to translate TVM's CUDA code",
            mend="install the CUDA toolkit on this machine (the GPU need not be here)",
        )
    with tempfile.TemporaryDirectory() as home:
        code = Path(home) / "kernels.cu"
        code.write_text(sources[0])
        command = [nvcc, "-cubin", "-O3", "-w", f"-arch={arch}", "-o", str(folder / KERNELS)]
        done = subprocess.run([*command, str(code)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[0]
        raise StageError("compile", f"nvcc says: {said[:300]}", where=f"TVM's code for {arch}")
    beside = {"format": 1, "arch": arch, "source": _digest(sources[0])}
    (folder / BESIDE).write_text(json.dumps(beside))


def _imported(module: Any) -> list[Any]:
    return [module, *(inner for part in module.imports for inner in _imported(part))]


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


# --------------------------------------------------------------------------------------------
# the device's half


def prepare(ffi: Any, libraries: Path, folder: Path) -> None:
    """Load TVM's CUDA runtime and have it take the artifact's kernels when it asks for them.

    Raises `StageError` where there is no driver, or no CUDA that the wheel was made for.
    """
    try:
        _cudart(libraries)
        ctypes.CDLL(str(libraries / _RUNTIME), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise StageError(
            "measure",
            f"not available: TVM's CUDA runtime cannot be loaded ({error})",
            mend="it needs NVIDIA's driver and the CUDA runtime that the wheel was made for",
        ) from error
    if not (folder / KERNELS).exists():
        return
    kernels = (folder / KERNELS).read_bytes()
    wanted = json.loads((folder / BESIDE).read_text())["source"]

    def translated(source: str) -> bytes:
        if _digest(str(source)) != wanted:
            raise RuntimeError("the kernels beside the artifact belong to another one")
        return kernels

    ffi.register_global_func(_ASKED, translated, override=True)


def installed(libraries: Path) -> None:
    """Raise `StageError` saying why TVM cannot run on a GPU here."""
    if not (libraries / _RUNTIME).exists():
        raise StageError(
            "measure",
            "not available: this build of TVM has no CUDA runtime",
            mend="install apache-tvm for CUDA on the device",
        )
    try:
        ctypes.CDLL("libcuda.so.1")
        _cudart(libraries)
    except OSError as error:
        raise StageError(
            "measure",
            f"not available: {error}",
            mend="TVM on a GPU needs NVIDIA's driver and the CUDA runtime (libcudart)",
        ) from error


def _cudart(libraries: Path) -> ctypes.CDLL:
    """Return the CUDA runtime that TVM was linked with, from the system or from pip's packages."""
    name = next((n for n in _needed(libraries / _RUNTIME) if "libcudart" in n), "libcudart.so")
    return _cuda.library(name)


def _needed(library: Path) -> Sequence[str]:
    """Return the names in a library that look like CUDA's runtime, as its loader will ask."""
    content = library.read_bytes()
    at = content.find(b"libcudart.so")
    return [content[at : content.index(b"\0", at)].decode()] if at >= 0 else []


class Memory:
    """A GPU's memory and its clock, through the functions that TVM and CUDA register."""

    def __init__(self, ffi: Any, libraries: Path) -> None:
        """Look the functions up; nothing is allocated."""
        self._ffi = ffi
        self._device = ffi.device("cuda", 0)
        self._allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._write = ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._read = ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        self._wait = ffi.get_global_func("runtime.Device_StreamSync")
        self._events = _cuda.Events(_cudart(libraries))

    def put(self, value: np.ndarray) -> Any:
        """Return a tensor there with a copy of `value`."""
        import numpy as np

        value = np.ascontiguousarray(value)
        tensor = self._allocate(self._ffi.Shape(value.shape), str(value.dtype), self._device, None)
        self._write(tensor, ctypes.c_void_p(value.ctypes.data), value.nbytes)
        return tensor

    def get(self, tensor: Any) -> np.ndarray:
        """Return a copy of a tensor."""
        import numpy as np

        found = np.empty(tuple(tensor.shape), str(tensor.dtype))
        self._read(tensor, ctypes.c_void_p(found.ctypes.data), found.nbytes)
        return found

    def wait(self) -> None:
        """Return when the GPU has done all it was given."""
        self._wait(self._device, 0)

    def begin(self) -> None:
        """Start the clock, with nothing left to do on the GPU."""
        self.wait()
        self._events.begin()

    def end(self) -> int:
        """Return the nanoseconds since `begin` that the GPU counted, when it is done."""
        return self._events.end()
