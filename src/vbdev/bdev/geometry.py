"""Sizes of bdevs that are made to measure (malloc, null): their parameters and their checks."""

from __future__ import annotations

import errno

from vbdev.api.params import Int32, Uint32, Uint64
from vbdev.bdev.contract import Bdev, BdevParams
from vbdev.vocab import BLOCK_SIZE_MULTIPLE, MAX_BLOCK_SIZE, MAX_SIZE_BYTES, DifCheck
from vbdev.vocab.errors import BdevError

__all__ = ["SizedParams", "check_geometry", "set_geometry"]

MD_SIZES = (0, 8, 16, 32, 64, 128)
CHECKS = {
    0: 0,
    1: DifCheck.GUARD | DifCheck.REFTAG,
    2: DifCheck.GUARD | DifCheck.REFTAG,
    3: DifCheck.GUARD,
}
"""What is checked, by `dif_type`. Application tags are the application's: no bdev knows them."""


class SizedParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a bdev whose size is the creator's to choose."""

    num_blocks: Uint64
    """Size in blocks; at least 1."""
    block_size: Uint32
    """Bytes of data in a block; a multiple of 512."""
    physical_block_size: Uint32 = 0
    """Bytes; a multiple of 512. 0: block_size."""
    md_size: Uint32 = 0
    """Bytes of metadata for each block: 0, 8, 16, 32, 64 or 128."""
    dif_type: Int32 = 0
    """Type of protection information in the metadata, 1 to 3; 0 for none."""
    dif_is_head_of_md: bool = False
    """Protection information stands at the head of the metadata, not at its end."""
    dif_pi_format: Uint32 = 0
    """0, 1, 2: protection information with a guard of 16, 32, 64 bits. The first takes 8 bytes of
    metadata, the others 16."""


def set_geometry(
    bdev: Bdev,
    params: SizedParams,
    *,
    md_interleave: bool = True,
    too_large: int = errno.EINVAL,
) -> None:
    """Give the bdev its size and metadata; BdevError EINVAL where they do not make a disk.

    md_interleave: metadata is part of each block, and of `Bdev.block_size`. too_large: the errno
    of a size beyond what any bdev has.
    """
    who = f"{bdev.kind} bdev {bdev.name!r}"
    if params.num_blocks <= 0:
        raise BdevError(errno.EINVAL, f"{who}: num_blocks is {params.num_blocks}; at least 1")
    for field, size in (
        ("block_size", params.block_size),
        ("physical_block_size", params.physical_block_size or params.block_size),
    ):
        if not 0 < size <= MAX_BLOCK_SIZE or size % BLOCK_SIZE_MULTIPLE:
            raise BdevError(
                errno.EINVAL,
                f"{who}: {field} {size} is no multiple of {BLOCK_SIZE_MULTIPLE} up to"
                f" {MAX_BLOCK_SIZE}",
            )
    if params.md_size not in MD_SIZES:
        raise BdevError(
            errno.EINVAL,
            f"{who}: md_size {params.md_size} is none of {', '.join(map(str, MD_SIZES))}",
        )
    block_size = params.block_size + (params.md_size if md_interleave else 0)
    if params.num_blocks * block_size > MAX_SIZE_BYTES:
        raise BdevError(
            too_large,
            f"{who}: {params.num_blocks} blocks of {block_size} bytes are more than"
            f" {MAX_SIZE_BYTES} bytes",
        )
    bdev.num_blocks = params.num_blocks
    bdev.block_size = block_size
    bdev.phys_block_size = params.physical_block_size
    bdev.md_len = params.md_size
    bdev.md_interleave = md_interleave and params.md_size > 0
    bdev.dif_type = params.dif_type
    bdev.dif_is_head_of_md = params.dif_is_head_of_md
    bdev.dif_pi_format = params.dif_pi_format
    if params.dif_type not in CHECKS:
        raise BdevError(errno.EINVAL, f"{who}: dif_type {params.dif_type} is none of 0, 1, 2, 3")
    if params.dif_type and not params.md_size:
        raise BdevError(
            errno.EINVAL, f"{who}: dif_type {params.dif_type} needs metadata, and md_size is 0"
        )
    bdev.dif_check_flags = int(CHECKS[params.dif_type])
    try:
        bdev.metadata_layout()
    except ValueError as error:
        raise BdevError(errno.EINVAL, f"{who}: {error}") from error


MAX_ALIGNMENT = 21
"""Of `required_alignment`: 2 MiB, what buffers are cut from."""
LIMITS = {
    "required_alignment": MAX_ALIGNMENT,
    **dict.fromkeys(
        (
            "optimal_io_boundary",
            "write_unit_size",
            "acwu",
            "max_rw_size",
            "max_segment_size",
            "max_num_segments",
            "max_unmap",
            "max_unmap_segments",
            "max_write_zeroes",
            "max_copy",
            "md_len",
            "phys_block_size",
            "reset_io_drain_timeout",
        ),
        (1 << 32) - 1,
    ),
}


def check_geometry(bdev: Bdev) -> None:
    """Raise BdevError EINVAL where a module gives its bdev numbers that can not be."""
    if not bdev.name:
        raise BdevError(errno.EINVAL, "a bdev needs a name")
    who = f"bdev {bdev.name} ({bdev.kind})"
    for name in ("block_size", "num_blocks", *LIMITS):
        value: object = getattr(bdev, name)
        if not isinstance(value, int) or not 0 <= value <= LIMITS.get(name, MAX_SIZE_BYTES):
            raise BdevError(
                errno.EINVAL,
                f"{who}: {name} is {value!r}; a whole number from 0 to"
                f" {LIMITS.get(name, MAX_SIZE_BYTES)}",
            )
    size = bdev.data_block_size
    if not 0 < size <= MAX_BLOCK_SIZE or size % BLOCK_SIZE_MULTIPLE:
        raise BdevError(
            errno.EINVAL,
            f"{who}: block size {size} is no multiple of {BLOCK_SIZE_MULTIPLE} up to"
            f" {MAX_BLOCK_SIZE}",
        )
    if bdev.num_blocks <= 0:
        raise BdevError(errno.EINVAL, f"{who} has no blocks")
    if bdev.size_bytes > MAX_SIZE_BYTES:
        raise BdevError(errno.EINVAL, f"{who} has more than {MAX_SIZE_BYTES} bytes")
