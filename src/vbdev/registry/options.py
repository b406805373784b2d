"""Options of the bdev layer and of its buffers, which are settled before it starts."""

from __future__ import annotations

import errno

import msgspec

from vbdev.bdev import BdevError

__all__ = ["BdevOptions", "IobufOptions"]

MOST_BYTES = 1 << 62
"""What is more than any machine has, and no number of bytes overflows in adding up to."""


class BdevOptions(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """As `bdev_set_options` takes them (SPDK: spdk_bdev_opts)."""

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


class IobufOptions(msgspec.Struct, kw_only=True, frozen=True):
    """As `iobuf_set_options` takes them (SPDK: spdk_iobuf_opts).

    SPDK sets so many buffers of two sizes apart. Here sizes are powers of two, cut as they are
    needed out of what each reactor may have: as many bytes as all those buffers together.
    """

    small_pool_count: int = 8192
    large_pool_count: int = 1024
    small_bufsize: int = 8192
    large_bufsize: int = 135168
    enable_numa: bool = False

    def check(self) -> None:
        """Raise BdevError EINVAL for less than SPDK takes (spdk_iobuf_set_opts)."""
        for name, least in (
            ("small_pool_count", 64),
            ("large_pool_count", 8),
            ("small_bufsize", 4096),
            ("large_bufsize", 8192),
        ):
            value = getattr(self, name)
            if value < least:
                raise BdevError(errno.EINVAL, f"{name}: {value} is less than {least}")
        if self.limit_bytes > MOST_BYTES:
            raise BdevError(
                errno.EINVAL, f"{self.limit_bytes} bytes of buffers are more than {MOST_BYTES}"
            )

    @property
    def limit_bytes(self) -> int:
        """What the buffers of one reactor may add up to."""
        return (
            self.small_pool_count * self.small_bufsize + self.large_pool_count * self.large_bufsize
        )
