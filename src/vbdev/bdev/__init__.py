"""A block device: what an author writes, and what the framework keeps of it.

What is named here is what modules are written with. Rooms, from the ground up: `host` is what a
bdev may ask of those who keep it; `iostat` adds counters up; `timeouts` watches I/Os of a
descriptor; `contract` is what an author writes; `geometry` checks what it says of its blocks;
`part` is a vbdev that is a piece of its base; `setup` configures a channel; `claim` is who may
write; `entry` is what the framework keeps of a bdev; `descriptor` is an open bdev, `paths` what
each reactor has of it; `channels` does something with all its channels; `figures` counts; `locks`
are blocks that one holds; `control` carries out what concerns all of a bdev's I/O at once: resets,
aborts, locks. Apart from these: `memory_domain`, data outside of this process's memory.
"""

from __future__ import annotations

from vbdev.bdev.contract import (
    ALL_OPS,
    BASIC_OPS,
    Bdev,
    BdevParams,
    Unnamed,
    VirtualBdev,
    VirtualBdevParams,
    uuid5,
)
from vbdev.bdev.host import BdevEvent, BdevState
from vbdev.vocab.errors import BdevError, IoError

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
