"""ABORT and RESET of file bdevs, and I/O that does not end by itself.

A pipe in place of the file lets a READ wait in the kernel for as long as a test likes; without a
ring, jobs are kept from the workers.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from vbdev.bdev import IoError
from vbdev.core.file.queue import OpenFile
from vbdev.modules.file import service
from vbdev.modules.file.disk import FileBdev
from vbdev.reactor.task import gather
from vbdev.vocab import Op, Status


class PipeBdev(FileBdev):
    """READs wait until somebody writes into the pipe."""

    kind = "pipe"
    product_name = "pipe"
    params: SimpleNamespace

    async def start(self):
        self.reader, self.writer = os.pipe()
        self.block_size, self.num_blocks = 512, 1024
        self._geometry = SimpleNamespace(sync_fd=self.reader, may_hang=False)
        self._file = OpenFile(
            self.reader,
            block_size=512,
            num_blocks=1024,
            is_device=False,
            direct=False,
        )

    async def stop(self):
        os.close(self.reader)
        os.close(self.writer)

    def fill(self, count):
        os.write(self.writer, b"p" * 512 * count)


def pipe(stack):
    stack.run(stack.registry.create(PipeBdev, PipeBdev.Params(name="P0")))
    return stack.registry.get("P0"), stack.open("P0")


@pytest.fixture
def held(monkeypatch):
    """Jobs that wait for the test, which gives them to the workers by `release`."""
    jobs = []
    start = service.FileService.start_jobs

    def hold(self, new):
        jobs.append((self, new))

    def release():
        while jobs:
            start(*jobs.pop(0))

    monkeypatch.setattr(service.FileService, "start_jobs", hold)
    return release


class Reads:
    """READs, and how each ended."""

    def __init__(self, descriptor, count):
        self.buffers = [bytearray(512) for _ in range(count)]
        self.statuses = [None] * count
        self.requests = [
            descriptor.submit(
                Op.READ,
                i,
                1,
                self.buffers[i],
                callback=lambda request, i=i: self.statuses.__setitem__(i, request.status),
            )
            for i in range(count)
        ]


async def abort(descriptor, victim):
    try:
        return (await descriptor.io(Op.ABORT, victim=victim)).status
    except IoError as error:
        return error.status


def test_abort_in_the_kernel(ring_stack):
    stack = ring_stack
    bdev, descriptor = pipe(stack)

    async def main():
        reads = Reads(descriptor, 3)
        assert await abort(descriptor, reads.requests[1]) == Status.SUCCESS
        await stack.reactor.sleep(1000)
        assert reads.statuses == [None, Status.ABORTED, None]
        assert await abort(descriptor, reads.requests[1]) == Status.FAILED  # it has ended
        bdev.fill(2)
        while None in reads.statuses:
            await stack.reactor.sleep(100)
        assert reads.statuses == [Status.SUCCESS, Status.ABORTED, Status.SUCCESS]
        assert bytes(reads.buffers[0]) == b"p" * 512

    stack.run(main())


def test_abort_in_the_queue_before_the_ring(make_stack, monkeypatch):
    monkeypatch.setattr(service, "RING_ENTRIES", 4)
    monkeypatch.setattr(service, "MAX_UNDER_WAY", 8)
    stack = make_stack("ring")
    bdev, descriptor = pipe(stack)

    async def main():
        reads = Reads(descriptor, 20)
        engine = stack.service.engine
        assert (engine.under_way, engine.queued) == (6, 14)
        for i in (6, 19, 10):  # first, last, middle
            assert await abort(descriptor, reads.requests[i]) == Status.SUCCESS
        assert (engine.under_way, engine.queued) == (6, 11)
        bdev.fill(17)
        while None in reads.statuses:
            await stack.reactor.sleep(100)
        assert [i for i, s in enumerate(reads.statuses) if s == Status.ABORTED] == [6, 10, 19]
        assert reads.statuses.count(Status.SUCCESS) == 17

    stack.run(main())


def test_abort_on_a_worker_comes_too_late(make_stack, held):
    stack = make_stack("threads")
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()

    async def main():
        read = Reads(descriptor, 1)
        assert await abort(descriptor, read.requests[0]) == Status.FAILED
        held()
        while None in read.statuses:
            await stack.reactor.sleep(100)
        assert read.statuses == [Status.SUCCESS]

    stack.run(main())


def test_abort_of_a_flush_that_waits_for_another(make_stack, held):
    stack = make_stack("threads")
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()
    statuses = {}

    async def main():
        requests = [
            descriptor.submit(
                Op.FLUSH, callback=lambda request, i=i: statuses.setdefault(i, request.status)
            )
            for i in range(4)
        ]
        assert await abort(descriptor, requests[0]) == Status.FAILED
        assert await abort(descriptor, requests[3]) == Status.SUCCESS
        assert await abort(descriptor, requests[1]) == Status.SUCCESS
        while len(statuses) < 4:
            held()
            await stack.reactor.sleep(100)

    stack.run(main())
    assert statuses == {0: Status.SUCCESS, 1: Status.ABORTED, 2: Status.SUCCESS, 3: Status.ABORTED}


@pytest.mark.rule("A.27.13")
def test_reset_waits_for_what_came_before_it(ring_stack):
    stack = ring_stack
    bdev, descriptor = pipe(stack)
    order = []

    def submit(op, number, data=None):
        count = 1 if data else 0
        descriptor.submit(op, 0, count, data, callback=lambda _request: order.append((op, number)))

    async def main():
        await descriptor.io(Op.RESET)
        for number in range(3):
            submit(Op.READ, number, bytearray(512))
            submit(Op.RESET, number)
            submit(Op.RESET, number)
        for done in range(3):
            await stack.reactor.sleep(1000)
            assert sum(op is Op.READ for op, _ in order) == done
            bdev.fill(1)  # for whichever READ the kernel wakes
        while len(order) < 9:
            await stack.reactor.sleep(100)
        for at, (op, number) in enumerate(order):
            if op is Op.RESET:
                assert all((Op.READ, before) in order[:at] for before in range(number + 1))

    stack.run(main())


def test_more_resets_than_epochs(ring_stack):
    stack = ring_stack
    bdev, descriptor = pipe(stack)
    resets, reads = [], []

    async def main():
        for _ in range(100):
            descriptor.submit(Op.READ, 0, 1, bytearray(512), callback=reads.append)
            descriptor.submit(Op.RESET, callback=resets.append)
        for i in range(100):
            bdev.fill(1)
            while len(reads) == i:
                await stack.reactor.sleep(100)
            assert len(resets) <= len(reads)
        while len(resets) < 100:
            await stack.reactor.sleep(100)
        await descriptor.io(Op.RESET)

    stack.run(main())


def test_reset_waits_for_workers(make_stack, held):
    stack = make_stack("threads")
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()
    resets = []

    async def main():
        reads = Reads(descriptor, 5)
        descriptor.submit(Op.RESET, callback=resets.append)
        await stack.reactor.sleep(1000)
        assert resets == []
        held()
        while not resets:
            await stack.reactor.sleep(100)
        assert reads.statuses == [Status.SUCCESS] * 5

    stack.run(main())


def test_a_bdev_with_io_under_way_does_not_close(ring_stack):
    stack = ring_stack
    bdev, descriptor = pipe(stack)

    async def main():
        reads = Reads(descriptor, 1)
        path = descriptor.get_channel().context
        assert path.outstanding == 1
        with pytest.raises(RuntimeError, match="outstanding"):
            path.close()
        bdev.fill(1)
        while None in reads.statuses:
            await stack.reactor.sleep(100)

    stack.run(main())


def test_without_any_thread_jobs_fail(make_stack, monkeypatch):
    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    stack = make_stack("threads")
    stack.create(stack.path(1 << 20))
    descriptor = stack.open()

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", no_thread)
            with pytest.raises(IoError, match="temporarily unavailable"):
                await descriptor.io(Op.READ, 0, 1, bytearray(512))
        await gather([descriptor.io(Op.READ, i, 1, bytearray(512)) for i in range(20)])

    stack.run(main())
