"""hwbench: which pruned model do I ship on this device?

    import hwbench

    results = hwbench.bench("recipe.yaml", target="local-cpu")
    print(results.decision.reason)
    results.frame(), results.samples()

Every name below is imported when it is first used: ``import hwbench`` costs nothing. What type
checkers see of it stands in ``__init__.pyi``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "HwbenchError",
    "Progress",
    "Recipe",
    "StageError",
    "StudyResults",
    "TargetError",
    "TargetProfile",
    "UserError",
    "Workspace",
    "__version__",
    "bench",
    "compare",
    "load_recipe",
    "load_target",
    "measure",
    "pick",
    "plan",
    "predict",
    "read_study",
]

_HOMES = {
    "hwbench.api": (
        "bench", "compare", "load_recipe", "load_target", "measure", "pick", "plan", "predict",
        "read_study",
    ),
    "hwbench.api.results": ("StudyResults",),
    "hwbench.errors": ("HwbenchError", "StageError", "TargetError", "UserError"),
    "hwbench.pipeline.session": ("Progress", "Workspace"),
    "hwbench.records": ("Recipe", "TargetProfile"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    # A room of that name is found by the import system, which asks here first.
    if home is None:
        raise AttributeError(f"module 'hwbench' has no attribute {name!r}")
    value = vars(importlib.import_module(home))[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
