"""Energy meters, one file each, each with its source tier."""
