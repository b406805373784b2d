"""What is said of bdevs: what they are and can, what stands on what, and who holds them."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from vbdev.api.results.base import Result

__all__ = [
    "BdevInfo",
    "Claim",
    "DifCheckTypes",
    "Holder",
    "Holders",
    "MemoryDomain",
    "RateLimits",
    "StackEntry",
    "SupportedIoTypes",
]


class DifCheckTypes(Result, kw_only=True):
    """Which parts of protection information are checked."""

    reftag: bool
    """The reference tag."""
    apptag: bool
    """The application tag."""
    guard: bool
    """The guard, a checksum."""


class RateLimits(Result, kw_only=True):
    """Rate limits; 0 is unlimited."""

    rw_ios_per_sec: int
    """Reads and writes a second."""
    rw_mbytes_per_sec: int
    """MiB a second, reads and writes together."""
    r_mbytes_per_sec: int
    """MiB a second that are read."""
    w_mbytes_per_sec: int
    """MiB a second that are written."""


class SupportedIoTypes(Result, kw_only=True):
    """The I/O types that a bdev carries out."""

    read: bool
    """READ."""
    write: bool
    """WRITE."""
    unmap: bool
    """UNMAP: blocks are given back."""
    flush: bool
    """FLUSH: what was written becomes stable."""
    reset: bool
    """RESET: outstanding I/O ends."""
    nvme_admin: bool
    """NVMe admin commands."""
    nvme_io: bool
    """NVMe I/O commands."""
    nvme_io_md: bool
    """NVMe I/O commands with separate metadata."""
    write_zeroes: bool
    """WRITE_ZEROES, emulated or not."""
    zcopy: bool
    """ZCOPY: the bdev's own memory is lent."""
    get_zone_info: bool
    """GET_ZONE_INFO."""
    zone_management: bool
    """ZONE_MANAGEMENT."""
    zone_append: bool
    """ZONE_APPEND."""
    compare: bool
    """COMPARE."""
    compare_and_write: bool
    """COMPARE_AND_WRITE, atomically."""
    abort: bool
    """ABORT."""
    seek_hole: bool
    """SEEK_HOLE."""
    seek_data: bool
    """SEEK_DATA."""
    copy: bool
    """COPY inside the bdev."""
    nvme_iov_md: bool
    """NVMe I/O commands with scattered data and separate metadata."""
    nvme_nssr: bool
    """NVM subsystem reset."""
    write_uncorrectable: bool
    """WRITE_UNCORRECTABLE."""


class MemoryDomain(Result, kw_only=True):
    """A kind of memory that a bdev uses where it is."""

    dma_device_type: int
    """The kind (SPDK: enum spdk_dma_device_type)."""


class BdevInfo(Result, kw_only=True):
    """A bdev."""

    name: str
    """Name of the bdev."""
    aliases: list[str]
    """Other names, the UUID among them."""
    product_name: str
    """What kind of bdev it is, for humans."""
    block_size: int
    """Bytes of a block, interleaved metadata included."""
    num_blocks: int
    """Size in blocks."""
    preferred_write_alignment: int
    """Blocks; a hint to writers, 0 for none, as are the next four."""
    preferred_write_granularity: int
    """Blocks."""
    optimal_write_size: int
    """Blocks."""
    preferred_unmap_alignment: int
    """Blocks."""
    preferred_unmap_granularity: int
    """Blocks."""
    uuid: str
    """UUID, in lower case."""
    numa_id: int | UnsetType = UNSET
    """NUMA node of its memory; absent where that is any."""
    md_size: int | UnsetType = UNSET
    """Bytes of metadata of each block; absent, with the next two, where there is none."""
    md_interleave: bool | UnsetType = UNSET
    """Whether the metadata is part of the block."""
    dif_type: int | UnsetType = UNSET
    """Type of protection information, 1 to 3; 0 for none."""
    dif_is_head_of_md: bool | UnsetType = UNSET
    """Whether it stands at the start of the metadata; absent, with the next two, without any."""
    enabled_dif_check_types: DifCheckTypes | UnsetType = UNSET
    """What of it is checked."""
    dif_pi_format: int | UnsetType = UNSET
    """0, 1, 2: a guard of 16, 32, 64 bits."""
    assigned_rate_limits: RateLimits
    """As `bdev_set_qos_limit` has set them."""
    claimed: bool
    """Whether a module has claimed it."""
    claim_type: str | UnsetType = UNSET
    """How it is claimed; absent where it is not."""
    zoned: bool
    """Whether it has zones."""
    zone_size: int | UnsetType = UNSET
    """Blocks of a zone; absent, with the next two, without zones."""
    max_open_zones: int | UnsetType = UNSET
    """How many zones may be open; 0 for any number."""
    optimal_open_zones: int | UnsetType = UNSET
    """How many zones are best open at once."""
    supported_io_types: SupportedIoTypes
    """What it carries out."""
    memory_domains: list[MemoryDomain] | UnsetType = UNSET
    """Kinds of memory that it uses where it is; absent where there are none."""
    driver_specific: dict[str, Any]
    """What the module tells of it."""


class Holder(Result, kw_only=True):
    """Who has a bdev open."""

    holder: str
    """Who, for humans."""
    write: bool
    """Whether for writing too."""
    claim_type: str | None
    """How it has claimed the bdev, if it has."""
    outstanding: int
    """I/Os that it waits for."""
    thread: str
    """Name of the thread that it belongs to."""


class Claim(Result, kw_only=True):
    """Who has claimed a bdev."""

    module: str
    """Kind of the module."""
    name: str
    """For whom, for humans."""


class Holders(Result, kw_only=True):
    """Who has a bdev open or claimed, and whom a removal waits for."""

    name: str
    """Name of the bdev."""
    state: str
    """`ready`, `removing`, or `stopping` when nobody has it open any more."""
    removing_ms: int | None
    """For how long it has been going away, in ms."""
    claim_type: str | None
    """How it is claimed, if it is."""
    claims: list[Claim]
    """By whom."""
    examined_by: list[str]
    """Modules that look at its data now."""
    holders: list[Holder]
    """Who has it open."""


class StackEntry(Result, kw_only=True):
    """A bdev, or one that waits for its base, as `vbdev ls` shows it."""

    name: str
    """Name of the bdev."""
    kind: str
    """Its module."""
    block_size: int
    """Bytes of data of a block."""
    md_size: int
    """Bytes of metadata of a block."""
    num_blocks: int
    """Size in blocks; 0 where it waits for its base."""
    zone_size: int
    """Blocks of a zone; 0 without zones."""
    base: str | None
    """Name of the bdev that it stands on, if it does."""
    state: str
    """As in `vbdev_get_holders`, or `waiting for its base`."""
    removing_ms: int | None
    """For how long it has been going away, in ms."""
    claim: str | None
    """Who has claimed it, if anybody, for humans."""
    claim_type: str | None
    """How it is claimed, if it is."""
    holders: list[str]
    """Who has it open, for humans."""
    busy: dict[str, int]
    """I/Os outstanding by who waits for them."""
    examined_by: list[str]
    """Modules that look at its data now."""
    outstanding: int
    """I/Os outstanding."""
