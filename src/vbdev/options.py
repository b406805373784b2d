"""Options of the bdev layer, which are settled before it starts (SPDK: spdk_bdev_opts)."""

from __future__ import annotations

import errno

import msgspec

from vbdev.bdev import BdevError

__all__ = ["BdevOptions"]


class BdevOptions(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """As `bdev_set_options` takes them."""

    bdev_io_pool_size: int = 65535
    """BdevIOs of one reactor."""
    bdev_io_cache_size: int = 256
    """Bounds the pool from below, as in SPDK. Each reactor has a pool of its own and no cache."""
    bdev_auto_examine: bool = True
    """Every new bdev is examined; else those that `bdev_examine` names."""
    iobuf_small_cache_size: int = 128
    """Taken for the sake of SPDK's configurations; buffers are not cached by size here."""
    iobuf_large_cache_size: int = 16
    """The same."""

    def check(self, num_reactors: int) -> None:
        """Raise BdevError EINVAL, in SPDK's words, for a pool that its caches would empty."""
        least = max(1, self.bdev_io_cache_size * (num_reactors + 1))
        if self.bdev_io_pool_size < least:
            raise BdevError(
                errno.EINVAL,
                f"Pool size {self.bdev_io_pool_size} too small for cache size"
                f" {self.bdev_io_cache_size}",
            )
