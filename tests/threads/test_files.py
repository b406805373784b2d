"""A file that several reactors have rings to: what they share."""

import errno
import os
import threading

import pytest

from vbdev.bdev import IoError
from vbdev.modules.file.service import FileService
from vbdev.modules.uring import Uring
from vbdev.vocab import Op, Status

BLOCK = 512


@pytest.fixture
def file(threads, tmp_path):
    """Return (App, its descriptor of a bdev on a file of 64 blocks, path of the file)."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * BLOCK))
    registry = threads.app.registry
    threads.start()
    params = Uring.Params(name="File", filename=str(path), block_size=BLOCK, direct=False)
    threads.run(registry.create(Uring, params))
    descriptor = threads.ask(
        lambda: registry.open("File", write=True, on_event=lambda _: None, holder="test")
    )
    yield threads, descriptor, path

    async def close():
        await descriptor.close()

    threads.run(close())


def io(app, descriptor, reactor, *what, **more):
    """Carry out one I/O on a reactor; return its Request, or raise IoError."""

    async def work():
        return await descriptor.io(*what, **more)

    return app.run(work(), reactor)


def hold_jobs(app, reactor):
    """Let a reactor's workers start nothing; return a function that lets them go on."""
    held = []
    service = reactor.locals[FileService]
    start = service._workers.start
    app.ask(lambda: setattr(service._workers, "start", held.extend), reactor)

    def go_on():
        service._workers.start = start
        start(held)

    return lambda: app.ask(go_on, reactor)


def test_a_reset_waits_for_what_other_reactors_have(file):
    app, descriptor, _ = file
    one, two, _ = app.reactors
    for reactor in app.reactors:
        io(app, descriptor, reactor, Op.WRITE, 0, 1, bytes(BLOCK))
    go_on = hold_jobs(app, two)
    order = []

    def submit(op, reactor):
        app.ask(
            lambda: descriptor.submit(op, 0, 8, callback=lambda r: order.append((op, r.status))),
            reactor,
        )

    submit(Op.UNMAP, two)
    submit(Op.RESET, one)
    with pytest.raises(AssertionError):
        app.wait_until(lambda: order, timeout_s=0.2)
    go_on()
    app.wait_until(lambda: len(order) == 2)
    assert set(order) == {(Op.UNMAP, Status.SUCCESS), (Op.RESET, Status.SUCCESS)}


def test_a_sync_that_failed_fails_for_every_reactor(file, caplog):
    """And is told once."""
    app, descriptor, _ = file
    for reactor in app.reactors:
        io(app, descriptor, reactor, Op.WRITE, reactor.id, 1, bytes(BLOCK))
    two = app.reactors[1]
    path = descriptor.channels[two].context
    app.wait_until(lambda: path.sync_fd >= 0)  # it is opened behind the first I/O

    def break_sync():
        # An fdatasync of a pipe is EINVAL.
        reader, writer = os.pipe()
        os.dup2(reader, path.sync_fd)
        os.close(reader)
        os.close(writer)

    app.ask(break_sync, two)
    with pytest.raises(IoError) as raised:
        io(app, descriptor, two, Op.FLUSH, 0, 64)
    assert raised.value.errno in (errno.EIO, errno.EINVAL)
    for reactor in app.reactors:
        with pytest.raises(IoError) as raised:
            io(app, descriptor, reactor, Op.FLUSH, 0, 64)
        assert raised.value.errno == errno.EIO
        io(app, descriptor, reactor, Op.WRITE, 0, 1, bytes(BLOCK))
    assert caplog.text.count("sync failed, data written") == 1


def test_reactors_that_find_the_failure_at_once_tell_it_once(file, caplog):
    app, descriptor, _ = file
    whole = {}
    for reactor in app.reactors:
        io(app, descriptor, reactor, Op.WRITE, reactor.id, 1, bytes(BLOCK))
        path = descriptor.channels[reactor].context
        app.wait_until(lambda path=path: path.sync_fd >= 0)  # it is opened behind the first I/O
        fd = path.sync_fd
        whole[fd] = os.dup(fd)
        reader, writer = os.pipe()
        os.dup2(reader, fd)
        os.close(reader)
        os.close(writer)
    ended = []
    ready = threading.Barrier(len(app.reactors))

    def flush():
        ready.wait(10)
        descriptor.submit(Op.FLUSH, 0, 64, callback=lambda r: ended.append(r.status))

    for reactor in app.reactors:
        reactor.send_msg(flush)
    app.wait_until(lambda: len(ended) == 3)
    assert set(ended) == {Status.AIO_ERROR}
    assert caplog.text.count("sync failed, data written") == 1
    for fd, copy in whole.items():  # one of them is for the sync at the end
        os.dup2(copy, fd)
        os.close(copy)


def test_a_size_that_changes_is_seen_by_every_reactor(file):
    app, descriptor, path = file
    bdev = descriptor.bdev
    for reactor in app.reactors:
        io(app, descriptor, reactor, Op.READ, 0, 1, bytearray(BLOCK))
    os.truncate(path, 128 * BLOCK)
    app.ask(lambda: bdev.rescan(128 * BLOCK))
    for reactor in app.reactors:
        io(app, descriptor, reactor, Op.WRITE, 100 + reactor.id, 1, bytes([reactor.id]) * BLOCK)
        request = io(app, descriptor, reactor, Op.SEEK_HOLE, 127, 1)
        assert request.result in (127, 128)
    assert path.read_bytes()[101 * BLOCK] == 1


def test_a_flush_covers_what_other_reactors_wrote(file):
    app, descriptor, path = file
    for number in range(30):
        writer, flusher = app.reactors[number % 3], app.reactors[(number + 1) % 3]
        io(app, descriptor, writer, Op.WRITE, number, 1, bytes([number]) * BLOCK)
        io(app, descriptor, flusher, Op.FLUSH, 0, 64)
    data = path.read_bytes()
    assert [data[n * BLOCK] for n in range(30)] == list(range(30))
