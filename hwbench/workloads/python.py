"""The user's own model and data: a class in a Python file, with three methods or four.

::

    class MyTask:
        metric = "top1"                               # or "score"; higher is better
        def model(self): ...                          # a torch.nn.Module
        def data(self, split): ...                    # inputs, labels of train/validation/test
        def score(self, outputs, labels): ...         # a number; numpy arrays come in
        def train_step(self, model, inputs, labels): ...  # the loss of one batch, to train it

Whatever the user's code raises or returns is checked here, at the border, so that no stack of
hwbench's frames stands between the user and the line to mend.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hwbench.errors import HwbenchError, StageError, UserError
from hwbench.protocols import Split, Trainable, Workload
from hwbench.traits import WorkloadTraits

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

TRAITS = WorkloadTraits(
    requires={"torch": "torch"},
    host_distributions=("torch", "numpy"),
)
METHODS = ("model", "data", "score")
_METRICS = ("top1", "score")


@dataclass(frozen=True, slots=True)
class Options:
    """``file``: the Python file; ``class_name``: the class in it, needed only if several fit.

    ``kwargs``: handed to the class when it is made. ``files``: data or weights that it reads;
    work is done again when one of them, the file, or a module beside it that it imports changes.
    """

    file: Path
    class_name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


class PythonWorkload:
    """Forwards to the user's object and checks what comes back."""

    def __init__(self, options: Options) -> None:
        """Import the file and make the object; raises `UserError` when that fails."""
        self._path = Path(options.file)
        module = self._imported()
        kind = self._chosen(module, options.class_name)
        self._name = kind.__name__
        with self._guard("__init__", UserError):
            self._user = kind(**options.kwargs)
        self.metric: str = getattr(self._user, "metric", "top1")
        if self.metric not in _METRICS:
            raise self._wrong("metric", f"is {self.metric!r}", "'top1' (a fraction) or 'score'")
        self._data: dict[Split, tuple[Tensor, Tensor]] = {}
        if callable(getattr(self._user, "train_step", None)):
            self.train_step = self._train_step
            """Absent where the user's class has none: then it is a model, but no `Trainable`."""

    def model(self) -> nn.Module:
        """Return the user's model; raises `UserError` unless it is a ``torch.nn.Module``."""
        from torch import nn

        with self._guard("model", UserError):
            model = self._user.model()
        if not isinstance(model, nn.Module):
            raise self._wrong("model", f"returned {_kind(model)}", "a torch.nn.Module")
        return model

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return the user's inputs and labels, as tensors on the CPU, kept for the next call.

        Raises `UserError` unless they are two arrays of one, non-zero length with finite inputs.
        """
        if split not in self._data:
            with self._guard("data", UserError):
                pair = self._user.data(split)
            self._data[split] = self._checked_data(pair, split)
        return self._data[split]

    def _train_step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the user's loss; raises `StageError` unless it is a scalar with a gradient."""
        import torch

        with self._guard("train_step", StageError):
            loss = self._user.train_step(model, inputs, labels)
        expected = "a scalar tensor with a gradient, such as cross_entropy(model(inputs), labels)"
        if not isinstance(loss, torch.Tensor):
            raise self._failed("train_step", f"returned {_kind(loss)}", expected)
        if loss.numel() != 1 or not loss.requires_grad:
            returned = f"a tensor of shape {tuple(loss.shape)}"
            returned += "" if loss.requires_grad else " without a gradient"
            raise self._failed("train_step", f"returned {returned}", expected)
        return loss.reshape(())

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the user's score; raises `StageError` unless it is finite and fits the metric.

        One candidate's outputs may have collapsed to where a score is undefined: that candidate
        fails, not the study.
        """
        with self._guard("score", StageError):
            returned = self._user.score(outputs, labels)
        try:
            value = float(returned)
        except (TypeError, ValueError) as error:
            raise self._failed("score", f"returned {_kind(returned)}", "a number") from error
        if not math.isfinite(value):
            raise self._failed("score", f"returned {value}", "a finite number")
        if self.metric == "top1" and not 0 <= value <= 1:
            raise self._failed(
                "score",
                f"returned {value:g}",
                "a fraction from 0 to 1 for the metric top1 (or set metric = 'score')",
            )
        return value

    def check(self) -> None:
        """Try everything once on a few samples, so that mistakes show before a run starts.

        Reads train and validation, never test. Raises `UserError`.
        """
        import torch

        model = self.model()
        for split in ("train", "validation"):
            self.data(split)
        inputs, labels = (part[:4] for part in self.data("validation"))
        model.eval()
        with self._guard("model", UserError), torch.no_grad():
            outputs = model(inputs)
        if not isinstance(outputs, torch.Tensor) or len(outputs) != len(inputs):
            returned = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else _kind(outputs)
            raise self._wrong("model", f"answers {returned}", "a tensor with one row a sample")
        model.train()
        try:
            self.score(outputs.numpy(), labels.numpy())
            if isinstance(self, Trainable):
                inputs, labels = (part[:4] for part in self.data("train"))
                self.train_step(model, inputs, labels)
        except StageError as error:
            raise UserError(
                error.what, where=error.where, expected=error.expected, mend=error.mend
            ) from error

    def _imported(self) -> ModuleType:
        if not self._path.is_file():
            what = "is a directory" if self._path.is_dir() else "does not exist"
            raise UserError(
                f"the file {what}",
                where=str(self._path),
                expected="a Python file with your workload's class",
                mend="`hwbench init` writes one to start from",
            )
        path = self._path.resolve()
        name = f"hwbench_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UserError("is not a Python file", where=str(path), expected="a name in .py")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up; files beside the user's may be imported by name.
        sys.modules[name] = module
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        with self._guard("", UserError):
            spec.loader.exec_module(module)
        return module

    def _chosen(self, module: ModuleType, name: str) -> type:
        classes = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        }
        if name:
            if name not in classes:
                raise self._unfit(
                    f"has no class {name!r}", f"one of: {', '.join(classes) or 'none'}"
                )
            missing = [m for m in METHODS if not callable(getattr(classes[name], m, None))]
            if missing:
                raise self._unfit(f"{name} lacks {', '.join(missing)}", ", ".join(METHODS))
            return classes[name]
        lacks = {
            key: [m for m in METHODS if not callable(getattr(kind, m, None))]
            for key, kind in classes.items()
        }
        fitting = [key for key, missing in lacks.items() if not missing]
        if len(fitting) == 1:
            return classes[fitting[0]]
        if fitting:
            what = f"several classes fit: {', '.join(fitting)}"
            raise self._unfit(what, "one, or class_name in the recipe")
        nearest = min(lacks, key=lambda key: len(lacks[key]), default="")
        what = "no class has the methods of a workload"
        if nearest and len(lacks[nearest]) < len(METHODS):
            what += f"; {nearest} lacks {', '.join(lacks[nearest])}"
        raise self._unfit(what, f"a class with {', '.join(METHODS)}")

    def _checked_data(self, pair: object, split: str) -> tuple[Tensor, Tensor]:
        import torch

        where = f"data({split!r})"
        expected = "a pair (inputs, labels) of tensors or arrays, samples first"
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise self._wrong(where, f"returned {_kind(pair)}", expected)
        try:
            inputs, labels = (torch.as_tensor(part).cpu() for part in pair)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._wrong(where, "returned something that is no tensor", expected) from error
        sizes = [part.shape[0] if part.dim() else 0 for part in (inputs, labels)]
        if sizes[0] != sizes[1] or not sizes[0]:
            raise self._wrong(
                where, f"returned {sizes[0]} inputs and {sizes[1]} labels", "as many of each, not 0"
            )
        if inputs.dtype == torch.float64:
            inputs = inputs.float()
        if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            raise self._wrong(where, "returned inputs that are not finite", "finite inputs")
        return inputs, labels

    @contextlib.contextmanager
    def _guard(self, method: str, kind: type[UserError | StageError]) -> Iterator[None]:
        """Turn whatever the user's code raises into an error that names the user's line."""
        try:
            yield
        except (HwbenchError, MemoryError):
            raise  # a full memory is no mistake of the file's
        except Exception as error:  # the border to code that may raise anything
            what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            what = f"{self._name}.{method} raised {what}" if method else f"raised {what}"
            where = _line(error, self._path, own_model=kind is UserError)
            if kind is StageError:
                raise StageError("compress", what, where=where, expected="no exception") from error
            raise UserError(what, where=where, expected="no exception") from error

    def _wrong(self, method: str, what: str, expected: str) -> UserError:
        return UserError(f"{self._name}.{method} {what}", where=str(self._path), expected=expected)

    def _unfit(self, what: str, expected: str) -> UserError:
        mend = "`hwbench init` writes an example"
        return UserError(what, where=str(self._path), expected=expected, mend=mend)

    def _failed(self, method: str, what: str, expected: str) -> StageError:
        what = f"{self._name}.{method} {what}"
        return StageError("compress", what, where=str(self._path), expected=expected)


PLUGIN: type[Workload] = PythonWorkload


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _line(error: Exception, path: Path, *, own_model: bool) -> str:
    """Return ``file:line`` of where an error comes from.

    With `own_model` nothing ran but the user's code and what it calls: the user's innermost line.
    Otherwise the model may be one that hwbench has pruned, and the user's file is named alone only
    if the error was raised there.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    own_file = path.resolve()
    frames = traceback.extract_tb(error.__traceback__)
    through = [f"{path}:{f.lineno}" for f in frames if Path(f.filename).resolve() == own_file]
    last = frames[-1]
    if own_model or Path(last.filename).resolve() == own_file:
        return through[-1] if through else str(path)
    called = f" (called from {through[-1]})" if through else ""
    return f"{last.filename}:{last.lineno}{called}"
