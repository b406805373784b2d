"""A file that several reactors have: each but the first opens it once more for its syncs.

Whatever becomes of that, and whenever, a FLUSH comes to an end.
"""

import errno
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.stack import stack
from vbdev.files import access
from vbdev.modules.file import service
from vbdev.modules.uring import Uring
from vbdev.reactor import blocking
from vbdev.vocab import Op, Status


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def until(rig, condition):
    """Turn the reactors; a virtual clock goes on as well, and the kernel has its own time."""
    give_up = time.monotonic() + 10
    while not condition():
        if rig.reactor.clock.virtual:
            rig.pass_time(1000)
        rig.reactors.poll()
        time.sleep(0.0005)
        assert time.monotonic() < give_up, "it does not end"


def end(rig, request):
    until(rig, lambda: request.done)
    return Status(request.status), request.errno


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("real_clock", [True, False])
def test_a_sync_ends_on_every_reactor(path, monkeypatch, ring, real_clock):
    """On a virtual clock the second opening is over before there is a channel."""
    if not ring:
        monkeypatch.setenv(service.NO_RING_VARIABLE, "1")
    with stack(reactors=3, real_clock=real_clock) as rig:
        rig.create(Uring, name="Disk", filename=path, block_size=512)
        for on in range(3):
            opened = rig.open("Disk", on=on)
            assert end(rig, opened.submit(Op.FLUSH, 0, 8)) == (Status.SUCCESS, 0)
            assert end(rig, opened.submit(Op.RESET, 0, 0)) == (Status.SUCCESS, 0)
    assert service._paths == {}


def fail_to_dup(monkeypatch):
    def dup(_fd):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(service.os, "dup", dup)
    return errno.EMFILE


def fail_to_open(monkeypatch):
    def open_again(_fd):
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(access, "open_again", open_again)
    return errno.ENFILE


def fail_to_start_a_thread(monkeypatch):
    """The call is refused at once, while the channel is being made."""

    def thread(**_options):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(blocking, "threading", SimpleNamespace(Thread=thread, Lock=threading.Lock))
    return errno.EAGAIN


@pytest.mark.parametrize("fail", [fail_to_dup, fail_to_open, fail_to_start_a_thread])
def test_without_a_descriptor_syncs_fail_until_there_is_one(path, monkeypatch, caplog, fail):
    with stack(reactors=2, real_clock=True) as rig:
        rig.create(Uring, name="Disk", filename=path, block_size=512)
        first = rig.open("Disk")
        with monkeypatch.context() as until_then:
            number = fail(until_then)
            second = rig.open("Disk", on=1)
            held = set()
            for _ in range(3):
                flush = second.submit(Op.FLUSH, 0, 8)
                assert end(rig, flush) == (Status.AIO_ERROR, number)
                held.add(len(list(Path("/proc/self/fd").iterdir())))
            assert len(held) == 1, "a try that fails leaves descriptors open"
            assert end(rig, first.submit(Op.FLUSH, 0, 8)) == (Status.SUCCESS, 0)
        assert "opening the file of bdev Disk again failed" in caplog.text
        assert len(caplog.records) == 1
        # Nothing was asked of the disk, so nothing is lost.
        assert end(rig, second.submit(Op.FLUSH, 0, 8)) == (Status.SUCCESS, 0)


def test_a_channel_that_leaves_before_there_is_one(path, monkeypatch):
    with stack(reactors=2, real_clock=True) as rig:
        rig.create(Uring, name="Disk", filename=path, block_size=512)
        rig.open("Disk")
        with monkeypatch.context() as until_then:
            fail_to_open(until_then)
            rig.open("Disk", on=1).close()
            until(rig, lambda: [len(paths) for paths in service._paths.values()] == [1])
            over = rig.reactor.sleep(2 * service.REOPEN_US)
            until(rig, lambda: over.done)
        again = rig.open("Disk", on=1)
        assert end(rig, again.submit(Op.FLUSH, 0, 8)) == (Status.SUCCESS, 0)
