"""What every plug-in promises, as tests to be inherited: for ours and for those of other packages.

::

    from hwbench.testing import BackendContract

    class TestMine(BackendContract):
        kind = "mine"

pytest (``pip install pytest``) finds the tests in the class. What a plug-in needs to know in a
test, such as a path, the class gives it: each contract says which of its methods are there to be
overridden. docs/plug-ins.md has the whole way from a file to a package.
"""

from hwbench.testing.backend import BackendContract
from hwbench.testing.connection import ConnectionContract
from hwbench.testing.meter import MeterContract
from hwbench.testing.pruner import PrunerContract
from hwbench.testing.sampler import SamplerContract
from hwbench.testing.workload import WorkloadContract

__all__ = [
    "BackendContract",
    "ConnectionContract",
    "MeterContract",
    "PrunerContract",
    "SamplerContract",
    "WorkloadContract",
]
