"""Samplers: which candidate of a space to try next, one file each."""
