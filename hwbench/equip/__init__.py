"""Equip a device with what it needs before it can be measured on; or make one up, for tests.

`setup` puts the pinned runtimes on a board that is reached by ssh, whether or not it has a network
of its own; `emulate` builds the file system of an emulated board.
"""

from hwbench.equip.board import setup
from hwbench.equip.emulate import TARGET as EMULATED
from hwbench.equip.emulate import emulate
from hwbench.equip.wheels import provided

__all__ = ["EMULATED", "emulate", "provided", "setup"]
