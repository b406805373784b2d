"""IOBatch: its verbs, its columns, and the private copies of data.

Method: a vbdev made for each test does something to its batches above a stub, which shows what
arrives, or above malloc, which shows where data went.
"""

import errno

import numpy as np
import pytest

from support.stack import Stub, describe, layer
from support.stack import stack as another_stack
from vbdev.core.engine.batch import IOBatch
from vbdev.vocab import Op, Status

ODD = b"\xa5" * 512


def above_stub(stack, submit, completed=None, **attributes):
    """Return (the stub, an open of a vbdev with this `submit`)."""
    disk = stack.disk(Stub)
    stack.layer(layer(submit, completed, **attributes))
    return disk, stack.open("Top")


def seen_by(stack, look, ios):
    """Submit `ios` through a layer that holds all, and return look(batch of all)."""
    batch = IOBatch()

    def submit(_self, _channel, arrived):
        batch.extend(arrived)

    _, top = above_stub(stack, submit)
    for io in ios:
        top.submit(*io)
    try:
        return look(batch)
    finally:
        batch.complete()
        stack.settle()


FOUR = [(Op.READ, 3, 2), (Op.UNMAP, 10, 5), (Op.WRITE, 7, 1, ODD), (Op.FLUSH, 0, 0)]


def test_columns(stack):
    def look(ios):
        assert len(ios) == 4
        assert ios.ops.tolist() == [1, 3, 2, 4]
        assert ios.ops.dtype == np.uint8
        assert ios.offset_blocks.tolist() == [3, 10, 7, 0]
        assert ios.num_blocks.tolist() == [2, 5, 1, 0]
        assert ios.num_blocks.dtype == np.uint64
        assert ios.statuses.tolist() == [Status.PENDING] * 4
        assert repr(ios) == "<IOBatch of 4 I/Os>"
        ios.offset_blocks += np.uint64(1)
        assert ios.offset_blocks.tolist() == [4, 11, 8, 1]

    seen_by(stack, look, FOUR)


def test_take_by_type_and_by_mask_keeps_the_order(stack):
    def look(ios):
        first = ios.take(Op.UNMAP)
        assert (describe(first), len(ios)) == ([(3, 10, 5)], 3)
        two = ios.take((Op.READ, Op.FLUSH))
        assert describe(two) == [(1, 3, 2), (4, 0, 0)]
        assert describe(ios) == [(2, 7, 1)]
        ios.extend(two)
        ios.extend(first)
        assert [op for op, *_ in describe(ios)] == [2, 1, 4, 3]
        assert (len(two), len(first)) == (0, 0)
        masked = ios.take(ios.num_blocks > 1)
        assert [op for op, *_ in describe(masked)] == [1, 3]
        assert [op for op, *_ in describe(ios)] == [2, 4]
        ios.extend(masked)
        everything = ios.take()
        assert (len(everything), len(ios)) == (4, 0)
        ones = everything.split()
        assert ([len(one) for one in ones], len(everything)) == ([1] * 4, 0)
        for one in ones:
            ios.extend(one)

    seen_by(stack, look, FOUR)


def test_take_says_what_it_can_not_mean(stack):
    def look(ios):
        with pytest.raises(ValueError, match="a mask of 3 for 4 I/Os"):
            ios.take([True] * 3)
        with pytest.raises(TypeError, match="not of bool"):
            ios.take([Op.READ, Op.WRITE, Op.FLUSH, Op.UNMAP])  # a list of types is no mask
        with pytest.raises(ValueError, match="no I/O type"):
            ios.take(0)
        with pytest.raises(ValueError, match="into itself"):
            ios.extend(ios)
        with pytest.raises(ValueError, match="1 offsets for 4"):
            ios.offset_blocks = [0]
        assert len(ios) == 4
        assert len(IOBatch().take([])) == 0

    seen_by(stack, look, FOUR)


def test_two_reactors_do_not_share_a_batch(stack):
    with another_stack() as other:
        disk = other.disk(Stub)
        other.open("Disk").submit(Op.READ)

        def look(ios):
            with pytest.raises(ValueError, match="two reactors"):
                ios.extend(disk.held[0])

        seen_by(stack, look, FOUR)
        disk.complete()


@pytest.mark.rule("A.26.4")
def test_shift_is_undone_on_the_way_up(stack):
    seen = []

    def submit(_self, channel, ios):
        ios.shift(100)
        channel.base.submit(ios)

    def completed(_self, _channel, ios):
        seen.extend(describe(ios))

    disk, top = above_stub(stack, submit, completed)
    for offset in (0, 5, 900):
        top.submit(Op.READ, offset, 8)
    assert [offset for _, offset, _ in disk.arrived] == [100, 105, 1000]
    disk.complete()
    stack.settle()
    assert [offset for _, offset, _ in seen] == [0, 5, 900]


@pytest.mark.parametrize("delta", [-1, -(2**62), 1024, 2**62])
def test_shift_out_of_the_base_is_refused_there(stack, delta):
    def submit(_self, channel, ios):
        ios.shift(delta)
        channel.base.submit(ios)

    disk, top = above_stub(stack, submit)
    request = top.io(Op.READ, 0, 8)
    assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
    assert disk.held == []


@pytest.mark.rule("A.26.4")
@pytest.mark.parametrize("how", ["shift", "column"])
def test_copy_moves_source_and_target_and_puts_both_back(stack, how):
    tries = []

    def submit(_self, channel, ios):
        if how == "shift":
            ios.shift(100)
        else:
            ios.offset_blocks += np.uint64(100)
        channel.base.submit(ios)

    def retry_once(_self, channel, ios):
        tries.append(len(ios))
        if len(tries) == 1:
            channel.base.submit(ios)

    def both(_self, _channel, ios):
        assert ios.offset_blocks.tolist() == [3]

    stack.disk(num_blocks=256)
    stack.layer(layer(submit, both), name="Map")
    stack.layer(layer(None, retry_once), base="Map")
    below = stack.open("Disk", write=False)
    top = stack.open("Top")
    top.io(Op.WRITE, 50, 1, ODD)
    tries.clear()
    request = top.io(Op.COPY, 3, 1, src_offset_blocks=50)
    assert (request.status, len(tries)) == (Status.SUCCESS, 2)
    data = bytearray(512)
    below.io(Op.READ, 103, 1, data)
    assert data == ODD


@pytest.mark.rule("A.26.4")
@pytest.mark.parametrize(
    ("op", "offset", "found"),
    [
        (Op.SEEK_DATA, 0, 8),
        (Op.SEEK_DATA, 17, 2**64 - 1),  # the base has data, but behind this layer's end
        (Op.SEEK_HOLE, 9, 16),
        (Op.SEEK_HOLE, 20, 20),
    ],
)
def test_seek_results_are_in_the_layers_own_blocks(stack, op, offset, found):
    """A window of 64 blocks at 64: what the base says is moved, and cut off at the end."""

    def submit(_self, channel, ios):
        ios.shift(64)
        channel.base.submit(ios)

    async def start(self):
        self.num_blocks = 64

    stack.disk(num_blocks=1024)
    raw = stack.open("Disk")
    for block in (72, 200):
        raw.io(Op.WRITE, block, 8, ODD * 8)
    raw.close()
    stack.layer(layer(submit, start=start), name="Window")
    top = stack.open("Window")
    assert top.io(op, offset).result == found


def test_seek_hole_ends_with_the_layer(stack):
    async def start(self):
        self.num_blocks = 16

    stack.disk(num_blocks=1024)
    raw = stack.open("Disk")
    raw.io(Op.WRITE, 0, 64, ODD * 64)
    raw.close()
    stack.layer(layer(start=start), name="Window")
    top = stack.open("Window")
    assert top.io(Op.SEEK_HOLE, 3).result == 16
    request = top.io(Op.SEEK_DATA, 16, 0)
    assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)


def test_complete_with_and_without_a_status(stack):
    def submit(_self, channel, ios):
        ios.take(Op.FLUSH).complete()
        ios.take(Op.UNMAP).complete(Status.FAILED, errno.ENOSPC)
        channel.base.submit(ios)

    disk, top = above_stub(stack, submit)
    requests = [top.submit(*io) for io in FOUR]
    disk.complete([0], Status.ABORTED)
    disk.complete([0])
    stack.settle()
    assert [(r.status, r.errno) for r in requests] == [
        (Status.ABORTED, 0),
        (Status.FAILED, errno.ENOSPC),
        (Status.SUCCESS, 0),
        (Status.SUCCESS, 0),
    ]


@pytest.mark.parametrize("status", [Status.PENDING, 2, -9])
def test_complete_wants_a_final_status(stack, status):
    def look(ios):
        with pytest.raises(ValueError, match="no final status"):
            ios.complete(status)
        assert len(ios) == 1

    seen_by(stack, look, FOUR[:1])


def flip(_self, channel, ios):
    ios.copy_data(Op.WRITE)
    for view in ios.data(Op.WRITE):
        view[:] = bytes(byte ^ 0xFF for byte in view)
    channel.base.submit(ios)


def flip_back(_self, _channel, ios):
    for view in ios.data(Op.READ):
        view[:] = bytes(byte ^ 0xFF for byte in view)


def test_copy_data_is_private_and_undone(stack):
    """The writer's pieces stay as they are, through two layers that change them."""
    stack.disk()
    stack.layer(layer(flip, flip_back), name="Low")
    stack.layer(layer(flip, flip_back), base="Low")
    top = stack.open("Top")
    raw = stack.open("Low", write=False)
    pieces = [bytearray(ODD[:100]), bytearray(ODD[100:]), bytearray(b"\x11" * 512)]
    written = [bytes(piece) for piece in pieces]
    assert top.io(Op.WRITE, 4, 2, pieces).status == Status.SUCCESS
    assert [bytes(piece) for piece in pieces] == written
    assert stack.engine.buffers.live_buffers == 0
    got = [bytearray(512), bytearray(512)]
    assert top.io(Op.READ, 4, 2, got).status == Status.SUCCESS
    assert b"".join(got) == b"".join(written)
    assert raw.io(Op.READ, 4, 1, got[0]).status == Status.SUCCESS
    assert got[0] == bytes(byte ^ 0xFF for byte in ODD)


def test_copy_data_of_a_read_goes_to_the_reader_only_on_success(stack):
    def submit(_self, channel, ios):
        ios.copy_data(Op.READ)
        for view in ios.data(Op.READ):
            view[:] = b"\xee" * len(view)
        channel.base.submit(ios)

    disk, top = above_stub(stack, submit)
    buffers = [bytearray(512), bytearray(512)]
    for buffer in buffers:
        top.submit(Op.READ, 0, 1, buffer)
    disk.complete([0], Status.FAILED)
    disk.complete()
    stack.settle()
    assert buffers[0] == bytes(512)
    assert buffers[1] == b"\xee" * 512


def test_copy_data_leaves_a_zcopys_memory_alone(stack):
    def submit(_self, channel, ios):
        ios.copy_data()
        channel.base.submit(ios)

    stack.disk()
    stack.layer(layer(submit))
    top = stack.open("Top")
    request = top.io(Op.ZCOPY, 2, 1)
    request.zcopy_data[0][:] = ODD
    assert stack.engine.buffers.live_buffers == 0
    top.zcopy_end(request, commit=True)
    data = bytearray(512)
    top.io(Op.READ, 2, 1, data)
    assert data == ODD


def test_data_views_are_those_of_the_types_asked_for(stack):
    def look(ios):
        assert [len(view) for view in ios.data(Op.WRITE)] == [512]
        assert [len(view) for view in ios.data(Op.READ, Op.WRITE)] == [1024, 512]
        assert [len(view) for view in ios.data()] == [1024, 512]
        assert bytes(ios.data(Op.WRITE)[0]) == ODD

    seen_by(stack, look, [(Op.READ, 3, 2, bytearray(1024)), *FOUR[1:]])
