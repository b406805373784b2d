"""uring: a disk in a file or on a block device, through io_uring."""

from __future__ import annotations

from typing import Any

import msgspec

from vbdev.api.methods import DECODE_OBJECT_FAILED, Refusal
from vbdev.api.params import FileName, Uint32
from vbdev.bdev import BdevParams
from vbdev.modules.file.disk import FileBdev
from vbdev.wire.jsonrpc import INTERNAL_ERROR


class UringParams(BdevParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev on an existing file or block device."""

    filename: FileName
    """Path of the file or block device."""
    block_size: Uint32 = 0
    """Bytes, a power of two of at least 512. 0: what the file asks for."""
    readonly: bool = False
    """Never write; other readers may have the file too."""
    direct: bool | None = None
    """Bypass the page cache (O_DIRECT); where the file system allows it when absent."""


class Uring(FileBdev):
    """A disk in a file. Where the kernel forbids io_uring, threads do the I/O."""

    kind = "uring"
    product_name = "URING bdev"
    Params = UringParams
    saved_params = ("name", "block_size", "filename", "uuid")
    undecoded = DECODE_OBJECT_FAILED
    create_failure = Refusal(INTERNAL_ERROR, "Unable to create URING bdev.")  # SPDK has no other
    params: UringParams

    async def start(self) -> None:
        """Open and lock the file."""
        await self.open(
            self.params.filename,
            block_size=self.params.block_size,
            readonly=self.params.readonly,
            direct=self.params.direct,
            deallocate=True,
        )

    def current_params(self) -> BdevParams:
        """Return the parameters, with the block size that the file has asked for."""
        return msgspec.structs.replace(super().current_params(), block_size=self.block_size)

    def dump_info(self) -> dict[str, Any]:
        """Return `driver_specific` of `bdev_get_bdevs`."""
        return {"uring": {"filename": self.params.filename}}
