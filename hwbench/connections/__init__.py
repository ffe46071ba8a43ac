"""Ways to a device, one file each."""
