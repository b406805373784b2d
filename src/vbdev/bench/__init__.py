"""What loads bdevs, and measures them: `load`."""
