"""What a disk says of its partitions: its MBR and both tables, read and written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from vbdev.bdev import Bdev, IoError
from vbdev.bdev.contract import Opened
from vbdev.modules.gpt.blocks import PIECE_BYTES, flush, read_blocks, write_blocks
from vbdev.modules.gpt.contents import find_signatures, listing
from vbdev.wire.gpt import (
    GptError,
    Mbr,
    Partition,
    TableHeader,
    header_of_other_size,
    layout,
    parse_entries,
    parse_header,
    parse_mbr,
)

__all__ = ["Disk", "Step", "Table", "look", "obstacle", "read_disk", "write_steps", "write_table"]

log = logging.getLogger(__name__)

HEADERS_BYTES = 8192
"""Where primary headers are, for blocks of any size up to 4096 bytes."""

Step = Sequence[tuple[int, bytes]]
"""Blocks (LBA, data) that are written one after the other, and are stable before the next step."""


@dataclass(frozen=True, slots=True)
class Table:
    """One of a disk's two tables, which is whole."""

    disk_guid: UUID
    partitions: list[Partition]
    header: TableHeader
    refused: list[str]
    """What can not be used of it."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What stands where a disk has its partition table."""

    mbr: Mbr
    mbr_block: bytes
    primary: Table | None
    secondary: Table | None
    complaints: list[str]
    """Why a table is None."""

    @property
    def table(self) -> Table | None:
        """The table that counts, if the disk is one that has tables."""
        return (self.primary or self.secondary) if self.mbr.protects else None


def obstacle(bdev: Bdev) -> str:
    """Say why a bdev can have no table; "" when it can."""
    if bdev.zoned:
        return "it is zoned"
    if bdev.md_len and bdev.md_interleave:
        return f"its blocks of {bdev.block_size} bytes hold metadata"
    if bdev.block_size > PIECE_BYTES:  # nobody's table is on such, and looking would cost memory
        return f"its blocks have {bdev.block_size} bytes; at most {PIECE_BYTES}"
    try:
        layout(bdev.num_blocks, bdev.block_size)
    except GptError as error:
        return str(error)
    return ""


# Reading


async def look(descriptor: Opened) -> Table | None:
    """Return a disk's table; None where there is none. What is wrong with it is logged."""
    bdev = descriptor.bdev
    block = await read_blocks(descriptor, 0, 1)
    if not parse_mbr(block).protects:
        return None
    disk = await read_disk(descriptor, block)
    if disk.table is None:
        log.warning("gpt: no table bdev=%s: %s", bdev.name, "; ".join(disk.complaints))
        return None
    if disk.primary is None:
        # What damaged it may be what the disk is used as by now.
        try:
            others = await find_signatures(descriptor)
        except IoError as error:
            others = []
            log.warning("gpt: can not look for what else is there bdev=%s: %s", bdev.name, error)
        if others:
            log.warning(
                "gpt: secondary table not believed bdev=%s: %s; the disk holds %s",
                bdev.name,
                "; ".join(disk.complaints),
                listing(others),
            )
            return None
    if disk.complaints:
        log.warning("gpt: damaged table bdev=%s: %s", bdev.name, "; ".join(disk.complaints))
    for reason in disk.table.refused:
        log.warning("gpt: partition left out bdev=%s: %s", bdev.name, reason)
    return disk.table


async def read_disk(descriptor: Opened, mbr_block: bytes | None = None) -> Disk:
    """Read all there is. What can not be read, or makes no sense, is a complaint."""
    bdev = descriptor.bdev
    block = mbr_block if mbr_block is not None else await read_blocks(descriptor, 0, 1)
    complaints = []
    tables: list[Table | None] = []
    for place, lba in (("primary", 1), ("secondary", bdev.num_blocks - 1)):
        try:
            tables.append(await read_table(descriptor, lba))
        except (GptError, IoError) as error:
            tables.append(None)
            complaints.append(f"{place} table: {error}")
    if complaints:
        complaints += await find_other_size(descriptor)
    return Disk(parse_mbr(block), block, tables[0], tables[1], complaints)


async def find_other_size(descriptor: Opened) -> list[str]:
    """Say so where a table was written for blocks of another size: for a disk that had such."""
    block_size = descriptor.bdev.block_size
    try:
        start = await read_blocks(descriptor, 0, -(-HEADERS_BYTES // block_size))
    except IoError:
        return []
    other = header_of_other_size(start, block_size)
    return [f"it is one for blocks of {other} bytes, not of {block_size}"] if other else []


async def read_table(descriptor: Opened, lba: int) -> Table:
    """Read one of a disk's two tables. GptError says what is wrong with it."""
    bdev = descriptor.bdev
    block = await read_blocks(descriptor, lba, 1)
    header = parse_header(block, lba, bdev.num_blocks, bdev.block_size)
    length = -(-header.entries_bytes // bdev.block_size)
    entries = await read_blocks(descriptor, header.entries_lba, length)
    partitions, refused = parse_entries(header, entries)
    return Table(header.disk_guid, partitions, header, refused)


# Writing


async def write_steps(descriptor: Opened, steps: Sequence[Step]) -> None:
    """Write, one step after the other, each of them stable before the next begins."""
    for step in steps:
        for lba, data in step:
            await write_blocks(descriptor, lba, data)
        await flush(descriptor)


async def write_table(descriptor: Opened, blocks: Sequence[tuple[int, bytes]]) -> None:
    """Write what `build_table` has made, so that a power cut leaves the old table or the new one.

    The table that counts now is written when the other one is stable; and the MBR last, so that a
    disk that was something else is that until there is a whole table.
    """
    secondary, primary, mbr = blocks[:2], blocks[2:4], blocks[4:]
    disk = await read_disk(descriptor)
    if disk.table is not None and disk.primary is None:
        await write_steps(descriptor, [primary, secondary, mbr])
    else:
        await write_steps(descriptor, [secondary, primary, mbr])
