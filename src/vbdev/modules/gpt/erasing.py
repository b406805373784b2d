"""Which blocks of a disk are a partition table's own, and in which order they are erased."""

from __future__ import annotations

import errno

from vbdev.bdev import BdevError
from vbdev.bdev.contract import Opened
from vbdev.modules.gpt.blocks import read_blocks
from vbdev.modules.gpt.contents import find_contents, listing
from vbdev.modules.gpt.table import Disk, Step, Table, read_disk
from vbdev.wire.gpt import SIGNATURE, without_protection

__all__ = ["plan_erasure"]


async def plan_erasure(descriptor: Opened, *, overwrite: bool) -> list[Step]:
    """Return the steps that erase a disk's table, and nothing else.

    The protective entry of the MBR goes first, because without it there is no table, however far
    the rest gets. overwrite: headers that are damaged, or stand without an MBR, go as well.

    BdevError: ENOENT where there is no table; EPERM where what there is can not be proved to be
    one.
    """
    bdev = descriptor.bdev
    disk = await read_disk(descriptor)
    damaged = await find_damaged(descriptor, disk)
    if not overwrite:
        if disk.table is None:
            found = await find_contents(descriptor)
            raise BdevError(
                errno.ENOENT,
                f"bdev {bdev.name} has no partition table, or none that is whole"
                + (f"; on it: {listing(found)}" if found else ""),
            )
        if damaged:
            raise BdevError(
                errno.EPERM,
                f"bdev {bdev.name} has a damaged partition table: {'; '.join(disk.complaints)};"
                " overwrite would erase it all the same",
            )
    tables = [table for table in (disk.primary, disk.secondary) if table is not None]
    steps: list[Step] = []
    if disk.mbr.protects:
        steps.append([(0, without_protection(disk.mbr_block))])
    lbas = [*(table.header.lba for table in tables), *damaged]
    steps.append([(lba, bytes(bdev.block_size)) for lba in lbas])
    steps.append([entries_erased(table, bdev.block_size) for table in tables])
    steps = [step for step in steps if step]
    if not steps:
        raise BdevError(errno.ENOENT, f"bdev {bdev.name} has nothing of a partition table")
    return steps


def entries_erased(table: Table, block_size: int) -> tuple[int, bytes]:
    """Return the blocks of a table's entries as they are when it is gone."""
    header = table.header
    return header.entries_lba, bytes(-(-header.entries_bytes // block_size) * block_size)


async def find_damaged(descriptor: Opened, disk: Disk) -> list[int]:
    """Return where a header's signature stands without a whole table."""
    last = descriptor.bdev.num_blocks - 1
    return [
        lba
        for lba, table in ((1, disk.primary), (last, disk.secondary))
        if table is None and (await read_blocks(descriptor, lba, 1)).startswith(SIGNATURE)
    ]
