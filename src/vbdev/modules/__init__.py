"""Bdev modules: one file and one row each.

A module's own parameters, RPC methods, help and documentation come from its class. A third
party's module needs no row: `vbdev serve --module FILE.py`, or an entry point in the group
`vbdev.modules`.
"""

from __future__ import annotations

from vbdev.bdev import Bdev
from vbdev.modules.aio import Aio
from vbdev.modules.delay import Delay
from vbdev.modules.error import Error
from vbdev.modules.gpt import Gpt
from vbdev.modules.malloc import Malloc
from vbdev.modules.nbd.disk import Nbd
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.modules.split import Split
from vbdev.modules.uring import Uring
from vbdev.modules.zone_block import ZoneBlock

__all__ = ["MODULES"]

MODULES: tuple[type[Bdev], ...] = (
    Aio,
    Delay,
    Error,
    Gpt,
    Malloc,
    Nbd,
    Null,
    Passthru,
    Split,
    Uring,
    ZoneBlock,
)
