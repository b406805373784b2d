"""Words that every floor shares, and that stand on nothing of ours.

`io`        I/O types, statuses, flags, limits, and the one table of errors
`errors`    what fails, with its errno
`status`    how an I/O ended, in the terms of NVMe, SCSI and errno
`sizes`     sizes for people
`address`   where servers listen and clients connect
`cpu_sets`  CPUs and masks of them
`text`      text of others, made fit for a line
`refused`   system calls that are refused

What is named here is what modules are written with.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vbdev.vocab.io import (
        BLOCK_SIZE_MULTIPLE,
        MAX_BLOCK_SIZE,
        MAX_SIZE_BYTES,
        MAX_STACK_DEPTH,
        NBD_MAX_PAYLOAD_BYTES,
        OP_NAMES,
        WRITE_OPS,
        ZONE_INFO,
        ZONE_INFO_BYTES,
        ClaimType,
        DifCheck,
        DmaDeviceType,
        IoFlag,
        NbdError,
        Op,
        Status,
        ZoneAction,
        ZoneState,
        ZoneType,
        nbd_error,
        status_errno,
    )

__all__ = [
    "BLOCK_SIZE_MULTIPLE",
    "MAX_BLOCK_SIZE",
    "MAX_SIZE_BYTES",
    "MAX_STACK_DEPTH",
    "NBD_MAX_PAYLOAD_BYTES",
    "OP_NAMES",
    "WRITE_OPS",
    "ZONE_INFO",
    "ZONE_INFO_BYTES",
    "ClaimType",
    "DifCheck",
    "DmaDeviceType",
    "IoFlag",
    "NbdError",
    "Op",
    "Status",
    "ZoneAction",
    "ZoneState",
    "ZoneType",
    "nbd_error",
    "status_errno",
]

if not TYPE_CHECKING:  # a name that is not there is found out

    def __getattr__(name: str) -> object:
        """Import the words when one is asked for: who wants an address needs none of them."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("vbdev.vocab.io"), name)
