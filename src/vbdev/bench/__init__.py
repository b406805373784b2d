"""What loads bdevs, and measures them: `load`; `results` is what was asked for, and measured."""
