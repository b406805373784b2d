"""The partitions' bdevs, and the RPC methods of tables."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec

from vbdev.api.methods import ModuleMethod, failures
from vbdev.api.params import BdevName, Params
from vbdev.bdev import Bdev, BdevError, BdevState
from vbdev.bdev.contract import Hold, Layer, Opened
from vbdev.bdev.entry import entry_of
from vbdev.bdev.part import Part, PartParams
from vbdev.modules.gpt.contents import find_contents, listing, wipe
from vbdev.modules.gpt.erasing import plan_erasure
from vbdev.modules.gpt.table import Table, look, obstacle, read_disk, write_steps, write_table
from vbdev.vocab import Op
from vbdev.wire.gpt import GptError, Partition, build_table, layout

log = logging.getLogger(__name__)

SPDK_TYPE = UUID("6527994e-2c5a-4eec-9613-8f5944074e8b")
"""The partition type that SPDK's partitions have now."""
SPDK_TYPES = frozenset({SPDK_TYPE, UUID("7c5222bd-8f5d-4087-9c00-bf9843c7b58c")})
"""That, and the one they used to have."""
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
    """Whether what is there may be lost: a table, a file system, data of any kind."""


class GptDeleteParams(Params, kw_only=True, frozen=True):
    """Remove the bdevs of a disk's partitions, and erase its partition table.

    Nothing but the table is erased: its protective MBR entry, its headers and their entries.
    """

    base_bdev: BdevName
    """Name, alias or UUID of the disk."""
    overwrite: bool = False
    """Whether to erase what is left of a table too: headers that are damaged, or without an MBR."""


class GptPartParams(PartParams, kw_only=True, forbid_unknown_fields=True):
    """One partition that was found."""

    table_guid: UUID
    type_guid: UUID
    partition_name: str


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
    async def examine_disk(cls, registry: Layer, bdev: Bdev) -> None:
        """Make bdevs of a disk's partitions, if it has a table."""
        if obstacle(bdev):
            return
        with reading(registry, bdev) as descriptor:
            table = await look(descriptor)
        if table is not None and any(map(options(registry).want, table.partitions)):
            async with registry.hold(bdev, cls.kind, holder=holder(bdev)) as hold:
                # Until here others could write; what counts is what nobody can change any more.
                if (await read_disk(hold.descriptor)).table != table:
                    table = await look(hold.descriptor)
                if table is not None:
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
                errors=failures(errno.ENODEV, errno.EINVAL, errno.EEXIST, errno.EPERM, errno.EIO),
            ),
            ModuleMethod(
                "bdev_gpt_delete",
                GptDeleteParams,
                delete,
                errors=failures(errno.ENODEV, errno.ENOENT, errno.EPERM, errno.EIO),
            ),
            ModuleMethod("bdev_gpt_set_options", Options, set_options),
        )


def options(registry: Layer) -> Options:
    """Return which partitions are wanted."""
    found = registry.module_options.get(Gpt.kind)
    return found if isinstance(found, Options) else Options()


def holder(bdev: Bdev) -> str:
    """Return whom others find in their way."""
    return f"gpt partitions of {bdev.name}"


@contextmanager
def reading(registry: Layer, bdev: Bdev) -> Iterator[Opened]:
    """Have a bdev open for a look at its table."""
    descriptor = registry.open(
        bdev.name, write=False, on_event=lambda _event: None, holder=f"gpt, reading {bdev.name}"
    )
    try:
        yield descriptor
    finally:
        descriptor.close()


async def build_parts(registry: Layer, hold: Hold, table: Table) -> list[str]:
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


async def create(registry: Layer, params: GptCreateParams) -> list[str]:
    """Write a table and return the names of the bdevs that its partitions have become.

    EEXIST where anything is on the disk, unless it may be lost.
    """
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
        found = await find_contents(hold.descriptor)
        if found and not params.overwrite:
            raise BdevError(
                errno.EEXIST, f"{who} is not empty: {listing(found)}; overwrite would destroy it"
            )
        await write_table(hold.descriptor, blocks)
        await wipe(hold.descriptor, found)
        table = (await read_disk(hold.descriptor)).table
        if table is None or table.disk_guid != disk_guid:
            raise BdevError(errno.EIO, f"{who} does not give back the table that was written")
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


async def delete(registry: Layer, params: GptDeleteParams) -> bool:
    """Remove the partitions' bdevs and erase the table. ENOENT where there is none."""
    base = registry.get(params.base_bdev)
    reason = obstacle(base)
    if reason:
        raise BdevError(errno.ENOENT, f"bdev {base.name} can have no partition table: {reason}")
    # Looked at twice: a refusal comes before any bdev is gone, and what is erased is what is there
    # once nobody else can write.
    with reading(registry, base) as descriptor:
        await plan_erasure(descriptor, overwrite=params.overwrite)
    for part in reversed([b for b in registry if isinstance(b, Gpt) and b.base is base]):
        await registry.take_away(part)
    async with registry.hold(base, Gpt.kind, holder=holder(base)) as hold:
        steps = await plan_erasure(hold.descriptor, overwrite=params.overwrite)
        await write_steps(hold.descriptor, steps)
    return True


async def set_options(registry: Layer, params: Options) -> bool:
    """Take over which partitions are wanted, and look at the disks that nobody has claimed."""
    registry.module_options[Gpt.kind] = params
    for bdev in list(registry):
        there = bdev.state is BdevState.READY  # still: others have run in between
        if there and entry_of(bdev).claim is None and Op.READ in bdev.ops:
            try:
                await Gpt.examine_disk(registry, bdev)
            except BdevError as error:
                log.warning("gpt: can not look at bdev=%s error=%s", bdev.name, error)
    return True
