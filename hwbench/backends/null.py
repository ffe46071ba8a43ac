"""A runtime that does nothing, on purpose: the double that tests and self-tests measure.

It gives every output the right shape, filled with the input's values over and over (an identity
model is therefore computed correctly). Its options make it slow by a known amount or make it
fail in every way a real artifact can.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hwbench import __version__
from hwbench.errors import StageError
from hwbench.protocols import Backend, Session
from hwbench.records import Candidate, CompiledModel, LayerNote, OnnxModel, TargetProfile
from hwbench.traits import DTYPES, BackendTraits

if TYPE_CHECKING:
    import numpy as np

TRAITS = BackendTraits(
    requires={"numpy": "numpy"},
    host_distributions=("onnx",),
    device_distributions=("numpy",),
    board_distributions=(),
    input_dtypes=DTYPES,
    computes=False,
)
Fault = Literal[
    "none", "refuse", "crash", "die", "hang", "raise", "nan", "print", "memory", "exit", "spike"
]

_MEGABYTES_PRINTED = 4


@dataclass(frozen=True, slots=True)
class Options:
    """What the double does.

    ``spins``: turns of a hash in each call (about 35 ns each). ``slower``: a share of turns on
    top (0.03: 3 % slower). ``ballast``: bytes that a session holds on to. ``at``: the number of
    the call that goes wrong, counted from 1. ``fault``: what goes wrong in it, one of ``crash``
    (segmentation fault), ``die`` (killed, as by a lack of memory), ``hang``, ``raise``, ``exit``,
    ``memory`` (an allocation fails), ``print`` (megabytes on standard output), ``spike`` (100
    times slower, once); or at any time: ``refuse`` (does not load), ``nan`` (all outputs).
    """

    spins: int = 0
    slower: float = 0.0
    ballast: int = 0
    fault: Fault = "none"
    at: int = 1


class NullSession:
    """Echoes its inputs in the shape of the outputs."""

    def __init__(self, options: Options, shapes: Sequence[Sequence[int]]) -> None:
        """Keep the shapes of the outputs, without the batch."""
        self._options = options
        self._shapes = shapes
        self.turns = round(options.spins * (1.0 + options.slower))
        self._work = bytes(64 * self.turns)
        # Not zeros: those would be pages that the kernel never gives out.
        self._ballast = b"x" * options.ballast
        self._calls = 0
        self._input: np.ndarray | None = None

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Keep the first input."""
        self._input = inputs[0]

    def invoke(self) -> None:
        """Turn in a loop; fail if this is the call to fail in."""
        self._calls += 1
        if self._calls == self._options.at:
            _fail(self._options)
        spike = self._options.fault == "spike" and self._calls == self._options.at
        for _ in range(100 if spike else 1):
            # A loop of Python's own differs by a quarter from process to process; this by 1 %.
            hashlib.sha256(self._work)

    def outputs(self) -> list[np.ndarray]:
        """Return the input's values in the shape of each output."""
        import numpy as np

        assert self._input is not None
        batch = len(self._input)
        found = [np.resize(self._input, (batch, *shape)) for shape in self._shapes]
        if self._options.fault == "nan":
            found = [np.full_like(o, np.nan) for o in found]
        return found


class NullBackend:
    """Compiles anything to a few bytes and runs it in no time."""

    def __init__(self, options: Options) -> None:
        """Keep the options."""
        self._options = options

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return that no layer gains from zeros: nothing is computed."""
        return tuple(
            LayerNote(la.name, False, "the null backend computes nothing") for la in model.layers
        )

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Write the shapes of the model's outputs; raises `StageError` if they are not fixed."""
        import onnx

        graph = onnx.load(str(model.path), load_external_data=False).graph
        shapes = []
        for output in graph.output:
            dims = output.type.tensor_type.shape.dim[1:]
            if not all(d.HasField("dim_value") for d in dims):
                raise StageError("compile", f"the shape of output {output.name!r} is not fixed")
            shapes.append([d.dim_value for d in dims])
        return self._write(folder, shapes)

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Write the copy of one number."""
        return self._write(folder, [[1]])

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a session; raises `StageError` when told to refuse."""
        if self._options.fault == "refuse":
            raise StageError("measure", "the null backend was told not to load")
        try:
            shapes = json.loads(artifact.read_text())["shapes"]
        except (OSError, ValueError, KeyError) as error:
            raise StageError("measure", f"not an artifact of the null backend: {error}") from error
        return NullSession(self._options, shapes)

    def versions(self) -> Mapping[str, str]:
        """Return the version of hwbench."""
        import numpy as np

        return {"null": __version__, "numpy": np.__version__}

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script that echoes its input."""
        shape = (compiled.candidate.batch, *compiled.input_shape)
        return _SCRIPT.format(entry=entry, shape=shape, dtype=compiled.input_dtype)

    def _write(self, folder: Path, shapes: Sequence[Sequence[int]]) -> str:
        (folder / "null.json").write_text(json.dumps({"format": 1, "shapes": shapes}))
        return "null.json"


def _fail(options: Options) -> None:
    fault = options.fault
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        # Deaf to polite requests, as native code in a loop is.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    elif fault == "raise":
        raise StageError("measure", "the null backend was told to raise")
    elif fault == "exit":
        os._exit(3)
    elif fault == "memory":
        raise MemoryError
    elif fault == "print":
        line = b'{"visit": "not one of ours"}\n' * 40_000
        for _ in range(_MEGABYTES_PRINTED):
            os.write(sys.stdout.fileno(), line)


_SCRIPT = '''\
"""Run the artifact of this folder; it echoes its input (it is a test double)."""
import json, pathlib, sys
import numpy as np

here = pathlib.Path(__file__).parent
x = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros({shape}, "{dtype}")
for shape in json.loads((here / "{entry}").read_text())["shapes"]:
    print(np.resize(x, (len(x), *shape)))
'''

PLUGIN: type[Backend] = NullBackend
