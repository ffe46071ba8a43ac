"""What pruning costs under distribution shift: tables, and the guideline that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.records import CompressionSpec, Paired, Shifted, Study

_NOMINAL = "nominal"


def rows(study: Study) -> list[Mapping[str, str]]:
    """Return a row for each set of weights: accuracy, excess error, agreement with dense."""
    table = []
    for spec, shifted in _shifted(study):
        severities = [name for name in shifted.accuracy if name.isdigit()]
        row = {"Model": spec.label, "Nominal": f"{shifted.accuracy[_NOMINAL]:.1%}"}
        row |= {f"Severity {s}": f"{shifted.accuracy[s]:.1%}" for s in severities}
        if not spec.is_dense:
            row |= {f"Excess error, severity {s}": _points(shifted.excess[s]) for s in severities}
            row |= {
                f"Agrees with dense, noise {e}": f"{d.agreement:.1%} (L2 {d.softmax:.2f})"
                for e, d in shifted.distance.items()
            }
        table.append(row)
    heads = list(dict.fromkeys(head for row in table for head in row))
    return [{head: row.get(head, "") for head in heads} for row in table]


def potentials(study: Study) -> list[Mapping[str, str]]:
    """Return the prune potential of each method, nominal and by severity (Liebenwein 2021).

    Each with the largest sparsity that surely errs no more than delta above dense, where that
    is less: the truth lies between the two, at 95 %.
    """
    table: list[Mapping[str, str]] = []
    for method, group in _methods(study).items():
        names = [_NOMINAL, *(n for n in group[0][1].accuracy if n.isdigit())]
        row = {"Method": method, "Tried": ", ".join(f"{s.sparsity:.0%}" for s, _ in group)}
        for name in names:
            title = "Nominal" if name == _NOMINAL else f"Severity {name}"
            most, sure = potential(study, group, name), _sure(study, group, name)
            row[title] = f"{most:.0%}" if sure == most else f"{most:.0%} (surely {sure:.0%})"
        table.append(row)
    return table


def potential(study: Study, group: Sequence[tuple[CompressionSpec, Shifted]], name: str) -> float:
    """Return the largest sparsity tried that does not surely err more than delta above dense."""
    delta = _delta(study)
    return max((s.sparsity for s, seen in group if seen.paired[name].low <= delta), default=0.0)


def _sure(study: Study, group: Sequence[tuple[CompressionSpec, Shifted]], name: str) -> float:
    """Return the largest sparsity tried that surely errs no more than delta above dense."""
    delta = _delta(study)
    return max((s.sparsity for s, seen in group if seen.paired[name].high <= delta), default=0.0)


def _delta(study: Study) -> float:
    return study.recipe.shift.delta if study.recipe.shift else 0.0


def guideline(study: Study) -> str:
    """Return what follows for whoever prunes, from the potentials that were found."""
    lost = []
    for method, group in _methods(study).items():
        severities = [n for n in group[0][1].accuracy if n.isdigit()]
        if not severities:
            continue
        worst = max(severities, key=int)
        nominal = potential(study, group, _NOMINAL)
        shifted = potential(study, group, worst)
        if shifted < nominal:
            least = min(spec.sparsity for spec, _ in group)
            to = f"to {shifted:.0%}" if shifted else f"to below {least:.0%}, the least tried,"
            lost.append(f"{method} from {nominal:.0%} {to} at severity {worst}")
    if not study.shift:
        return ""
    if lost:
        return (
            f"The prune potential falls under shift: {'; '.join(lost)}. If the shift in the field "
            "is unknown, prune moderately, to the smaller figure; if it is known, train with it as "
            "augmentation and prune to the potential measured under it."
        )
    return (
        "No method that was tried lost prune potential under these corruptions. Other shifts may "
        "differ: if the shift in the field is unknown, stay below the potential; if it is known, "
        "measure under it."
    )


def _shifted(study: Study) -> list[tuple[CompressionSpec, Shifted]]:
    """Return what was seen of each set of weights, in the order of the study."""
    by_key = {record.key: record for record in study.shift}
    shifted: dict[str, tuple[CompressionSpec, Shifted]] = {}
    for result in study.results:
        export = result.candidate.export
        if export.key in by_key and export.precision == "fp32":
            shifted.setdefault(export.compression.key, (export.compression, by_key[export.key]))
    return list(shifted.values())


def _methods(study: Study) -> Mapping[str, list[tuple[CompressionSpec, Shifted]]]:
    groups: dict[str, list[tuple[CompressionSpec, Shifted]]] = {}
    for spec, seen in _shifted(study):
        if not spec.is_dense:
            groups.setdefault(spec.method, []).append((spec, seen))
    return groups


def _points(value: Paired) -> str:
    return f"{value.mean * 100:+.1f} pp ({value.low * 100:+.1f} to {value.high * 100:+.1f})"
