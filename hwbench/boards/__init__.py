"""Provision a device with what it needs before it can be measured on; or make one up, for tests.

`setup` puts the pinned runtimes on a board that is reached by ssh, whether or not it has a network
of its own; `emulate` builds the file system of an emulated board.
"""

from hwbench.boards.emulate import TARGET as EMULATED
from hwbench.boards.emulate import emulate
from hwbench.boards.setup import setup
from hwbench.boards.wheels import provided

__all__ = ["EMULATED", "emulate", "provided", "setup"]
