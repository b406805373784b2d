"""passthru: forwards every I/O to its base bdev, unchanged. Copy this file to begin your own.

What a vbdev writes itself is `submit`. Finding the base or waiting for it, claiming it, copying
its properties, hot removal, deletion, RPC methods and saved configuration come with VirtualBdev.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from vbdev.api.methods import DECODE_OBJECT_FAILED
from vbdev.bdev import ALL_OPS, VirtualBdev
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.reports.logs import NOTICE

log = logging.getLogger(__name__)


class Passthru(VirtualBdev):
    """A vbdev that adds nothing. Any I/O type that the base has passes, and no data is touched."""

    kind = "passthru"
    product_name = "passthru"
    uuid_namespace = uuid.UUID("7e25812e-c8c0-4d3f-8599-16d790555b85")
    ops = ALL_OPS
    undecoded = DECODE_OBJECT_FAILED
    gives_read_buffers = True

    async def start(self) -> None:
        """Say what has been done so far, in SPDK's words, which operators look for."""
        log.log(NOTICE, "Match on %s", self.base.name)
        log.log(NOTICE, "base bdev opened")
        log.log(NOTICE, "io_device created at: 0x%x", id(self))
        log.log(NOTICE, "bdev claimed")

    def created(self) -> None:
        """Say that it is there."""
        log.log(NOTICE, "pt_bdev registered")
        log.log(NOTICE, "created pt_bdev for: %s", self.name)

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Hand the batch to the base; it is the base's from here on."""
        channel.base.submit(ios)

    def dump_info(self) -> dict[str, Any]:
        """Return what `bdev_get_bdevs` shows as `driver_specific`."""
        return {"passthru": {"name": self.name, "base_bdev_name": self.base.name}}
