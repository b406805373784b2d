"""gpt: the partitions of a disk, `<base>p1`, `<base>p2` and so on, found by its table or made here.

Every new bdev that nobody has claimed is looked at. The partitions of SPDK's own types become
bdevs; those of other types do on request (`bdev_gpt_set_options`). Nothing is configured: what the
table on the disk says comes back with the disk. How a table looks is told in `vbdev.wire.gpt`.

The primary table counts. Where it is damaged the secondary one does, unless the disk is
partitioned the old way, when both are left-overs. A table is never repaired silently.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec

from vbdev.bdev import Bdev, BdevError, IoError
from vbdev.descriptor import Descriptor
from vbdev.module_methods import ModuleMethod, failures
from vbdev.params import BdevName, Params
from vbdev.part import Part, PartParams
from vbdev.registry import BaseHold, Registry
from vbdev.vocab import Op
from vbdev.wire.gpt import (
    GptError,
    Mbr,
    Partition,
    TableHeader,
    build_table,
    layout,
    parse_entries,
    parse_header,
    parse_mbr,
)

log = logging.getLogger(__name__)

SPDK_TYPE = UUID("6527994e-2c5a-4eec-9613-8f5944074e8b")
"""The partition type that SPDK's partitions have now."""
SPDK_TYPES = frozenset({SPDK_TYPE, UUID("7c5222bd-8f5d-4087-9c00-bf9843c7b58c")})
"""That, and the one they used to have."""
PIECE_BYTES = 64 << 10
"""How much is read or written at once: less than what any base takes."""
ALIGNMENT_BYTES = 1 << 20
"""Where new partitions start: at multiples of this many bytes, as all partitioning tools do."""


class Options(Params, kw_only=True, frozen=True):
    """Say which partitions become bdevs. Bdevs that nobody has claimed are looked at anew."""

    partition_types: list[UUID] | None = None
    """Type GUIDs; SPDK's two when absent."""
    any_type: bool = False
    """Partitions of all types."""

    def want(self, partition: Partition) -> bool:
        """Say whether a partition becomes a bdev."""
        types = SPDK_TYPES if self.partition_types is None else self.partition_types
        return self.any_type or partition.type_guid in types


class NewPartition(Params, kw_only=True, frozen=True):
    """One partition of a new table. The last one may be without a size: the rest of the disk."""

    name: str = ""
    """Up to 36 UTF-16 units."""
    size_mb: Annotated[int, msgspec.Meta(ge=1, le=1 << 43)] | None = None
    """Size in MiB."""
    num_blocks: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)] | None = None
    """Or in blocks."""
    type_guid: UUID = SPDK_TYPE
    """Type of the partition; SPDK's when absent."""
    unique_guid: UUID | None = None
    """UUID of the partition, and of its bdev; random when absent."""


class GptCreateParams(Params, kw_only=True, frozen=True):
    """Write a partition table to a bdev, then make bdevs of its partitions."""

    base_bdev: BdevName
    """Name, alias or UUID of the disk."""
    partitions: list[NewPartition]
    """The partitions, from the start of the disk on."""
    disk_guid: UUID | None = None
    """UUID of the table; random when absent."""
    overwrite: bool = False
    """Whether a table that is there may be lost."""


class GptDeleteParams(Params, kw_only=True, frozen=True):
    """Remove the bdevs of a disk's partitions, and erase its partition table."""

    base_bdev: BdevName
    """Name, alias or UUID of the disk."""


class GptPartParams(PartParams, kw_only=True, forbid_unknown_fields=True):
    """One partition that was found."""

    table_guid: UUID
    type_guid: UUID
    partition_name: str


@dataclass(frozen=True, slots=True)
class Table:
    """What a disk's table says."""

    disk_guid: UUID
    partitions: list[Partition]


class Gpt(Part):
    """A partition. It comes and goes with its disk."""

    kind = "gpt"
    product_name = "GPT Disk"
    Params = GptPartParams
    params: GptPartParams

    def dump_info(self) -> dict[str, Any]:
        """Return what `bdev_get_bdevs` shows as `driver_specific`."""
        return {
            "gpt": {
                "base_bdev": self.base.name,
                "offset_blocks": self.offset_blocks,
                "partition_table_guid": str(self.params.table_guid),
                "partition_type_guid": str(self.params.type_guid),
                "unique_partition_guid": str(self.uuid),
                "partition_name": self.params.partition_name,
            }
        }

    @classmethod
    async def examine_disk(cls, registry: Registry, bdev: Bdev) -> None:
        """Make bdevs of a disk's partitions, if it has a table."""
        if obstacle(bdev):
            return
        table = await look(registry, bdev)
        if table is not None and any(map(options(registry).want, table.partitions)):
            async with registry.hold(bdev, cls.kind, holder=holder(bdev)) as hold:
                await build_parts(registry, hold, table)

    @classmethod
    def rpc_methods(cls) -> Sequence[ModuleMethod]:
        """Return what is about tables: a partition is not created by itself."""
        return (
            ModuleMethod(
                "bdev_gpt_create",
                GptCreateParams,
                create,
                result=list[str],
                errors=failures(errno.ENODEV, errno.EINVAL, errno.EEXIST, errno.EPERM),
            ),
            ModuleMethod(
                "bdev_gpt_delete",
                GptDeleteParams,
                delete,
                errors=failures(errno.ENODEV, errno.ENOENT, errno.EPERM),
            ),
            ModuleMethod("bdev_gpt_set_options", Options, set_options),
        )


def options(registry: Registry) -> Options:
    """Return which partitions are wanted."""
    found = registry.module_options.get(Gpt.kind)
    return found if isinstance(found, Options) else Options()


def holder(bdev: Bdev) -> str:
    """Return whom others find in their way."""
    return f"gpt partitions of {bdev.name}"


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


async def look(registry: Registry, bdev: Bdev) -> Table | None:
    """Read a disk's table; None where there is none. What is wrong with it is logged."""
    with ExitStack() as undo:
        descriptor = registry.open(
            bdev.name, write=False, on_event=lambda _event: None, holder=f"gpt, reading {bdev.name}"
        )
        undo.callback(descriptor.close)
        return await read_table(descriptor)


async def read_table(descriptor: Descriptor) -> Table | None:
    """Read the primary table, or the secondary one where that is damaged."""
    bdev = descriptor.bdev
    mbr = parse_mbr(await read_blocks(descriptor, 0, 1))
    if mbr is Mbr.OTHER:
        return None
    complaints = []
    if mbr is Mbr.NONE:
        complaints.append("no protective MBR")
    last = bdev.num_blocks - 1
    tables = []
    for place, lba in (("primary", 1), ("secondary", last)):
        try:
            tables.append(await read_copy(descriptor, lba, place))
        except (GptError, IoError) as error:
            complaints.append(f"{place} table: {error}")
    if not tables:
        if mbr is Mbr.PROTECTIVE:  # otherwise it is any disk
            log.warning("gpt: no table bdev=%s: %s", bdev.name, "; ".join(complaints))
        return None
    if complaints:
        log.warning("gpt: damaged table bdev=%s: %s", bdev.name, "; ".join(complaints))
    return tables[0]


async def read_copy(descriptor: Descriptor, lba: int, place: str) -> Table:
    """Read one of a disk's two tables. GptError says what is wrong with it."""
    bdev = descriptor.bdev
    block = await read_blocks(descriptor, lba, 1)
    header = parse_header(block, lba, bdev.num_blocks, bdev.block_size)
    partitions, refused = parse_entries(header, await read_entries(descriptor, header))
    for reason in refused:
        log.warning("gpt: partition left out bdev=%s table=%s: %s", bdev.name, place, reason)
    return Table(header.disk_guid, partitions)


async def read_entries(descriptor: Descriptor, header: TableHeader) -> bytes:
    """Read the array of entries that a checked header points to."""
    length = -(-header.entries_bytes // descriptor.bdev.block_size)
    return await read_blocks(descriptor, header.entries_lba, length)


async def read_blocks(descriptor: Descriptor, lba: int, num_blocks: int) -> bytes:
    """Read blocks, in pieces. IoError where that fails."""
    data = bytearray(num_blocks * descriptor.bdev.block_size)
    for first, piece in pieces(memoryview(data), descriptor.bdev.block_size):
        count = len(piece) // descriptor.bdev.block_size
        await descriptor.io(Op.READ, lba + first, count, piece)
    return bytes(data)


async def write_blocks(descriptor: Descriptor, lba: int, data: bytes) -> None:
    """Write blocks, in pieces. IoError where that fails."""
    for first, piece in pieces(memoryview(data), descriptor.bdev.block_size):
        count = len(piece) // descriptor.bdev.block_size
        await descriptor.io(Op.WRITE, lba + first, count, piece)


def pieces(data: memoryview, block_size: int) -> list[tuple[int, memoryview]]:
    """Return (first block, piece) of data."""
    step = max(1, PIECE_BYTES // block_size) * block_size
    return [(at // block_size, data[at : at + step]) for at in range(0, len(data), step)]


async def build_parts(registry: Registry, hold: BaseHold, table: Table) -> list[str]:
    """Make bdevs of the partitions that are wanted; one that fails is logged and left out."""
    names = []
    for partition in filter(options(registry).want, table.partitions):
        params = GptPartParams(
            name=f"{hold.base.name}p{partition.number}",
            uuid=partition.unique_guid,
            base_bdev=hold.base.name,
            offset_blocks=partition.first_lba,
            num_blocks=partition.num_blocks,
            table_guid=table.disk_guid,
            type_guid=partition.type_guid,
            partition_name=partition.name,
        )
        try:
            await registry.build(Gpt(params), hold)
        except BdevError as error:
            log.warning("gpt: no bdev for a partition name=%s error=%s", params.name, error)
        else:
            names.append(params.name)
    return names


# Writing


async def create(registry: Registry, params: GptCreateParams) -> list[str]:
    """Write a table and return the names of the bdevs that its partitions have become."""
    base = registry.get(params.base_bdev)
    who = f"bdev {base.name}"
    reason = obstacle(base)
    if base.write_unit_size > 1:
        reason = f"it is written in units of {base.write_unit_size} blocks"
    if reason:
        raise BdevError(errno.EINVAL, f"{who} can have no partition table: {reason}")
    disk_guid = params.disk_guid or uuid4()
    try:
        partitions = place(params.partitions, base)
        blocks = build_table(partitions, disk_guid, base.num_blocks, base.block_size)
    except GptError as error:
        raise BdevError(errno.EINVAL, f"{who}: {error}") from error
    async with registry.hold(base, Gpt.kind, holder=holder(base)) as hold:
        if not params.overwrite and await read_table(hold.descriptor) is not None:
            raise BdevError(
                errno.EEXIST, f"{who} has a partition table; overwrite would replace it"
            )
        for lba, data in blocks:
            await write_blocks(hold.descriptor, lba, data)
        await flush(hold.descriptor)
        table = await read_table(hold.descriptor)
        assert table is not None, "a table that was written is read again"
        return await build_parts(registry, hold, table)


def place(partitions: list[NewPartition], base: Bdev) -> list[Partition]:
    """Lay partitions out, one behind the other. GptError where they do not fit."""
    first_usable, last_usable = layout(base.num_blocks, base.block_size)
    alignment = max(1, ALIGNMENT_BYTES // base.block_size)
    if alignment > last_usable:  # a disk of less than that
        alignment = 1
    placed: list[Partition] = []
    at = first_usable
    for number, wanted in enumerate(partitions, start=1):
        first = -(-at // alignment) * alignment
        if wanted.size_mb is not None and wanted.num_blocks is not None:
            raise GptError(f"partition {number} has both size_mb and num_blocks")
        if wanted.size_mb is not None:
            length = -(-(wanted.size_mb << 20) // base.block_size)
        elif wanted.num_blocks is not None:
            length = wanted.num_blocks
        elif number == len(partitions):
            length = last_usable - first + 1
        else:
            raise GptError(f"partition {number} has no size, and is not the last one")
        last = first + length - 1
        if not first <= last <= last_usable:
            raise GptError(
                f"partition {number} of {length} blocks at {first} does not fit:"
                f" {last_usable} is the last usable block"
            )
        guid = wanted.unique_guid or uuid4()
        placed.append(Partition(number, wanted.type_guid, guid, first, last, wanted.name))
        at = last + 1
    return placed


async def flush(descriptor: Descriptor) -> None:
    """Have what was written on the disk itself, where that is a difference."""
    if Op.FLUSH in descriptor.bdev.ops:
        await descriptor.io(Op.FLUSH, 0, descriptor.bdev.num_blocks)


async def delete(registry: Registry, params: GptDeleteParams) -> bool:
    """Remove the partitions' bdevs and erase the table. ENOENT where there is none."""
    base = registry.get(params.base_bdev)
    for part in reversed([b for b in registry if isinstance(b, Gpt) and b.base is base]):
        await registry.unregister(part)
    if obstacle(base) or await look(registry, base) is None:
        raise BdevError(errno.ENOENT, f"bdev {base.name} has no partition table")
    async with registry.hold(base, Gpt.kind, holder=holder(base)) as hold:
        for lba in (1, base.num_blocks - 1, 0):
            await write_blocks(hold.descriptor, lba, bytes(base.block_size))
        await flush(hold.descriptor)
    return True


async def set_options(registry: Registry, params: Options) -> bool:
    """Take over which partitions are wanted, and look at the disks that nobody has claimed."""
    registry.module_options[Gpt.kind] = params
    for bdev in list(registry):
        if bdev.claim is None and Op.READ in bdev.ops:
            try:
                await Gpt.examine_disk(registry, bdev)
            except BdevError as error:
                log.warning("gpt: can not look at bdev=%s error=%s", bdev.name, error)
    return True
