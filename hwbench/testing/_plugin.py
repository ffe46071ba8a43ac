"""What holds for plug-ins of every kind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from hwbench.config import catalogue
from hwbench.registry import FAMILIES, Family, Plugin

_HOST_ONLY = ("onnx", "scipy", "pandas")


class PluginContract:
    """A plug-in of a family; subclasses name it as ``kind``, with options if it needs some."""

    family: ClassVar[Family[Any, Any]]
    kind: ClassVar[str]
    options: Mapping[str, Any] = {}
    """Options of the instances that are tested."""

    @property
    def plugin(self) -> Plugin[Any, Any]:
        """The plug-in, found and checked by the registry."""
        return self.family.plugin(self.kind)

    @pytest.fixture(autouse=True)
    def _needs_its_requirements(self) -> None:
        lacking = self.plugin.lacking()
        if lacking:
            pytest.skip(f"needs {', '.join(lacking)}")

    def test_describes_itself(self) -> None:
        """Its module and its options say in words what they are; options cannot be changed."""
        plugin = self.plugin
        assert plugin.doc
        parameters: Any = vars(plugin.options)["__dataclass_params__"]
        assert parameters.frozen
        assert plugin.options.__doc__
        assert not plugin.options.__doc__.startswith("Options("), "Options needs a docstring"
        silent = [option.name for option in catalogue.options(plugin) if not option.doc]
        assert not silent, f"Options says nothing of {', '.join(silent)} (``name``: what it does)"

    def test_options_have_defaults_or_are_given(self) -> None:
        """An instance can be made of the options that the test gives."""
        names = {field.name for field in dataclasses.fields(self.plugin.options)}
        assert set(self.options) <= names

    def test_imports_anywhere(self) -> None:
        """Importing its file imports no runtime: that happens inside functions."""
        runtimes = {
            name
            for family in FAMILIES.values()
            for kind in family.kinds()
            for name in family.traits(kind).requires
        }
        script = (
            "import sys\n"
            f"from hwbench.registry import FAMILIES\n"
            f"FAMILIES[{self.family.group!r}].plugin({self.kind!r})\n"
            f"print([m for m in {(*_HOST_ONLY, *sorted(runtimes))!r} if m in sys.modules])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "[]", done.stderr
