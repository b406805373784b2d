"""error: what is injected, into which I/Os, and that all else passes as it is.

Method: black-box, through the RPC methods, over malloc; over a stub where it matters what arrives
below or how the base ends an I/O.
"""

import struct
import uuid

import pytest

from support.control import CLAIMED, EXISTS, INVALID, NO_DEVICE, Control
from vbdev.bdev.part import PART_NAMESPACE
from vbdev.modules.passthru import Passthru
from vbdev.testing import Stub
from vbdev.vocab import Op, Status

U1 = "11111111-2222-4333-8444-555555555555"
U2 = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
U3 = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee"
UNDECODED = (-32602, "spdk_json_decode_object failed")
TYPES = {"read": Op.READ, "write": Op.WRITE, "unmap": Op.UNMAP, "flush": Op.FLUSH}
SCT_SC = "nvme_sct or nvme_sc should be specified for NVMe error injection"


@pytest.fixture
def control():
    made = Control()
    yield made
    made.stack.close()


def disk(control, name="Disk", uuid=U1):
    control.call("bdev_malloc_create", name=name, num_blocks=1024, block_size=512, uuid=uuid)


@pytest.fixture
def top(control):
    disk(control)
    control.call("bdev_error_create", base_name="Disk")
    return control.stack.open("EE_Disk")


@pytest.fixture
def stub(control):
    made = control.stack.disk(Stub, name="Disk", num_blocks=1024)
    control.call("bdev_error_create", base_name="Disk")
    return made


def inject(control, io_type="read", error_type="failure", **params):
    name = params.pop("name", "EE_Disk")
    return control.call(
        "bdev_error_inject_error", name=name, io_type=io_type, error_type=error_type, **params
    )


def io(top, op, offset=0, count=1, fill=0):
    data = bytearray([fill]) * (512 * count) if op in (Op.READ, Op.WRITE) else None
    request = top.io(op, offset, count, data)
    return (request.status, data) if op == Op.READ else request.status


def statuses(top, op, number, offset=0):
    """Return how `number` I/Os end, one after another: True for SUCCESS."""
    data = bytearray(512) if op in (Op.READ, Op.WRITE) else None
    return [top.io(op, offset, 1, data).status > 0 for _ in range(number)]


# What is hit


@pytest.mark.rule("A.27.18", "A.27.19")
@pytest.mark.parametrize("name", TYPES)
def test_a_type_fails_as_often_as_asked(control, top, name):
    assert inject(control, name, num=2) is True
    for other, op in TYPES.items():
        assert statuses(top, op, 3) == ([False, False, True] if other == name else [True] * 3)


@pytest.mark.rule("A.27.18")
def test_once_unless_told_otherwise(control, top):
    inject(control)
    assert statuses(top, Op.READ, 2) == [False, True]


@pytest.mark.rule("A.27.18")
def test_all_is_one_for_each_type_and_no_other(control, top):
    inject(control, "all", num=1)
    for op in (Op.WRITE_ZEROES, Op.COPY, Op.COMPARE, Op.SEEK_DATA):
        data = bytes(512) if op == Op.COMPARE else None
        assert top.io(op, 0, 1, data).status == Status.SUCCESS
    for op in TYPES.values():
        assert statuses(top, op, 2) == [False, True]


@pytest.mark.rule("A.27.18")
def test_clear_and_num_0_take_back(control, top):
    inject(control, "all", num=100)
    inject(control, "read", num=0)
    assert statuses(top, Op.READ, 1) == [True]
    assert statuses(top, Op.WRITE, 1) == [False]
    inject(control, "clear")
    assert statuses(top, Op.WRITE, 1) == [True]


@pytest.mark.rule("A.27.18")
def test_another_injection_of_the_type_takes_the_place(control, top):
    inject(control, "read", num=5)
    inject(control, "read", "nvme_failure", num=1, nvme_sct=2, nvme_sc=0x81)
    request = top.io(Op.READ, 0, 1, bytearray(512))
    assert request.status == Status.NVME_ERROR
    assert request.detail == 2 << 8 | 0x81
    assert statuses(top, Op.READ, 1) == [True]


@pytest.mark.rule("A.27.18")
def test_queue_depth(control, stub):
    """Only an I/O that finds so many of its channel's at the base is hit; in one batch too."""
    inject(control, "read", num=10, queue_depth=3)
    top, other = control.stack.open("EE_Disk"), control.stack.open("EE_Disk")
    requests = [top.submit(Op.READ, n, 1, bytearray(512)) for n in range(6)]
    alone = other.submit(Op.READ, 9, 1, bytearray(512))
    control.stack.settle()
    assert [r.done for r in requests] == [False] * 3 + [True] * 3
    assert {r.status for r in requests[3:]} == {Status.FAILED}
    assert len(stub.arrived) == 4
    stub.complete()
    control.stack.turn_until(lambda: alone.done)
    assert alone.status == Status.SUCCESS


@pytest.mark.parametrize("nth", [1, 2, 5])
def test_each_nth(control, top, nth):
    inject(control, "write", num=3, nth=nth)
    got = statuses(top, Op.WRITE, 20)
    assert [number for number, good in enumerate(got, 1) if not good] == [nth, 2 * nth, 3 * nth]


def test_a_range_of_blocks(control, top):
    inject(control, "all", num=2**32 - 1, offset_blocks=100, num_blocks=10)
    for offset, count, good in (
        (0, 100, True),
        (99, 1, True),
        (99, 2, False),
        (104, 1, False),
        (109, 5, False),
        (110, 1, True),
        (0, 1024, False),
    ):
        for op in (Op.READ, Op.WRITE, Op.UNMAP):
            data = bytearray(count * 512) if op != Op.UNMAP else None
            assert (top.io(op, offset, count, data).status > 0) == good
    assert top.io(Op.FLUSH, 0, 0).status == Status.FAILED  # it flushes these blocks too
    inject(control, "all", num=0, offset_blocks=100, num_blocks=10)
    assert statuses(top, Op.READ, 1, 104) == [True]


def test_ranges_count_apart_and_the_oldest_that_hits_decides(control, top):
    inject(control, "read", "nvme_failure", num=1, nvme_sct=2, nvme_sc=0x81, offset_blocks=5)
    inject(control, "read", num=2)
    got = [top.io(Op.READ, 7, 1, bytearray(512)).status for _ in range(4)]
    assert got == [Status.NVME_ERROR, Status.FAILED, Status.FAILED, Status.SUCCESS]


def test_chance_follows_from_the_seed(control, top):
    def run(seed):
        inject(control, "read", num=10**6, probability=0.25, seed=seed)
        return statuses(top, Op.READ, 400)

    first = run(3)
    assert 60 < first.count(False) < 140
    assert run(3) == first
    assert run(4) != first
    inject(control, "read", num=10**6, probability=0)
    assert statuses(top, Op.READ, 50) == [True] * 50


def test_a_batch_is_hit_in_order(control, top):
    """Those of one batch that are hit fail, the others arrive, in their order."""
    inject(control, "write", num=2, nth=3)
    writes = [top.submit(Op.WRITE, n, 1, bytes([n + 1]) * 512) for n in range(8)]
    control.stack.turn_until(lambda: all(w.done for w in writes))
    assert [w.status > 0 for w in writes] == [n not in (2, 5) for n in range(8)]
    data = io(top, Op.READ, 0, 8)[1]
    assert [data[n * 512] for n in range(8)] == [0 if n in (2, 5) else n + 1 for n in range(8)]


# What happens to it


@pytest.mark.rule("A.27.21", "A.27.19")
def test_corrupt_read(control, top):
    io(top, Op.WRITE, 0, 4, fill=0xAA)
    inject(control, "read", "corrupt_data", corrupt_offset=700, corrupt_value=0x0F)
    expected = bytearray(b"\xaa" * 2048)
    expected[700] ^= 0x0F
    pieces = [bytearray(512), bytearray(1024), bytearray(512)]
    assert top.io(Op.READ, 0, 4, pieces).status == Status.SUCCESS
    assert b"".join(pieces) == expected
    assert io(top, Op.READ, 0, 4) == (Status.SUCCESS, b"\xaa" * 2048)


@pytest.mark.rule("Dd.2")
def test_corrupt_write(control, top):
    """Its own blocks are written, the writer's buffer stays, and the status is one."""
    io(top, Op.WRITE, 0, 16, fill=0x11)
    inject(control, "write", "corrupt_data", corrupt_offset=513, corrupt_value=0xFF)
    data = bytearray(b"\xaa" * 1024)
    assert top.io(Op.WRITE, 8, 2, data).status == Status.SUCCESS
    assert data == b"\xaa" * 1024
    expected = bytearray(b"\x11" * 8192)
    expected[4096:5120] = data
    expected[4096 + 513] ^= 0xFF
    assert io(top, Op.READ, 0, 16)[1] == expected


def test_corrupt_beyond_the_data_or_without_any(control, top):
    inject(control, "all", "corrupt_data", num=9, corrupt_offset=512, corrupt_value=1)
    assert io(top, Op.WRITE, 0, 1, fill=3) == Status.SUCCESS
    assert io(top, Op.READ) == (Status.SUCCESS, b"\x03" * 512)
    assert statuses(top, Op.UNMAP, 1) == [True]
    assert statuses(top, Op.FLUSH, 1) == [True]


def test_corrupt_reads_of_one_batch(control, top):
    io(top, Op.WRITE, 0, 8, fill=0)
    inject(control, "read", "corrupt_data", num=3, nth=2, corrupt_value=1)
    buffers = [bytearray(512) for _ in range(8)]
    reads = [top.submit(Op.READ, n, 1, buffers[n]) for n in range(8)]
    control.stack.turn_until(lambda: all(r.done for r in reads))
    assert [b[0] for b in buffers] == [0, 1, 0, 1, 0, 1, 0, 0]


def test_corrupting_a_disk_without_memory_of_its_own(control):
    """null gives all readers one page of zeroes; that one stays as it is."""
    control.call("bdev_null_create", name="Disk", num_blocks=64, block_size=512)
    control.call("bdev_error_create", base_name="Disk")
    top = control.stack.open("EE_Disk")
    inject(control, "read", "corrupt_data", num=1, corrupt_value=1)
    assert top.io(Op.READ, 0, 1).status == Status.SUCCESS
    plain = bytearray(512)
    control.stack.open("Disk", write=False).io(Op.READ, 0, 1, plain)
    assert plain == bytes(512)


def test_a_corrupt_write_that_waits_for_memory_is_counted_once(control):
    control.stack.close()
    control.__init__(buffer_limit_bytes=256 << 10)
    control.call("bdev_malloc_create", name="Disk", num_blocks=8192, block_size=512)
    control.call("bdev_error_create", base_name="Disk")
    top = control.stack.open("EE_Disk")
    inject(control, "write", "corrupt_data", num=12, corrupt_value=1)
    size = 128 << 10
    writes = [top.submit(Op.WRITE, n * 256, 256, bytes(size)) for n in range(20)]
    control.stack.turn_until(lambda: all(w.done for w in writes))
    assert {w.status for w in writes} == {Status.SUCCESS}
    firsts = []
    for number in range(20):
        data = bytearray(512)
        top.io(Op.READ, number * 256, 1, data)
        firsts.append(data[0])
    assert firsts.count(1) == 12


@pytest.mark.rule("A.27.20")
def test_pending_until_resumed(control, top):
    inject(control, "write", "pending", num=2)
    writes = [top.submit(Op.WRITE, n, 1, bytes([n + 1]) * 512) for n in range(3)]
    control.stack.pass_time(10**6)
    assert [w.done for w in writes] == [False, False, True]
    assert io(top, Op.READ, 0, 3)[1][:512] == bytes(512)
    assert control.call("bdev_error_resume_pending", name="EE_Disk") is True
    control.stack.turn_until(lambda: all(w.done for w in writes))
    assert {w.status for w in writes} == {Status.SUCCESS}
    assert io(top, Op.READ, 0, 3)[1][::512] == b"\1\2\3"


@pytest.mark.rule("A.27.20")
def test_what_is_resumed_may_be_hit_again(control, top):
    inject(control, "read", "pending")
    read = top.submit(Op.READ, 0, 1, bytearray(512))
    control.stack.settle()
    inject(control, "read", "failure")
    control.call("bdev_error_resume_pending", name="EE_Disk")
    control.stack.turn_until(lambda: read.done)
    assert read.status == Status.FAILED


@pytest.mark.rule("A.27.20")
def test_pending_until_reset_which_stays_here(control, stub):
    inject(control, "read", "pending", num=3)
    one, two = control.stack.open("EE_Disk"), control.stack.open("EE_Disk")
    held = [opened.submit(Op.READ, 0, 1, bytearray(512)) for opened in (one, two, two)]
    control.stack.settle()
    reset = one.io(Op.RESET, 0, 0)
    control.stack.turn_until(lambda: all(r.done for r in held))
    assert reset.status == Status.SUCCESS
    assert [r.status for r in held] == [Status.ABORTED] * 3
    assert stub.arrived == []


@pytest.mark.rule("A.16.3")
def test_abort_finds_what_is_pending(control, top):
    """SPDK's does not; here an ABORT finds its victim wherever it waits."""
    inject(control, "read", "pending", num=3)
    held = [top.submit(Op.READ, n, 1, bytearray(512)) for n in range(3)]
    control.stack.settle()
    assert top.io(Op.ABORT, 0, 0, victim=held[1]).status == Status.SUCCESS
    control.stack.settle()
    assert [r.done for r in held] == [False, True, False]
    assert held[1].status == Status.ABORTED
    control.call("bdev_error_resume_pending", name="EE_Disk")
    control.stack.turn_until(lambda: all(r.done for r in held))


@pytest.mark.rule("A.27.19", "A.13.1", "D.13")
def test_nomem_is_tried_again(control, top):
    inject(control, "write", "nomem", num=5)
    writes = [top.submit(Op.WRITE, n, 1, bytes([n + 1]) * 512) for n in range(3)]
    control.stack.turn_until(lambda: all(w.done for w in writes))
    assert {w.status for w in writes} == {Status.SUCCESS}
    assert io(top, Op.READ, 0, 3)[1][::512] == b"\1\2\3"


@pytest.mark.rule("Dd.7", "D.12", "A.26.8")
@pytest.mark.parametrize("status", [Status.AIO_ERROR, Status.MISCOMPARE, Status.ABORTED])
def test_what_the_base_says_passes(control, stub, status):
    top = control.stack.open("EE_Disk")
    inject(control, "write", num=1)  # armed, and not for this
    request = top.submit(Op.READ, 0, 1, bytearray(512))
    control.stack.settle()
    stub.complete(None, status, 28)
    control.stack.turn_until(lambda: request.done)
    assert (request.status, request.errno) == (status, 28)


@pytest.mark.rule("Dd.7", "A.10.16", "A.26.8")
def test_an_error_below_an_error(control):
    """NVMe status at the top of a stack is what was injected at its bottom."""
    disk(control)
    control.call("bdev_error_create", base_name="Disk")
    control.call("bdev_error_create", base_name="EE_Disk")
    control.stack.layer(Passthru, name="Top", base="EE_EE_Disk")
    top = control.stack.open("Top")
    inject(control, "read", "nvme_failure", nvme_sct=2, nvme_sc=0x81)
    request = top.io(Op.READ, 0, 1, bytearray(512))
    assert (request.status, request.detail) == (Status.NVME_ERROR, 2 << 8 | 0x81)
    inject(control, "read", "nomem", num=2)
    assert io(top, Op.READ)[0] == Status.SUCCESS


# Control plane


@pytest.mark.rule("A.5.3", "A.20.6", "A.20.9", "A.20.11", "Dd.2")
def test_create_now_and_later(control):
    assert control.call("bdev_error_create", base_name="Disk") is True
    assert control.names() == []
    assert control.fails("bdev_error_create", base_name="Disk") == EXISTS
    disk(control)
    told = control.told("EE_Disk")
    assert told["product_name"] == "Error Injection Disk"
    assert told["driver_specific"] == {"error_disk": {"base_bdev": "Disk"}}
    assert told["num_blocks"] == 1024
    name = uuid.UUID(U1).bytes + struct.pack("<QQ", 0, 1024)
    import hashlib

    digest = hashlib.sha1(PART_NAMESPACE.bytes + name).digest()
    assert told["uuid"] == str(uuid.UUID(bytes=digest[:16], version=5))
    assert control.call("bdev_error_delete", name="EE_Disk") is True
    assert control.call("bdev_error_create", base_name="Disk", uuid=U2) is True
    told = control.told("EE_Disk")
    assert (told["uuid"], told["aliases"]) == (U2, [U2])


def test_failures(control):
    disk(control)
    disk(control, "Other", uuid=U2)
    disk(control, "EE_Other", uuid=U3)
    assert control.fails("bdev_error_create", base_name="Other") == EXISTS
    assert control.told("Other")["claimed"] is False
    control.stack.layer(Passthru, name="Top")
    assert control.fails("bdev_error_create", base_name="Disk") == CLAIMED
    for method in ("bdev_error_delete", "bdev_error_resume_pending"):
        assert control.fails(method, name="Disk") == NO_DEVICE
        assert control.fails(method, name="Nobody") == NO_DEVICE
        assert control.fails(method) == UNDECODED
    for params in ({}, {"base_name": 1}, {"base_name": "D", "base_bdev": "D"}):
        assert control.fails("bdev_error_create", **params) == UNDECODED


def test_what_can_not_be_injected(control, top):
    good = {"name": "EE_Disk", "io_type": "read", "error_type": "failure"}

    def fails(**params):
        return control.fails("bdev_error_inject_error", **{**good, **params})

    assert fails(name="Disk") == NO_DEVICE
    assert fails(name="Nobody") == NO_DEVICE
    assert fails(error_type="corrupt_data") == INVALID
    assert fails(error_type="corrupt_data", corrupt_value=0) == INVALID
    assert fails(error_type="nvme_failure") == (-22, SCT_SC)
    assert fails(nvme_sc=1) == (-22, SCT_SC)
    assert fails(error_type="nvme_failure", nvme_sct=8) == INVALID
    assert fails(error_type="nvme_failure", nvme_sc=256) == INVALID
    for wrong in (
        {"io_type": "copy"},
        {"error_type": "abort"},
        {"num": -1},
        {"num": 2**32},
        {"corrupt_value": 256},
        {"nth": 0},
        {"probability": 1.5},
        {"colour": 1},
    ):
        assert fails(**wrong) == UNDECODED
    assert statuses(top, Op.READ, 1) == [True]


@pytest.mark.rule("D.6", "A.22.6", "A.5.3")
def test_the_wish_is_saved_and_loads(control, tmp_path):
    disk(control)
    control.call("bdev_error_create", base_name="Disk")
    control.call("bdev_error_create", base_name="Absent", uuid=U2)
    saved, told = control.registry.config(), control.told("EE_Disk")
    assert [c["params"] for c in saved if c["method"] == "bdev_error_create"] == [
        {"base_name": "Disk"},
        {"base_name": "Absent", "uuid": U2},
    ]
    control.reload(tmp_path / "config.json")
    assert (control.registry.config(), control.told("EE_Disk")) == (saved, told)


@pytest.mark.rule("Dd.3", "D.10", "A.2.25", "A.5.10")
def test_it_follows_its_base(control):
    null = {"name": "Disk", "num_blocks": 2048, "block_size": 512, "uuid": U1}
    control.call("bdev_null_create", **null)
    control.call("bdev_error_create", base_name="Disk")
    control.call("bdev_null_resize", name="Disk", new_size=2)
    control.stack.settle()
    assert control.told("EE_Disk")["num_blocks"] == 4096
    control.call("bdev_null_delete", name="Disk")
    assert control.names() == []
    control.call("bdev_null_create", **null)
    assert control.names() == ["Disk", "EE_Disk"]


# Several reactors


@pytest.fixture
def reactors():
    """Return a Control and opens of one error bdev, each with a channel on its own reactor."""
    control = Control(reactors=3)
    disk(control)
    control.call("bdev_error_create", base_name="Disk")
    yield control, [control.stack.open("EE_Disk", on=number) for number in range(3)]
    control.stack.close()


@pytest.mark.rule("A.27.18")
def test_reactors_share_the_count(reactors):
    control, tops = reactors
    inject(control, "write", num=4)
    writes = [top.submit(Op.WRITE, n, 1, bytes(512)) for top in tops for n in range(3)]
    control.stack.turn_until(lambda: all(w.done for w in writes))
    assert [w.status for w in writes].count(Status.FAILED) == 4


@pytest.mark.rule("A.27.20")
@pytest.mark.parametrize("end", ["resume", "reset"])
def test_what_is_pending_on_all_reactors_ends(reactors, end):
    control, tops = reactors
    inject(control, "read", "pending", num=6)
    held = [top.submit(Op.READ, n, 1, bytearray(512)) for top in tops for n in range(2)]
    control.stack.settle()
    assert not any(request.done for request in held)
    if end == "resume":
        control.call("bdev_error_resume_pending", name="EE_Disk")
    else:
        assert tops[2].io(Op.RESET, 0, 0).status == Status.SUCCESS
    control.stack.turn_until(lambda: all(request.done for request in held))
    expected = Status.SUCCESS if end == "resume" else Status.ABORTED
    assert {request.status for request in held} == {expected}


def test_asked_for_again_after_a_hot_removal(control):
    """In SPDK the wish has ended then."""
    disk(control)
    control.call("bdev_error_create", base_name="Disk")
    assert control.fails("bdev_error_create", base_name="Disk") == EXISTS
    control.call("bdev_malloc_delete", name="Disk")
    assert control.call("bdev_error_create", base_name="Disk") is True
    assert control.fails("bdev_error_create", base_name="Disk") == EXISTS
    disk(control)
    assert control.names() == ["Disk", "EE_Disk"]
    control.call("bdev_malloc_delete", name="Disk")
    disk(control)
    assert control.call("bdev_error_create", base_name="Disk") is True
    assert control.names() == ["Disk", "EE_Disk"]
