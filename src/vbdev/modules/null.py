"""null: takes writes and forgets them. For measuring what stands above it."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import msgspec

from vbdev.api.methods import DECODE_OBJECT_FAILED, ModuleMethod, failures
from vbdev.api.params import BdevName, Params, Uint32, Uint64
from vbdev.bdev import Bdev, BdevError, BdevParams
from vbdev.bdev.geometry import SizedParams, set_geometry
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.core.ram.disk import ZeroRegion
from vbdev.registry import Registry
from vbdev.vocab import MAX_SIZE_BYTES, DmaDeviceType, Op

HINTS = (
    "preferred_write_alignment",
    "preferred_write_granularity",
    "optimal_write_size",
    "preferred_unmap_alignment",
    "preferred_unmap_granularity",
)


class NullParams(SizedParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev that discards what is written to it."""

    preferred_write_alignment: Uint32 = 0
    """Blocks; a hint to writers, as are the next ones."""
    preferred_write_granularity: Uint32 = 0
    """Blocks."""
    optimal_write_size: Uint32 = 0
    """Blocks."""
    preferred_unmap_alignment: Uint32 = 0
    """Blocks."""
    preferred_unmap_granularity: Uint32 = 0
    """Blocks."""


class ResizeParams(Params, kw_only=True, frozen=True):
    """Give a null bdev another size."""

    name: BdevName
    """Name of the bdev."""
    new_size: Uint64
    """MiB. Growing always works, shrinking while nobody has the bdev open."""


class Null(Bdev):
    """Discards writes. A READ leaves the caller's buffer as it is, or gives one of zeroes.

    With protection information a READ gives zeroes and what belongs to them, and what a WRITE
    brings is checked.
    """

    kind = "null"
    product_name = "Null disk"
    keeps_data = False
    Params = NullParams
    saved_params = (
        "name",
        "num_blocks",
        "block_size",
        "physical_block_size",
        "md_size",
        "dif_type",
        "dif_is_head_of_md",
        "dif_pi_format",
        "uuid",
    )
    undecoded = DECODE_OBJECT_FAILED
    ops = frozenset({Op.READ, Op.WRITE, Op.WRITE_ZEROES, Op.RESET, Op.ABORT})
    gives_read_buffers = True
    fast_zero = True
    params: NullParams

    async def start(self) -> None:
        """Check and take over the geometry."""
        set_geometry(self, self.params)
        for hint in HINTS:
            setattr(self, hint, getattr(self.params, hint))
        self._zeroes = ZeroRegion()
        self._dif = self.metadata_layout()
        # The one page of zeroes is no block with protection information of its own.
        self.gives_read_buffers = self.dif_type == 0
        # It looks at no data, and names no kind of memory, as SPDK's.
        self.memory_domains = () if self.dif_type else (DmaDeviceType.MEMFD,)

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Complete everything."""
        self._zeroes.execute(ios, self._dif)

    def current_params(self) -> BdevParams:
        """Return the parameters, with the size as it is now."""
        return msgspec.structs.replace(
            super().current_params(),
            num_blocks=self.num_blocks,
            physical_block_size=self.phys_block_size,
        )

    @classmethod
    def rpc_methods(cls) -> Sequence[ModuleMethod]:
        """Return `bdev_null_resize`."""
        errors = failures(errno.ENODEV, errno.EINVAL)
        return (ModuleMethod("bdev_null_resize", ResizeParams, resize, errors=errors),)


async def resize(registry: Registry, params: ResizeParams) -> bool:
    """Change a null bdev's size and tell its openers; EINVAL where that can not be."""
    bdev = registry.get(params.name)
    if not isinstance(bdev, Null):  # EINVAL: SPDK looks for the bdev first and then whose it is
        raise BdevError(errno.EINVAL, f"bdev {bdev.name!r} is a {bdev.kind} bdev and no null bdev")
    num_blocks = (params.new_size << 20) // bdev.block_size
    if not 0 < num_blocks * bdev.block_size <= MAX_SIZE_BYTES:
        raise BdevError(
            errno.EINVAL,
            f"null bdev {bdev.name!r}: new_size {params.new_size} MiB is no size of 1 to"
            f" {MAX_SIZE_BYTES} bytes in blocks of {bdev.block_size} bytes",
        )
    try:
        bdev.notify_blockcnt_change(num_blocks)
    except BdevError as error:
        raise BdevError(errno.EINVAL, str(error)) from error  # SPDK's answer to a shrink in use
    return True
