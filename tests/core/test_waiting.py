"""Running out: of BdevIOs, of buffers. Nothing is dropped, what waits goes on in order.

Method: pools of a few buffers; a stub holds what got one, and each completion lets others go on.
"""

import errno

import pytest

from support.stack import Stub, describe, gather, layer, stack
from vbdev.vocab import Op, Status

LIMIT = 16384  # four small buffers


@pytest.fixture
def rig():
    with stack(buffer_limit_bytes=LIMIT) as made:
        made.stub = made.disk(Stub)
        made.top = made.open("Disk")
        yield made


def copying(ops=(Op.WRITE,)):
    def submit(_self, channel, ios):
        ios.copy_data(*ops)
        channel.base.submit(ios)

    return layer(submit, kind="copying")


def held_offsets(stub):
    return [describe(one)[0][1] for one in stub.held]


@pytest.mark.rule("A.0.6", "A.9.29")
def test_out_of_bdev_ios():
    with stack(pool_size=3) as made:
        disk = made.disk(Stub)
        top = made.open("Disk")
        requests = [top.submit(Op.READ) for _ in range(5)]
        assert [r is None for r in requests] == [False] * 3 + [True] * 2
        assert made.engine.ios_in_use == 3
        disk.complete([1])
        made.settle()
        assert top.submit(Op.READ) is not None
        assert top.submit(Op.READ) is None
        disk.complete()


@pytest.mark.rule("A.8.23", "A.12.6")
def test_reads_wait_and_go_on_in_order(rig):
    requests = [rig.top.submit(Op.READ, n) for n in range(10)]
    assert held_offsets(rig.stub) == [0, 1, 2, 3]
    assert rig.engine.waiting == 6
    assert rig.engine.held_by(rig.top.channel) == 4
    order = []
    while rig.stub.held:
        order += held_offsets(rig.stub)[-1:]
        rig.stub.complete([len(rig.stub.held) - 1])
        rig.settle()
    assert order == [3, 4, 5, 6, 7, 8, 9, 2, 1, 0]
    assert all(r.status == Status.SUCCESS for r in requests)


def test_a_large_one_is_not_overtaken(rig):
    for n in range(4):
        rig.top.submit(Op.READ, n)
    rig.top.submit(Op.READ, 100, 16)  # two buffers' worth
    rig.top.submit(Op.READ, 4)
    rig.stub.complete([0])
    rig.settle()
    assert held_offsets(rig.stub) == [1, 2, 3]
    rig.stub.complete([0])
    rig.settle()
    assert held_offsets(rig.stub) == [2, 3, 100]
    rig.top.submit(Op.READ, 5)  # behind the rest that waits
    rig.stub.complete()
    rig.settle()
    assert held_offsets(rig.stub) == [4, 5]
    rig.stub.complete()


def test_what_needs_no_buffer_does_not_wait(rig):
    """Its end may be what gives the memory back."""
    for n in range(5):
        rig.top.submit(Op.READ, n)
    mine = bytearray(512)
    rig.top.submit(Op.READ, 50, 1, mine)
    rig.top.submit(Op.WRITE, 51, 1, mine)
    rig.top.submit(Op.FLUSH, 0, 0)
    assert held_offsets(rig.stub) == [0, 1, 2, 3, 50, 51, 0]
    rig.stub.complete()
    rig.settle()
    rig.stub.complete()


def test_one_that_holds_memory_is_served_beyond_the_limit(rig):
    """READs that have a buffer each, and need two more below: waiting would never end."""
    rig.layer(copying((Op.READ,)), name="Low")
    rig.layer(copying((Op.READ,)), name="Mid", base="Low")
    rig.layer(gather(4), base="Mid")
    top = rig.open("Top")
    for n in range(4):
        top.submit(Op.READ, n)
    assert (held_offsets(rig.stub), rig.engine.waiting) == ([0, 1, 2, 3], 0)
    assert rig.engine.buffers.used_bytes == 3 * LIMIT
    top.submit(Op.READ, 4)
    assert rig.engine.waiting == 1
    rig.stub.complete()
    rig.settle()
    assert rig.engine.waiting == 0
    for n in range(5, 8):
        top.submit(Op.READ, n)
    rig.stub.complete()


def test_one_that_holds_memory_passes_those_that_wait_for_it():
    """WRITEs whose copies are all the memory there is meet a READ that waits for a bounce."""

    class Aligned(Stub):
        required_alignment = 12

    with stack(buffer_limit_bytes=LIMIT) as made:
        disk = made.disk(Aligned, block_size=4096)

        async def any_alignment(self):
            self.required_alignment = 0

        made.layer(layer(start=any_alignment), name="Low")
        made.layer(copying(), base="Low")
        top, low = made.open("Top"), made.open("Low", write=False)
        odd = memoryview(bytearray(LIMIT + 1))[1:]
        for n in range(3):
            top.submit(Op.WRITE, n, 1, bytes(4096))
        read = low.submit(Op.READ, 90, 4, odd)
        assert made.engine.waiting == 1
        top.submit(Op.WRITE, 3, 1, bytes(4096))
        assert held_offsets(disk) == [0, 1, 2, 3]
        disk.complete()
        made.settle()
        assert held_offsets(disk) == [90]
        disk.complete()
        made.settle()
        assert read.status == Status.SUCCESS


def test_a_bounce_of_what_holds_a_copy_is_served_beyond_the_limit():
    """WRITEs whose copies are all the memory there is need a bounce each, further down."""

    class Aligned(Stub):
        required_alignment = 12

    async def any_alignment(self):
        self.required_alignment = 0

    with stack(buffer_limit_bytes=LIMIT) as made:
        disk = made.disk(Aligned)
        made.layer(layer(copying().submit, start=any_alignment), name="Low")
        made.layer(gather(4), base="Low")
        top = made.open("Top")
        for n in range(4):
            top.submit(Op.WRITE, n, 1, bytes(512))
        assert (held_offsets(disk), made.engine.waiting) == ([0, 1, 2, 3], 0)
        assert made.engine.buffers.used_bytes == 2 * LIMIT
        disk.complete()


def test_copy_data_waits_and_comes_back_in_order(rig):
    rig.layer(copying(), name="Low")
    rig.layer(gather(8), base="Low")
    top = rig.open("Top")
    requests = [top.submit(Op.WRITE, n, 1, bytes(512)) for n in range(8)]
    assert held_offsets(rig.stub) == [0, 1, 2, 3]
    assert rig.engine.waiting == 4
    rig.stub.complete([3, 0])
    rig.settle()
    assert held_offsets(rig.stub) == [1, 2, 4, 5]
    rig.stub.complete()
    rig.settle()
    assert held_offsets(rig.stub) == [6, 7]
    rig.stub.complete()
    rig.settle()
    assert all(r.status == Status.SUCCESS for r in requests)


def test_copy_data_does_not_let_small_ones_pass_a_large_one(rig):
    rig.layer(copying())
    top = rig.open("Top")
    for n in range(3):
        top.submit(Op.WRITE, n, 1, bytes(512))
    top.submit(Op.WRITE, 100, 32, bytes(32 * 512))
    top.submit(Op.WRITE, 3, 1, bytes(512))
    top.submit(Op.READ, 200, 1, bytearray(512))  # of another type: it needs no copy
    assert held_offsets(rig.stub) == [0, 1, 2, 200]
    rig.stub.complete([0, 1])
    rig.settle()
    assert held_offsets(rig.stub) == [2, 200]
    rig.stub.complete()
    rig.settle()
    assert held_offsets(rig.stub) == [100]
    rig.stub.complete()
    rig.settle()
    assert held_offsets(rig.stub) == [3]
    rig.stub.complete()


def test_what_comes_back_is_as_it_came(rig):
    """A shift before copy_data is undone for those that wait, so that it is not done twice."""

    def submit(_self, channel, ios):
        ios.shift(100)
        ios.copy_data(Op.WRITE)
        channel.base.submit(ios)

    rig.layer(layer(submit))
    top = rig.open("Top")
    for n in range(6):
        top.submit(Op.WRITE, n, 1, bytes(512))
    rig.stub.complete()
    rig.settle()
    assert held_offsets(rig.stub) == [104, 105]
    rig.stub.complete()


def test_copy_data_of_what_fits_no_buffer_fails(rig):
    rig.layer(copying())
    top = rig.open("Top")
    request = top.io(Op.WRITE, 0, 64, bytes(64 * 512))
    assert (request.status, request.errno) == (Status.FAILED, errno.ENOMEM)
    assert rig.engine.waiting == 0


@pytest.mark.rule("A.1.9", "A.12.2", "A.12.3", "A.12.4", "E.bdev_ut.bdev_io_alignment")
def test_alignment_bounces_both_ways():
    class Aligned(Stub):
        required_alignment = 12
        block_size = 4096

        def submit(self, channel, ios):
            for view in ios.data(Op.WRITE):
                self.written = bytes(view)
            for view in ios.data(Op.READ):
                view[:] = b"r" * len(view)
            super().submit(channel, ios)

    with stack(buffer_limit_bytes=LIMIT) as made:
        disk = made.disk(Aligned, block_size=4096)
        top = made.open("Disk")
        data = memoryview(bytearray(b"w" * 8193))[1:]
        top.submit(Op.WRITE, 0, 2, [data[:5000], data[5000:]])
        assert made.engine.buffers.used_bytes == 8192
        assert disk.written == bytes(data)
        disk.complete()
        made.settle()
        top.submit(Op.READ, 0, 2, [data[:1], data[1:]])
        disk.complete()
        made.settle()
        assert bytes(data) == b"r" * 8192
        longer_than_a_buffer = top.submit(Op.WRITE, 0, 5, memoryview(bytearray(5 * 4096 + 1))[1:])
        while not longer_than_a_buffer.done:
            made.settle()
            disk.complete()
        assert longer_than_a_buffer.status == Status.SUCCESS
        assert disk.arrived[2:] == [(Op.WRITE, 0, 4), (Op.WRITE, 4, 1)]


# Ending what waits


@pytest.mark.rule("A.16.3", "A.25.3", "E.bdev_ut.bdev_io_iobuf_wait_abort")
def test_abort_of_one_that_waits(rig):
    rig.layer(layer())
    top = rig.open("Top")
    requests = [top.submit(Op.READ, n) for n in range(7)]
    assert top.io(Op.ABORT, 0, 0, victim=requests[5]).status == Status.SUCCESS
    assert (requests[5].status, rig.engine.waiting) == (Status.ABORTED, 2)
    assert top.io(Op.ABORT, 0, 0, victim=requests[6]).status == Status.SUCCESS
    requests.append(top.submit(Op.READ, 7))
    assert rig.engine.waiting == 2
    assert top.io(Op.ABORT, 0, 0, victim=requests[4]).status == Status.SUCCESS
    rig.stub.complete()
    rig.settle()
    assert held_offsets(rig.stub) == [7]
    rig.stub.complete()


@pytest.mark.rule("A.15.3", "A.25.4")
def test_reset_ends_what_waits(rig):
    requests = [rig.top.submit(Op.READ, n) for n in range(7)]
    rig.top.submit(Op.RESET, 0, 0)
    rig.settle()
    assert [r.status for r in requests] == [0] * 4 + [Status.ABORTED] * 3
    assert [describe(one)[0][0] for one in rig.stub.held][-1] == Op.RESET
    rig.stub.complete()


@pytest.mark.rule("A.7.2", "A.25.4")
def test_removal_ends_what_waits(rig):
    requests = [rig.top.submit(Op.READ, n) for n in range(7)]
    task = rig.reactor.spawn(rig.registry.delete("Disk", "stub"))
    rig.settle()
    assert [r.status for r in requests] == [0] * 4 + [Status.ABORTED] * 3
    assert not task.done
    rig.stub.complete()
    rig.settle()
    assert task.done
    assert rig.registry.find("Disk") is None
