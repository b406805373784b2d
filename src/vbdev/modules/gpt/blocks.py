"""Blocks of a bdev, read and written by whoever looks at tables. IoError where that fails."""

from __future__ import annotations

from vbdev.bdev.contract import Opened
from vbdev.vocab import Op

__all__ = ["PIECE_BYTES", "flush", "read_blocks", "write_blocks"]

PIECE_BYTES = 64 << 10
"""How much is read or written at once: less than what any base takes."""


async def read_blocks(descriptor: Opened, lba: int, num_blocks: int) -> bytes:
    """Read blocks, in pieces."""
    data = bytearray(num_blocks * descriptor.bdev.block_size)
    for first, piece in pieces(memoryview(data), descriptor.bdev.block_size):
        count = len(piece) // descriptor.bdev.block_size
        await descriptor.io(Op.READ, lba + first, count, piece)
    return bytes(data)


async def write_blocks(descriptor: Opened, lba: int, data: bytes) -> None:
    """Write blocks, in pieces."""
    for first, piece in pieces(memoryview(data), descriptor.bdev.block_size):
        count = len(piece) // descriptor.bdev.block_size
        await descriptor.io(Op.WRITE, lba + first, count, piece)


def pieces(data: memoryview, block_size: int) -> list[tuple[int, memoryview]]:
    """Return (first block, piece) of data."""
    step = max(1, PIECE_BYTES // block_size) * block_size
    return [(at // block_size, data[at : at + step]) for at in range(0, len(data), step)]


async def flush(descriptor: Opened) -> None:
    """Have what was written on the disk itself, where that is a difference."""
    if Op.FLUSH in descriptor.bdev.ops:
        await descriptor.io(Op.FLUSH, 0, descriptor.bdev.num_blocks)
