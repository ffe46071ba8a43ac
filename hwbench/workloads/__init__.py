"""Workloads: a model and its data, one file each; the user's own come through ``python``."""
