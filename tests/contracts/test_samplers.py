"""Every sampler keeps its promise: the contract that ships, over the registry."""

from hwbench.registry import SAMPLERS
from hwbench.testing import SamplerContract

OPTIONS = {
    "optuna": [{"algorithm": a, "startup": 3, "population": 4} for a in ("tpe", "nsga2")],
}

for kind in SAMPLERS.kinds():
    for options in OPTIONS.get(kind, [{}]):
        name = "_".join(("Test", kind, *(str(v) for v in list(options.values())[:1])))
        globals()[name] = type(name, (SamplerContract,), {"kind": kind, "options": options})
