"""What plug-ins, criteria and schedules are and take, as plain data for people and machines."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from hwbench.records import CRITERIA, SCHEDULES, to_json
from hwbench.registry import FAMILIES, Plugin

AnyPlugin = Plugin[Any, Any]

_PLAIN: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true | false",
    Path: "path",
}


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a plug-in: its type as YAML has it, its default, and a line about it.

    ``default`` is None as well for options that must be given; ``required`` tells them apart.
    """

    name: str
    type: str
    default: Any
    required: bool
    doc: str


def kinds() -> tuple[str, ...]:
    """Return what can be described: the families of plug-ins, criteria and schedules."""
    return (*FAMILIES, "criteria", "schedules")


def plugin_kinds() -> tuple[str, ...]:
    """Return those of `kinds` that are families of plug-ins."""
    return tuple(FAMILIES)


def described(what: str) -> dict[str, dict[str, Any]]:
    """Return every member of one of `kinds` by name: ``doc``, ``traits``, and for plug-ins more.

    That is the ``package`` it comes from, what it ``needs`` that is not installed, and its
    ``options``. A trait that is computed is told for the defaults.
    """
    if what == "criteria":
        return {n: {"doc": t.doc, "traits": _traits(t, {})} for n, t in CRITERIA.items()}
    if what == "schedules":
        return {n: {"doc": t.doc, "traits": _traits(t, {})} for n, t in SCHEDULES.items()}
    family = FAMILIES[what]
    return {kind: _plugin(family.plugin(kind)) for kind in family.kinds()}


def options(plugin: AnyPlugin) -> tuple[Option, ...]:
    """Return a plug-in's options, each with what its file says about it."""
    hints, docs = typing.get_type_hints(plugin.options), option_docs(plugin.options)
    found = []
    for field in dataclasses.fields(plugin.options):
        default: Any = None
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        absent = dataclasses.MISSING
        required = field.default is absent and field.default_factory is absent
        kind = type_words(hints[field.name])
        doc = docs.get(field.name, "")
        found.append(Option(field.name, kind, to_json(default), required, doc))
    return tuple(found)


def option_docs(options: type[Any]) -> Mapping[str, str]:
    """Return by name what a class of options says about each: beneath it, or in its docstring.

    The docstring's form is ``name``: text, up to the next name; several may share a text.
    """
    return {**_in_prose(options), **_beneath(options)}


def type_words(hint: Any) -> str:
    """Return a type as a reader of YAML thinks of it: ``cpu | cuda``, ``list of text``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (typing.Union, UnionType):
        return " | ".join("nothing" if a is NoneType else type_words(a) for a in arguments)
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    if origin is not None:
        return "table"
    return _PLAIN.get(hint, str(hint))


def _plugin(plugin: AnyPlugin) -> dict[str, Any]:
    told = options(plugin)
    return {
        "doc": plugin.doc.splitlines()[0],
        "package": plugin.package,
        "needs": list(plugin.lacking()),
        "traits": _traits(plugin.traits, {o.name: o.default for o in told}),
        "options": [to_json(option) for option in told],
    }


def _traits(traits: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return traits as plain data; what is a function is told for the defaults, or left out."""
    found: dict[str, Any] = {}
    for name, value in _fields(traits).items():
        if not callable(value):
            found[name] = to_json(value)
        elif name == "tolerance":
            found[name] = value(defaults)
    return {name: value for name, value in found.items() if name != "doc"}


def _fields(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


def _in_prose(options: type[Any]) -> dict[str, str]:
    text = " ".join((inspect.getdoc(options) or "").split())
    known = {field.name for field in dataclasses.fields(options)}
    names = "|".join(map(re.escape, known)) or "(?!)"
    head = re.compile(rf"(?:``(?:{names})``(?:, | and )?)+(?: \([^)]*\))?: ")
    heads = list(head.finditer(text))
    found: dict[str, str] = {}
    ends = [*(match.start() for match in heads[1:]), len(text)]
    for match, end in zip(heads, ends, strict=False):
        doc = text[match.end() : end].strip().rstrip(".;,")
        found |= dict.fromkeys(re.findall(r"``(\w+)``", match[0]), doc)
    return found


def _beneath(options: type[Any]) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(options)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for line, below in itertools.pairwise(body):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[line.target.id] = " ".join(str(below.value.value).split()).rstrip(".")
    return found
