"""aio: the disk of `uring`, with the parameters that SPDK's aio module takes."""

from __future__ import annotations

import errno
from typing import Any

import msgspec

from vbdev.api.methods import DECODE_OBJECT_FAILED
from vbdev.api.params import FileName, Uint32
from vbdev.bdev import BdevParams
from vbdev.modules.file.disk import FileBdev


class AioParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev on an existing file or block device."""

    filename: FileName
    """Path of the file or block device."""
    block_size: Uint32 = 0
    """Bytes, a power of two of at least 512. 0: what the file asks for."""
    readonly: bool = False
    """Never write; other readers may have the file too."""
    fallocate: bool = False
    """Support UNMAP and WRITE_ZEROES."""
    nowait: bool = False
    """Block devices only. Accepted for SPDK's sake: the ring never blocks here anyway."""


class Aio(FileBdev):
    """A disk in a file. O_DIRECT where the file system allows it."""

    kind = "aio"
    product_name = "AIO disk"
    Params = AioParams
    saved_params = ("name", "block_size", "filename", "readonly", "fallocate", "uuid", "nowait")
    undecoded = DECODE_OBJECT_FAILED
    create_errnos = (
        *FileBdev.create_errnos,
        errno.ENOENT,
        errno.EACCES,
        errno.EISDIR,
        errno.EBUSY,
        errno.EOPNOTSUPP,
    )
    params: AioParams

    async def start(self) -> None:
        """Open and lock the file."""
        params = self.params
        await self.open(
            params.filename,
            block_size=params.block_size,
            readonly=params.readonly,
            direct=None,
            deallocate=params.fallocate,
            devices_only="nowait" if params.nowait else "",
        )

    def current_params(self) -> BdevParams:
        """Return the parameters, without a block size that nobody gave: clients send 0 then."""
        block_size = self.params.block_size or None
        return msgspec.structs.replace(super().current_params(), block_size=block_size)

    def dump_info(self) -> dict[str, Any]:
        """Return `driver_specific` of `bdev_get_bdevs`."""
        params = self.params
        return {
            "aio": {
                "filename": params.filename,
                "block_size_override": bool(params.block_size),
                "readonly": params.readonly,
                "fallocate": params.fallocate,
                "nowait": params.nowait,
            }
        }
