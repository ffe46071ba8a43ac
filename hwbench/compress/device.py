"""Where models are trained: on the CPU or on a GPU, repeatable and with errors that help.

Everything that runs a model over data runs where the model is. Pruners do not: they see models
and evidence on the CPU alone, so that no plug-in need know of devices, and so do the files.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwbench import cuda
from hwbench.errors import StageError, UserError
from hwbench.protocols import Pruned, Pruner

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from hwbench.records import CompressionSpec, TrainSpec

WHOLE = 0.25
"""Share of a GPU's free memory that a split may take to be kept there whole."""

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"

_UNREPEATABLE = (
    re.compile(r"(?P<operator>.+?) does not have a deterministic implementation"),
    re.compile(r"(?P<operator>.+?) defaults to a non-deterministic algorithm"),
    re.compile(r".*not deterministic because it uses (?P<operator>CuBLAS)"),
)
"""How torch says that an operator may give other bits the next time."""

_FULL = ("out of memory", "_STATUS_ALLOC_FAILED")

_MIXED = re.compile(
    r"expected all tensors to be on the same device"
    r"|device type tensor to numpy"
    r"|indices should be either on"
    r"|device type for generator"
    r"|\(torch\.cuda\.\w+\).*\(torch\.(?!cuda)"
    r"|\(torch\.(?!cuda).*\(torch\.cuda\.",
    re.IGNORECASE,
)
"""How torch says that tensors of the CPU and of a GPU meet in one operator."""


@dataclass(slots=True)
class Where:
    """Where a training works: the device's name as torch takes it, the GPU, what it said."""

    device: str
    gpu: str = ""
    unrepeatable: dict[str, None] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Where it was trained, and which operators had no deterministic form; none: the CPU."""
        if not self.gpu:
            return ()
        import torch

        found = [f"trained on {self.gpu}, torch {torch.__version__}"]
        if self.unrepeatable:
            names = ", ".join(self.unrepeatable)
            found.append(f"may come out otherwise the next time, not deterministic: {names}")
        return tuple(found)


@contextlib.contextmanager
def ready(train: TrainSpec) -> Iterator[Where]:
    """Yield where `train` says that models are trained, made ready for it.

    On a GPU: deterministic algorithms where torch has them (who has none is noted), products of
    float32 in float32, and errors about memory or mixed devices as `StageError` with a mend; all
    settings are put back. Raises `UserError` when the GPU is not there, or not the one of the
    spec.
    """
    if train.device == "cpu":
        yield Where("cpu")
        return
    import torch

    late = cuda.started() and _WORKSPACE not in os.environ
    # Read when CUDA starts: matrix products are deterministic in a workspace of fixed size.
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    where = Where("cuda", _as_planned(train))
    if late:
        where.unrepeatable["CuBLAS, started before it could be told"] = None
    try:
        with _deterministic(), listening(where.unrepeatable), in_words(train):
            yield where
    finally:
        # Others train and measure there next.
        torch.cuda.empty_cache()


def of(model: nn.Module) -> device:
    """Return the device that a model is on; the CPU if it has no weights."""
    import torch

    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


class Samples:
    """A split's inputs and labels as batches on a device: there whole if they fit, else copied.

    Copies come from pinned memory, so that the device works while they are under way.
    """

    def __init__(self, data: tuple[Tensor, Tensor], where: device) -> None:
        """Take tensors on the CPU, samples first."""
        import torch

        self._data, self._where, self._copied = data, where, False
        if where.type == "cuda":
            free, _ = torch.cuda.mem_get_info(where)
            self._copied = sum(part.nbytes for part in data) > WHOLE * free
        if not self._copied:
            inputs, labels = data
            self._data = inputs.to(where), labels.to(where)

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._data[0])

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels with these indices (n,), int64 on the CPU."""
        inputs, labels = self._data
        if self._copied:
            return self._sent(inputs[chosen]), self._sent(labels[chosen])
        chosen = chosen.to(self._where)
        return inputs[chosen], labels[chosen]

    def _sent(self, part: Tensor) -> Tensor:
        return part.pin_memory().to(self._where, non_blocking=True)


def prune(
    pruner: Pruner,
    model: nn.Module,
    example: Tensor,
    spec: CompressionSpec,
    sparsity: float,
    evidence: Mapping[str, Tensor],
) -> Pruned:
    """Return what the pruner makes of a model, on the device that the model is on.

    The pruner gets a copy on the CPU; `evidence` and the masks that come back are there.
    """
    where = of(model)
    own = model if where.type == "cpu" else copy.deepcopy(model).cpu()
    made = pruner.prune(own, example, spec, sparsity, evidence)
    made.model.to(where)
    return made


@contextlib.contextmanager
def listening(heard: dict[str, None]) -> Iterator[None]:
    """Put the operators that torch calls not deterministic inside the block into `heard`."""
    with warnings.catch_warnings():
        told = warnings.showwarning

        def show(message: Warning | str, *rest: object) -> None:
            matches = (pattern.match(str(message)) for pattern in _UNREPEATABLE)
            found = next((match for match in matches if match), None)
            if found is None:
                told(message, *rest)  # type: ignore[arg-type]
            else:
                heard[found["operator"]] = None

        warnings.showwarning = show  # type: ignore[assignment]
        for pattern in _UNREPEATABLE:
            # At every step, not once: it must be heard of each training.
            warnings.filterwarnings("always", pattern.pattern, UserWarning)
        yield


@contextlib.contextmanager
def in_words(train: TrainSpec) -> Iterator[None]:
    """Turn a full GPU and tensors on two devices into a `StageError` that says what to do.

    What CUDA cannot recover from ("CUDA error") is raised as it is: it ends the process, and a
    new one goes on with the next candidate.
    """
    try:
        yield
    except (StageError, RuntimeError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, StageError) else error
        if cause is None:
            raise
        told = _told(cause, error.where if isinstance(error, StageError) else _line(cause), train)
        if told is None and "CUDA error" in str(cause) and cause is not error:
            raise cause from None
        if told is None:
            raise
        # Their frames hold the tensors that filled the memory.
        for one in (cause, error):
            traceback.clear_frames(one.__traceback__)
        raise told from error


def _told(cause: BaseException, where: str, train: TrainSpec) -> StageError | None:
    line = (str(cause).splitlines() or [""])[0]
    if any(word in line for word in _FULL):
        return StageError(
            "compress",
            f"the GPU's memory is full: {line.partition(' Including non-PyTorch')[0]}",
            where=where,
            expected=f"a training that fits, in batches of {train.batch}",
            mend="a smaller train.batch (recover.batch for the recovery), or end what else is on "
            "the GPU",
        )
    if _MIXED.search(line):
        return StageError(
            "compress",
            f"tensors on the CPU and on the GPU meet: {line}",
            where=where,
            expected="everything where the model and its batch are",
            mend="make new tensors there, as in torch.zeros(n, device=labels.device); what a "
            "module keeps belongs in register_buffer, which moves with it; .cpu() before .numpy()",
        )
    return None


def _line(error: BaseException) -> str:
    """Return the last line outside torch that an exception went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame.filename]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _as_planned(train: TrainSpec) -> str:
    """Return the GPU; raises `UserError` unless it is the one that the spec names, if any."""
    found = cuda.here()
    if train.gpu and found != train.gpu:
        raise UserError(
            f"this was to be trained on {train.gpu}, and here is {found}",
            where="device: cuda",
            expected="the GPU, and the libraries, that the run was begun with",
            mend="run the recipe anew: trainings on another GPU are made anew",
        )
    return found


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Make torch repeat itself to the bit on a GPU where it can, and put its settings back."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cudnn = torch.backends.cudnn
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    strict = torch.are_deterministic_algorithms_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    products = _products(("ieee", "ieee", "ieee"))
    try:
        # While torch only warns, the faster kernels for attention add up in any order.
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warned)
        cudnn.deterministic, cudnn.benchmark = flags
        _products(products)


def _products(wanted: tuple[str, str, str]) -> tuple[str, str, str]:
    """Set how float32 is multiplied on a GPU, and return how it was: ``ieee``, ``tf32``, ``none``.

    In matrix products, convolutions and recurrent layers; ``none`` is torch's own default.
    """
    import torch

    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    before = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    # The older switches, too: torch stops where one is read that disagrees with the newer ones.
    matmul.allow_tf32, cudnn.allow_tf32 = wanted[0] == "tf32", wanted[1] == "tf32"
    matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = wanted
    return before
