"""The kernel's nbd devices by their names, and what is wrong with a name."""

from __future__ import annotations

import errno
import re

from vbdev.bdev import BdevError

__all__ = ["IllegalDeviceError", "NoDeviceError", "device_number"]

DEVICE = re.compile(r"/dev/nbd(0|[1-9][0-9]{0,8})")


class IllegalDeviceError(BdevError):
    """A name that no nbd device has."""


class NoDeviceError(BdevError):
    """No nbd device is free."""


def device_number(path: str) -> int:
    """Return the number of /dev/nbd<number>; IllegalDeviceError for any other path."""
    found = DEVICE.fullmatch(path)
    if found is None:
        raise IllegalDeviceError(
            errno.ENODEV, f"{path!r} is no nbd device; they are called /dev/nbd0 and so on"
        )
    return int(found[1])
