"""Plug-ins by name: the file name is the registered name.

A plug-in is one file in its folder (``hwbench/backends/NAME.py``) with

- ``TRAITS``: what it is, as data (`hwbench.traits`);
- ``Options``: a frozen dataclass, the schema and documentation of its YAML keys;
- ``PLUGIN``: the class, annotated with its protocol (``PLUGIN: type[Backend] = TheClass``).

Outside packages register a module of the same form under the entry-point group
``hwbench.backends`` (or ``.pruners``, ``.connections``, ``.meters``, ``.workloads``,
``.samplers``). They are held to the same, and an error names their package and file.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType, UnionType
from typing import Any, Generic, Literal, Protocol, TypeVar

from hwbench.errors import UserError, did_you_mean
from hwbench.protocols import Backend, Connection, EnergyMeter, Pruner, Sampler, Workload
from hwbench.records import PluginSpec
from hwbench.traits import (
    BackendTraits,
    ConnectionTraits,
    MeterTraits,
    PrunerTraits,
    SamplerTraits,
    Traits,
    WorkloadTraits,
)

T = TypeVar("T")
R = TypeVar("R", bound=Traits)

_OURS = "hwbench"


@dataclass(frozen=True, slots=True)
class Plugin(Generic[T, R]):
    """A plug-in that was found and checked; nothing of its runtime is imported yet.

    ``package`` is the distribution it comes from, as in ``acme-engine 1.2``.
    """

    group: str
    kind: str
    package: str
    module: str
    file: Path
    doc: str
    traits: R
    options: type[Any]
    make: Callable[[Any], T]

    @property
    def is_ours(self) -> bool:
        """Whether it is part of hwbench."""
        return self.package == _OURS

    def lacking(self) -> tuple[str, ...]:
        """Return the pip requirements that are not installed here."""
        return tuple(pip for name, pip in self.traits.requires.items() if not _installed(name))

    def create(self, options: Mapping[str, Any] | None = None) -> T:
        """Return an instance; raises `UserError` for an unknown option or a missing requirement."""
        absent = self.lacking()
        if absent:
            raise UserError(
                f"the plug-in {self.kind!r} ({self.group}) needs {', '.join(absent)}",
                mend=f"pip install {' '.join(absent)}",
            )
        known = {field.name for field in dataclasses.fields(self.options)}
        for key in options or {}:
            if key not in known:
                what = f"{self.group} {self.kind!r} has no option {key!r}"
                raise UserError(what, mend=did_you_mean(key, known))
        return self.make(self.options(**(options or {})))


class Family(Generic[T, R]):
    """All plug-ins of one kind: those of hwbench, and those of other installed packages."""

    def __init__(self, group: str, protocol: type[T], traits: type[R]) -> None:
        """Take the group's name, and what its members promise and say of themselves."""
        self.group = group
        self._protocol = protocol
        self._traits = traits
        self._plugins: dict[str, Plugin[T, R]] = {}

    def kinds(self) -> tuple[str, ...]:
        """Return the registered names, sorted; raises `UserError` when two have the same."""
        return tuple(sorted(_places(self.group)))

    def plugin(self, kind: str) -> Plugin[T, R]:
        """Return a plug-in; raises `UserError` when there is none, or it is not what it must be."""
        if kind not in self._plugins:
            places = _places(self.group)
            if kind not in places:
                raise UserError(
                    f"no plug-in {kind!r} among the {self.group}", mend=did_you_mean(kind, places)
                )
            self._plugins[kind] = self._checked(kind, places[kind])
        return self._plugins[kind]

    def at(self, module: str) -> Plugin[T, R]:
        """Return the plug-in in a module, by the module's full name: on a device nothing else is.

        Raises `UserError` when it is not what it must be.
        """
        kind = module.rpartition(".")[2]
        return self._checked(kind, _Place(_OURS, module))

    def traits(self, kind: str) -> R:
        """Return what a plug-in says of itself."""
        return self.plugin(kind).traits

    def lacking(self, kind: str) -> tuple[str, ...]:
        """Return the pip requirements of a plug-in that are not installed here."""
        return self.plugin(kind).lacking()

    def create(self, kind: str, options: Mapping[str, Any] | None = None) -> T:
        """Return an instance made with its options.

        Raises `UserError` for an unknown plug-in or option, or when a requirement is missing.
        """
        return self.plugin(kind).create(options)

    def outside(self) -> tuple[Plugin[T, R], ...]:
        """Return the plug-ins that come from other packages."""
        places = _places(self.group)
        return tuple(self.plugin(k) for k in sorted(places) if places[k].package != _OURS)

    def _checked(self, kind: str, place: _Place) -> Plugin[T, R]:
        module = place.imported(f"the plug-in {kind!r} ({self.group})")
        own = vars(module)
        file = Path(str(own.get("__file__", "")))
        where = str(file) if place.package == _OURS else f"{file} (package {place.package})"
        for wrong in self._wrong(own):
            what, expected = wrong
            raise UserError(
                f"the plug-in {kind!r} ({self.group}) {what}",
                where=where,
                expected=expected,
                mend=f"mend {file.name}, or uninstall {place.package}: see docs/plug-ins.md",
            )
        return Plugin(
            group=self.group,
            kind=kind,
            package=place.package,
            module=place.module,
            file=file,
            doc=(module.__doc__ or "").strip(),
            traits=own["TRAITS"],
            options=own["Options"],
            make=own["PLUGIN"],
        )

    def _wrong(self, own: Mapping[str, Any]) -> typing.Iterator[tuple[str, str]]:
        """Yield what is wrong with a plug-in's module, with what was expected."""
        traits, options, plugin = (own.get(n) for n in ("TRAITS", "Options", "PLUGIN"))
        form = f"TRAITS = {self._traits.__name__}(...)"
        if traits is None:
            yield "has no TRAITS", form
        elif not isinstance(traits, self._traits):
            yield f"has TRAITS of type {type(traits).__name__}", form
        else:
            yield from _wrong_traits(traits)
        if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
            yield "has no Options", "a frozen dataclass called Options"
        if not isinstance(plugin, type):
            yield "has no PLUGIN", f"PLUGIN: type[{self._protocol.__name__}] = TheClass"
            return
        absent = [name for name in _promises(self._protocol) if name not in dir(plugin)]
        if absent:
            yield f"lacks {', '.join(absent)}", f"the methods of {self._protocol.__name__}"


BACKENDS = Family("backends", Backend, BackendTraits)  # type: ignore[type-abstract]
PRUNERS = Family("pruners", Pruner, PrunerTraits)  # type: ignore[type-abstract]
CONNECTIONS = Family("connections", Connection, ConnectionTraits)  # type: ignore[type-abstract]
METERS = Family("meters", EnergyMeter, MeterTraits)  # type: ignore[type-abstract]
WORKLOADS = Family("workloads", Workload, WorkloadTraits)  # type: ignore[type-abstract]
SAMPLERS = Family("samplers", Sampler, SamplerTraits)  # type: ignore[type-abstract]

FAMILIES: Mapping[str, Family[Any, Any]] = {
    family.group: family for family in (BACKENDS, PRUNERS, CONNECTIONS, METERS, WORKLOADS, SAMPLERS)
}


def check() -> None:
    """Find and check every plug-in; raises `UserError` for the first that is wrong."""
    for family in FAMILIES.values():
        for kind in family.kinds():
            family.plugin(kind)


def is_remote(connection: PluginSpec | None) -> bool:
    """Return whether a connection leads to another machine that can be asked to run something."""
    if connection is None or connection.kind not in CONNECTIONS.kinds():
        return False  # a folder that was carried there and back is no plug-in
    return CONNECTIONS.traits(connection.kind).remote


def sources(family: Family[Any, Any]) -> Mapping[str, Path]:
    """Return the Python files of the other packages that have plug-ins in a family.

    By their paths as Python imports them (``acme/engine.py``), sorted: the whole package that a
    plug-in's module is in, because it may import any of it. Raises `UserError` where there is no
    source.
    """
    found: dict[str, Path] = {}
    for plugin in family.outside():
        top = plugin.module.partition(".")[0]
        spec = importlib.util.find_spec(top)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        for place in map(Path, places):
            found |= {f"{top}/{p.relative_to(place)}": p for p in place.rglob("*.py")}
        if not places:
            found[f"{top}.py"] = plugin.file
        if plugin.file not in found.values() or not plugin.file.is_file():
            raise UserError(
                f"the plug-in {plugin.kind!r} ({plugin.group}) has no source",
                where=f"{plugin.file} (package {plugin.package})",
                expected="a .py file: it travels to the device, and decides what is cached",
            )
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a plug-in is: the distribution and the module."""

    package: str
    module: str

    def imported(self, what: str) -> ModuleType:
        """Return the module; raises `UserError` when another package's cannot be imported."""
        if self.package == _OURS:
            return importlib.import_module(self.module)
        try:
            return importlib.import_module(self.module)
        except Exception as error:  # the border to code that may raise anything
            said = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"{what} cannot be imported: {type(error).__name__}: {said}",
                where=f"{self.file} (package {self.package})",
                expected="a module with TRAITS, Options and PLUGIN that imports anywhere",
                mend=f"mend it, or uninstall {self.package}: see docs/plug-ins.md",
            ) from error

    @property
    def file(self) -> str:
        """The module's file, as far as it can be found without importing it."""
        try:
            spec = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):
            spec = None
        return (spec.origin if spec is not None else None) or self.module


@functools.cache
def _places(group: str) -> Mapping[str, _Place]:
    """Return where each plug-in of a group is; raises `UserError` when two have one name."""
    package = importlib.import_module(f"hwbench.{group}")
    found = {
        m.name: _Place(_OURS, f"hwbench.{group}.{m.name}")
        for m in pkgutil.iter_modules(package.__path__)
        if not m.name.startswith("_")
    }
    for point in importlib.metadata.entry_points(group=f"hwbench.{group}"):
        name = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "?"
        place = _Place(name, point.module)
        if point.name in found:
            other = found[point.name]
            raise UserError(
                f"two {group} are called {point.name!r}",
                where=f"{place.file} (package {place.package})",
                expected=f"another name than that of {other.file} (package {other.package})",
                mend=f"rename the entry point under hwbench.{group}, or uninstall one of the two",
            )
        found[point.name] = place
    return found


def _promises(protocol: type) -> list[str]:
    """Return the methods that a protocol asks for, those of the protocols it is made of too."""
    parts = (vars(part).items() for part in protocol.__mro__ if part is not Protocol)
    return [
        name
        for part in parts
        for name, value in part
        if isinstance(value, FunctionType) and not name.startswith("_")
    ]


def _wrong_traits(traits: Traits) -> typing.Iterator[tuple[str, str]]:
    hints = typing.get_type_hints(type(traits))
    for field in dataclasses.fields(traits):
        value = getattr(traits, field.name)
        if not _fits(value, hints[field.name]):
            yield f"has {field.name}={value!r} in its TRAITS", f"{field.name}: {field.type}"


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type, as far as the types of traits go."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, arguments[0]) for one in value)
    if origin is Mapping:
        parts = value.items() if isinstance(value, Mapping) else [(None, None)]
        return all(_fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in parts)
    if origin is Callable:
        return callable(value)
    plain = hint is Any or isinstance(value, hint)
    return plain and (hint is bool or hint is Any or not isinstance(value, bool))


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
