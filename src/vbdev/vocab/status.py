"""How an I/O ended, in the terms of NVMe, SCSI and errno: what targets answer and tests compare.

An I/O has a `Status` and a detail that goes with it (`IOBatch.complete`). Where the detail is
native to the question it is the answer; otherwise the status is translated.
"""

from __future__ import annotations

import errno

from vbdev.vocab.io import Op, Status

__all__ = ["aio_status", "nvme_fused_status", "nvme_status", "scsi_status"]

GENERIC, COMMAND_SPECIFIC, MEDIA = 0, 1, 2
ABORT_REQUESTED = (GENERIC, 0x07)
INTERNAL_ERROR = (GENERIC, 0x06)
FAILED_FUSED = (GENERIC, 0x09)
COMPARE_FAILURE = (MEDIA, 0x85)
OK = (GENERIC, 0x00)

CHECK_CONDITION, TASK_ABORTED, GOOD = 0x02, 0x40, 0x00
MEDIUM_ERROR, ILLEGAL_REQUEST, DATA_PROTECT, ABORTED_COMMAND = 0x03, 0x05, 0x07, 0x0B

_ABORTED = (TASK_ABORTED, ABORTED_COMMAND, 0x00, 0x00)
_NVME_TO_SCSI: dict[tuple[int, int], tuple[int, int, int, int]] = {
    (GENERIC, 0x00): (GOOD, 0, 0, 0),
    (GENERIC, 0x01): (CHECK_CONDITION, ILLEGAL_REQUEST, 0x20, 0x00),
    (GENERIC, 0x02): (CHECK_CONDITION, ILLEGAL_REQUEST, 0x24, 0x00),
    (GENERIC, 0x04): (CHECK_CONDITION, MEDIUM_ERROR, 0x00, 0x00),
    (GENERIC, 0x05): (TASK_ABORTED, ABORTED_COMMAND, 0x0B, 0x08),
    (GENERIC, 0x06): (CHECK_CONDITION, 0x04, 0x44, 0x00),
    (GENERIC, 0x07): _ABORTED,
    (GENERIC, 0x08): _ABORTED,
    (GENERIC, 0x09): _ABORTED,
    (GENERIC, 0x0A): _ABORTED,
    (GENERIC, 0x0B): (CHECK_CONDITION, ILLEGAL_REQUEST, 0x20, 0x09),
    (GENERIC, 0x80): (CHECK_CONDITION, ILLEGAL_REQUEST, 0x21, 0x00),
    (GENERIC, 0x81): (CHECK_CONDITION, MEDIUM_ERROR, 0x00, 0x00),
    (GENERIC, 0x82): (CHECK_CONDITION, 0x02, 0x04, 0x00),
    (GENERIC, 0x83): (0x18, 0x00, 0x00, 0x00),
    (COMMAND_SPECIFIC, 0x82): (CHECK_CONDITION, DATA_PROTECT, 0x27, 0x00),
    (MEDIA, 0x80): (CHECK_CONDITION, MEDIUM_ERROR, 0x03, 0x00),
    (MEDIA, 0x81): (CHECK_CONDITION, MEDIUM_ERROR, 0x11, 0x00),
    (MEDIA, 0x82): (CHECK_CONDITION, MEDIUM_ERROR, 0x10, 0x01),
    (MEDIA, 0x83): (CHECK_CONDITION, MEDIUM_ERROR, 0x10, 0x02),
    (MEDIA, 0x84): (CHECK_CONDITION, MEDIUM_ERROR, 0x10, 0x03),
    (MEDIA, 0x85): (CHECK_CONDITION, 0x0E, 0x1D, 0x00),
    (MEDIA, 0x86): (CHECK_CONDITION, DATA_PROTECT, 0x20, 0x02),
}
"""NVM Express: SCSI Translation Reference, "Status Code Translations"."""


def _native_nvme(detail: int) -> tuple[int, int]:
    return detail >> 8 & 0x7, detail & 0xFF


def nvme_status(op: int, status: int, detail: int, cdw0: int) -> tuple[int, int, int]:
    """Return (cdw0, status code type, status code), as spdk_bdev_io_get_nvme_status does.

    An ABORT has always worked; whether its victim was aborted is in bit 0 of cdw0: 0 if so.
    """
    if op == Op.ABORT:
        return (int(status != Status.SUCCESS), *OK)
    if status == Status.NVME_ERROR:
        return (cdw0, *_native_nvme(detail))
    if status == Status.SUCCESS:
        return (cdw0, *OK)
    known = {
        Status.MISCOMPARE: COMPARE_FAILURE,
        Status.ABORTED: ABORT_REQUESTED,
        Status.FIRST_FUSED_FAILED: FAILED_FUSED,
    }
    return (0, *known.get(Status(status), INTERNAL_ERROR))


def nvme_fused_status(
    status: int, detail: int, cdw0: int
) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Return (cdw0, the compare's (sct, sc), the write's), of a COMPARE_AND_WRITE.

    Source: spdk_bdev_io_get_nvme_fused_status.
    """
    if status == Status.NVME_ERROR:
        return cdw0, OK, _native_nvme(detail)
    if status == Status.SUCCESS:
        return cdw0, OK, OK
    if status == Status.MISCOMPARE:
        return 0, COMPARE_FAILURE, FAILED_FUSED
    if status == Status.FIRST_FUSED_FAILED:
        return 0, INTERNAL_ERROR, FAILED_FUSED
    failure = ABORT_REQUESTED if status == Status.ABORTED else INTERNAL_ERROR
    return 0, failure, failure


def scsi_status(status: int, detail: int) -> tuple[int, int, int, int]:
    """Return (status, sense key, asc, ascq), as spdk_bdev_io_get_scsi_status does."""
    if status == Status.SUCCESS:
        return GOOD, 0, 0, 0
    if status == Status.SCSI_ERROR:
        return detail >> 24 & 0x7F, detail >> 16 & 0xFF, detail >> 8 & 0xFF, detail & 0xFF
    if status == Status.NVME_ERROR:
        unknown = (CHECK_CONDITION, ILLEGAL_REQUEST, 0x00, 0x00)
        return _NVME_TO_SCSI.get(_native_nvme(detail), unknown)
    if status == Status.MISCOMPARE:
        return _NVME_TO_SCSI[COMPARE_FAILURE]
    return CHECK_CONDITION, ABORTED_COMMAND, 0x00, 0x00


def aio_status(status: int, detail: int) -> int:
    """Return a negative errno, or 0, as spdk_bdev_io_get_aio_status does."""
    if status == Status.SUCCESS:
        return 0
    return -detail if status == Status.AIO_ERROR and detail else -errno.EIO
