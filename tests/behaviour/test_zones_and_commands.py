"""Zoned I/O, NVMe commands and native error detail: they reach the module whole, through layers.

Method: a Stub with zones, or with NVMe's types, under two layers; one of them shifts, so that what
is an address goes down shifted and comes back as the caller's.
"""

import errno
import struct

import pytest

from support.stack import Stub, layer, stack
from vbdev.vocab import ZONE_INFO, ZONE_INFO_BYTES, Op, Status, ZoneAction, ZoneState, ZoneType

FIRST = 128  # what the shifting layer adds: two zones


class Zoned(Stub):
    zoned = True
    zone_size = 64
    max_zone_append_size = 16
    max_open_zones = 8
    max_active_zones = 12
    optimal_open_zones = 4


def shift(_self, channel, ios):
    ios.shift(FIRST)
    channel.base.submit(ios)


async def shorten(self):
    self.num_blocks -= FIRST


@pytest.fixture(params=["disk", "passthru", "shifted"])
def rig(request):
    with stack() as made:
        made.stub = made.disk(Zoned)
        made.first = 0
        if request.param == "passthru":
            made.layer()
        elif request.param == "shifted":
            made.layer(layer(shift, start=shorten))
            made.first = FIRST
        made.top = made.open("Disk" if request.param == "disk" else "Top")
        yield made


def ends(rig, request, *, result=None):
    (one,) = rig.stub.held
    if result is not None:
        one.results = [result]
    rig.stub.complete()
    rig.settle()
    assert request.status == Status.SUCCESS
    return request


@pytest.mark.rule("E.bdev_zone_ut.bdev_zone_get_operation", "A.1.23")
def test_what_a_zoned_bdev_says_of_itself(rig):
    bdev = rig.top.descriptor.bdev
    for name in ("zoned", "zone_size", "max_zone_append_size", "max_open_zones"):
        assert getattr(bdev, name) == getattr(Zoned, name)
    assert (bdev.max_active_zones, bdev.optimal_open_zones) == (12, 4)


@pytest.mark.rule("A.9.9", "E.bdev_zone_ut.bdev_zone_get_info")
def test_zone_information(rig):
    buffer = bytearray(3 * ZONE_INFO_BYTES)
    request = rig.top.submit(Op.GET_ZONE_INFO, 64, 0, buffer, arg=3)
    assert rig.stub.arrived == [(Op.GET_ZONE_INFO, 64 + rig.first, 0)]
    (one,) = rig.stub.held
    assert one.args.tolist() == [3]
    (view,) = one.data(Op.GET_ZONE_INFO)
    for n in range(3):
        zone = (64 * (n + 1), 64 * (n + 1) + n, 64, ZoneState.IMP_OPEN, ZoneType.SEQWR)
        struct.pack_into(ZONE_INFO, view, n * ZONE_INFO_BYTES, *zone)
    ends(rig, request)
    ids = [struct.unpack_from(ZONE_INFO, buffer, n * ZONE_INFO_BYTES)[0] for n in range(3)]
    assert ids == [64, 128, 192]


@pytest.mark.rule("A.9.10", "E.bdev_zone_ut.bdev_zone_management")
@pytest.mark.parametrize("action", ZoneAction)
def test_zone_management(rig, action):
    request = rig.top.submit(Op.ZONE_MANAGEMENT, 64, 0, arg=action)
    assert rig.stub.arrived == [(Op.ZONE_MANAGEMENT, 64 + rig.first, 0)]
    assert rig.stub.held[0].args.tolist() == [action]
    ends(rig, request)


@pytest.mark.rule(
    "A.9.11",
    "E.bdev_zone_ut.bdev_zone_append",
    "E.bdev_zone_ut.bdev_zone_appendv",
    "E.bdev_zone_ut.bdev_io_get_append_location",
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_append_says_where(rig, pieces):
    data = [bytes([n]) * (2048 // pieces) for n in range(pieces)]
    request = rig.top.submit(Op.ZONE_APPEND, 64, 4, data)
    assert rig.stub.arrived == [(Op.ZONE_APPEND, 64 + rig.first, 4)]
    assert b"".join(bytes(view) for view in rig.stub.held[0].data()) == b"".join(data)
    assert ends(rig, request, result=70 + rig.first).result == 70


@pytest.mark.rule("A.9.2")
def test_zones_are_not_changed_by_a_reader(rig):
    reader = rig.open("Disk", write=False)
    for op, data in ((Op.ZONE_MANAGEMENT, None), (Op.ZONE_APPEND, bytes(512))):
        assert reader.io(op, 0, 1 if data else 0, data).errno == errno.EBADF
    assert rig.stub.arrived == []


@pytest.mark.rule(
    "E.bdev_zone_ut.bdev_zone_append_with_md", "E.bdev_zone_ut.bdev_zone_appendv_with_md"
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_append_with_metadata(pieces):
    class WithMetadata(Zoned):
        async def start(self):
            await super().start()
            self.md_len = 16

    with stack() as made:
        stub = made.disk(WithMetadata)
        made.layer()
        top = made.open("Top")
        data = [bytes(1024 // pieces)] * pieces
        request = top.submit(Op.ZONE_APPEND, 0, 2, data, metadata=bytearray(32))
        assert stub.arrived == [(Op.ZONE_APPEND, 0, 2)]
        stub.complete()
        made.settle()
        assert request.status == Status.SUCCESS
        for wrong in (bytearray(31), bytearray(48)):
            with pytest.raises(ValueError, match="metadata"):
                top.submit(Op.ZONE_APPEND, 0, 2, bytes(1024), metadata=wrong)


# NVMe commands


def command(opcode, nsid=1):
    return struct.pack("<B3xI", opcode, nsid).ljust(64, b"\0")


COMMANDS = [Op.NVME_ADMIN, Op.NVME_IO, Op.NVME_IO_MD, Op.NVME_IOV_MD]


@pytest.mark.rule("A.9.6", "E.bdevio.nvme_passthru_rw", "E.bdevio.nvme_admin_passthru")
@pytest.mark.parametrize("op", COMMANDS)
def test_a_command_reaches_the_module_with_its_data(rig, op):
    """A write command's data goes down; a read's, or an identify's, comes back."""
    for fill in (None, b"answer"):
        data = bytearray(b"d" * 4096)
        request = rig.top.submit(op, 0, 0, data, cmd=command(2 if fill else 1))
        assert rig.stub.arrived[-1][0] == op
        (view,) = rig.stub.held[0].data()
        assert bytes(view) == b"d" * 4096
        if fill:
            view[: len(fill)] = fill
        ends(rig, request)
        assert data[:6] == (fill or b"dddddd")


@pytest.mark.rule("A.9.6", "E.bdevio.nvme_passthru_vendor", "A.10.11", "A.10.16")
def test_what_a_command_comes_back_with_reaches_the_caller(rig):
    request = rig.top.submit(Op.NVME_IO, 0, 0, bytearray(512), cmd=command(0xFF))
    rig.stub.held.pop().complete(nvme=(0, 0x01), cdw0=0x1234)  # invalid opcode
    rig.settle()
    assert request.status == Status.NVME_ERROR
    assert request.detail == 0x0001
    assert request.cdw0 == 0x1234


@pytest.mark.rule("A.9.6", "A.24.9")
@pytest.mark.parametrize("op", [*COMMANDS, Op.NVME_NSSR])
def test_commands_where_there_is_no_nvme(op):
    class Plain(Stub):
        ops = frozenset({Op.READ, Op.WRITE})

    with stack() as made:
        stub = made.disk(Plain)
        more = {} if op == Op.NVME_NSSR else {"data": bytearray(512), "cmd": command(1)}
        assert made.open("Disk").io(op, 0, 0, **more).errno == errno.ENOTSUP
        assert stub.arrived == []


@pytest.mark.rule("A.10.16", "D.12")
@pytest.mark.parametrize(
    ("detail", "status", "packed"),
    [
        ({"nvme": (2, 0x81)}, Status.NVME_ERROR, 0x281),
        ({"scsi": (2, 3, 0x11, 0x01)}, Status.SCSI_ERROR, 0x02031101),
    ],
)
def test_native_detail_comes_up_whole(rig, detail, status, packed):
    request = rig.top.submit(Op.READ, 0, 1, bytearray(512))
    rig.stub.held.pop().complete(**detail)
    rig.settle()
    assert (request.status, request.detail) == (status, packed)
