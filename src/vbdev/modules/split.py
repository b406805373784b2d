"""split: several bdevs of one size out of one base, `<base>p0`, `<base>p1` and so on.

They are asked for together and deleted together. The wish outlives the base: when that is removed
and comes back, so do its parts.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from vbdev.api.methods import ModuleMethod, Refusal
from vbdev.api.params import BdevName, Params, Uint32, Uint64
from vbdev.bdev import Bdev, BdevError, BdevParams, VirtualBdev
from vbdev.bdev.part import Part, PartParams
from vbdev.registry import Registry
from vbdev.wire.jsonrpc import INVALID_PARAMS

log = logging.getLogger(__name__)

MAX_PARTS: Final = 4096
"""Of one base. They are made in one turn, and each costs memory."""

NOT_SPLIT = Refusal(
    INVALID_PARAMS,
    "Failed to create {split_count} split bdevs from '{base_bdev}': {reason}",
)
NOTHING_IS_SPLIT = Refusal(INVALID_PARAMS, os.strerror(errno.ENOENT))


class SplitCreateParams(Params, kw_only=True, frozen=True):
    """Split a bdev into parts of one size."""

    base_bdev: BdevName
    """Name, alias or UUID of the base bdev, which may arrive later."""
    split_count: Uint32
    """Number of parts. Where a size is given and so many do not fit, those that do."""
    split_size_mb: Uint64 = 0
    """Size of each part in MiB. 0: what the base has, divided by split_count."""


class SplitDeleteParams(Params, kw_only=True, frozen=True):
    """Delete all parts of a base."""

    base_bdev: BdevName
    """What the base was called when it was split."""


class SplitParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """One wish for several parts, which are named after their base."""

    name: str = ""
    request: SplitCreateParams

    @property
    def base_bdev(self) -> str:
        """What the base was called by whoever asked."""
        return self.request.base_bdev


class Split(Part):
    """One of the parts."""

    kind = "split"
    product_name = "Split Disk"
    ends_with_base_in_spdk = True

    @classmethod
    def creation_key(cls, params: BdevParams) -> str:
        """Return what no bdev is called: the wish is for all parts of a base."""
        return creation_key(cls.base_name_of(params))

    @classmethod
    def plan(cls, params: BdevParams, base: Bdev) -> list[VirtualBdev]:
        """Return the parts of a base. BdevError EINVAL where it can not be split like that."""
        assert isinstance(params, SplitParams)
        request = params.request
        count, size = part_sizes(request, base)
        return [
            cls(
                PartParams(
                    name=f"{request.base_bdev}p{index}",
                    base_bdev=request.base_bdev,
                    offset_blocks=index * size,
                    num_blocks=size,
                )
            )
            for index in range(count)
        ]

    @classmethod
    def creation_config(cls, params: BdevParams, vbdevs: list[VirtualBdev]) -> list[dict[str, Any]]:
        """Return the one call for all parts."""
        assert isinstance(params, SplitParams)
        return [{"method": "bdev_split_create", "params": msgspec.structs.asdict(params.request)}]

    def dump_info(self) -> dict[str, Any]:
        """Return what `bdev_get_bdevs` shows as `driver_specific`."""
        return {"split": {"base_bdev": self.base.name, "offset_blocks": self.offset_blocks}}

    @classmethod
    def rpc_methods(cls) -> Sequence[ModuleMethod]:
        """Return create and delete, which are about a base and not about one bdev."""
        return (
            ModuleMethod(
                "bdev_split_create",
                SplitCreateParams,
                create,
                result=list[str],
                errors=(NOT_SPLIT,),
            ),
            ModuleMethod(
                "bdev_split_delete", SplitDeleteParams, delete, errors=(NOTHING_IS_SPLIT,)
            ),
        )


def creation_key(base_bdev: str) -> str:
    """Return what the wish for a base's parts is kept by."""
    return f"split of {base_bdev}"


def part_sizes(request: SplitCreateParams, base: Bdev) -> tuple[int, int]:
    """Return the number of parts, and how many blocks each has."""
    who = f"bdev {base.name}"
    if request.split_size_mb:
        size, rest = divmod(request.split_size_mb << 20, base.block_size)
        if rest:
            raise BdevError(
                errno.EINVAL,
                f"{who}: {request.split_size_mb} MiB are no multiple of its block size of"
                f" {base.block_size} bytes",
            )
    else:
        size = base.num_blocks // request.split_count
    fitting = base.num_blocks // size if size else 0
    if not fitting:
        wanted = (
            f"no part of {request.split_size_mb} MiB" if size else f"no {request.split_count} parts"
        )
        raise BdevError(
            errno.EINVAL,
            f"{who} has {base.num_blocks} blocks of {base.block_size} bytes: {wanted} can be made",
        )
    count = min(request.split_count, fitting)
    if count > MAX_PARTS:
        raise BdevError(errno.EINVAL, f"{who}: split into {count} parts; {MAX_PARTS} are the most")
    if fitting < request.split_count:
        log.warning(
            "split: fewer parts than asked for base=%s asked=%d fitting=%d",
            base.name,
            request.split_count,
            fitting,
        )
    return count, size


def checked(request: SplitCreateParams) -> SplitParams:
    """Return the wish, refused where it could never come true. Without a base there is no more."""
    if request.split_count == 0:
        raise BdevError(errno.EINVAL, f"base {request.base_bdev!r}: split_count is 0")
    return SplitParams(request=request)


async def create(registry: Registry, request: SplitCreateParams) -> list[str]:
    """Split a base; return the parts' names, none as long as the base is not there."""
    try:
        creation = await registry.create_virtual(Split, checked(request))
    except BdevError as error:
        raise NOT_SPLIT.error(
            str(error),
            split_count=request.split_count,
            base_bdev=request.base_bdev,
            reason=os.strerror(error.errno),
        ) from error
    return [layer.name for layer in creation.vbdevs]


async def delete(registry: Registry, params: SplitDeleteParams) -> bool:
    """Delete the parts of a base and the wish for them."""
    creation = registry.creations.get(creation_key(params.base_bdev))
    if creation is None:
        raise NOTHING_IS_SPLIT.error(f"no bdev {params.base_bdev!r} is split, or to be split")
    await registry.delete_creation(creation)
    return True
