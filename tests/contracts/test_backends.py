"""Every backend keeps its promise: the contract that ships, over the registry."""

from hwbench.registry import BACKENDS
from hwbench.testing import BackendContract

for kind in BACKENDS.kinds():
    globals()[f"Test_{kind}"] = type(f"Test_{kind}", (BackendContract,), {"kind": kind})
