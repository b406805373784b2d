"""null: takes writes and forgets them. For measuring what stands above it."""

from __future__ import annotations

from vbdev.bdev import Bdev
from vbdev.core.batch import IOBatch
from vbdev.core.engine import Channel
from vbdev.core.ram import ZeroRegion
from vbdev.geometry import SizedParams, set_geometry
from vbdev.vocab import Op

HINTS = (
    "preferred_write_alignment",
    "preferred_write_granularity",
    "optimal_write_size",
    "preferred_unmap_alignment",
    "preferred_unmap_granularity",
)


class NullParams(SizedParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev that discards what is written to it."""

    preferred_write_alignment: int = 0
    """Blocks; a hint to writers, as are the next ones."""
    preferred_write_granularity: int = 0
    """Blocks."""
    optimal_write_size: int = 0
    """Blocks."""
    preferred_unmap_alignment: int = 0
    """Blocks."""
    preferred_unmap_granularity: int = 0
    """Blocks."""


class Null(Bdev):
    """Discards writes. A READ leaves the caller's buffer as it is, or gives one of zeroes."""

    kind = "null"
    product_name = "Null disk"
    Params = NullParams
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

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Complete everything."""
        self._zeroes.execute(ios, self.block_size)
