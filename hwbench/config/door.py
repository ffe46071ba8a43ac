"""Reading YAML: safely, with every mistake named by file and key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hwbench.errors import UserError, did_you_mean

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and keeps ``2:4`` a text (not base 60)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a plain word", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", key_node.start_mark
            )
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str, where: str) -> Any:
    """Return the data of a YAML text; raises `UserError` with the line where it is broken."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"not valid YAML: {problem}", where=f"{where}{line}") from error


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises `UserError` if it cannot be read as one."""
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise UserError("is a directory, not a YAML file", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    data = parse(text, str(path))
    if data is None:
        raise UserError("is empty", where=str(path), mend="hwbench init writes a starting point")
    if not isinstance(data, dict):
        raise UserError(
            f"holds a {type(data).__name__}, not keys and values",
            where=str(path),
            expected="lines like 'title: My study'",
        )
    return data


def override(
    data: dict[str, Any],
    assignments: Sequence[str],
    flag: str = "--set",
    example: str = "search.sparsities=[0.5,0.9]",
) -> None:
    """Apply dotted overrides such as ``search.sparsities=[0.5,0.9]`` to `data`, in place."""
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted:
            raise UserError(
                f"{assignment!r} is not an assignment",
                where=flag,
                expected=f"{flag} {example}",
            )
        *parents, last = dotted.split(".")
        node: Any = data
        for key in parents:
            node = _step(node, key, dotted)
        value = parse(text, f"{flag} {dotted}")
        if isinstance(node, list):
            node[_index(node, last, dotted)] = value
        elif isinstance(node, dict):
            node[last] = value
        else:
            raise UserError(f"{dotted!r}: there is nothing below {parents[-1]!r}", where="--set")


def _step(node: Any, key: str, dotted: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, dotted)]
    if isinstance(node, dict):
        if node.get(key) is None:
            node[key] = {}
        return node[key]
    raise UserError(f"{dotted!r}: there is nothing below {key!r}", where="--set")


def _index(node: list[Any], key: str, dotted: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(
            f"{dotted!r}: {key!r} is no entry of a list of {len(node)}",
            where="--set",
            expected=f"a number from 0 to {len(node) - 1}",
        )
    return int(key)


def check(model: type[M], data: dict[str, Any], where: str) -> M:
    """Return `data` as a checked `model`; raises `UserError` listing every mistake."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_sentence(model, e) for e in error.errors()]
        if len(problems) == 1:
            raise problems[0].at(where) from error
        listed = "".join(f"\n  - {p.line()}" for p in problems)
        raise UserError(f"{len(problems)} mistakes{listed}", where=where) from error


class _Problem:
    """One mistake: the key it is at, what is wrong, what would be right."""

    def __init__(self, key: str, what: str, expected: str = "", mend: str = "") -> None:
        self.key, self.what, self.expected, self.mend = key, what, expected, mend

    def at(self, where: str) -> UserError:
        place = f"{where}: {self.key}" if self.key else where
        return UserError(self.what, where=place, expected=self.expected, mend=self.mend)

    def line(self) -> str:
        tail = "; ".join(p for p in (self.expected and f"expected {self.expected}", self.mend) if p)
        return f"{self.key}: {self.what}" + (f" ({tail})" if tail else "")


def _sentence(model: type[BaseModel], error: ErrorDetails) -> _Problem:
    loc, kind, found = error["loc"], error["type"], error["input"]
    key = _dotted(tuple(part for part in loc if not _is_tag(model, loc, part)))
    if kind == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        return _Problem(key, "unknown key", mend=did_you_mean(str(loc[-1]), known))
    if kind == "missing":
        return _Problem(key, "is missing", expected=_describe_at(model, loc))
    if kind in ("union_tag_invalid", "literal_error"):
        text = str(error.get("ctx", {}).get("expected_tags" if "tag" in kind else "expected", ""))
        known = [w.strip("' ") for w in re.split(r",| or ", text) if w.strip("' ")]
        if kind == "union_tag_invalid":
            found = error["ctx"]["tag"]
        return _Problem(key, f"{found!r} is not known", mend=did_you_mean(str(found), known))
    if kind == "union_tag_not_found":
        return _Problem(key, "needs a 'kind'", expected="for example {kind: p32}")
    if kind.startswith(("float", "int")) and isinstance(found, str):
        return _Problem(
            key,
            f"{found!r} is text, not a number",
            expected=error["msg"][0].lower() + error["msg"][1:],
            mend="write it with a decimal point, like 0.001 or 1.0e-3, and without quotes",
        )
    message = error["msg"].removeprefix("Value error, ")
    return _Problem(key, f"{found!r}: {message[0].lower()}{message[1:]}")


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _is_tag(model: type[BaseModel], loc: tuple[int | str, ...], part: int | str) -> bool:
    # Discriminated unions put the plug-in's name into the location: workload.p32.trainn
    return any(m.__name__ == f"plugin:{part}" for m in _models_along(model, loc))


def _models_along(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    found, here = [], [model]
    for part in loc:
        step = [m for h in here for m in _below(h, part)]
        here = step or here
        found += step
    return found


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    path = [model, *_models_along(model, loc)]
    tagged = [m for m in path if loc and m.__name__ == f"plugin:{loc[-1]}"]
    last = tagged[-1] if tagged else path[-1]
    return [f.alias or name for name, f in last.model_fields.items()]


def _describe_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    path = [model, *_models_along(model, loc[:-1])]
    field = path[-1].model_fields.get(str(loc[-1]))
    return (field.description or "") if field else ""


def _below(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    if isinstance(part, int):
        return [model]
    for name, field in model.model_fields.items():
        if part in (name, field.alias):
            return _models_in(field.annotation)
    return []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in get_args(annotation) for m in _models_in(a)]
