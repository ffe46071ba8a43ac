"""A runtime from another package: linear layers by numpy, one sample at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hwbench.errors import StageError
from hwbench.protocols import Backend, Session
from hwbench.records import Candidate, CompiledModel, LayerNote, OnnxModel, TargetProfile
from hwbench.traits import BackendTraits

if TYPE_CHECKING:
    import numpy as np

TRAITS = BackendTraits(
    requires={"numpy": "numpy"},
    host_distributions=("onnx",),
    device_distributions=("numpy",),
    board_distributions=(),
    naming=("flavour",),
    max_batch=1,
)


@dataclass(frozen=True, slots=True)
class Options:
    """``flavour``: a word that names a candidate and changes nothing."""

    flavour: Literal["plain", "odd"] = "plain"


class AcmeSession:
    """Runs a list of steps."""

    def __init__(self, steps: Sequence[Mapping[str, object]], weights: Mapping[str, np.ndarray]):
        self._steps, self._weights = steps, weights
        self._x: np.ndarray | None = None
        self._y: np.ndarray | None = None

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        if len(inputs) != 1 or len(inputs[0]) != 1 or str(inputs[0].dtype) != "float32":
            raise StageError("measure", "takes one input of float32 and one sample")
        self._x = inputs[0]

    def invoke(self) -> None:
        import numpy as np
        from acme_hwbench import shapes  # type: ignore[import-not-found]

        assert self._x is not None
        y = self._x
        for step in self._steps:
            if step["op"] == "Flatten":
                y = shapes.flat(y)
            elif step["op"] == "Relu":
                y = np.maximum(y, 0)
            elif step["op"] == "Gemm":
                weight = self._weights[str(step["weight"])]
                if y.shape[-1] != weight.shape[1]:
                    raise StageError("measure", f"got {y.shape}", expected=f"{weight.shape[1]}")
                y = y @ weight.T + self._weights[str(step["bias"])]
        self._y = y

    def outputs(self) -> list[np.ndarray]:
        assert self._y is not None
        return [self._y.copy()]


class AcmeBackend:
    """Writes the steps as JSON and the weights as .npz."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        why = "numpy multiplies zeros like any other number"
        return tuple(LayerNote(layer.name, False, why) for layer in model.layers)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(str(model.path)).graph
        steps: list[dict[str, str]] = []
        for node in graph.node:
            if node.op_type not in ("Flatten", "Relu", "Gemm", "Identity"):
                raise StageError("compile", f"acme has no operator {node.op_type}")
            extra = dict(zip(("weight", "bias"), node.input[1:], strict=False))
            steps.append({"op": node.op_type, **extra})
        weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        return self._write(folder, steps, weights)

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        return self._write(folder, [], {})

    def load(self, artifact: Path, threads: int) -> Session:
        import numpy as np

        try:
            steps = json.loads(artifact.read_text())
            with np.load(artifact.with_name("weights.npz"), allow_pickle=False) as stored:
                return AcmeSession(steps, dict(stored))
        except (OSError, ValueError) as error:
            raise StageError("measure", f"not an artifact of acme: {error}") from error

    def versions(self) -> Mapping[str, str]:
        import numpy as np

        return {"acme": "1.0", "numpy": np.__version__}

    def script(self, entry: str, compiled: CompiledModel) -> str:
        shape = (compiled.candidate.batch, *compiled.input_shape)
        return _SCRIPT.format(entry=entry, shape=shape)

    def _write(
        self, folder: Path, steps: list[dict[str, str]], weights: Mapping[str, np.ndarray]
    ) -> str:
        import numpy as np

        arrays: dict[str, np.ndarray] = dict(weights)
        np.savez(folder / "weights.npz", **arrays)  # type: ignore[arg-type]
        (folder / "steps.json").write_text(json.dumps(steps))
        return "steps.json"


_SCRIPT = '''\
"""Run the model of this folder."""
import json, pathlib, sys
import numpy as np

path = pathlib.Path(__file__).parent / "{entry}"
weights = np.load(path.with_name("weights.npz"))
y = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros({shape}, "float32")
for step in json.loads(path.read_text()):
    if step["op"] == "Flatten":
        y = y.reshape(len(y), -1)
    elif step["op"] == "Relu":
        y = np.maximum(y, 0)
    elif step["op"] == "Gemm":
        y = y @ weights[step["weight"]].T + weights[step["bias"]]
print(y)
'''

PLUGIN: type[Backend] = AcmeBackend
