"""What is on a disk: signatures of all kinds, and data where a table would be written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vbdev.bdev.contract import Opened
from vbdev.modules.gpt.blocks import PIECE_BYTES, flush, read_blocks, write_blocks
from vbdev.wire.gpt import SIGNATURE, Mbr, layout, mbr_types, parse_mbr
from vbdev.wire.signatures import Signature, signatures

__all__ = ["Found", "find_contents", "find_signatures", "listing", "wipe"]

MOST_TOLD = 4


class Found(NamedTuple):
    """Something that is on a disk, and where (bytes)."""

    what: str
    offset: int
    length: int = 0
    """Of its magic number."""


def listing(found: Sequence[Found]) -> str:
    """Say what was found and where, the first few of many."""
    told = [f"{one.what} at byte {one.offset}" for one in found[:MOST_TOLD]]
    more = len(found) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "")


async def find_contents(descriptor: Opened) -> list[Found]:
    """Return what a new table would destroy. Empty: the disk is nobody's, as far as can be seen."""
    found = find_mbr(await read_blocks(descriptor, 0, 1))
    found += await find_signatures(descriptor, tables=True)
    return found or await find_data(descriptor)


def find_mbr(block: bytes) -> list[Found]:
    """Return what partitions the first block tells of."""
    mbr = parse_mbr(block)
    if mbr is Mbr.NONE:
        return []
    if mbr is Mbr.PROTECTIVE:
        return [Found("GPT (its protective MBR)", 0)]
    types = ", ".join(f"{kind:#04x}" for kind in mbr_types(block))
    return [Found(f"{mbr.value} with partitions of types {types}", 0)]


async def find_signatures(descriptor: Opened, *, tables: bool = False) -> list[Found]:
    """Return each format whose signature is in its place, at its first place.

    tables: those of partition tables of this kind too.
    """
    bdev = descriptor.bdev
    wanted = [
        one
        for one in signatures(bdev.num_blocks * bdev.block_size)
        if tables or one.magic != SIGNATURE
    ]
    found: dict[tuple[str, int], Found] = {}
    for piece, here in by_piece(wanted, bdev.block_size):
        length = min(step_blocks(bdev.block_size), bdev.num_blocks - piece)
        start = piece * bdev.block_size
        data = await read_blocks(descriptor, piece, length)
        for one in here:
            magic = data[one.offset - start : one.offset - start + len(one.magic)]
            if magic == one.magic:
                found[one.name, one.offset] = Found(one.name, one.offset, len(one.magic))
    return list(found.values())


def step_blocks(block_size: int) -> int:
    """Return how many blocks are read at once: enough for a magic number at the end of a piece."""
    return PIECE_BYTES // block_size + 1


def by_piece(wanted: Iterable[Signature], block_size: int) -> list[tuple[int, list[Signature]]]:
    """Gather signatures by the pieces of the disk (first block) that have to be read for them."""
    step = PIECE_BYTES // block_size
    pieces: dict[int, list[Signature]] = {}
    for one in wanted:
        pieces.setdefault(one.offset // block_size // step * step, []).append(one)
    return sorted(pieces.items())


async def find_data(descriptor: Opened) -> list[Found]:
    """Return the first byte, on each end of the disk, that is not zero where a table would be."""
    bdev = descriptor.bdev
    first_usable, last_usable = layout(bdev.num_blocks, bdev.block_size)
    found = []
    for lba, end in ((0, first_usable), (last_usable + 1, bdev.num_blocks)):
        data = await read_blocks(descriptor, lba, end - lba)
        zeroes = len(data) - len(data.lstrip(b"\0"))
        if zeroes < len(data):
            found.append(Found("data", lba * bdev.block_size + zeroes))
    return found


async def wipe(descriptor: Opened, found: Sequence[Found]) -> None:
    """Erase signatures beside the table that has taken the disk over, so that nobody believes them.

    What is between the two ends of the disk only: the rest has been overwritten.
    """
    bdev = descriptor.bdev
    first_usable, last_usable = layout(bdev.num_blocks, bdev.block_size)
    for one in found:
        first = one.offset // bdev.block_size
        last = (one.offset + one.length - 1) // bdev.block_size
        if one.length and first_usable <= first and last <= last_usable:
            data = bytearray(await read_blocks(descriptor, first, last + 1 - first))
            at = one.offset - first * bdev.block_size
            data[at : at + one.length] = bytes(one.length)
            await write_blocks(descriptor, first, bytes(data))
    await flush(descriptor)
