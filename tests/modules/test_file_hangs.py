"""A file whose mount does not answer: it costs whoever asked, and nobody else.

Method: what opens, measures and closes files is made to wait for the test. On machines with FUSE a
server that is stopped does the same to the real calls.
"""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.files import access
from vbdev.modules.file import disk, service
from vbdev.modules.malloc import Malloc
from vbdev.modules.uring import Uring
from vbdev.reactor import blocking
from vbdev.vocab import Op

DATA = bytes(4096)


@pytest.fixture
def hang(monkeypatch):
    """hang(module, name): calls of a function wait until `hang.over` is set."""
    over = threading.Event()

    def make(module, name):
        real = getattr(module, name)

        def wait(*args, **kwargs):
            over.wait(20)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, wait)

    make.over = over
    yield make
    over.set()


async def until(reactor, condition):
    for _ in range(2000):
        if condition():
            return
        await reactor.sleep(1000)
    raise AssertionError("it does not become true")


def test_an_open_that_hangs_has_a_deadline_and_others_go_on(stack, hang, monkeypatch):
    monkeypatch.setattr(disk, "call_blocking", brief(disk.call_blocking, 100_000))
    path = stack.path(1 << 20)
    stack.run(stack.registry.create(Malloc, Malloc.Params(name="M", num_blocks=64, block_size=512)))
    other = stack.open("M")
    hang(access, "open_file")

    async def main():
        began = time.monotonic()
        params = disk_params(path)
        task = stack.reactor.spawn(stack.registry.create(*params))
        while not task.done:
            await other.io(Op.READ, 0, 1, bytearray(512))
            assert time.monotonic() - began < 10
        with pytest.raises(BdevError) as caught:
            task.result()
        assert caught.value.errno == errno.ETIMEDOUT
        assert path in str(caught.value)
        assert "0.1 s" in str(caught.value)
        # What comes too late is given back, and then the file can be had.
        hang.over.set()
        await until(stack.reactor, lambda: stack.reactor.locals.keys() <= {service.FileService})
        await until(stack.reactor, lambda: not access._open_files)
        await stack.registry.create(*params)

    stack.run(main())


def test_the_end_of_the_application_does_not_wait_for_it(stack, hang):
    path = stack.path(1 << 20)
    hang(access, "open_file")

    async def main():
        task = stack.reactor.spawn(stack.registry.create(*disk_params(path)))
        await stack.reactor.sleep(1000)
        blocking.call_off(stack.reactor)
        await until(stack.reactor, lambda: task.done)
        with pytest.raises(BdevError, match="vbdev ends") as caught:
            task.result()
        assert caught.value.errno == errno.ESHUTDOWN
        hang.over.set()
        await until(stack.reactor, lambda: not stack.reactor.locals)

    stack.run(main())
    assert access._open_files == {}


def test_closing_and_measuring_are_beside_the_reactor_too(stack, hang):
    bdev = stack.create(stack.path(1 << 20))
    reactor, ticks = stack.reactor, []

    async def ticking(task):
        while not task.done:
            await reactor.sleep(1000)
            ticks.append(1)
            if len(ticks) == 20:
                hang.over.set()

    async def main():
        hang(access, "size_of")
        task = reactor.spawn(bdev.file_size())
        await ticking(task)
        assert task.result() == 1 << 20
        hang.over.clear()
        ticks.clear()
        hang(access, "close_descriptors")
        task = reactor.spawn(stack.registry.unregister(bdev))
        await ticking(task)
        task.result()

    stack.run(main())
    assert len(ticks) >= 20


def test_a_size_that_was_overtaken_is_not_followed(stack, monkeypatch):
    """Two look at the size at once, and the first one's answer comes last: the file has grown."""
    path = stack.path(1 << 20)
    bdev = stack.create(path)
    real, over, looks = access.size_of, threading.Event(), []

    def size_of(*args, **more):
        size = real(*args, **more)
        looks.append(size)
        if len(looks) == 1:
            over.wait(20)
        return size

    monkeypatch.setattr(access, "size_of", size_of)
    (rescan,) = Uring.rpc_methods()
    params = rescan.params(name="U0")

    async def main():
        first = stack.reactor.spawn(rescan.handler(stack.registry, params))
        await until(stack.reactor, lambda: looks)
        os.truncate(path, 2 << 20)
        await rescan.handler(stack.registry, params)
        assert bdev.size_bytes == 2 << 20
        over.set()
        assert await first is True

    stack.run(main())
    assert bdev.size_bytes == 2 << 20
    assert looks == [1 << 20, 2 << 20, 2 << 20]


def test_syncs_wait_for_a_descriptor_that_is_being_opened(stack, hang):
    """A second reactor's path opens the file once more, and FLUSH waits for that."""
    bdev = stack.create(stack.path(1 << 20))
    descriptor = stack.open()
    hang(access, "open_again")
    with service._lock:  # another reactor has the one that is there
        service._paths[bdev._file] = {None: type("Path", (), {"sync_fd": bdev._geometry.sync_fd})}

    async def main():
        await descriptor.io(Op.WRITE, 0, 8, DATA)
        flush = descriptor.io(Op.FLUSH)
        await stack.reactor.sleep(5000)
        assert not flush.done
        await descriptor.io(Op.WRITE, 8, 8, DATA)
        hang.over.set()
        await flush
        (channel,) = entry_of(bdev).channels()
        assert channel.context.sync_fd not in {-1, bdev._geometry.sync_fd}
        with service._lock:
            del service._paths[bdev._file][None]
        descriptor.close()
        await until(stack.reactor, lambda: not stack.reactor.locals)

    stack.run(main())


def test_more_that_hang_than_may_are_refused_in_words(stack, hang, monkeypatch):
    monkeypatch.setattr(blocking, "MAX_SLOW", 2)
    monkeypatch.setattr(blocking, "SLOW_US", 1000)

    async def main():
        calls = [
            stack.reactor.spawn(blocking.call_blocking(stack.reactor, f"call {n}", hang.over.wait))
            for n in range(2)
        ]
        await stack.reactor.sleep(20_000)
        with pytest.raises(blocking.BlockedError, match=r"2 calls hang already.*call 0") as caught:
            await blocking.call_blocking(stack.reactor, "call 2", os.getpid)
        assert caught.value.errno == errno.EBUSY
        hang.over.set()
        for call in calls:
            await call
        assert await blocking.call_blocking(stack.reactor, "call 3", os.getpid) == os.getpid()

    stack.run(main())


def test_calls_wait_for_their_turn_no_longer_than_for_slow_ones(stack, hang, monkeypatch):
    monkeypatch.setattr(blocking, "MAX_QUICK", 1)
    monkeypatch.setattr(blocking, "SLOW_US", 1000)

    async def main():
        slow = stack.reactor.spawn(blocking.call_blocking(stack.reactor, "slow", hang.over.wait))
        await stack.reactor.sleep(0)
        assert await blocking.call_blocking(stack.reactor, "next", os.getpid) == os.getpid()
        assert not slow.done
        hang.over.set()
        await slow

    stack.run(main())


def brief(real, timeout_us):
    def call(reactor, what, function, **options):
        return real(reactor, what, function, **{**options, "timeout_us": timeout_us})

    return call


def disk_params(path):
    from vbdev.modules.uring import Uring

    return Uring, Uring.Params(name="U0", filename=path)
