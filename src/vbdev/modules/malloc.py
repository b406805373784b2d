"""malloc: a disk in memory, zero at the start, gone at the end."""

from __future__ import annotations

import errno

from vbdev.bdev import Bdev, BdevError
from vbdev.core.batch import IOBatch
from vbdev.core.channel import Channel
from vbdev.core.ram import RamDisk
from vbdev.geometry import SizedParams, set_geometry
from vbdev.module_methods import DECODE_OBJECT_FAILED
from vbdev.vocab import Op


class MallocParams(SizedParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev in memory."""

    name: str = ""
    """Name of the bdev; `Malloc<n>` when absent."""
    optimal_io_boundary: int | None = None
    """Blocks; a hint to those who write in larger units."""
    md_interleave: bool = False
    """Where metadata would stand; without effect as long as md_size is 0."""
    numa_id: int = -1
    """-1 for any NUMA node; no other can be asked for."""


class Malloc(Bdev):
    """A memory disk. Nothing survives it, so nothing is ever lost to a missing FLUSH."""

    kind = "malloc"
    product_name = "Malloc disk"
    auto_name = "Malloc"
    Params = MallocParams
    undecoded = DECODE_OBJECT_FAILED
    ops = frozenset(
        {
            Op.READ,
            Op.WRITE,
            Op.UNMAP,
            Op.FLUSH,
            Op.RESET,
            Op.WRITE_ZEROES,
            Op.ZCOPY,
            Op.COMPARE,
            Op.ABORT,
            Op.COPY,
            Op.SEEK_HOLE,
            Op.SEEK_DATA,
        }
    )
    fast_zero = True
    fua = True
    params: MallocParams

    async def start(self) -> None:
        """Reserve the memory; pages are touched as they are written."""
        set_geometry(self, self.params)
        if self.params.numa_id != -1:
            raise BdevError(
                errno.EINVAL,
                f"malloc bdev {self.name!r}: numa_id is {self.params.numa_id}; only -1 (any) is"
                " supported",
            )
        self.optimal_io_boundary = self.params.optimal_io_boundary or 0
        try:
            self._ram = RamDisk(self.num_blocks, self.block_size)
        except (MemoryError, OverflowError) as error:
            raise BdevError(
                errno.ENOMEM,
                f"malloc bdev {self.name!r}: no memory for {self.size_bytes} bytes",
            ) from error

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Copy, compare, clear; everything completes here."""
        self._ram.execute(ios)
