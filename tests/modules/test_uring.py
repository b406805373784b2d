"""File bdevs carry out I/O: what is written is in the file, whichever way it went.

Method: random operations against a bytearray, on real files, with and without io_uring, with and
without O_DIRECT; then the cases that random ones do not reach.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vbdev.bdev import BdevError, IoError
from vbdev.modules.file import service
from vbdev.reactor.task import gather
from vbdev.vocab import IoFlag, Op

BLOCKS = 128
BLOCK = 512

FLAGS = {
    Op.READ: [0],
    Op.WRITE: [0, IoFlag.FUA],
    Op.UNMAP: [0, IoFlag.FUA],
    Op.WRITE_ZEROES: [0, IoFlag.FUA, IoFlag.NO_HOLE, IoFlag.NO_HOLE | IoFlag.FUA],
    Op.FLUSH: [0],
    Op.RESET: [0],
}


@st.composite
def operations(draw):
    op = draw(st.sampled_from(sorted(FLAGS)))
    offset = draw(st.integers(0, BLOCKS - 1))
    count = draw(st.integers(0, BLOCKS - offset))
    cuts = sorted(draw(st.lists(st.integers(0, count * BLOCK), max_size=4)))
    return op, offset, count, draw(st.sampled_from(FLAGS[op])), cuts, draw(st.integers(1, 255))


def pieces(data, cuts):
    view = memoryview(data)
    return [view[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


async def carry_out(descriptor, model, step):
    op, offset, count, flags, cuts, seed = step
    span = slice(offset * BLOCK, (offset + count) * BLOCK)
    if op is Op.READ:
        # Odd addresses and lengths: with O_DIRECT the core has to bounce them.
        data = bytearray(count * BLOCK)
        await descriptor.io(op, offset, count, pieces(data, cuts))
        assert data == model[span]
    elif op is Op.WRITE:
        data = bytes((seed + i) & 255 for i in range(count * BLOCK))
        await descriptor.io(op, offset, count, pieces(data, cuts), flags=flags)
        model[span] = data
    elif op in (Op.UNMAP, Op.WRITE_ZEROES):
        await descriptor.io(op, offset, count, flags=flags)
        model[span] = bytes(count * BLOCK)
    else:
        await descriptor.io(op)


@pytest.mark.parametrize("direct", [None, False])
@pytest.mark.parametrize("mode", ["ring", "threads"])
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(operations(), max_size=20))
def test_random_operations_leave_the_file_like_the_model(make_stack, mode, direct, steps):
    stack = make_stack(mode)
    path = stack.path(BLOCKS * BLOCK)
    stack.create(path, direct=direct)
    descriptor = stack.open()
    model = bytearray(BLOCKS * BLOCK)

    async def main():
        for step in steps:
            await carry_out(descriptor, model, step)

    stack.run(main())
    descriptor.close()
    stack.run(stack.registry.close())
    assert Path(path).read_bytes() == model


def test_many_at_once(stack):
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()
    blocks = [bytes([i & 255]) * BLOCK for i in range(2048)]

    async def main():
        await gather([descriptor.io(Op.WRITE, i, 1, block) for i, block in enumerate(blocks)])
        read = [bytearray(BLOCK) for _ in blocks]
        await gather([descriptor.io(Op.READ, i, 1, data) for i, data in enumerate(read)])
        assert read == blocks

    stack.run(main())


@pytest.mark.parametrize("direct", [True, False])
def test_a_queue_far_deeper_than_the_ring(make_stack, monkeypatch, direct):
    monkeypatch.setattr(service, "RING_ENTRIES", 4)
    monkeypatch.setattr(service, "MAX_UNDER_WAY", 8)
    stack = make_stack("ring")
    stack.create(stack.path(1 << 20), direct=direct)
    stack.gather(500)
    descriptor = stack.open("G0")
    blocks = [bytes([i & 255]) * BLOCK for i in range(500)]

    async def main():
        writes = [descriptor.io(Op.WRITE, i, 1, block) for i, block in enumerate(blocks)]
        ring = stack.service.engine.ring
        assert (ring.sq_entries, ring.cq_entries) == (4, 8)
        assert stack.service.engine.queued + stack.service.engine.under_way > 0
        await gather(writes)
        assert stack.service.engine.queued == stack.service.engine.under_way == 0
        read = [bytearray(BLOCK) for _ in blocks]
        await gather([descriptor.io(Op.READ, i, 1, data) for i, data in enumerate(read)])
        assert read == blocks

    stack.run(main())


def test_a_batch_is_one_system_call(ring_stack):
    stack = ring_stack
    stack.create(stack.path(1 << 20), direct=False)
    stack.gather(32)
    descriptor = stack.open("G0")

    async def main():
        futures = [descriptor.io(Op.WRITE, i, 1, b"x" * BLOCK) for i in range(32)]
        ring = stack.service.engine.ring
        assert (ring.submitted, ring.enters) == (32, 1)
        await gather(futures)
        assert ring.enters == 1

    stack.run(main())


def test_an_idle_disk_sees_the_first_of_a_batch_before_the_rest_is_prepared(ring_stack):
    stack = ring_stack
    path = stack.path(1 << 20)
    stack.create(path, direct=True)
    stack.gather(32)
    descriptor = stack.open("G0")
    early = 4  # system calls of 1, 4, 16 and 11 I/Os

    def submit(first):
        blocks = range(first, first + 32)
        return [descriptor.io(Op.WRITE, i, 1, bytes([i]) * BLOCK) for i in blocks]

    async def main():
        futures = submit(0)
        engine = stack.service.engine
        assert (engine.ring.submitted, engine.ring.enters) == (32, early)
        busy = engine.under_way > 0
        futures += submit(32)
        assert (engine.ring.submitted, engine.ring.enters) == (64, early + (1 if busy else early))
        await gather(futures)

    stack.run(main())
    expected = b"".join(bytes([i]) * BLOCK for i in range(64))
    assert Path(path).read_bytes().startswith(expected)


def test_an_idle_reactor_sleeps_and_the_ring_wakes_it(ring_stack):
    stack = ring_stack
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()

    async def main():
        await descriptor.io(Op.WRITE, 0, 1, b"x" * BLOCK)
        before = stack.reactor.idle_turns
        await stack.reactor.sleep(50_000)
        assert stack.reactor.idle_turns - before < 100
        await descriptor.io(Op.FLUSH)

    stack.run(main())


def test_buffers_of_the_pool_are_registered_and_others_are_not_mistaken_for_them(ring_stack):
    stack = ring_stack
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()
    data = bytes(range(256)) * 16

    async def main():
        # A misaligned writer is bounced into a buffer of the pool.
        await descriptor.io(Op.WRITE, 8, 8, memoryview(b"." + data)[1:])
        await descriptor.io(Op.WRITE, 16, 8, memoryview(b"." + data)[1:])
        await descriptor.io(Op.READ, 8, 8)  # into a buffer of the pool
        read = bytearray(2 * len(data))
        await descriptor.io(Op.READ, 8, 16, read)
        assert read == data + data

    stack.run(main())
    if stack.service.engine.ring.registered_slabs:
        assert stack.engine.buffers.num_slabs >= stack.service.engine.ring.registered_slabs


def test_two_bdevs_share_a_ring(stack):
    stack.create(stack.path(1 << 20, "a"), name="A")
    stack.create(stack.path(1 << 20, "b"), name="B", direct=False)
    a, b = stack.open("A"), stack.open("B")

    async def main():
        await gather(
            [a.io(Op.WRITE, i, 1, b"a" * BLOCK) for i in range(100)]
            + [b.io(Op.WRITE, i, 1, b"b" * BLOCK) for i in range(100)]
        )
        await gather([a.io(Op.FLUSH), b.io(Op.FLUSH)])

    stack.run(main())
    assert list(stack.reactor.locals) == [service.FileService]
    a.close()
    assert list(stack.reactor.locals) == [service.FileService]
    b.close()
    assert stack.reactor.locals == {}
    assert (stack.directory / "a").read_bytes()[: 101 * BLOCK] == b"a" * 100 * BLOCK + bytes(BLOCK)
    assert (stack.directory / "b").read_bytes()[: 101 * BLOCK] == b"b" * 100 * BLOCK + bytes(BLOCK)


def test_zeroes_leave_holes_or_not_as_asked(stack):
    path = stack.path(1 << 20)
    stack.create(path)
    descriptor = stack.open()

    def allocated():
        return Path(path).stat().st_blocks * 512

    async def main():
        await descriptor.io(Op.WRITE, 0, 2048, b"x" * (1 << 20), flags=IoFlag.FUA)
        full = allocated()
        await descriptor.io(Op.WRITE_ZEROES, 0, 512, flags=IoFlag.NO_HOLE | IoFlag.FUA)
        assert allocated() == full
        await descriptor.io(Op.WRITE_ZEROES, 512, 512, flags=IoFlag.FUA | IoFlag.FAST_ZERO)
        assert allocated() <= full - (256 << 10)
        await descriptor.io(Op.UNMAP, 1024, 512, flags=IoFlag.FUA)
        assert allocated() <= full - (512 << 10)
        assert (await descriptor.io(Op.SEEK_DATA, 512)).result == 1536
        assert (await descriptor.io(Op.SEEK_HOLE, 1536)).result == 2048
        assert (await descriptor.io(Op.SEEK_HOLE, 1024)).result == 1024

    stack.run(main())
    assert Path(path).read_bytes() == bytes(768 << 10) + b"x" * (256 << 10)
    assert Path(path).stat().st_size == 1 << 20


def test_no_data_behind(stack):
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()

    async def main():
        assert (await descriptor.io(Op.SEEK_DATA, 0)).result == 2**64 - 1
        assert (await descriptor.io(Op.SEEK_DATA, 2047)).result == 2**64 - 1

    stack.run(main())


def test_a_hole_that_begins_inside_a_block_is_none(stack):
    path = stack.path(1 << 20)
    stack.create(path, block_size=16384, direct=False)
    Path(path).write_bytes(b"x" * 4096)
    os.truncate(path, 1 << 20)
    descriptor = stack.open()

    async def main():
        assert (await descriptor.io(Op.SEEK_HOLE, 0)).result == 1
        assert (await descriptor.io(Op.SEEK_DATA, 0)).result == 0

    stack.run(main())


@pytest.mark.parametrize("flags", [0, IoFlag.NO_HOLE])
def test_zeroes_where_the_file_system_lends_no_hand(make_stack, flags):
    # tmpfs punches holes, but can not zero a range and keep it.
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    path = Path(f"/dev/shm/vbdev-test-{os.getpid()}")
    path.write_bytes(b"x" * (3 << 20))
    try:
        stack = make_stack("threads")
        stack.create(str(path))
        descriptor = stack.open()

        async def main():
            await descriptor.io(Op.WRITE_ZEROES, 8, 6000, flags=flags)
            if flags:
                with pytest.raises(IoError, match="not supported"):
                    await descriptor.io(Op.WRITE_ZEROES, 0, 8, flags=flags | IoFlag.FAST_ZERO)

        stack.run(main())
        zeroed = b"x" * 4096 + bytes(6000 * 512)
        assert path.read_bytes() == zeroed + b"x" * ((3 << 20) - len(zeroed))
    finally:
        path.unlink()


@pytest.mark.rule("A.27.16")
def test_a_file_cut_short_fails_reads_behind_its_end(stack):
    path = stack.path(1 << 20)
    stack.create(path)
    descriptor = stack.open()
    os.truncate(path, (512 << 10) + 700)

    async def main():
        await descriptor.io(Op.READ, 0, 1024, bytearray(512 << 10))
        for offset, count in ((1024, 8), (1025, 1), (1500, 1), (1016, 16)):
            with pytest.raises(IoError, match="Input/output error"):
                await descriptor.io(Op.READ, offset, count, bytearray(count * 512))

    stack.run(main())
    os.truncate(path, 1 << 20)


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("flags", [0, IoFlag.FUA])
@pytest.mark.parametrize("direct", [True, False])
def test_a_short_write_is_continued(stack, monkeypatch, direct, flags, split):
    # A limit on file sizes makes the kernel stop in the middle of a write. It is lifted before
    # the rest is tried, so the rest succeeds.
    path = stack.path(1 << 20)
    stack.create(path, direct=direct)
    descriptor = stack.open()
    data = os.urandom(256 << 10)
    cuts = [len(data) * i // split // 4096 * 4096 for i in range(1, split)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    start = service.FileService.start_jobs

    def lift(self, jobs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        start(self, jobs)

    async def main():
        await descriptor.io(Op.FLUSH)
        if stack.mode == "ring":
            monkeypatch.setattr(service.FileService, "start_jobs", lift)
            resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, hard))
        try:
            await descriptor.io(Op.WRITE, 768, 512, pieces(data, cuts), flags=flags)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    stack.run(main())
    content = Path(path).read_bytes()
    assert content == bytes(384 << 10) + data + bytes(384 << 10)


def test_a_write_that_fails_says_why(stack):
    path = stack.path(1 << 20)
    stack.create(path, direct=False)
    descriptor = stack.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main():
        resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, hard))
        try:
            with pytest.raises(IoError, match="File too large"):
                await descriptor.io(Op.WRITE, 1016, 16, bytes(8192))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await descriptor.io(Op.FLUSH)

    stack.run(main())


def test_removal_waits_for_what_is_in_flight(stack):
    path = stack.path(1 << 20)
    bdev = stack.create(path)
    ended = []

    def on_event(_event):
        if len(ended) < 200:  # not the channel's: what it has ended may not be delivered yet
            stack.reactor.call_later(100, lambda: on_event(_event))
        else:
            descriptor.close()

    descriptor = stack.open(on_event=on_event)

    async def main():
        for i in range(200):
            descriptor.submit(Op.WRITE, i, 1, b"x" * BLOCK, callback=ended.append)
        await stack.registry.unregister(bdev)

    stack.run(main())
    assert [request.status for request in ended] == [1] * 200
    assert Path(path).read_bytes()[: 200 * BLOCK] == b"x" * 200 * BLOCK


def test_data_that_does_not_fit_its_range_never_reaches_the_file(stack):
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()
    with pytest.raises(ValueError, match="bytes of data"):
        descriptor.io(Op.WRITE, 2047, 1, bytes(1024))
    with pytest.raises(IoError, match="Invalid argument"):
        stack.run(one(descriptor, Op.WRITE, 2047, 2, bytes(1024)))
    assert (stack.directory / "disk").stat().st_size == 1 << 20


async def one(descriptor, *args, **kwargs):
    return await descriptor.io(*args, **kwargs)


@pytest.mark.rule("A.27.17")
def test_rescan_follows_the_size(stack):
    path = stack.path(1 << 20)
    bdev = stack.create(path)
    descriptor = stack.open()
    stack.run(one(descriptor, Op.WRITE, 2047, 1, bytes(512)))
    os.truncate(path, 2 << 20)
    bdev.rescan(stack.run(bdev.file_size()))
    stack.run(one(descriptor, Op.WRITE, 4095, 1, bytes(512)))
    assert stack.run(one(descriptor, Op.SEEK_DATA, 3000)).result < 4096
    os.truncate(path, 1 << 20)
    with pytest.raises(BdevError, match="can not shrink"):
        bdev.rescan(stack.run(bdev.file_size()))
    os.truncate(path, 511)
    with pytest.raises(BdevError, match="less than one block"):
        bdev.rescan(stack.run(bdev.file_size()))
    os.truncate(path, (2 << 20) + 511)  # what is no whole block is left out
    bdev.rescan(stack.run(bdev.file_size()))
    assert bdev.num_blocks == 4096
    os.truncate(path, 2 << 20)
