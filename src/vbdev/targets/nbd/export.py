"""An export: a bdev under a name, and what NBD can say of it.

Every promise in the transmission flags follows from the bdev: SEND_FUA where it keeps FUA,
CAN_MULTI_CONN where a FLUSH covers all channels, and so on (proto.md, "Transmission flags").
"""

from __future__ import annotations

from typing import Protocol

from vbdev.bdev import Bdev
from vbdev.bdev.descriptor import Descriptor
from vbdev.reactor.task import Task
from vbdev.vocab import NBD_MAX_PAYLOAD_BYTES, Op
from vbdev.wire.nbd import BlockSizes, ExportInfo, TransmissionFlag

__all__ = ["META_CONTEXT", "Export", "ExportClient"]

META_CONTEXT = "base:allocation"
"""The one metadata context that is served."""


class ExportClient(Protocol):
    """A client of an export."""

    def finish(self) -> None:
        """End in order: no further request, replies to those in flight, then close."""

    def drop(self, reason: str) -> None:
        """End now: no further reply."""


class Export:
    """A bdev, opened, under an export name. `connections` are those in transmission.

    strict_blocks: requests have to be whole blocks. Otherwise they may begin and end at any byte:
    what a write leaves of a block is read and written with it, atomically.
    """

    def __init__(
        self,
        name: str,
        descriptor: Descriptor,
        *,
        read_only: bool,
        description: str,
        strict_blocks: bool = False,
    ) -> None:
        self.name = name
        self.descriptor = descriptor
        self.read_only = read_only
        self.description = description
        self.strict_blocks = strict_blocks
        self.connections: set[ExportClient] = set()
        self.retirement: Task[None] | None = None
        """Its end, once that has begun; no client finds it any more."""

    @property
    def bdev(self) -> Bdev:
        """The bdev behind it."""
        return self.descriptor.bdev

    @property
    def title(self) -> str:
        """What clients are told that it is."""
        return self.description or f"{self.bdev.product_name} {self.bdev.name}"

    def info(self) -> ExportInfo:
        """Return size, transmission flags and block sizes, as they are now."""
        bdev = self.bdev
        block_size = self.descriptor.block_size
        preferred = 4096
        while preferred < min(
            max(bdev.phys_block_size, block_size, block_size * bdev.write_unit_size), 1 << 25
        ):
            preferred *= 2
        # "Block size constraints": a client that does not ask may send anything, and one that does
        # (libnbd) refuses what is no multiple of the minimum by itself.
        minimum = block_size if self.strict_blocks else 1
        return ExportInfo(
            size_bytes=self.descriptor.size_bytes,
            flags=self.flags(),
            block_sizes=BlockSizes(minimum, preferred, NBD_MAX_PAYLOAD_BYTES),
            name=self.name,
            description=self.title,
        )

    def flags(self) -> TransmissionFlag:
        """Return the promises that the bdev keeps."""
        bdev, flag = self.bdev, TransmissionFlag
        flags = flag.HAS_FLAGS | flag.SEND_DF | flag.SEND_CACHE
        if bdev.multi_conn:
            flags |= flag.CAN_MULTI_CONN
        if self.read_only:
            # Nor FLUSH: it is a write to whoever opened the bdev for reading.
            return flags | flag.READ_ONLY
        # Without a cache that could lose anything, a FLUSH has nothing to do and FUA is free.
        if Op.FLUSH in bdev.ops:
            flags |= flag.SEND_FLUSH
        if bdev.fua or not bdev.write_cache:
            flags |= flag.SEND_FUA
        if Op.UNMAP in bdev.ops:
            flags |= flag.SEND_TRIM
        if bdev.can(Op.WRITE_ZEROES):
            flags |= flag.SEND_WRITE_ZEROES
            if bdev.fast_zero and Op.WRITE_ZEROES in bdev.ops:
                flags |= flag.SEND_FAST_ZERO
        return flags
