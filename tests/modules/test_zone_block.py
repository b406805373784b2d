"""zone_block: zones, their states, and what may be written where.

Method: black-box over malloc, whose UNMAP reads zeroes after; over a stub where it matters when the
base ends an I/O.
"""

import struct
import uuid

import pytest

from support.control import INVALID_PARAMETERS, NO_DEVICE, Control
from vbdev.bdev import BdevEvent
from vbdev.modules.zone_block import MAX_ZONES, Zones
from vbdev.testing import Stub
from vbdev.vocab import ZONE_INFO, ZONE_INFO_BYTES, Op, Status, ZoneAction, ZoneState, ZoneType

U1 = "11111111-2222-4333-8444-555555555555"
NAMESPACE = uuid.UUID("5f3f485a-d6bb-4443-9de7-023683b77389")
SIZE, CAPACITY = 64, 50


@pytest.fixture
def control():
    made = Control()
    yield made
    made.stack.close()


def disk(control, num_blocks=1030, **params):
    params = {"name": "Disk", "num_blocks": num_blocks, "block_size": 512, "uuid": U1, **params}
    control.call("bdev_malloc_create", **params)


def zoned(control, name="Zones", **params):
    more = {"base_bdev": "Disk", "zone_capacity": CAPACITY, "optimal_open_zones": 2, **params}
    return control.call("bdev_zone_block_create", name=name, **more)


@pytest.fixture
def top(control):
    """An open bdev of 16 zones, of which the base holds 0x55 everywhere."""
    disk(control)
    below = control.stack.open("Disk")
    below.io(Op.WRITE, 0, 1030, b"\x55" * (1030 * 512))
    below.close()
    zoned(control)
    return control.stack.open("Zones")


def infos(top, zone=0, number=1, room=None):
    """Return (status, [(id, write pointer, capacity, state, type)])."""
    data = bytearray(ZONE_INFO_BYTES * (number if room is None else room))
    request = top.io(Op.GET_ZONE_INFO, zone * SIZE, 0, data, arg=number)
    return request.status, list(struct.iter_unpack(ZONE_INFO, data))


def info(top, zone=0):
    """Return (blocks written, state) of a zone."""
    status, [(start, pointer, capacity, state, kind)] = infos(top, zone)
    assert status == Status.SUCCESS
    assert (start, capacity, kind) == (zone * SIZE, CAPACITY, ZoneType.SEQWR)
    return pointer - start, ZoneState(state)


def manage(top, action, zone=0, offset=0):
    return top.io(Op.ZONE_MANAGEMENT, zone * SIZE + offset, 0, arg=action)


def write(top, offset, count=1, fill=1):
    return top.io(Op.WRITE, offset, count, bytes([fill]) * (count * 512))


def append(top, zone=0, count=1, fill=1, offset=0):
    data = bytes([fill]) * (count * 512)
    return top.io(Op.ZONE_APPEND, zone * SIZE + offset, count, data)


def read(top, offset, count=1):
    data = bytearray(count * 512)
    request = top.io(Op.READ, offset, count, data)
    return bytes(data[::512]) if request.status > 0 else None


def refused(request):
    return (request.status, request.errno) == (Status.FAILED, 22)


# Creation


@pytest.mark.rule(
    "A.27.30",
    "A.5.6",
    "A.20.5",
    "E.zone_block_ut.test_zone_block_create",
    "A.21.7",
    "E.bdev_zone_ut.bdev_zone_get_operation",
)
def test_create_now_and_later(control):
    assert zoned(control) == "Zones"
    assert control.names() == []
    disk(control)
    told = control.told("Zones")
    assert told["product_name"] == "zone_block"
    assert told["num_blocks"] == 16 * SIZE
    assert told["zoned"] is True
    assert (told["zone_size"], told["max_open_zones"], told["optimal_open_zones"]) == (SIZE, 0, 2)
    assert told["driver_specific"] == {
        "zoned_block": {
            "name": "Zones",
            "base_bdev": "Disk",
            "zone_capacity": CAPACITY,
            "optimal_open_zones": 2,
        }
    }
    import hashlib

    digest = hashlib.sha1(NAMESPACE.bytes + uuid.UUID(U1).bytes).digest()
    assert told["uuid"] == str(uuid.UUID(bytes=digest[:16], version=5))
    assert control.call("bdev_zone_block_delete", name="Zones") is True
    assert control.fails("bdev_zone_block_delete", name="Zones") == NO_DEVICE


@pytest.mark.rule(
    "A.27.30", "A.27.32", "Dd.8", "D.2", "D.3", "E.zone_block_ut.test_zone_block_create_invalid"
)
def test_creation_that_is_refused(control):
    def reason(**params):
        good = {"name": "New", "base_bdev": "Disk", "zone_capacity": 8, "optimal_open_zones": 1}
        before = control.names(), control.registry.config()
        code, text = control.fails("bdev_zone_block_create", **{**good, **params})
        assert code == -32603
        assert (control.names(), control.registry.config()) == before
        return text.removeprefix("Failed to create block zoned vbdev: ")

    disk(control)
    control.call("bdev_malloc_create", name="Taken", num_blocks=8, block_size=512)
    for wrong in (
        {"zone_capacity": 0},
        {"optimal_open_zones": 0},
        {"zone_capacity": 1031},
        {"zone_capacity": 1025},
        {"zone_capacity": 2**62},
        {"zone_capacity": 0, "base_bdev": "Absent"},
    ):
        assert reason(**wrong) == "Invalid argument"
    assert reason(name="Taken") == "File exists"
    assert control.told("Disk")["claimed"] is False
    assert zoned(control) == "Zones"
    assert reason() == "Operation not permitted"
    assert reason(name="Zones") == "File exists"
    assert reason(base_bdev="Zones") == "File exists"  # it is zoned already
    assert control.told("Zones")["claimed"] is False
    for params in ({}, {"name": "New", "base_bdev": "Disk", "zone_capacity": 8}):
        assert control.fails("bdev_zone_block_create", **params) == INVALID_PARAMETERS


def test_the_number_of_zones_has_a_limit(control):
    control.call("bdev_null_create", name="Disk", num_blocks=2**40, block_size=512)
    code, _ = control.fails(
        "bdev_zone_block_create",
        name="Zones",
        base_bdev="Disk",
        zone_capacity=1,
        optimal_open_zones=1,
    )
    assert code == -32603
    assert str(MAX_ZONES) in control.detail
    zoned(control, zone_capacity=2**40 // MAX_ZONES)
    assert len(control.registry.get("Zones").zones) == MAX_ZONES


@pytest.mark.rule("E.zone_block_ut.test_supported_io_types")
def test_types(control, top):
    types = {name for name, has in control.told("Zones")["supported_io_types"].items() if has}
    zone = {"get_zone_info", "zone_management", "zone_append"}
    assert zone | {"read", "write", "flush", "reset", "abort"} <= types
    assert not types & {"unmap", "copy", "zcopy", "compare"}
    assert top.io(Op.UNMAP, 0, CAPACITY).status == Status.FAILED
    assert top.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    assert top.io(Op.RESET, 0, 0).status == Status.SUCCESS


def test_a_base_that_only_reads(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=1024)
    stub.ops -= {Op.WRITE}
    zoned(control)
    types = control.told("Zones")["supported_io_types"]
    assert types["get_zone_info"]
    assert not types["zone_management"]
    assert not types["zone_append"]


def test_append_is_not_offered_where_its_metadata_would_be_lost(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=1024)
    stub.md_len, stub.md_interleave = 8, False
    zoned(control)
    types = control.told("Zones")["supported_io_types"]
    assert (types["zone_append"], types["zone_management"]) == (False, True)


@pytest.mark.rule("A.22.6")
def test_saved_and_loaded(control, tmp_path):
    disk(control)
    zoned(control)
    zoned(control, "Waits", base_bdev="Absent")
    saved = control.registry.config()
    control.reload(tmp_path / "config.json")
    assert control.registry.config() == saved


@pytest.mark.rule("D.10", "A.2.25")
def test_a_base_that_grows_has_more_zones(control):
    control.call("bdev_null_create", name="Disk", num_blocks=2048, block_size=512)
    zoned(control)
    top = control.stack.open("Zones")
    manage(top, ZoneAction.RESET, 3)
    control.call("bdev_null_resize", name="Disk", new_size=2)
    control.stack.settle()
    assert top.events == [BdevEvent.RESIZE]
    assert control.told("Zones")["num_blocks"] == 4096
    assert info(top, 63) == (CAPACITY, ZoneState.FULL)
    assert info(top, 3) == (0, ZoneState.EMPTY)


# Zones


@pytest.mark.rule(
    "A.9.9", "A.27.31", "E.zone_block_ut.test_get_zone_info", "E.bdev_zone_ut.bdev_zone_get_info"
)
def test_get_zone_info(top):
    status, zones = infos(top, 0, 16)
    assert status == Status.SUCCESS
    assert zones == [
        (n * SIZE, n * SIZE + CAPACITY, CAPACITY, ZoneState.FULL, ZoneType.SEQWR) for n in range(16)
    ]
    assert infos(top, 15) == (Status.SUCCESS, zones[15:])
    assert infos(top, 4, 3) == (Status.SUCCESS, zones[4:7])
    for wrong in (infos(top, 16), infos(top, 15, 2), infos(top, 0, 17), infos(top, 0, 2, room=1)):
        assert wrong[0] == Status.FAILED
    request = top.io(Op.GET_ZONE_INFO, 1, 0, bytearray(32), arg=1)
    assert refused(request)


def test_zone_info_in_pieces(top):
    pieces = [bytearray(20), bytearray(40), bytearray(10)]
    request = top.io(Op.GET_ZONE_INFO, SIZE, 0, pieces, arg=2)
    assert request.status == Status.SUCCESS
    data = b"".join(pieces)
    assert list(struct.iter_unpack(ZONE_INFO, data[:64])) == infos(top, 1, 2)[1]
    assert data[64:] == bytes(6)


@pytest.mark.rule(
    "A.27.36", "E.zone_block_ut.test_reset_zone", "E.bdev_zone_ut.bdev_zone_management"
)
def test_reset(control, top):
    assert read(top, SIZE, CAPACITY) == b"\x55" * CAPACITY
    assert manage(top, ZoneAction.RESET, 1).status == Status.SUCCESS
    assert info(top, 1) == (0, ZoneState.EMPTY)
    assert read(top, SIZE, CAPACITY) == bytes(CAPACITY)
    assert read(top, 0, CAPACITY) == b"\x55" * CAPACITY
    assert manage(top, ZoneAction.RESET, 1).status == Status.SUCCESS
    assert refused(manage(top, ZoneAction.RESET, 1, offset=1))
    assert manage(top, ZoneAction.RESET, 16).status == Status.FAILED
    # The blocks between two zones stay the base's.
    below = control.stack.open("Disk", write=False)
    assert read(below, SIZE + CAPACITY, SIZE - CAPACITY) == b"\x55" * (SIZE - CAPACITY)


@pytest.mark.rule("A.27.36", "E.zone_block_ut.test_open_zone")
def test_open(top):
    assert refused(manage(top, ZoneAction.OPEN))
    manage(top, ZoneAction.RESET)
    for _ in range(2):
        assert manage(top, ZoneAction.OPEN).status == Status.SUCCESS
        assert info(top) == (0, ZoneState.IMP_OPEN)
    assert refused(manage(top, ZoneAction.OPEN, offset=1))
    assert write(top, 0, 3).status == Status.SUCCESS
    manage(top, ZoneAction.CLOSE)
    assert manage(top, ZoneAction.OPEN).status == Status.SUCCESS
    assert info(top) == (3, ZoneState.IMP_OPEN)


@pytest.mark.rule("A.9.10", "A.27.36", "E.zone_block_ut.test_close_zone")
def test_close(top):
    assert refused(manage(top, ZoneAction.CLOSE))
    manage(top, ZoneAction.RESET)
    assert refused(manage(top, ZoneAction.CLOSE))
    write(top, 0)
    for _ in range(2):
        assert manage(top, ZoneAction.CLOSE).status == Status.SUCCESS
        assert info(top) == (1, ZoneState.CLOSED)
    assert write(top, 1).status == Status.SUCCESS
    assert info(top) == (2, ZoneState.IMP_OPEN)


@pytest.mark.rule("A.9.10", "A.27.36", "E.zone_block_ut.test_finish_zone")
def test_finish(top):
    assert manage(top, ZoneAction.FINISH).status == Status.SUCCESS
    manage(top, ZoneAction.RESET)
    write(top, 0, 5)
    assert manage(top, ZoneAction.FINISH).status == Status.SUCCESS
    assert info(top) == (CAPACITY, ZoneState.FULL)
    assert refused(write(top, 5))
    assert read(top, 0, 6) == b"\1\1\1\1\1\0"


@pytest.mark.rule("A.27.36")
@pytest.mark.parametrize("action", [ZoneAction.OFFLINE, 5, 255])
def test_other_actions(top, action):
    assert refused(manage(top, action))
    assert info(top) == (CAPACITY, ZoneState.FULL)


# Writes and reads


@pytest.mark.rule("A.27.33", "E.zone_block_ut.test_zone_write")
def test_write(top):
    assert refused(write(top, 0))  # FULL
    manage(top, ZoneAction.RESET)
    assert refused(write(top, 1))  # behind the pointer
    assert write(top, 0, 10, fill=2).status == Status.SUCCESS
    assert info(top) == (10, ZoneState.IMP_OPEN)
    assert refused(write(top, 0))  # before it
    assert refused(write(top, 9, 2))
    assert refused(write(top, 10, CAPACITY - 9))  # beyond the capacity
    assert refused(write(top, 10, SIZE - 10 + 1))  # into the next zone
    assert info(top) == (10, ZoneState.IMP_OPEN)
    assert write(top, 10, CAPACITY - 10, fill=3).status == Status.SUCCESS
    assert info(top) == (CAPACITY, ZoneState.FULL)
    assert refused(write(top, CAPACITY))
    assert read(top, 0, CAPACITY) == b"\2" * 10 + b"\3" * (CAPACITY - 10)


@pytest.mark.rule("A.27.33")
def test_many_writes_at_once(top):
    """All that begin where the one before them ends succeed, in whatever batches they come."""
    manage(top, ZoneAction.RESET)
    manage(top, ZoneAction.RESET, 2)
    places = [*range(20), *range(2 * SIZE, 2 * SIZE + 20), 30, 20]
    requests = [top.submit(Op.WRITE, place, 1, bytes([7]) * 512) for place in places]
    top.stack.turn_until(lambda: all(r.done for r in requests))
    assert [place for place, r in zip(places, requests, strict=True) if r.status < 0] == [30]
    assert (info(top), info(top, 2)) == ((21, ZoneState.IMP_OPEN), (20, ZoneState.IMP_OPEN))


@pytest.mark.rule("A.27.34", "E.zone_block_ut.test_zone_read")
def test_read(top):
    manage(top, ZoneAction.RESET)
    assert read(top, 0, CAPACITY) == bytes(CAPACITY)  # any state, any place in the capacity
    assert read(top, CAPACITY - 1) is not None
    for offset, count in ((CAPACITY, 1), (CAPACITY - 1, 2), (0, SIZE), (SIZE - 1, 2), (63, 1)):
        assert refused(top.io(Op.READ, offset, count, bytearray(count * 512)))
    assert read(top, 15 * SIZE, CAPACITY) == b"\x55" * CAPACITY
    assert read(top, 16 * SIZE) is None


@pytest.mark.rule(
    "A.27.35",
    "E.zone_block_ut.test_append_zone",
    "E.bdev_zone_ut.bdev_zone_append",
    "E.bdev_zone_ut.bdev_io_get_append_location",
)
def test_append(top):
    assert refused(append(top, 1))
    manage(top, ZoneAction.RESET, 1)
    assert refused(append(top, 1, offset=1))
    assert append(top, 16).status == Status.FAILED
    assert append(top, 1, 3, fill=4).result == SIZE
    assert append(top, 1, 2, fill=5).result == SIZE + 3
    assert write(top, SIZE + 5, fill=6).status == Status.SUCCESS
    assert append(top, 1, fill=7).result == SIZE + 6
    assert refused(append(top, 1, CAPACITY - 6))
    assert info(top, 1) == (7, ZoneState.IMP_OPEN)
    assert append(top, 1, CAPACITY - 7, fill=8).result == SIZE + 7
    assert info(top, 1) == (CAPACITY, ZoneState.FULL)
    assert read(top, SIZE, 8) == bytes([4, 4, 4, 5, 5, 6, 7, 8])


@pytest.mark.rule("A.27.35")
def test_appends_at_once_share_no_block(top):
    manage(top, ZoneAction.RESET, 3)
    requests = [top.submit(Op.ZONE_APPEND, 3 * SIZE, 2, bytes([n]) * 1024) for n in range(25)]
    top.stack.turn_until(lambda: all(r.done for r in requests))
    assert {r.status for r in requests} == {Status.SUCCESS}
    assert sorted(r.result for r in requests) == [3 * SIZE + 2 * n for n in range(25)]
    for number, request in enumerate(requests):
        assert read(top, request.result, 2) == bytes([number, number])


@pytest.mark.rule("E.bdev_zone_ut.bdev_zone_appendv")
def test_append_from_several_pieces(top):
    manage(top, ZoneAction.RESET)
    pieces = [b"\1" * 100, b"\1" * 412, b"\2" * 512]
    assert top.io(Op.ZONE_APPEND, 0, 2, pieces).result == 0
    assert read(top, 0, 2) == b"\1\2"


@pytest.mark.rule("A.27.35")
def test_append_through_a_stack(control, top):
    """The place is told in the blocks of whoever asked, and the zones are seen through a layer."""
    top.close()
    control.stack.layer(name="Top", base="Zones")
    above = control.stack.open("Top")
    told = control.told("Top")
    assert (told["zoned"], told["zone_size"]) == (True, SIZE)
    manage(above, ZoneAction.RESET, 2)
    assert append(above, 2).result == 2 * SIZE
    assert append(above, 2).result == 2 * SIZE + 1
    assert info(above, 2) == (2, ZoneState.IMP_OPEN)


# A base that takes its time, fails, or has no room


@pytest.mark.rule("A.27.36")
def test_a_zone_that_is_being_reset_takes_no_writes(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=1024)
    zoned(control)
    top = control.stack.open("Zones")
    reset = top.submit(Op.ZONE_MANAGEMENT, SIZE, 0, arg=ZoneAction.RESET)
    control.stack.settle()
    assert stub.arrived == [(Op.UNMAP, SIZE, CAPACITY)]
    for one in (
        manage(top, ZoneAction.RESET, 1),
        manage(top, ZoneAction.FINISH, 1),
        append(top, 1),
        write(top, SIZE),
    ):
        assert refused(one)
    assert info(top, 1) == (CAPACITY, ZoneState.FULL)
    stub.complete()
    control.stack.turn_until(lambda: reset.done)
    assert info(top, 1) == (0, ZoneState.EMPTY)


@pytest.mark.rule("D.12")
@pytest.mark.parametrize("status", [Status.AIO_ERROR, Status.ABORTED, Status.FAILED])
def test_what_the_base_says_passes(control, status):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=1024)
    zoned(control)
    top = control.stack.open("Zones")

    def ends(request):
        control.stack.settle()
        stub.complete(None, status, 28)
        control.stack.turn_until(lambda: request.done)
        assert (request.status, request.errno) == (status, 28)

    ends(top.submit(Op.READ, 0, 1, bytearray(512)))
    ends(top.submit(Op.ZONE_MANAGEMENT, 0, 0, arg=ZoneAction.RESET))
    assert info(top) == (CAPACITY, ZoneState.FULL)
    reset = top.submit(Op.ZONE_MANAGEMENT, 0, 0, arg=ZoneAction.RESET)
    control.stack.settle()
    stub.complete()
    control.stack.turn_until(lambda: reset.done)
    ends(top.submit(Op.WRITE, 0, 1, bytes(512)))
    ends(top.submit(Op.ZONE_APPEND, 0, 1, bytes(512)))
    # What failed has left a gap, as on a real disk.
    assert info(top) == (2, ZoneState.IMP_OPEN)


def test_nvme_status_of_an_append(control):
    disk(control)
    control.call("bdev_error_create", base_name="Disk")
    zoned(control, base_bdev="EE_Disk")
    top = control.stack.open("Zones")
    manage(top, ZoneAction.RESET)
    inject = {"name": "EE_Disk", "io_type": "write", "error_type": "nvme_failure"}
    control.call("bdev_error_inject_error", **inject, nvme_sct=2, nvme_sc=0x80)
    request = append(top)
    assert (request.status, request.detail) == (Status.NVME_ERROR, 2 << 8 | 0x80)


@pytest.mark.rule("A.13.1")
def test_no_free_io_is_waited_for(control):
    """An append needs a second I/O for the base: with all in use it comes later, and once."""
    control.stack.close()
    control.__init__(pool_size=3)
    disk(control)
    zoned(control)
    top = control.stack.open("Zones")
    manage(top, ZoneAction.RESET)
    requests = [top.submit(Op.ZONE_APPEND, 0, 1, bytes([n + 1]) * 512) for n in range(2)]
    assert None not in requests
    control.stack.turn_until(lambda: all(r.done for r in requests))
    assert {r.status for r in requests} == {Status.SUCCESS}
    assert [r.result for r in requests] == [0, 1]
    assert info(top) == (2, ZoneState.IMP_OPEN)


def test_an_append_that_is_taken_back():
    zones = Zones(2, 64, 50)
    zones.end_reset(1, done=True)
    assert zones.append(1, 50) == 64
    zones.take_back(1, 64, 50)
    assert zones.append(1, 5) == 64
    assert zones.append(1, 5) == 69
    zones.take_back(1, 64, 5)  # another one followed: its blocks stay a gap
    assert zones.append(1, 1) == 74


# Several reactors


def test_reactors_share_the_zones():
    control = Control(reactors=3)
    disk(control)
    zoned(control)
    tops = [control.stack.open("Zones", on=number) for number in range(3)]
    manage(tops[0], ZoneAction.RESET, 3)
    appends = [
        top.submit(Op.ZONE_APPEND, 3 * SIZE, 1, bytes([number + 1]) * 512)
        for _ in range(5)
        for number, top in enumerate(tops)
    ]
    control.stack.turn_until(lambda: all(request.done for request in appends))
    places = [request.result for request in appends]
    assert sorted(places) == [3 * SIZE + n for n in range(15)]
    assert info(tops[1], 3) == (15, ZoneState.IMP_OPEN)
    for number, place in enumerate(places):
        assert read(tops[0], place) == bytes([number % 3 + 1])
    control.stack.close()


def test_threads_share_no_block():
    """The zones under contention, with thread switches wherever they can be."""
    import sys
    import threading

    zones = Zones(1, 1 << 16, 1 << 16)
    zones.end_reset(0, done=True)
    got = [[] for _ in range(4)]

    def appends(mine):
        for _ in range(4000):
            with zones.lock:
                mine.append(zones.append(0, 3))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=appends, args=(mine,)) for mine in got]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert sorted(place for mine in got for place in mine) == list(range(0, 48000, 3))


def test_all_of_very_many_zones_are_told_in_their_time(control):
    """Others run in between; what changes meanwhile is told as it is when its turn comes."""
    many = 100_000
    control.call("bdev_malloc_create", name="Disk", num_blocks=many, block_size=512)
    control.malloc("Other")
    zoned(control, zone_capacity=1)
    top, other = control.stack.open("Zones"), control.stack.open("Other")
    half = many // 2 * ZONE_INFO_BYTES + 5
    pieces = [bytearray(half), bytearray(many * ZONE_INFO_BYTES - half)]
    asked = top.submit(Op.GET_ZONE_INFO, 0, 0, pieces, arg=many)
    read = other.submit(Op.READ, 0, 1, bytearray(512))
    control.stack.reactor.poll()
    assert read.done
    turns = 0
    while not asked.done:
        turns += 1
        control.stack.reactor.poll()
    assert turns > 5
    assert asked.status == Status.SUCCESS
    told = list(struct.iter_unpack(ZONE_INFO, b"".join(pieces)))
    assert told == [(n, n + 1, 1, ZoneState.FULL, ZoneType.SEQWR) for n in range(many)]
