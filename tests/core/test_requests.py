"""Requests: the owner for Python callers. Zero-copy, abort, pieces of data, closing.

Method: malloc for what really happens to data, a stub for the moments in between.
"""

import errno

import pytest

from support.stack import Stub, layer
from vbdev.bdev import BdevError, IoError
from vbdev.bdev.entry import entry_of
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.requests import Requests
from vbdev.vocab import IoFlag, Op, Status

DATA = bytes(range(256)) * 2


@pytest.fixture
def disk(stack):
    stack.disk()
    return stack.open("Disk")


@pytest.fixture
def stub(stack):
    made = stack.disk(Stub, name="Stub")
    made.top = stack.open("Stub")
    return made


def test_pieces_of_data(disk):
    pieces = [DATA[:1], b"", DATA[1:300], memoryview(DATA)[300:], bytearray(DATA)]
    assert disk.io(Op.WRITE, 1, 2, pieces).status == Status.SUCCESS
    got = [bytearray(700), bytearray(324)]
    assert disk.io(Op.READ, 1, 2, got).status == Status.SUCCESS
    assert b"".join(got) == DATA * 2


@pytest.mark.parametrize(
    ("op", "count", "data", "message"),
    [
        (Op.WRITE, 1, None, "needs data"),
        (Op.COMPARE, 1, None, "needs data"),
        (Op.WRITE, 1, b"short", "5 bytes of data for an I/O of 512"),
        (Op.WRITE, 1, [DATA, b"x"], "513 bytes"),
        (Op.READ, 2**55, bytearray(512), "512 bytes of data"),
        (Op.WRITE, 3, [DATA] * 1025, "1024 at most"),
        (0, 1, None, "no I/O type"),
        (32, 1, None, "no I/O type"),
    ],
)
def test_what_makes_no_request(stack, disk, op, count, data, message):
    with pytest.raises(ValueError, match=message):
        disk.submit(op, 0, count, data)
    assert stack.engine.ios_in_use == 0


def test_a_compare_and_write_needs_what_it_writes(stack, disk):
    with pytest.raises(ValueError, match="needs write_data"):
        disk.submit(Op.COMPARE_AND_WRITE, 0, 1, DATA)
    with pytest.raises(ValueError, match="511 bytes of write_data for an I/O of 512"):
        disk.submit(Op.COMPARE_AND_WRITE, 0, 1, DATA, write_data=DATA[1:])
    assert stack.engine.ios_in_use == 0


def test_a_read_needs_writable_memory(disk):
    with pytest.raises(BufferError):
        disk.submit(Op.READ, 0, 1, DATA)


def test_buffers_are_held_until_the_end_and_no_longer(stack, stub):
    data = bytearray(512)
    stub.top.submit(Op.READ, 0, 1, data)
    with pytest.raises(BufferError):
        data.append(0)
    stub.complete()
    stack.settle()
    data.append(0)


@pytest.mark.rule("A.9.8", "E.bdev_ut.bdev_zcopy_write", "E.bdev_ut.bdev_zcopy_read")
def test_zcopy_write_and_read(disk):
    request = disk.io(Op.ZCOPY, 3, 2)
    assert request.status == Status.SUCCESS
    (view,) = request.zcopy_data
    assert len(view) == 1024
    view[:512] = DATA
    disk.zcopy_end(request, commit=True)
    assert request.status == Status.SUCCESS
    request = disk.io(Op.ZCOPY, 3, 1, flags=IoFlag.ZCOPY_POPULATE)
    assert bytes(request.zcopy_data[0]) == DATA
    disk.zcopy_end(request, commit=False)
    with pytest.raises(ValueError, match="no ZCOPY is open"):
        request.zcopy_data  # noqa: B018 - the attribute raises
    with pytest.raises(ValueError, match="no ZCOPY is open"):
        disk.zcopy_end(request, commit=True)


def test_zcopy_phases_reach_the_leaf_in_order(stack, stub):
    request = stub.top.submit(Op.ZCOPY, 3, 1)
    with pytest.raises(ValueError, match="no ZCOPY is open"):
        stub.top.zcopy_end(request, commit=True)
    stub.complete()
    stack.settle()
    assert request.done
    stub.top.requests.zcopy_end(request, True)
    assert not request.done
    stub.complete(None, Status.FAILED, errno.EIO)
    stack.settle()
    assert (request.done, request.status, request.errno) == (True, Status.FAILED, errno.EIO)
    assert stub.top.channel.outstanding == 0


def test_a_zcopy_that_does_not_start_is_over(stack, stub):
    request = stub.top.submit(Op.ZCOPY, 3, 1)
    stub.complete(None, Status.FAILED, errno.ENOMEM)
    stack.settle()
    assert request.done
    with pytest.raises(ValueError, match="no ZCOPY is open"):
        stub.top.zcopy_end(request, commit=True)


@pytest.mark.rule("A.16.4", "A.25.8")
def test_abort_reaches_the_leaf_with_its_victim(stack, stub):
    victim = stub.top.submit(Op.READ, 5)
    abort = stub.top.submit(Op.ABORT, 0, 0, victim=victim)
    assert not abort.done
    stub.complete([0], Status.ABORTED)
    stub.complete()
    stack.settle()
    assert (victim.status, abort.status) == (Status.ABORTED, Status.SUCCESS)


@pytest.mark.rule("A.16.5")
def test_abort_of_what_has_ended(stack, stub):
    victim = stub.top.submit(Op.READ)
    stub.complete()
    stack.settle()
    abort = stub.top.io(Op.ABORT, 0, 0, victim=victim)
    assert (abort.status, abort.errno) == (Status.FAILED, errno.ENOENT)
    assert stub.held == []


def test_abort_that_comes_late_does_not_hit_another(stack, stub):
    """A layer holds the ABORT; its victim ends, and its BdevIO becomes another I/O's."""
    held = IOBatch()

    def submit(_self, channel, ios):
        held.extend(ios.take(Op.ABORT))
        channel.base.submit(ios)

    stack.layer(layer(submit), base="Stub")
    stub.top.close()
    top = stack.open("Top")
    victim = top.submit(Op.READ, 1)
    abort = top.submit(Op.ABORT, 0, 0, victim=victim)
    stub.complete()
    stack.settle()
    other = top.submit(Op.READ, 2)
    top.channel.base.submit(held)
    stack.settle()
    assert (abort.status, abort.errno) == (Status.FAILED, errno.ENOENT)
    assert not other.done
    stub.complete()


def test_a_callback_that_raises_does_not_cost_the_others_theirs(stack, stub):
    ended = []

    def callback(request):
        ended.append(request)
        raise RuntimeError("boom")

    for n in range(3):
        stub.top.submit(Op.READ, n, callback=callback)
    stub.complete()
    stack.settle()
    assert len(ended) == 3
    assert [(type(error), n) for _, error, n in stack.errors] == [(RuntimeError, 0)] * 3


def test_a_callback_may_close_its_owner(stack, stub):
    owners = [Requests(stack.engine)]

    def callback(_request):
        owners.pop().close()
        raise RuntimeError("reported with an owner that nobody else holds")

    owners[0].submit(stub.top.channel, Op.READ, 0, 1, callback=callback)
    stub.complete()
    stack.settle()
    assert len(stack.errors) == 1
    stack.errors.clear()


# The descriptor's own requests


@pytest.mark.rule("A.2.17")
def test_a_descriptor_with_requests_does_not_close_by_halves(stack, stub):
    """Refused I/O leaves the channel at once and its owner a turn later; ZCOPY stays open."""
    descriptor = stack.registry.open(
        "Stub", write=True, on_event=lambda _event: None, holder="test"
    )
    future = descriptor.io(Op.READ, 1 << 40)
    for _ in range(2):
        with pytest.raises(BdevError, match="1 I/Os are outstanding") as caught:
            descriptor.close()
        assert caught.value.errno == errno.EBUSY
    stack.settle()
    with pytest.raises(IoError, match="READ of 0 blocks"):
        future.result()
    zcopy = descriptor.submit(Op.ZCOPY, 0, 1, callback=lambda _request: None)
    stub.complete()
    stack.settle()
    with pytest.raises(BdevError):
        descriptor.close()
    assert not descriptor.closed
    descriptor.zcopy_end(zcopy, commit=False, callback=lambda _request: None)
    stub.complete()
    stack.settle()
    descriptor.close()
    descriptor.close()
    assert stub.holders() == ["test"]


def test_a_hook_that_raises_at_close_leaves_nothing_open(stack):
    class Clumsy(Stub):
        def destroy_channel(self, channel):
            raise RuntimeError("boom")

    disk = stack.disk(Clumsy)
    descriptor = stack.registry.open("Disk", write=True, on_event=print, holder="test")
    channel = descriptor.get_channel()
    with pytest.raises(RuntimeError, match="boom"):
        descriptor.close()
    assert (entry_of(disk).openers, channel.closed) == ([], True)


@pytest.mark.rule("A.9.29")
def test_exhaustion_is_enomem_for_a_descriptor():
    from support.stack import stack

    with stack(pool_size=1) as made:
        disk = made.disk(Stub)
        descriptor = made.registry.open("Disk", write=True, on_event=print, holder="test")
        descriptor.io(Op.READ)
        with pytest.raises(BdevError, match="all BdevIOs are in use"):
            descriptor.io(Op.READ)
        disk.complete()
        made.settle()
        descriptor.close()
