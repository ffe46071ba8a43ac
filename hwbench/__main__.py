"""``python -m hwbench``."""

from hwbench.cli import main

main()
