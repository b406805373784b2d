"""I/O types that a module has not and that are carried out all the same, and those that are not.

Method: a Stub with few types shows what an emulated I/O is made of; a malloc disk with few types
shows what becomes of the data.
"""

import errno

import pytest

from support.stack import Stub, stack
from support.told import describe
from vbdev.bdev import BASIC_OPS
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.vocab import Op, Status

NOWHERE = 2**64 - 1
PLAIN = frozenset({Op.READ, Op.WRITE})


class Bare(Stub):
    """READ and WRITE, nothing else; `data` has what came with each WRITE."""

    ops = PLAIN

    async def start(self):
        await super().start()
        self.data = []

    def submit(self, channel, ios):
        for one in ios.split():
            self.data.append(b"".join(bytes(view) for view in one.data(Op.WRITE)))
            super().submit(channel, one)


class Plain(Malloc):
    ops = PLAIN


class ReadOnly(Stub):
    ops = frozenset({Op.READ})


@pytest.fixture
def rig():
    with stack() as made:
        made.bare = made.disk(Bare, num_blocks=16384)
        made.top = made.open("Disk")
        yield made


@pytest.fixture(params=[0, 1], ids=["disk", "through a layer"])
def plain(request):
    with stack() as made:
        made.disk(Plain, num_blocks=16384)
        if request.param:
            made.layer()
        opened = made.open("Top" if request.param else "Disk")
        opened.io(Op.WRITE, 0, 64, b"".join(bytes([n]) * 512 for n in range(64)))
        yield opened


def read(opened, offset, count):
    got = bytearray(count * 512)
    assert opened.io(Op.READ, offset, count, got).status == Status.SUCCESS
    return got


def finish(rig, request):
    while not request.done:
        rig.bare.complete()
        rig.settle()
    return request


# WRITE_ZEROES


@pytest.mark.rule("A.24.1", "A.9.7", "A.1.13", "E.bdev_ut.bdev_write_zeroes")
def test_zeroes_are_written(rig):
    request = finish(rig, rig.top.submit(Op.WRITE_ZEROES, 100, 5000))
    assert request.status == Status.SUCCESS
    assert {op for op, _, _ in rig.bare.arrived} == {Op.WRITE}
    assert [(at, n) for _, at, n in rig.bare.arrived] == [(100, 2048), (2148, 2048), (4196, 904)]
    assert not any(b"".join(rig.bare.data))
    assert [len(data) for data in rig.bare.data] == [1 << 20, 1 << 20, 904 * 512]


@pytest.mark.rule("A.24.1", "E.bdev_ut.bdev_write_zeroes")
def test_zeroes_in_pieces_of_max_write_zeroes(rig):
    class Limited(Bare):
        max_write_zeroes = 10

    rig.bare = rig.disk(Limited, name="Limited")
    opened = rig.open("Limited")
    finish(rig, opened.submit(Op.WRITE_ZEROES, 0, 25))
    assert [(at, n) for _, at, n in rig.bare.arrived] == [(0, 10), (10, 10), (20, 5)]


@pytest.mark.rule("A.9.7", "A.24.9")
def test_no_zeroes_where_nothing_can_be_written(rig):
    rig.disk(ReadOnly, name="ReadOnly")
    request = rig.open("ReadOnly").io(Op.WRITE_ZEROES, 0, 1)
    assert request.errno == errno.ENOTSUP
    assert rig.registry.get("ReadOnly").arrived == []


@pytest.mark.rule("A.24.1")
def test_a_failing_write_fails_the_zeroes(rig):
    request = rig.top.submit(Op.WRITE_ZEROES, 0, 5000)
    rig.settle()
    rig.bare.complete([0], Status.AIO_ERROR, errno.ENOSPC)
    finish(rig, request)
    assert (request.status, request.errno) == (Status.AIO_ERROR, errno.ENOSPC)


# COMPARE


@pytest.mark.rule("A.24.3", "A.9.12", "E.bdev_ut.bdev_compare_emulated")
@pytest.mark.parametrize(("count", "pieces"), [(1, 1), (7, 3), (600, 2)])
def test_compare(plain, count, pieces):
    right = bytearray(read(plain, 3, count))
    step = -(-len(right) // pieces)
    view = memoryview(right)
    data = [view[n : n + step] for n in range(0, len(right), step)]
    assert plain.io(Op.COMPARE, 3, count, data).status == Status.SUCCESS
    for wrong in (0, len(right) // 2, len(right) - 1):
        right[wrong] ^= 1
        assert plain.io(Op.COMPARE, 3, count, data).status == Status.MISCOMPARE
        right[wrong] ^= 1


@pytest.mark.rule("A.24.3")
def test_a_read_that_fails_is_no_miscompare(rig):
    request = rig.top.submit(Op.COMPARE, 0, 1, bytes(512))
    rig.settle()
    assert rig.bare.arrived == [(Op.READ, 0, 1)]
    rig.bare.complete(None, Status.AIO_ERROR, errno.EREMOTEIO)
    rig.settle()
    assert (request.status, request.errno) == (Status.AIO_ERROR, errno.EREMOTEIO)


@pytest.mark.rule("A.9.12", "A.24.12", "E.bdev_ut.bdev_compare")
@pytest.mark.parametrize("status", [Status.SUCCESS, Status.MISCOMPARE, Status.FAILED])
def test_a_native_compare_is_the_modules(rig, status):
    disk = rig.disk(Stub, name="Native")
    request = rig.open("Native").submit(Op.COMPARE, 3, 2, bytes(1024))
    assert disk.arrived == [(Op.COMPARE, 3, 2)]
    disk.complete(None, status)
    rig.settle()
    assert request.status == status


# COPY


@pytest.mark.rule("A.24.7", "E.bdev_ut.bdev_copy", "E.bdevio.copy")
@pytest.mark.parametrize(
    ("source", "target", "count"),
    [(0, 100, 10), (8, 0, 8), (0, 4, 32), (4, 0, 32), (10, 10, 5), (0, 1000, 64)],
)
def test_copy(plain, source, target, count):
    expected = bytes(read(plain, source, count))
    assert plain.io(Op.COPY, target, count, src_offset_blocks=source).status == Status.SUCCESS
    assert read(plain, target, count) == expected


@pytest.mark.rule("A.24.7", "A.1.12", "E.bdev_ut.bdev_copy_split_test")
def test_a_long_copy_is_made_of_pieces(rig):
    request = rig.top.submit(Op.COPY, 8000, 1000, src_offset_blocks=0)
    finish(rig, request)
    assert request.status == Status.SUCCESS
    reads = [(at, n) for op, at, n in rig.bare.arrived if op == Op.READ]
    writes = [(at, n) for op, at, n in rig.bare.arrived if op == Op.WRITE]
    assert len(reads) > 1
    assert sum(n for _, n in reads) == sum(n for _, n in writes) == 1000
    assert sorted((at + 8000, n) for at, n in reads) == sorted(writes)


def test_the_write_of_a_piece_counts_though_its_read_was_split():
    class Narrow(Plain):
        async def start(self):
            await super().start()
            self.write_unit_size, self.split_on_write_unit = 2, True
            self.optimal_io_boundary, self.split_on_optimal_io_boundary = 4, True

    with stack() as made:
        disk = made.disk(Narrow)
        assert made.open("Disk").io(Op.COPY, 8, 2, src_offset_blocks=3).status == Status.SUCCESS
        stats = entry_of(disk).iostat().stats
        assert stats["read"][:2] == (2, 2)
        assert stats["write"][:2] == (1, 2)


@pytest.mark.rule("A.24.7")
@pytest.mark.parametrize("which", [Op.READ, Op.WRITE])
def test_a_copy_fails_with_its_read_or_write(rig, which):
    request = rig.top.submit(Op.COPY, 100, 1, src_offset_blocks=0)
    rig.settle()
    for _ in range(2):
        if rig.bare.held:
            status = Status.FAILED if rig.bare.arrived[-1][0] == which else Status.SUCCESS
            rig.bare.complete(None, status, errno.EREMOTEIO if status < 0 else 0)
            rig.settle()
    assert (request.status, request.errno) == (Status.FAILED, errno.EREMOTEIO)


# SEEK


@pytest.mark.rule("A.24.8", "A.9.16", "E.bdev_ut.bdev_seek_test")
def test_seek(rig):
    for offset in (0, 5, 16383):
        assert rig.top.io(Op.SEEK_DATA, offset, 0).result == offset
        assert rig.top.io(Op.SEEK_HOLE, offset, 0).result == NOWHERE
    for op in (Op.SEEK_DATA, Op.SEEK_HOLE):
        assert rig.top.io(op, 16384, 0).errno == errno.EINVAL
    assert rig.bare.arrived == []


# What is shown, counted, and never done


@pytest.mark.rule("A.9.21", "A.9.22")
def test_what_is_shown(rig):
    shown = describe(rig.bare)["supported_io_types"]
    assert {name for name, supported in shown.items() if supported} == {
        "read",
        "write",
        "write_zeroes",
    }


@pytest.mark.parametrize("native", [False, True])
def test_a_copy_to_where_it_is_is_done(rig, native):
    disk = rig.disk(Stub, name="Native") if native else rig.bare
    request = (rig.open("Native") if native else rig.top).submit(Op.COPY, 7, 3, src_offset_blocks=7)
    rig.settle()
    assert request.status == Status.SUCCESS
    assert disk.arrived == []


@pytest.mark.rule("A.9.7", "A.24.9")
@pytest.mark.parametrize("zoned", [False, True])
def test_what_needs_writing_is_nothing_that_a_module_can_do_which_does_not_write(rig, zoned):
    disk = rig.disk(ReadOnly if not zoned else Stub, name="Other")
    if zoned:
        disk.zoned, disk.ops = True, BASIC_OPS
    reads = {Op.READ, Op.COMPARE, Op.SEEK_DATA, Op.SEEK_HOLE}
    assert {op for op in Op if disk.can(op)} - disk.ops == reads - disk.ops


@pytest.mark.rule(
    "A.24.9", "A.9.4", "A.9.15", "A.9.8", "A.9.19", "E.bdev_ut.bdev_write_uncorrectable"
)
@pytest.mark.parametrize(
    "op", [Op.UNMAP, Op.FLUSH, Op.RESET, Op.ZCOPY, Op.WRITE_UNCORRECTABLE, Op.NVME_NSSR]
)
def test_what_is_never_emulated(rig, op):
    request = rig.top.io(op, 0, 0 if op in (Op.FLUSH, Op.RESET, Op.NVME_NSSR) else 1)
    assert request.errno == errno.ENOTSUP
    assert rig.bare.arrived == []


@pytest.mark.rule("E.bdev_ut.bdev_write_uncorrectable")
def test_write_uncorrectable_where_there_is_one(rig):
    disk = rig.disk(Stub, name="Native")
    request = rig.open("Native").submit(Op.WRITE_UNCORRECTABLE, 3, 2)
    assert disk.arrived == [(Op.WRITE_UNCORRECTABLE, 3, 2)]
    disk.complete()
    rig.settle()
    assert request.status == Status.SUCCESS


@pytest.mark.rule("A.24.10", "A.18.10")
def test_only_children_are_counted(rig):
    for op, data in ((Op.WRITE_ZEROES, None), (Op.COMPARE, bytes(2048)), (Op.COPY, None)):
        finish(rig, rig.top.submit(op, 0, 4, data, src_offset_blocks=100))
    counted = {kind: stat[:2] for kind, stat in entry_of(rig.bare).iostat().stats.items()}
    assert counted == {"read": (2, 8), "write": (2, 8), "unmap": (0, 0), "copy": (0, 0)}
