"""Runtimes, one file each: the host half compiles, the device half loads and runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from hwbench.records import PluginSpec
from hwbench.registry import BACKENDS

REFERENCE = PluginSpec("onnxruntime")
"""What an ONNX file answers is what this runtime answers."""

DENSE = PluginSpec("tvm")
SPARSE = PluginSpec("tvm_sparse")
"""Our own kernels, and the same compiler without them."""

DOUBLE = PluginSpec("null")
"""The runtime that computes nothing, whose speed is known: what self-tests measure."""


def named(spec: PluginSpec, offered: Mapping[str, Any] | None = None) -> PluginSpec:
    """Return a backend with the words that tell it from others of its kind: ``bf16 graph``.

    Options that its traits call naming are told by their value where it is not the default. All
    others are told as ``name=value`` where they differ from what the target has `offered`: two
    that differ on one target never have the same words.
    """
    plugin = BACKENDS.plugin(spec.kind)
    usual = {f.name: f.default for f in dataclasses.fields(plugin.options)}
    naming = plugin.traits.naming
    words = [str(spec.options[n]) for n in naming if spec.options.get(n, usual[n]) != usual[n]]
    # Without a target to differ from, only what is always told is told.
    there = {**usual, **(spec.options if offered is None else offered)}
    for name in usual:
        value = spec.options.get(name, there[name])
        if name not in naming and value != there[name]:
            words += _told(name, value)
    return dataclasses.replace(spec, naming=tuple(words))


def revived(data: Any) -> Any:
    """Return plain data of a record with backends named in it, as they are in today's records.

    Files that were written before a backend's words stood beside its options lack them; one that
    is not installed any more goes by its kind.
    """
    if isinstance(data, list):
        return [revived(value) for value in data]
    if not isinstance(data, dict):
        return data
    found = {key: revived(value) for key, value in data.items()}
    backend = found.get("backend")
    if not isinstance(backend, dict) or "options" not in backend or "naming" in backend:
        return found
    if backend["kind"] in BACKENDS.kinds():
        words = named(PluginSpec(backend["kind"], backend["options"])).naming
        found["backend"] = {**backend, "naming": list(words or ())}
    return found


def _told(name: str, value: object) -> list[str]:
    """Return an option as ``--set`` takes it: ``schedule=false``, ``tuning.minutes=5``."""
    if isinstance(value, Mapping) and value:
        return [word for key in sorted(value) for word in _told(f"{name}.{key}", value[key])]
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return [f"{name}={text}"]
