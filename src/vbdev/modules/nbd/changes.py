"""What may change of an export from one connection to the next, and what may not."""

from __future__ import annotations

from typing import Final

from vbdev.vocab import NBD_MAX_PAYLOAD_BYTES
from vbdev.wire.nbd import ExportInfo, TransmissionFlag

__all__ = ["changed_flags", "misfit"]

KEPT_FLAGS: Final = (
    TransmissionFlag.READ_ONLY
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_FUA
    | TransmissionFlag.SEND_TRIM
    | TransmissionFlag.SEND_WRITE_ZEROES
    | TransmissionFlag.SEND_FAST_ZERO
)
"""What is worth a warning when it changes from one connection to the next."""


def changed_flags(first: ExportInfo, now: ExportInfo) -> TransmissionFlag:
    """Return what is offered otherwise than at first, and is worth a warning."""
    return (now.flags ^ first.flags) & KEPT_FLAGS


def misfit(first: ExportInfo, now: ExportInfo, block_size: int) -> str | None:
    """Return why an export can not stand in for the one that there was, None if it can.

    block_size: the bdev's, in bytes.
    """
    sizes = now.block_sizes
    if sizes is None:
        return None
    if sizes.minimum_bytes > block_size:
        return (
            f"its minimum block size is {sizes.minimum_bytes} now, and the bdev has blocks of"
            f" {block_size}"
        )
    before = first.block_sizes
    most = before.maximum_bytes if before is not None else NBD_MAX_PAYLOAD_BYTES
    if sizes.maximum_bytes < min(most, NBD_MAX_PAYLOAD_BYTES):
        return f"its maximum payload is {sizes.maximum_bytes} now, and it was {most}"
    return None
