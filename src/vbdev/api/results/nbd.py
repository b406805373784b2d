"""What is exported over NBD, and attached to the kernel."""

from __future__ import annotations

from vbdev.api.results.base import Result

__all__ = [
    "Export",
    "NbdDisk",
]


class Export(Result, kw_only=True):
    """A bdev that NBD clients can use."""

    export_name: str
    """What clients ask for."""
    bdev_name: str
    """Name of the bdev."""
    read_only: bool
    """Whether writes are refused."""
    description: str
    """For humans."""
    strict_blocks: bool
    """Whether requests have to be whole blocks."""
    default: bool
    """Whether clients that ask for no name get it."""
    size_bytes: int
    """Size in bytes."""
    connections: int
    """Clients that use it now."""
    addresses: list[str]
    """Where the server listens."""


class NbdDisk(Result, kw_only=True):
    """A bdev that is a block device of this machine."""

    nbd_device: str
    """Path of the device."""
    bdev_name: str
    """Name of the bdev."""
