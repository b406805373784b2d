"""Sizes of bdevs that are made to measure (malloc, null): their parameters and their checks."""

from __future__ import annotations

import errno

from vbdev.bdev import Bdev, BdevError, BdevParams
from vbdev.vocab import BLOCK_SIZE_MULTIPLE, MAX_BLOCK_SIZE, MAX_SIZE_BYTES

__all__ = ["SizedParams", "set_geometry"]


class SizedParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a bdev whose size is the creator's to choose."""

    num_blocks: int
    """Size in blocks."""
    block_size: int
    """Bytes; a multiple of 512."""
    physical_block_size: int | None = None
    """Bytes; a multiple of 512. Default: block_size."""
    md_size: int = 0
    """Bytes of metadata for each block; 0, because metadata is not supported yet."""
    dif_type: int = 0
    """Protection information; 0, as above."""
    dif_is_head_of_md: bool = False
    """Where protection information stands in the metadata; without effect."""
    dif_pi_format: int = 0
    """Format of protection information; without effect."""


def set_geometry(bdev: Bdev, params: SizedParams) -> None:
    """Give the bdev its size; BdevError EINVAL where sizes do not make a disk."""
    who = f"{bdev.kind} bdev {bdev.name!r}"
    if params.num_blocks <= 0:
        raise BdevError(errno.EINVAL, f"{who}: num_blocks is {params.num_blocks}; at least 1")
    for field, size in (
        ("block_size", params.block_size),
        ("physical_block_size", params.physical_block_size),
    ):
        if size is not None and (not 0 < size <= MAX_BLOCK_SIZE or size % BLOCK_SIZE_MULTIPLE):
            raise BdevError(
                errno.EINVAL,
                f"{who}: {field} {size} is no multiple of {BLOCK_SIZE_MULTIPLE} up to"
                f" {MAX_BLOCK_SIZE}",
            )
    for field, value in (("md_size", params.md_size), ("dif_type", params.dif_type)):
        if value:
            raise BdevError(
                errno.EINVAL, f"{who}: {field} is {value}; metadata is not supported, only 0 is"
            )
    if params.num_blocks * params.block_size > MAX_SIZE_BYTES:
        raise BdevError(
            errno.EINVAL,
            f"{who}: {params.num_blocks} blocks of {params.block_size} bytes are more than"
            f" {MAX_SIZE_BYTES} bytes",
        )
    bdev.num_blocks = params.num_blocks
    bdev.block_size = params.block_size
    bdev.phys_block_size = params.physical_block_size or 0
