"""The words every floor shares: I/O types, statuses, limits, and the one table of errors.

`Op` and `Status` carry SPDK's numbers and names (`enum spdk_bdev_io_type`,
`enum spdk_bdev_io_status`), because clients see the names and modules compare the numbers.
The compiled core has the same values in `core/base/types.pxd`; a test holds the two together.
"""

from __future__ import annotations

import errno
from enum import IntEnum, IntFlag, StrEnum
from typing import Final

__all__ = [
    "BLOCK_SIZE_MULTIPLE",
    "MAX_BLOCK_SIZE",
    "MAX_SIZE_BYTES",
    "MAX_STACK_DEPTH",
    "NBD_MAX_PAYLOAD_BYTES",
    "OP_NAMES",
    "WRITE_OPS",
    "ZONE_INFO",
    "ZONE_INFO_BYTES",
    "ClaimType",
    "DifCheck",
    "DmaDeviceType",
    "IoFlag",
    "NbdError",
    "Op",
    "Status",
    "ZoneAction",
    "ZoneState",
    "ZoneType",
    "nbd_error",
    "status_errno",
]


class Op(IntEnum):
    """I/O types, as `enum spdk_bdev_io_type` numbers them."""

    READ = 1
    WRITE = 2
    UNMAP = 3
    FLUSH = 4
    RESET = 5
    NVME_ADMIN = 6
    NVME_IO = 7
    NVME_IO_MD = 8
    WRITE_ZEROES = 9
    ZCOPY = 10
    GET_ZONE_INFO = 11
    ZONE_MANAGEMENT = 12
    ZONE_APPEND = 13
    COMPARE = 14
    COMPARE_AND_WRITE = 15
    ABORT = 16
    SEEK_HOLE = 17
    SEEK_DATA = 18
    COPY = 19
    NVME_IOV_MD = 20
    NVME_NSSR = 21
    WRITE_UNCORRECTABLE = 22


class ClaimType(StrEnum):
    """Types of claims, as `bdev_get_bdevs` prints them (`enum spdk_bdev_claim_type`)."""

    NOT_CLAIMED = "not_claimed"
    EXCLUSIVE_WRITE = "exclusive_write"
    """One module writes; not tied to a descriptor."""
    READ_MANY_WRITE_ONE = "read_many_write_one"
    """One descriptor writes."""
    READ_MANY_WRITE_NONE = "read_many_write_none"
    """Nobody writes; several may claim that."""
    READ_MANY_WRITE_SHARED = "read_many_write_shared"
    """Those write who have agreed on a key."""


OP_NAMES: Final[dict[Op, str]] = {op: op.name.lower() for op in Op}
"""Names as `bdev_get_bdevs` prints them, in enum order."""

WRITE_OPS: Final[frozenset[Op]] = frozenset(
    {
        Op.WRITE,
        Op.UNMAP,
        Op.FLUSH,
        Op.NVME_ADMIN,
        Op.NVME_IO,
        Op.NVME_IO_MD,
        Op.WRITE_ZEROES,
        Op.ZCOPY,
        Op.ZONE_MANAGEMENT,
        Op.ZONE_APPEND,
        Op.COMPARE_AND_WRITE,
        Op.COPY,
        Op.NVME_IOV_MD,
        Op.NVME_NSSR,
        Op.WRITE_UNCORRECTABLE,
    }
)
"""What a read-only descriptor may not submit (SPDK: -EBADF)."""


class Status(IntEnum):
    """How an I/O ended, as `enum spdk_bdev_io_status` numbers it."""

    AIO_ERROR = -8
    ABORTED = -7
    FIRST_FUSED_FAILED = -6
    MISCOMPARE = -5
    NOMEM = -4
    SCSI_ERROR = -3
    NVME_ERROR = -2
    FAILED = -1
    PENDING = 0
    SUCCESS = 1


class IoFlag(IntFlag):
    """What travels with an I/O besides its type."""

    FUA = 1
    """On stable storage before it completes."""
    NO_HOLE = 2
    """WRITE_ZEROES that must leave the blocks allocated."""
    FAST_ZERO = 4
    """WRITE_ZEROES that must fail (ENOTSUP) where it would be no faster than writing."""
    ZCOPY_POPULATE = 8
    """ZCOPY start: the caller wants to read what is there."""
    ZCOPY_END = 16
    """ZCOPY: the second phase; the buffer goes back to the bdev."""
    ZCOPY_COMMIT = 32
    """ZCOPY end: what the caller wrote into the buffer becomes the blocks' content."""
    PRACT = 64
    """Protection information is made and checked by the disk; the data has none."""


class DifCheck(IntFlag):
    """What protection information is checked for (SPDK: SPDK_DIF_FLAGS_*_CHECK)."""

    REFTAG = 1 << 26
    APPTAG = 1 << 27
    GUARD = 1 << 28


class DmaDeviceType(IntEnum):
    """Kinds of memory that data may live in (SPDK: enum spdk_dma_device_type, and one of ours)."""

    DMA = 1
    """This process's own: system memory."""
    ACCEL = 2
    """Data that an accel sequence is yet to make. Nothing here makes any; a bdev that takes memory
    of every kind names this one too, as SPDK's does."""
    MEMFD = 1000
    """Shared through a memfd; from 1000 on numbers are a vendor's own. Of no use to a client of
    the control plane, who is not told of it."""


class ZoneAction(IntEnum):
    """What ZONE_MANAGEMENT does (SPDK: enum spdk_bdev_zone_action)."""

    CLOSE = 0
    FINISH = 1
    OPEN = 2
    RESET = 3
    OFFLINE = 4


class ZoneState(IntEnum):
    """Where a zone is in its life (SPDK: enum spdk_bdev_zone_state)."""

    EMPTY = 0
    IMP_OPEN = 1
    FULL = 2
    CLOSED = 3
    READ_ONLY = 4
    OFFLINE = 5
    EXP_OPEN = 6
    NOT_WP = 7


class ZoneType(IntEnum):
    """How a zone is written (SPDK: enum spdk_bdev_zone_type)."""

    CNV = 1
    SEQWR = 2
    SEQWP = 3


ZONE_INFO: Final = "<QQQII"
"""What GET_ZONE_INFO writes for each zone: id, write pointer and capacity in blocks, ZoneState,
ZoneType (struct format; SPDK: struct spdk_bdev_zone_info)."""
ZONE_INFO_BYTES: Final = 32


class NbdError(IntEnum):
    """Error values of the NBD protocol (doc/proto.md, "Error values")."""

    OK = 0
    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


MAX_STACK_DEPTH: Final = 80
"""Frames in a BdevIO: layers that one I/O can pass, the leaf included."""
BLOCK_SIZE_MULTIPLE: Final = 512
"""Block sizes are multiples of this many bytes."""
MAX_BLOCK_SIZE: Final = (1 << 32) - 512
"""Largest block size, in bytes: what SPDK's u32 holds."""
MAX_SIZE_BYTES: Final = 1 << 63
"""Largest bdev, in bytes (8 EiB)."""
NBD_MAX_PAYLOAD_BYTES: Final = 32 << 20
"""Longest READ or WRITE that the NBD target takes, in bytes (what qemu and nbdkit use)."""

_STATUS_ERRNO: Final[dict[Status, int]] = {
    Status.SUCCESS: 0,
    Status.PENDING: errno.EINPROGRESS,
    Status.FAILED: errno.EIO,
    Status.NVME_ERROR: errno.EIO,
    Status.SCSI_ERROR: errno.EIO,
    Status.NOMEM: errno.ENOMEM,
    Status.MISCOMPARE: errno.EILSEQ,
    Status.FIRST_FUSED_FAILED: errno.EIO,
    Status.ABORTED: errno.ECANCELED,
    Status.AIO_ERROR: errno.EIO,
}

_NVME_ERRNO: Final[dict[int, int]] = {
    0x0001: errno.ENOTSUP,  # generic: invalid opcode
    0x0002: errno.EINVAL,  # generic: invalid field
    0x0007: errno.ECANCELED,  # generic: abort requested
    0x0020: errno.EPERM,  # generic: namespace is write protected
    0x0080: errno.EINVAL,  # generic: LBA out of range
    0x0081: errno.ENOSPC,  # generic: capacity exceeded
    0x0182: errno.EPERM,  # command specific: attempted write to read only range
    0x0285: errno.EILSEQ,  # media: compare failure
}
"""By sct << 8 | sc (NVM Express base specification, "Status Code")."""

_SCSI_ERRNO: Final[dict[int, int]] = {
    0x05: errno.EINVAL,  # illegal request
    0x07: errno.EPERM,  # data protect
    0x0B: errno.ECANCELED,  # aborted command
    0x0E: errno.EILSEQ,  # miscompare
}
"""By sense key (SPC)."""

_ERRNO_NBD: Final[dict[int, NbdError]] = {
    0: NbdError.OK,
    errno.EPERM: NbdError.EPERM,
    errno.EACCES: NbdError.EPERM,
    errno.EROFS: NbdError.EPERM,
    errno.EBADF: NbdError.EPERM,
    errno.ENOMEM: NbdError.ENOMEM,
    errno.EINVAL: NbdError.EINVAL,
    errno.ENOSPC: NbdError.ENOSPC,
    errno.EDQUOT: NbdError.ENOSPC,
    errno.EFBIG: NbdError.ENOSPC,
    errno.EOVERFLOW: NbdError.EOVERFLOW,
    errno.ENOTSUP: NbdError.ENOTSUP,
    errno.ESHUTDOWN: NbdError.ESHUTDOWN,
}


def status_errno(status: int, detail: int = 0) -> int:
    """Return the errno that says how an I/O ended.

    `detail` is what the layer gave with the status: an errno, or the parts of an NVMe or SCSI
    status as `IOBatch.complete` packs them; where it gave none, the status alone decides.
    SUCCESS is always 0.
    """
    if status == Status.SUCCESS:
        return 0
    if status == Status.NVME_ERROR:
        return _NVME_ERRNO.get(detail, errno.EIO)
    if status == Status.SCSI_ERROR:
        return _SCSI_ERRNO.get((detail >> 16) & 0xF, errno.EIO)
    return detail or _STATUS_ERRNO[Status(status)]


def nbd_error(number: int) -> NbdError:
    """Return the NBD error for an errno; one the protocol does not know becomes EIO."""
    return _ERRNO_NBD.get(number, NbdError.EIO)
