"""vbdev: a disk you can program."""

__version__ = "0.1.0"
