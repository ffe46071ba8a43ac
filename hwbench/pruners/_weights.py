"""A pruned model on disk, without pickle: ``weights.safetensors`` and ``structure.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench import files, pruners
from hwbench.errors import StageError
from hwbench.protocols import Data, Modelled, Pruner
from hwbench.records import CompressionSpec
from hwbench.registry import PRUNERS

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
STRUCTURE = "structure.json"
VERSION = 1


def pruner_for(pattern: str, options: Mapping[str, Any] | None = None) -> Pruner:
    """Return the pruner that makes a pattern; raises `UserError` when there is none."""
    return PRUNERS.create(pruners.for_pattern(pattern), options)


def example_of(workload: Data) -> Tensor:
    """Return one validation input, batch of one: what models are traced with."""
    return workload.data("validation")[0][:1]


def save(
    model: nn.Module, folder: Path, spec: CompressionSpec, structure: Mapping[str, object]
) -> None:
    """Write the model's weights and buffers and how to rebuild its shape into `folder`.

    Each file appears whole or not at all; ``structure.json`` comes last.
    """
    from safetensors.torch import save as packed

    # Cloned: safetensors refuses shared storage, and wants plain layouts.
    state = {name: tensor.detach().contiguous().clone() for name, tensor in _tensors(model)}
    document = {"version": VERSION, "pattern": spec.pattern, "structure": dict(structure)}
    files.write(folder / WEIGHTS, packed(state))
    files.write(folder / STRUCTURE, json.dumps(document, indent=1) + "\n")


def load(folder: Path, workload: Modelled, *, stage: str) -> nn.Module:
    """Return the saved model, in evaluation mode.

    Raises `StageError` of `stage` when the files are damaged, from another version, or do not
    fit the workload's model.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        document = json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']}, this hwbench reads {VERSION}")
        pruner = pruner_for(document["pattern"])
        with torch.random.fork_rng(devices=[]):  # the fresh weights are about to be replaced
            fresh = workload.model()
        model = pruner.restore(fresh, example_of(workload), document["structure"])
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(
            stage,
            f"cannot load the compressed model: {what}",
            where=str(folder),
            mend="delete this folder and run again; was the workload's model changed?",
        ) from error
    return model.eval()


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    import torch

    return [(n, t) for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)]
