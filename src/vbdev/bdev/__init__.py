"""A block device: what an author writes, and what the framework keeps of it.

What is named here is what modules are written with. Rooms, from the ground up: `iostat` adds
counters up; `timeouts` watches I/Os of a descriptor; `contract` is what an author writes;
`geometry` checks what it says of its blocks; `part` is a vbdev that is a piece of its base;
`descriptor` is an open bdev; `channels` does something with all its channels; `figures` counts;
`control` carries out what concerns all of a bdev's I/O at once: resets, aborts, locks. Apart from
these: `memory_domain`, data outside of this process's memory.
"""

from __future__ import annotations

from vbdev.bdev.contract import (
    ALL_OPS,
    BASIC_OPS,
    Bdev,
    BdevError,
    BdevEvent,
    BdevParams,
    BdevState,
    IoError,
    Unnamed,
    VirtualBdev,
    VirtualBdevParams,
    uuid5,
)

__all__ = [
    "ALL_OPS",
    "BASIC_OPS",
    "Bdev",
    "BdevError",
    "BdevEvent",
    "BdevParams",
    "BdevState",
    "IoError",
    "Unnamed",
    "VirtualBdev",
    "VirtualBdevParams",
    "uuid5",
]
