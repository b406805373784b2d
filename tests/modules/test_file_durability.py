"""FLUSH and FUA keep their promise, and when they can not, they say so from then on.

A description that can not be synced (a pipe) put in place of the file's makes every fdatasync
fail, in the ring as on a thread. strace shows which system calls a FLUSH and a FUA become.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.clients import find, requires, run
from support.denied import Denied, run_denied
from support.file_syncs import break_syncs, fails, syncs_fail
from vbdev.bdev import BdevError, IoError
from vbdev.bdev.entry import entry_of
from vbdev.files import stable_writes
from vbdev.files.stable_writes import EXT_MAGIC
from vbdev.modules.file import service
from vbdev.modules.file.workers import Workers
from vbdev.reactor.task import gather
from vbdev.vocab import IoFlag, Op, Status

DATA = bytes(4096)


@pytest.mark.parametrize("direct", [True, False])
def test_a_failed_sync_is_remembered_until_the_bdev_is_made_anew(stack, caplog, direct):
    path = stack.path(1 << 20)
    bdev = stack.create(path, direct=direct)
    descriptor = stack.open()

    async def main():
        await descriptor.io(Op.WRITE, 0, 8, DATA)
        with syncs_fail(bdev):
            await fails(descriptor, Op.FLUSH)
        # fdatasync would succeed now. The data that it failed to write is lost all the same.
        await fails(descriptor, Op.FLUSH)
        for op, data in ((Op.WRITE, DATA), (Op.WRITE_ZEROES, None), (Op.UNMAP, None)):
            await fails(descriptor, op, 0, 8, data, flags=IoFlag.FUA)
            await descriptor.io(op, 0, 8, data)
        await descriptor.io(Op.READ, 0, 8, bytearray(4096))

    stack.run(main())
    said = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert len(said) == 1
    assert "bdev=U0" in said[0].message
    descriptor.close()
    stack.run(stack.registry.unregister(bdev))
    stack.create(path)
    descriptor = stack.open()

    async def again():
        await descriptor.io(Op.FLUSH)
        await descriptor.io(Op.WRITE, 0, 8, DATA, flags=IoFlag.FUA)

    stack.run(again())


def test_a_failure_reaches_every_sync_that_is_under_way_or_waits(stack):
    bdev = stack.create(stack.path(1 << 20), direct=False)
    stack.gather(6)
    descriptor = stack.open("G0")
    descriptor.get_channel()
    statuses = []

    async def main():
        done = [descriptor.io(Op.WRITE, i * 8, 8, DATA, flags=IoFlag.FUA) for i in range(3)]
        done += [descriptor.io(Op.FLUSH) for _ in range(3)]
        for future in done:
            try:
                statuses.append((await future).status)
            except IoError as error:
                statuses.append(error.status)

    with syncs_fail(bdev):
        stack.run(main())
    assert statuses == [Status.AIO_ERROR] * 6


@pytest.mark.parametrize("op", [Op.WRITE_ZEROES, Op.UNMAP, Op.WRITE])
def test_fua_of_any_kind_needs_its_sync(stack, op):
    bdev = stack.create(stack.path(1 << 20), direct=False)
    descriptor = stack.open()
    descriptor.get_channel()

    async def main():
        with syncs_fail(bdev):
            await descriptor.io(op, 0, 8, DATA if op is Op.WRITE else None)
            await fails(descriptor, op, 0, 8, DATA if op is Op.WRITE else None, flags=IoFlag.FUA)

    stack.run(main())


@contextmanager
def files_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("flags", [0, IoFlag.FUA])
def test_a_write_that_fails_is_no_sync_that_failed(stack, caplog, direct, flags):
    stack.create(stack.path(1 << 20), direct=direct)
    descriptor = stack.open()

    async def main():
        with files_at_most(512 << 10), pytest.raises(IoError, match="File too large"):
            await descriptor.io(Op.WRITE, 1024, 8, DATA, flags=flags)
        await descriptor.io(Op.FLUSH)
        await descriptor.io(Op.WRITE, 0, 8, DATA, flags=IoFlag.FUA)

    stack.run(main())
    assert [r for r in caplog.records if r.levelno == logging.CRITICAL] == []


WRITE_FAILED = (errno.EPERM, errno.EACCES, errno.EFBIG, errno.ETXTBSY, errno.EINVAL)
IN_DOUBT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM)
SYNC_FAILED = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.EILSEQ)


def fua_answers(stack, *rules):
    """Return the errnos of a FUA WRITE whose calls are refused, then of a FLUSH and a WRITE."""
    stack.create(stack.path(1 << 20), direct=True)

    async def main():
        descriptor = stack.open()
        errnos = []
        for op, data, flags in (
            (Op.WRITE, DATA, IoFlag.FUA), (Op.FLUSH, None, 0), (Op.WRITE, DATA, 0)
        ):  # fmt: skip
            try:
                await descriptor.io(op, 0, 8, data, flags=flags)
                errnos.append(0)
            except IoError as error:
                errnos.append(error.errno)
        return errnos

    def work(deny):
        deny(*rules)
        return stack.run(main())

    return run_denied(work)


@pytest.fixture
def kept(make_stack, monkeypatch):
    """A stack of threads, on a file system that keeps RWF_DSYNC."""
    monkeypatch.setattr(stable_writes, "file_system_type", lambda _fd: EXT_MAGIC)
    return make_stack("threads")


@pytest.mark.parametrize("number", WRITE_FAILED + IN_DOUBT, ids=errno.errorcode.get)
def test_what_failed_before_the_sync_leaves_flush_true(kept, number):
    answers = fua_answers(kept, Denied("pwritev2", number))
    # Refused flags and refused writes both are EINVAL: the write is made without them.
    assert answers == [0 if number == errno.EINVAL else number, 0, 0]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_without_the_flag_or_the_call_an_fdatasync_follows(kept, number):
    assert fua_answers(kept, Denied("pwritev2", number)) == [0, 0, 0]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_the_fdatasync_that_follows_is_believed(kept, number):
    rules = Denied("pwritev2", number), Denied("fdatasync", errno.EIO)
    assert fua_answers(kept, *rules)[:2] == [errno.EIO, errno.EIO]


@pytest.mark.parametrize("number", SYNC_FAILED, ids=errno.errorcode.get)
def test_a_dsync_write_whose_sync_failed_is_remembered(kept, number):
    assert fua_answers(kept, Denied("pwritev2", number)) == [number, errno.EIO, 0]


@pytest.mark.parametrize("number", IN_DOUBT, ids=errno.errorcode.get)
def test_where_either_may_have_failed_a_sync_tells(kept, number):
    """Delayed allocation fails with ENOSPC at the sync, for data that was acknowledged."""
    rules = Denied("pwritev2", number), Denied("fdatasync", number)
    assert fua_answers(kept, *rules) == [number, errno.EIO, 0]


def test_a_sync_that_never_began_has_not_failed(make_stack, monkeypatch):
    stack = make_stack("threads")
    stack.create(stack.path(1 << 20), direct=True)
    descriptor = stack.open()
    descriptor.get_channel()

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(Workers, "_add_thread", lambda _self: None)
            for op, data in ((Op.FLUSH, None), (Op.WRITE, DATA)):
                with pytest.raises(IoError) as caught:
                    await descriptor.io(op, 0, 8, data, flags=IoFlag.FUA if data else 0)
                assert caught.value.errno == errno.EAGAIN
        await descriptor.io(Op.FLUSH)
        await descriptor.io(Op.WRITE, 0, 8, DATA, flags=IoFlag.FUA)

    stack.run(main())


def test_a_full_file_system(full_disk, ring_stack):  # the stack is closed before the disk goes
    """A FUA WRITE into a hole finds no room. What was acknowledged is not in question."""
    stack = ring_stack
    stack.create(str(full_disk.file), block_size=4096, direct=True)
    descriptor = stack.open()

    async def main():
        await descriptor.io(Op.WRITE, 0, 1, DATA)
        full_disk.fill()
        for flags in (0, IoFlag.FUA):
            with pytest.raises(IoError, match="No space left"):
                await descriptor.io(Op.WRITE, 1024, 64, bytes(64 * 4096), flags=flags)
            await descriptor.io(Op.FLUSH)
        full_disk.make_room()
        await descriptor.io(Op.WRITE, 1024, 64, bytes(64 * 4096), flags=IoFlag.FUA)
        await descriptor.io(Op.FLUSH)

    stack.run(main())


class FullDisk:
    """An ext4 of 24 MiB in a loop device, and a sparse file on it."""

    def __init__(self, directory):
        requires("mkfs.ext4", "mount", "umount", "losetup", "blockdev")
        if os.geteuid():
            pytest.skip("mounting takes root")
        image, self.root = directory / "fs.img", directory / "fs"
        self.root.mkdir()
        with image.open("wb") as file:
            file.truncate(24 << 20)
        run("mkfs.ext4", "-q", "-F", "-m0", image)
        done = subprocess.run(
            [find("losetup"), "-f", "--show", image], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no loop device: {done.stderr}")
        self._device = done.stdout.strip()
        # Whoever had it before may have left it read-only.
        subprocess.run([find("blockdev"), "--setrw", self._device], check=True)
        run("mount", self._device, self.root)
        self.file, self._filler = self.root / "disk", self.root / "filler"
        with self.file.open("wb") as file:
            file.truncate(16 << 20)

    def fill(self):
        with self._filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())

    def make_room(self):
        self._filler.unlink()
        os.sync()

    def close(self):
        subprocess.run([find("umount"), "-l", self.root], check=False)
        subprocess.run([find("losetup"), "-d", self._device], check=False)


@pytest.fixture
def full_disk(tmp_path):
    made = FullDisk(tmp_path)
    yield made
    made.close()


def test_flushes_that_come_together_share_a_sync(ring_stack):
    stack = ring_stack
    stack.create(stack.path(1 << 20))
    stack.gather(50)
    descriptor = stack.open("G0")

    async def main():
        await gather([descriptor.io(Op.FLUSH) for _ in range(50)])
        assert stack.service.engine.ring.submitted == 2  # the first one's, and one for the rest

    stack.run(main())


def test_stop_syncs_and_says_when_it_can_not(stack):
    bdev = stack.create(stack.path(1 << 20))
    descriptor = stack.open()

    async def main():
        await descriptor.io(Op.WRITE, 0, 8, DATA)
        descriptor.close()
        await stack.registry.unregister(bdev)

    break_syncs(bdev)
    with pytest.raises(BdevError, match="disk could not be synced at the end"):
        stack.run(main())


def test_one_that_can_not_sync_does_not_keep_others_from_it(stack):
    others = [stack.create(stack.path(1 << 20, name), name=name) for name in ("A", "B", "C")]
    for bdev in others:
        stack.open(bdev.name).get_channel()
    for descriptor in [d for bdev in others for d in entry_of(bdev).openers]:
        descriptor.close()
    break_syncs(others[1])
    with pytest.raises(BdevError, match="'B'"):
        stack.run(stack.registry.close())
    assert list(stack.registry) == []


SCRIPT = """
import sys
from vbdev.core.engine.engine import Engine
from vbdev.files import stable_writes
from vbdev.modules.uring import Uring
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.vocab import IoFlag, Op

stable_writes.file_system_type = lambda fd: int(sys.argv[3])
reactor = Reactor()
reactor.engine = Engine()
registry = Registry(reactor)

async def main():
    await registry.create(Uring, Uring.Params(
        name="U0", filename=sys.argv[1], direct=sys.argv[2] == "direct"))
    d = registry.open("U0", write=True, on_event=lambda event: None, holder="test")
    fua = IoFlag.FUA
    await d.io(Op.WRITE, 0, 8, bytes(4096))
    await d.io(Op.FLUSH)
    await d.io(Op.WRITE, 8, 8, bytes(4096), flags=fua)
    await d.io(Op.WRITE_ZEROES, 0, 8, flags=fua)
    await d.io(Op.UNMAP, 8, 8, flags=fua)
    d.close()
    await registry.unregister(registry.get("U0"))

reactor.run_until_complete(main())
"""


@pytest.mark.parametrize(
    ("direct", "magic"), [(True, EXT_MAGIC), (True, 0x65735546), (False, EXT_MAGIC)]
)
def test_system_calls(tmp_path, direct, magic):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace")
    path, log = tmp_path / "disk", tmp_path / "log"
    path.write_bytes(bytes(1 << 20))
    how = "direct" if direct else "buffered"
    calls = "trace=pwritev,pwritev2,fdatasync,fallocate"
    subprocess.run(
        [strace, "-f", "-o", log, "-e", calls, sys.executable, "-c", SCRIPT, path, how, str(magic)],
        env={**os.environ, service.NO_RING_VARIABLE: "1"},
        check=True,
        timeout=60,
    )
    lines = [line.split(None, 1)[1] for line in Path(log).read_text().splitlines()]
    made = [line for line in lines if line.startswith(("pwritev", "fdatasync", "fallocate"))]
    names = [line.split("(")[0] for line in made]
    dsync = direct and magic == EXT_MAGIC
    fua = ["pwritev2"] if dsync else ["pwritev", "fdatasync"]
    assert names == [
        "fallocate",  # the probe
        *["pwritev", "fdatasync"],
        *fua,
        *["fallocate", "fdatasync"],
        *["fallocate", "fdatasync"],
        "fdatasync",  # the last, at the end
    ]
    if dsync:
        assert "RWF_DSYNC" in next(line for line in made if line.startswith("pwritev2"))
