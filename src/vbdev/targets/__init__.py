"""Targets: what serves bdevs to the world over a protocol. Siblings; none imports another."""
