"""Runtimes, one file each: the host half compiles, the device half loads and runs."""
