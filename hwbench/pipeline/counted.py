"""What needs no measuring: numbers that were counted on a candidate's ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.records import LayerNote, OnnxModel, Source, Value, missing

MAC_JOULES = 4.6e-12
BYTE_JOULES = 160e-12
"""A 32-bit multiply-add, and a byte from DRAM (45 nm): M. Horowitz, "Computing's energy problem",
ISSCC 2014, figure 1.1.9. Another chip has other figures; they rank models and nothing else."""
INT8_MAC_JOULES = 0.23e-12
"""An 8-bit multiplication (0.2 pJ) and an 8-bit addition (0.03 pJ), from the same figure."""
_COUNTS = (
    "parameters",
    "nonzero_parameters",
    "macs",
    "effective_macs",
    "sparsity",
    "denormals",
    "energy_ops",
)
_COST = {"fp32": (MAC_JOULES, 4), "int8": (INT8_MAC_JOULES, 1)}
"""Joules of a multiply-add and bytes of a weight, by precision."""


def counted(model: OnnxModel, layers: Sequence[LayerNote] = ()) -> Mapping[str, Value]:
    """Return the counts of an ONNX file as values, and the energy that they stand for.

    `layers` says where the backend skips zeros: there only products with a weight that is not
    zero take energy.
    """
    counts = model.counts
    if counts is None:
        why = "the file cannot be counted"
        return {name: missing(name, Source.STATIC, why) for name in _COUNTS}
    dense_macs = sum(layer.macs for layer in model.layers)
    effective = sum(layer.macs * (1 - layer.sparsity) for layer in model.layers)
    weights = sum(layer.parameters for layer in model.layers)
    nonzero = sum(layer.nonzero for layer in model.layers)
    numbers = {
        "parameters": counts.parameters,
        "nonzero_parameters": counts.nonzero,
        "macs": dense_macs,
        "effective_macs": round(effective),
        "sparsity": 1 - nonzero / weights if weights else 0.0,
        "denormals": counts.denormals,
    }
    found = {name: Value(name, float(n), Source.STATIC) for name, n in numbers.items()}
    skipping = {note.layer for note in layers if note.eligible}
    return {**found, "energy_ops": _energy(model, skipping)}


def _energy(model: OnnxModel, skipping: set[str]) -> Value:
    mac, width = _COST[model.spec.precision]
    macs = weights = 0.0
    for layer in model.layers:
        share = 1 - layer.sparsity if layer.name in skipping else 1.0
        macs += layer.macs * share
        weights += layer.parameters * share
    joules = macs * mac + weights * width * BYTE_JOULES
    note = f"multiply-adds x {mac * 1e12:g} pJ + bytes of weights x 160 pJ"
    note += " (Horowitz 2014, 45 nm): ranks only"
    return Value("energy_ops", joules, Source.PROXY, note=note, tier="proxy")
