"""Parts: vbdevs that are each a stretch of one base, as `split` and `gpt` make them.

What they share: one open and one claim of the base (`vbdev.registry.holds`), offsets moved on the
way down and back on the way up, a UUID that follows from the base's and from the place, and the
rule that a part stays what it is: a base that grows changes no part of it, and one that is open can
not shrink.
"""

from __future__ import annotations

import errno
import struct
from typing import ClassVar
from uuid import UUID

from vbdev.bdev.contract import ALL_OPS, BdevParams, VirtualBdev, uuid5
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.protect import remap_down, remap_up
from vbdev.core.memory.dif import Dif
from vbdev.vocab import DifCheck, Op
from vbdev.vocab.errors import BdevError

__all__ = ["PART_NAMESPACE", "Part", "PartParams", "part_uuid"]

PART_NAMESPACE = UUID("976b899e-3e1e-4d71-ab69-c2b08e9df8b8")
"""SPDK's namespace for the UUIDs of parts."""

PLACELESS_OPS = frozenset(
    {
        Op.NVME_ADMIN,
        Op.NVME_IO,
        Op.NVME_IO_MD,
        Op.NVME_IOV_MD,
        Op.NVME_NSSR,
        Op.GET_ZONE_INFO,
        Op.ZONE_MANAGEMENT,
        Op.ZONE_APPEND,
    }
)
"""What a part can not have: a command carries its own address, and would reach the whole base."""

BOUNDARIES = ("preferred_write_alignment", "preferred_unmap_alignment")
"""Multiples counted from block 0, which a part that starts elsewhere has not."""


class PartParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """One part."""

    base_bdev: str
    """What the base was called by whoever asked."""
    offset_blocks: int
    """Where it starts on the base, in blocks."""
    num_blocks: int
    """Its length in blocks."""


class Part(VirtualBdev):
    """A stretch of a base. A module's class says how it is called, and what is told of it.

    A RESET of a part resets the base, and ends its other parts' I/O too.
    """

    Params: ClassVar[type[BdevParams]] = PartParams
    base_param = "base_bdev"
    is_layer = False
    ops = ALL_OPS - PLACELESS_OPS
    gives_read_buffers = True
    params: PartParams
    _dif: Dif | None = None

    @property
    def offset_blocks(self) -> int:
        """Where it starts on the base, in blocks."""
        return self.params.offset_blocks

    def inherit(self) -> None:
        """Take the base's properties over, as far as they hold from where the part starts.

        Raises BdevError EINVAL where the part does not lie inside the base, starts or ends within
        one of its write units, or cuts a zoned base.
        """
        base, first, length = self.base, self.params.offset_blocks, self.params.num_blocks
        if first < 0 or length <= 0 or first + length > base.num_blocks:
            raise BdevError(
                errno.EINVAL,
                f"{self.kind} bdev {self.name!r}: {length} blocks at {first} do not lie inside"
                f" {base.name} with its {base.num_blocks} blocks",
            )
        if base.zoned:
            raise BdevError(
                errno.EINVAL,
                f"{self.kind} bdev {self.name!r}: base {base.name} is zoned; its zones are whole",
            )
        if base.write_unit_size > 1 and (
            first % base.write_unit_size or length % base.write_unit_size
        ):
            raise BdevError(
                errno.EINVAL,
                f"{self.kind} bdev {self.name!r}: {length} blocks at {first} are no whole write"
                f" units of {base.name}, of {base.write_unit_size} blocks",
            )
        if self.uuid is None:
            assert base.uuid is not None
            self.uuid = part_uuid(base.uuid, first, length)
        super().inherit()
        self.num_blocks = length
        for name in BOUNDARIES:
            if getattr(base, name) and first % getattr(base, name):
                setattr(self, name, 0)
        if base.optimal_io_boundary and first % base.optimal_io_boundary:
            self.optimal_io_boundary = 0
            self.split_on_optimal_io_boundary = False  # the base splits where it must

        self._dif = base.metadata_layout() if first else None
        if not base.dif_check_flags & DifCheck.REFTAG:
            self._dif = None
        if self._dif is not None:
            # Reference tags are written anew, in data that a base must not have lent.
            self.ops -= {Op.ZCOPY}
            self.gives_read_buffers = False
            self.memory_domains = ()

    def base_resized(self) -> None:
        """Stay: a part is a place, and only its maker could say what to do with more room."""

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Move the batch, and the reference tags in it, to where the part lies."""
        if self._dif is not None:
            remap_down(ios, self._dif, self.params.offset_blocks)
        ios.shift(self.params.offset_blocks)
        channel.base.submit(ios)

    def completed(self, channel: Channel, ios: IOBatch) -> None:
        """Give what was read the reference tags of its place in the part."""
        remap_up(ios, self._dif, self.params.offset_blocks)

    def sees_completed(self) -> bool:
        """Only where there are reference tags."""
        return self._dif is not None


def part_uuid(base: UUID, offset_blocks: int, num_blocks: int) -> UUID:
    """Return the UUID of a stretch of a base, as SPDK makes it (lib/bdev/part.c)."""
    return uuid5(PART_NAMESPACE, base, struct.pack("<QQ", offset_blocks, num_blocks))
