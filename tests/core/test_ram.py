"""RamDisk, behind malloc: every operation against a bytearray.

Method: Hypothesis draws sequences of operations; the model is the plain-Python twin. Block sizes
below, at and above a page, and one that is no divisor of it.
"""

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.stack import Stack
from vbdev.core.ram.disk import RamDisk
from vbdev.modules.null import Null
from vbdev.vocab import IoFlag, Op, Status

BLOCK_SIZES = [512, 4096, 8192, 1536, 4608]
NUM_BLOCKS = 96
NONE = 2**64 - 1

ops = st.sampled_from(
    ["write", "unmap", "write_zeroes", "no_hole", "copy", "read", "compare", "zcopy", "seek"]
)
extents = st.tuples(st.integers(0, NUM_BLOCKS - 1), st.integers(0, 24)).map(
    lambda e: (e[0], min(e[1], NUM_BLOCKS - e[0]))
)
steps = st.lists(
    st.tuples(ops, extents, st.integers(0, NUM_BLOCKS - 1), st.integers(1, 255)), max_size=30
)


class Model:
    """The plain-Python twin."""

    def __init__(self, disk, block_size):
        self.disk = disk
        self.size = block_size
        self.data = bytearray(NUM_BLOCKS * block_size)

    def span(self, offset, count):
        return slice(offset * self.size, (offset + count) * self.size)

    def step(self, op, extent, other, byte):
        offset, count = extent
        span = self.span(offset, count)
        filler = bytes([byte]) * (count * self.size)
        if op == "write":
            half = len(filler) // 3
            assert self.ok(Op.WRITE, offset, count, [filler[:half], filler[half:]])
            self.data[span] = filler
        elif op in ("unmap", "write_zeroes", "no_hole"):
            kind = Op.UNMAP if op == "unmap" else Op.WRITE_ZEROES
            assert self.ok(kind, offset, count, flags=IoFlag.NO_HOLE if op == "no_hole" else 0)
            self.data[span] = bytes(len(filler))
            if op == "no_hole" and count:
                assert self.disk.io(Op.SEEK_DATA, offset).result == offset
        elif op == "copy":
            source = min(other, NUM_BLOCKS - count)
            assert self.ok(Op.COPY, offset, count, src_offset_blocks=source)
            self.data[span] = self.data[self.span(source, count)]
        elif op == "read":
            got = bytearray(len(filler))
            assert self.ok(Op.READ, offset, count, got)
            assert got == self.data[span]
        elif op == "compare":
            same = self.ok(Op.COMPARE, offset, count, filler)
            assert same == (filler == self.data[span])
            assert self.ok(Op.COMPARE, offset, count, bytes(self.data[span]))
        elif op == "zcopy":
            request = self.disk.io(Op.ZCOPY, offset, count)
            (view,) = request.zcopy_data
            assert view == self.data[span]
            view[:] = filler
            self.disk.zcopy_end(request, commit=True)
            self.data[span] = filler
        else:
            self.seek(other)

    def ok(self, op, offset, count, data=None, **more):
        request = self.disk.io(op, offset, count, data, **more)
        assert request.status in (Status.SUCCESS, Status.MISCOMPARE)
        return request.status == Status.SUCCESS

    def seek(self, offset):
        """What is said to be a hole reads as zeroes, and every run ends."""
        data = self.disk.io(Op.SEEK_DATA, offset).result
        hole_end = NUM_BLOCKS if data == NONE else data
        assert offset <= hole_end <= NUM_BLOCKS
        assert not any(self.data[self.span(offset, hole_end - offset)])
        hole = self.disk.io(Op.SEEK_HOLE, offset).result
        assert offset <= hole <= NUM_BLOCKS
        if hole < NUM_BLOCKS:
            assert not any(self.data[self.span(hole, 1)])


@pytest.mark.rule("A.27.1", "A.27.2", "A.24.9")
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_every_operation_against_a_bytearray(block_size, steps):
    stack = Stack()
    stack.disk(num_blocks=NUM_BLOCKS, block_size=block_size)
    model = Model(stack.open("Disk"), block_size)
    for step in steps:
        model.step(*step)
    model.step("read", (0, NUM_BLOCKS), 0, 1)
    for offset in range(0, NUM_BLOCKS, 7):
        model.seek(offset)
    stack.close()


@pytest.fixture
def make():
    stack = Stack()

    def opened(**options):
        stack.disk(**options)
        return stack.open("Disk")

    yield opened
    stack.close()


@pytest.mark.rule("A.9.16")
@pytest.mark.parametrize(("block_size", "per_page"), [(512, 8), (4096, 1), (1024, 4)])
def test_extents_are_exact_by_the_page(make, block_size, per_page):
    disk = make(num_blocks=64 * per_page, block_size=block_size)

    def seek(op, page):
        return disk.io(op, page * per_page).result

    assert seek(Op.SEEK_DATA, 0) == NONE
    assert seek(Op.SEEK_HOLE, 0) == 0
    disk.io(Op.WRITE, 9 * per_page, 3 * per_page, bytes(3 * 4096))
    assert seek(Op.SEEK_DATA, 0) == 9 * per_page
    assert seek(Op.SEEK_HOLE, 9) == 12 * per_page
    disk.io(Op.UNMAP, 10 * per_page, per_page)
    assert seek(Op.SEEK_HOLE, 9) == 10 * per_page
    assert seek(Op.SEEK_DATA, 10) == 11 * per_page
    disk.io(Op.WRITE, 60 * per_page, 4 * per_page, bytes(4 * 4096))
    assert seek(Op.SEEK_HOLE, 62) == 64 * per_page


@pytest.mark.parametrize("block_size", [1536, 4608, 8192])
def test_a_hole_has_no_data_where_blocks_straddle_pages(make, block_size):
    """Block 0 is written: whatever page its last bytes share, it is no hole."""
    disk = make(num_blocks=64, block_size=block_size)
    for block in (0, 7, 8, 63):
        disk.io(Op.WRITE, block, 1, b"x" * block_size)
    for block in (0, 7, 8):
        assert disk.io(Op.SEEK_DATA, block).result == block
        assert disk.io(Op.SEEK_HOLE, block).result > block
    assert disk.io(Op.SEEK_HOLE, 63).result == 64


@pytest.mark.parametrize("block_size", [512, 8192])
def test_clearing_much_gives_pages_back(make, block_size):
    """Above 256 KiB whole pages go back to the system; the ragged ends are set to zero."""
    count = (2 << 20) // block_size
    disk = make(num_blocks=count, block_size=block_size)
    disk.io(Op.WRITE, 0, count, b"\xff" * (2 << 20))
    assert disk.io(Op.UNMAP, 3, count - 10).status == Status.SUCCESS
    got = bytearray(2 << 20)
    disk.io(Op.READ, 0, count, got)
    kept = (3 * block_size, 7 * block_size)
    assert got == b"\xff" * kept[0] + bytes(len(got) - sum(kept)) + b"\xff" * kept[1]
    assert disk.io(Op.UNMAP, 0, count).status == Status.SUCCESS
    disk.io(Op.READ, 0, count, got)
    assert not any(got)
    assert disk.io(Op.SEEK_DATA, 0).result == NONE


def test_overlapping_copy(make):
    disk = make(num_blocks=64)
    data = bytes(range(1, 33)) * 16
    disk.io(Op.WRITE, 0, 1, data)
    disk.io(Op.WRITE, 1, 1, data[::-1])
    disk.io(Op.COPY, 1, 2, src_offset_blocks=0)
    got = bytearray(1536)
    disk.io(Op.READ, 0, 3, got)
    assert got == data + data + data[::-1]


@pytest.mark.rule("A.16.9", "A.25.11", "A.27.4")
def test_abort_finds_nothing_to_abort(make):
    disk = make()
    victim = disk.submit(Op.READ)
    request = disk.submit(Op.ABORT, 0, 0, victim=victim)
    disk.stack.settle()
    assert (victim.status, request.status) == (Status.SUCCESS, Status.FAILED)


@pytest.mark.parametrize("size", [(2**52, 4096), (1, 0), (0, 512)])
def test_no_memory_for_a_disk(size):
    with pytest.raises(MemoryError, match="no address space"):
        RamDisk(*size)


@pytest.mark.rule("A.27.7")
def test_null_reads_zeroes_and_forgets(make):
    disk = make(cls=Null, num_blocks=1 << 30)
    mine = bytearray(b"mine" * 128)
    assert disk.io(Op.READ, 5, 1, mine).status == Status.SUCCESS
    assert mine == b"mine" * 128  # a buffer that is given stays as it is
    assert disk.io(Op.WRITE, 5, 1, mine).status == Status.SUCCESS
    assert disk.io(Op.READ, 0, (64 << 20) // 512).status == Status.SUCCESS
    request = disk.io(Op.READ, 0, (64 << 20) // 512 + 1)
    assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
    assert disk.stack.engine.buffers.live_buffers == 0
    assert disk.io(Op.ABORT, 0, 0, victim=disk.submit(Op.READ)).status == Status.FAILED
