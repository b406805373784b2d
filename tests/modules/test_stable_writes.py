"""A FUA write carries RWF_DSYNC where that is kept, and is followed by an fdatasync elsewhere.

Method: the type of the file system is put in the place of the real one; a sync that fails shows
that there was one. Below a FUSE file system nbdkit writes down in which order things reach it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import subprocess
import time

import pytest

from support.clients import find, requires
from support.file_syncs import fails, syncs_fail
from vbdev.files import access, stable_writes
from vbdev.modules.aio import Aio
from vbdev.modules.nbd.disk import Nbd
from vbdev.testing import Stack
from vbdev.vocab import IoFlag, Op, Status

FUSE, NFS, BTRFS, OVERLAY, TMPFS = 0x65735546, 0x6969, 0x9123683E, 0x794C7630, 0x01021994
LISTED = [stable_writes.EXT_MAGIC, stable_writes.XFS_MAGIC]
DATA = bytes(4096)
NOT_LISTED = [FUSE, NFS, BTRFS, OVERLAY, TMPFS, 0, 0xFFFFFFFF]


@pytest.mark.parametrize(
    ("magic", "holds"), [*[(m, True) for m in LISTED], *[(m, False) for m in NOT_LISTED]]
)
def test_which_file_systems_keep_the_flag(monkeypatch, magic, holds):
    monkeypatch.setattr(stable_writes, "file_system_type", lambda _fd: magic)
    assert stable_writes.dsync_holds(0, is_device=False) is holds
    assert stable_writes.dsync_holds(0, is_device=True)  # whatever the device node is on


def test_a_file_system_that_does_not_say_what_it_is(monkeypatch):
    def refuse(_fd):
        raise OSError

    monkeypatch.setattr(stable_writes, "file_system_type", refuse)
    assert not stable_writes.dsync_holds(0, is_device=False)


def test_the_type_is_the_real_one():
    requires("stat")
    said = subprocess.run(
        ["stat", "-f", "-c", "%t", "/proc/self"], check=True, capture_output=True, text=True
    ).stdout
    fd = os.open("/proc/self", os.O_RDONLY)
    try:
        assert stable_writes.file_system_type(fd) == int(said, 16)
    finally:
        os.close(fd)


@pytest.mark.parametrize("magic", NOT_LISTED)
def test_elsewhere_a_fua_write_is_acknowledged_after_a_sync(stack, monkeypatch, magic):
    monkeypatch.setattr(stable_writes, "file_system_type", lambda _fd: magic)
    bdev = stack.create(stack.path(1 << 20), direct=True)
    assert not bdev._file.dsync
    descriptor = stack.open()
    descriptor.get_channel()

    async def main():
        await descriptor.io(Op.WRITE, 0, 8, DATA, flags=IoFlag.FUA)
        with syncs_fail(bdev):
            await fails(descriptor, Op.WRITE, 0, 8, DATA, flags=IoFlag.FUA)

    stack.run(main())


@pytest.mark.parametrize("magic", LISTED)
def test_where_it_is_kept_no_sync_is_needed(ring_stack, monkeypatch, magic):
    stack = ring_stack
    monkeypatch.setattr(stable_writes, "file_system_type", lambda _fd: magic)
    bdev = stack.create(stack.path(1 << 20), direct=True)
    assert bdev._file.dsync
    descriptor = stack.open()
    descriptor.get_channel()

    async def main():
        before = stack.service.engine.ring.submitted
        await descriptor.io(Op.WRITE, 0, 8, DATA, flags=IoFlag.FUA)
        assert stack.service.engine.ring.submitted == before + 1

    stack.run(main())


@pytest.mark.parametrize("where", ["here", "on FUSE"])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_sync_comes_through_a_handle_of_the_files_own_mode(stack, request, where, readonly):
    """A FUSE server may do nothing for one that was opened for reading; fuse2fs does."""
    if where == "here":
        path = stack.path(1 << 20)
    else:
        path = str(request.getfixturevalue("fuse_file").path)
    geometry = stack.create(path, readonly=readonly)._geometry
    assert geometry.may_hang is (where == "on FUSE")
    again = access.opening_again(geometry).run()  # as another reactor does
    try:
        modes = [
            fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
            for fd in (geometry.fd, geometry.sync_fd, again)
        ]
        assert modes == [os.O_RDONLY if readonly else os.O_RDWR] * 3
    finally:
        access.closing_copy(again, geometry).run()


def test_a_file_that_nobody_may_open_for_writing_any_more_is_synced(stack, monkeypatch):
    bdev = stack.create(stack.path(1 << 20))
    opened = os.open

    def refuse(path, flags, *more, **options):
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        again = access.opening_again(bdev._geometry).run()
    with mmap.mmap(-1, 4096) as data:  # aligned as direct I/O asks for
        os.pwrite(again, data, 0)  # the same description, then
    os.fdatasync(again)
    access.closing_copy(again, bdev._geometry).run()


def test_without_o_direct_the_flag_is_not_sent(stack):
    assert not stack.create(stack.path(1 << 20), direct=False)._file.dsync


class FuseFile:
    """A file on a FUSE file system, and what has reached the disk below it."""

    def __init__(self, directory):
        requires("nbdkit", "nbdfuse", "fusermount3")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("no /dev/fuse")
        self.path, self.log, socket = (directory / name for name in ("file", "log", "socket"))
        self.path.touch()
        self.server = subprocess.Popen(
            [find("nbdkit"), "-f", "-U", socket, "--filter=log", "memory", "4M",
             f"logfile={self.log}"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.mount = None
        try:
            self.wait(socket.exists)
            self.mount = subprocess.Popen(
                [find("nbdfuse"), self.path, f"nbd+unix:///?socket={socket}"],
                stderr=subprocess.DEVNULL,
            )
            self.wait(lambda: self.mount.poll() is not None or self.path.stat().st_size)
            if self.mount.poll() is not None:
                pytest.skip("nbdfuse can not mount here")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def wait(condition):
        give_up = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def events(self):
        """Return what the disk was asked for since the last call, each as it ended."""
        text = self.log.read_bytes()
        os.truncate(self.log, 0)
        return re.findall(rb"\.\.\.(Write|Zero|Trim|Flush) ", text)

    def close(self):
        if self.mount is not None and self.mount.poll() is None:
            subprocess.run([find("fusermount3"), "-u", self.path], check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.mount.wait(5)
        for process in (self.mount, self.server):
            if process is not None:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def fuse_file(tmp_path_factory):
    made = FuseFile(tmp_path_factory.mktemp("fuse"))
    yield made
    made.close()


@pytest.mark.parametrize("cls", ["direct", "buffered", "aio"])
@pytest.mark.parametrize("op", [Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP, Op.FLUSH])
def test_on_fuse_everything_reaches_the_disk_before_the_answer(stack, fuse_file, cls, op):
    if cls == "aio":
        bdev = stack.create(str(fuse_file.path), Aio, block_size=4096, fallocate=True)
    else:
        bdev = stack.create(str(fuse_file.path), block_size=4096, direct=cls == "direct")
    descriptor = stack.open()
    if op not in bdev.ops:
        pytest.skip(f"no {op.name} on this file system")
    data = bytes(range(256)) * 128

    async def main():
        await descriptor.io(Op.WRITE, 0, 8, data)
        fuse_file.events()
        if op is Op.FLUSH:
            await descriptor.io(op)
        else:
            await descriptor.io(op, 0, 8, data if op is Op.WRITE else None, flags=IoFlag.FUA)
        return fuse_file.events()

    events = stack.run(main())
    assert events[-1:] == [b"Flush"], events
    if op is not Op.FLUSH:
        assert len(events) > 1


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("op", [Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP])
def test_an_nbd_server_gets_fua_where_it_offers_it_and_else_a_flush(tmp_path, op, offered):
    requires("nbdkit")
    path, log = tmp_path / "socket", tmp_path / "log"
    server = subprocess.Popen(
        [find("nbdkit"), "-f", "-U", path, "--filter=log", "--filter=fua", "memory", "4M",
         f"logfile={log}", *(["fuamode=emulate"] if offered else [])],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    stack = Stack(real_clock=True)
    try:
        FuseFile.wait(path.exists)
        stack.create(Nbd, name="N", uri=f"nbd+unix:///?socket={path}")
        disk = stack.open("N")
        disk.io(Op.READ, 0, 8, bytearray(4096))
        os.truncate(log, 0)
        data = DATA if op is Op.WRITE else None
        assert disk.io(op, 0, 8, data, flags=int(IoFlag.FUA)).status == Status.SUCCESS
        said = log.read_text()
        found = re.findall(
            r" (Write|Zero|Trim|Flush) id=\w+(?:.*(fua=\d))?.* \.\.\.$", said, re.MULTILINE
        )
    finally:
        stack.close()
        server.kill()
        server.wait()
    if offered:
        assert [fua for _, fua in found] == ["fua=1"]
    else:
        assert [fua for _, fua in found] == ["fua=0", ""]
        assert found[-1][0] == "Flush"
