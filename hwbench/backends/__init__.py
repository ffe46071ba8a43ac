"""Runtimes, one file each: the host half compiles, the device half loads and runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
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


def named(spec: PluginSpec) -> PluginSpec:
    """Return a backend with the words that it goes by: ``bf16 graph``.

    They are the values of the options that its traits call naming, where they are no defaults.
    """
    plugin = BACKENDS.plugin(spec.kind)
    usual = {f.name: f.default for f in dataclasses.fields(plugin.options)}
    naming = plugin.traits.naming
    words = [str(spec.options[n]) for n in naming if spec.options.get(n, usual[n]) != usual[n]]
    return dataclasses.replace(spec, naming=tuple(words))


def told_apart(
    specs: Sequence[PluginSpec], offered: Mapping[str, Mapping[str, Any]]
) -> tuple[PluginSpec, ...]:
    """Return the backends of one study, named so that those that differ never share a label.

    Where the words of `named` do not tell two of a kind apart, each is also told by the options in
    which they differ, as far as it departs from what the target has `offered` (by kind).
    """
    found = [named(spec) for spec in specs]
    alike: dict[str, list[PluginSpec]] = {}
    for spec in found:
        alike.setdefault(spec.label, []).append(spec)
    return tuple(_told_from(spec, alike[spec.label], offered[spec.kind]) for spec in found)


def _told_from(
    spec: PluginSpec, alike: Sequence[PluginSpec], offered: Mapping[str, Any]
) -> PluginSpec:
    fields = dataclasses.fields(BACKENDS.plugin(spec.kind).options)
    words = list(spec.naming or ())
    for name, default in ((f.name, f.default) for f in fields):
        there = offered.get(name, default)
        value = spec.options.get(name, there)
        if value != there and any(other.options.get(name, there) != value for other in alike):
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
