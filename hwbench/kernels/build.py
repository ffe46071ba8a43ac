"""From a Relax module to a library: which processor, how many lanes, which linker."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support import cc
from tvm.target import codegen

from hwbench.errors import StageError, did_you_mean

SYSTEMS = ("x86_64", "aarch64", "arm", "armv7a", "armv7l", "riscv64")
"""First words of the systems we make code for; LLVM crashes on one it does not know."""
_BLOCK = tvm.ir.Op.get("relax.memory.alloc_storage")
FOREIGN = (RuntimeError, ValueError, TypeError, NotImplementedError, LookupError, AttributeError)
"""What TVM raises when it cannot do something (its own errors derive from these)."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what TVM raises into a `StageError`."""
    try:
        yield
    except FOREIGN as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        last_line = (lines or [type(error).__name__])[-1][:300]
        raise StageError("compile", f"TVM: {last_line}") from error


@dataclass(frozen=True, slots=True)
class Machine:
    """What the code is made for: the processor as LLVM names it, its vectors, its threads.

    ``lanes`` float32 numbers fit a vector register, of which there are ``registers``. ``native``
    is whether code made for it can be timed here.
    """

    mcpu: str
    mtriple: str
    lanes: int
    registers: int
    threads: int
    native: bool

    @property
    def target(self) -> Any:
        """TVM's target. Without ``mcpu`` LLVM would take the oldest processor of the kind."""
        described: dict[str, Any] = {"kind": "llvm", "mcpu": self.mcpu, "num-cores": self.threads}
        if self.mtriple:
            described["mtriple"] = self.mtriple
        return tvm.target.Target(described)


def machine(mcpu: str = "host", mtriple: str = "", threads: int = 1) -> Machine:
    """Return the machine that ``mcpu`` and ``mtriple`` name; ``host`` is this one.

    Raises `StageError` for a processor or system that LLVM does not know.
    """
    host = str(codegen.llvm_get_system_cpu())
    name = host if mcpu == "host" else mcpu
    described: dict[str, Any] = {"kind": "llvm"}
    system = mtriple.partition("-")[0]
    if mtriple and system not in SYSTEMS:
        what = f"no code can be made for the system {mtriple!r}"
        raise StageError(
            "compile",
            what,
            expected="as in aarch64-linux-gnu",
            mend=did_you_mean(system, SYSTEMS),
        )
    if mtriple:
        described["mtriple"] = mtriple
    try:
        known = [str(cpu) for cpu in codegen.llvm_get_cpu_archlist(tvm.target.Target(described))]
        if name not in known:
            what = f"LLVM knows no processor {name!r} for {mtriple or 'this machine'}"
            raise StageError("compile", what, mend=did_you_mean(name, known)[:300])
        target = tvm.target.Target({**described, "mcpu": name})
        wide = codegen.target_has_features("avx512f", target)
        middle = codegen.target_has_features(["avx2", "fma"], target)
    except FOREIGN as error:
        what = f"LLVM cannot make code for {name} {mtriple}".rstrip()
        raise StageError("compile", what, expected="names as llc -mcpu=help lists them") from error
    lanes = 16 if wide else 8 if middle else 4
    registers = 16 if lanes == 8 else 32
    return Machine(name, mtriple, lanes, registers, threads, name == host and not mtriple)


def fused(module: Any, target: Any) -> Any:
    """Return a Relax module lowered to TIR, its constants folded and its operators fused."""
    transform = relax.transform
    with target:
        return tvm.transform.Sequential(
            [
                transform.DecomposeOpsForInference(),
                transform.FoldConstant(),
                transform.LegalizeOps(),
                transform.AnnotateTIROpPattern(),
                transform.FoldConstant(),
                transform.FuseOps(),
                transform.FuseTIR(),
            ]
        )(module)


def prepare(module: Any, schedule: Callable[[Any, Any, bool], Any] | None, machine: Machine) -> Any:
    """Return a module whose other operators are lowered, fused and scheduled."""
    with translated():
        module = fused(module, machine.target)
    if schedule is not None:
        module = schedule(module, machine.target, machine.threads > 1)
    return module


def planned(module: Any, target: Any) -> int:
    """Return the bytes of the arena of activations that TVM plans for a lowered module.

    The sum of the blocks left by ``relax.transform.StaticPlanBlockMemory``, which is what
    ``relax.analysis.estimate_memory_usage`` prints in GB and four digits.
    """
    transform = relax.transform
    with target:
        laid_out = tvm.transform.Sequential(
            [
                transform.RewriteDataflowReshape(),
                transform.ToNonDataflow(),
                transform.RemovePurityChecking(),
                transform.CallTIRRewrite(),
                transform.StaticPlanBlockMemory(),
            ]
        )(module)
    blocks: list[int] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and node.op == _BLOCK:
            blocks.append(int(node.args[0].values[0]))

    relax.analysis.post_order_visit(laid_out["main"], visit)
    return sum(blocks)


def library(module: Any, machine: Machine, path: Path, linker: str = "") -> None:
    """Compile a module and write it as a shared library that TVM's runtime loads.

    Raises `StageError` when there is no compiler to link with.
    """
    name = linker or (f"{machine.mtriple}-gcc" if machine.mtriple else "cc")
    if shutil.which(name) is None:
        raise StageError(
            "compile",
            f"no compiler {name!r} to link for {machine.mtriple or 'this machine'}",
            mend="install it, for example: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        )
    with translated():
        executable = tvm.compile(module, machine.target)
        executable.export_library(str(path), fcompile=cc.cross_compiler(name))
