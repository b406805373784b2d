"""What an I/O's end looks like to NVMe, SCSI and errno."""

import errno

import pytest

from support.stack import Stub, layer
from vbdev.vocab import Op, Status


@pytest.fixture
def ended(stack):
    """Return a function: complete a READ below a layer as said, return its Request."""
    disk = stack.disk(Stub)
    stack.layer(layer())
    top = stack.open("Top")

    def end(*args, op=Op.READ, **kwargs):
        more = {"write_data": bytes(512)} if op == Op.COMPARE_AND_WRITE else {}
        request = top.submit(op, 0, 1, bytearray(512), **more)
        (held,) = disk.held
        disk.held.clear()
        held.complete(*args, **kwargs)
        stack.settle()
        return request

    return end


NVME = [
    ((Status.SUCCESS,), (0, 0, 0x00)),
    ((Status.MISCOMPARE,), (0, 2, 0x85)),
    ((Status.ABORTED,), (0, 0, 0x07)),
    ((Status.FIRST_FUSED_FAILED,), (0, 0, 0x09)),
    ((Status.FAILED,), (0, 0, 0x06)),
    ((Status.AIO_ERROR, errno.ENOSPC), (0, 0, 0x06)),
]


@pytest.mark.rule("A.10.11")
@pytest.mark.parametrize(("how", "expected"), NVME)
def test_nvme_status(ended, how, expected):
    assert ended(*how).nvme_status == expected


@pytest.mark.rule("A.10.11", "D.12")
def test_a_native_nvme_status_is_passed_on(ended):
    request = ended(nvme=(2, 0x81), cdw0=0xABCD)
    assert request.nvme_status == (0xABCD, 2, 0x81)
    assert (request.status, request.errno) == (Status.NVME_ERROR, 0)
    assert ended(Status.SUCCESS, cdw0=7).nvme_status == (7, 0, 0)


@pytest.mark.rule("A.10.12")
def test_an_abort_tells_in_cdw0(stack):
    disk = stack.disk(Stub)
    top = stack.open("Disk")
    victim = top.submit(Op.READ, 0, 1, bytearray(512))
    aborts = [top.submit(Op.ABORT, 0, 0, victim=victim) for _ in range(2)]
    disk.complete([1], Status.SUCCESS)
    disk.complete([1], Status.FAILED)
    disk.complete([0], Status.ABORTED)
    stack.settle()
    assert [abort.nvme_status for abort in aborts] == [(0, 0, 0), (1, 0, 0)]


FUSED = [
    ((Status.SUCCESS,), {}, (0, (0, 0), (0, 0))),
    ((Status.MISCOMPARE,), {}, (0, (2, 0x85), (0, 0x09))),
    ((Status.FIRST_FUSED_FAILED,), {}, (0, (0, 0x06), (0, 0x09))),
    ((Status.FAILED,), {}, (0, (0, 0x06), (0, 0x06))),
    ((Status.ABORTED,), {}, (0, (0, 0x07), (0, 0x07))),
    ((), {"nvme": (2, 0x80), "cdw0": 3}, (3, (0, 0), (2, 0x80))),
]


@pytest.mark.rule("A.10.13")
@pytest.mark.parametrize(("how", "detail", "expected"), FUSED)
def test_nvme_status_of_the_halves(ended, how, detail, expected):
    assert ended(*how, op=Op.COMPARE_AND_WRITE, **detail).nvme_fused_status == expected


SCSI = [
    ((Status.SUCCESS,), {}, (0, 0, 0, 0)),
    ((Status.MISCOMPARE,), {}, (2, 0x0E, 0x1D, 0)),
    ((Status.ABORTED,), {}, (2, 0x0B, 0, 0)),
    ((Status.FAILED,), {}, (2, 0x0B, 0, 0)),
    ((), {"scsi": (2, 3, 0x11, 1)}, (2, 3, 0x11, 1)),
    ((), {"nvme": (0, 0x80)}, (2, 5, 0x21, 0)),
    ((), {"nvme": (2, 0x82)}, (2, 3, 0x10, 1)),
    ((), {"nvme": (7, 0x11)}, (2, 5, 0, 0)),
]


@pytest.mark.rule("A.10.14")
@pytest.mark.parametrize(("how", "detail", "expected"), SCSI)
def test_scsi_status(ended, how, detail, expected):
    assert ended(*how, **detail).scsi_status == expected


@pytest.mark.rule("A.10.15")
def test_aio_status(ended):
    assert ended(Status.SUCCESS).aio_status == 0
    assert ended(Status.AIO_ERROR, errno.ENOSPC).aio_status == -errno.ENOSPC
    assert ended(Status.FAILED, errno.ENOSPC).aio_status == -errno.EIO


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (Status.NVME_ERROR, {}),
        (Status.FAILED, {"nvme": (0, 1)}),
        (Status.FAILED, {"scsi": (2, 5, 0, 0)}),
        (None, {"nvme": (8, 0)}),
        (None, {"nvme": (0, 256)}),
        (None, {"scsi": (2, 16, 0, 0)}),
        (None, {"scsi": (2, 5, 0)}),
    ],
)
def test_what_makes_no_status_is_refused(stack, status, detail):
    disk = stack.disk(Stub)
    top = stack.open("Disk")
    request = top.submit(Op.READ, 0, 1, bytearray(512))
    with pytest.raises(ValueError, match=r"IOBatch\.complete"):
        disk.held[0].complete(status, **detail)
    disk.complete()
    stack.settle()
    assert request.status == Status.SUCCESS
