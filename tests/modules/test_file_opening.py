"""Which files can be a bdev, who may have them, and what geometry the bdev gets."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import msgspec
import pytest

from vbdev.bdev import BdevError
from vbdev.files import access, opening
from vbdev.modules.aio import Aio
from vbdev.modules.file import service
from vbdev.modules.uring import Uring
from vbdev.vocab import WRITE_OPS, Op


def refused(stack, path, cls=Uring, **params):
    with pytest.raises(BdevError) as caught:
        stack.create(str(path), cls, **params)
    assert str(path) in str(caught.value)
    assert list(stack.registry) == []
    assert access._open_files == {}
    return caught.value.errno, str(caught.value)


@pytest.fixture
def stack(make_stack):
    return make_stack("threads")


def test_no_such_file_is_not_created(stack):
    path = stack.directory / "nothing"
    assert refused(stack, path)[0] == errno.ENOENT
    assert not path.exists()


def test_what_is_no_disk(stack):
    assert refused(stack, stack.directory)[0] == errno.EISDIR
    number, message = refused(stack, "/dev/null")
    assert number == errno.EINVAL
    assert "a character device" in message
    fifo = stack.directory / "fifo"
    os.mkfifo(fifo)
    assert "a FIFO" in refused(stack, fifo)[1]
    assert refused(stack, stack.directory / "disk" / "below")[0] == errno.ENOENT
    assert refused(stack, "a\0b")[0] == errno.EINVAL


def test_no_permission(stack, monkeypatch):
    path = stack.path(1 << 20)

    def deny(*_args):
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patch:  # root may open everything
        patch.setattr(opening.os, "open", deny)
        assert refused(stack, path)[0] == errno.EACCES


@pytest.mark.rule("A.27.12")
def test_sizes(stack):
    number, message = refused(stack, stack.path(0))
    assert number == errno.EINVAL
    assert "empty" in message
    for size, block_size, said in (
        (1000, None, ["1000", "512"]),
        (5120, 4096, ["5120", "4096"]),
        (8192, 256, ["256", "512"]),
        (8192, 1536, ["1536", "512"]),
        (8192, -512, ["-512"]),
    ):
        number, message = refused(stack, stack.path(size), block_size=block_size)
        assert number == errno.EINVAL
        assert all(word in message for word in said), message


def test_geometry(stack):
    bdev = stack.create(stack.path(1 << 20), block_size=4096)
    assert (bdev.block_size, bdev.num_blocks) == (4096, 256)
    assert bdev.phys_block_size % 4096 == 0
    assert (bdev.write_cache, bdev.fua, bdev.multi_conn) == (True, True, True)
    stack.run(stack.registry.unregister(bdev))
    bdev = stack.create(stack.path(512 * 17), block_size=0)
    assert (bdev.block_size, bdev.num_blocks) == (512, 17)


@pytest.mark.rule("A.12.9", "A.27.11")
def test_direct_and_its_alignment(stack):
    bdev = stack.create(stack.path(1 << 20), direct=False)
    assert bdev.required_alignment == 0
    assert not fcntl.fcntl(bdev._geometry.fd, fcntl.F_GETFL) & os.O_DIRECT
    stack.run(stack.registry.unregister(bdev))
    bdev = stack.create(stack.path(1 << 20), direct=True)
    assert fcntl.fcntl(bdev._geometry.fd, fcntl.F_GETFL) & os.O_DIRECT
    assert 1 << bdev.required_alignment >= 512


@pytest.mark.rule("A.27.11")
def test_direct_where_it_can_not_be(stack, monkeypatch):
    monkeypatch.setattr(opening, "dio_alignment", lambda _fd: (0, 0))
    assert "O_DIRECT does not work" in refused(stack, stack.path(8192), direct=True)[1]
    monkeypatch.setattr(opening, "dio_alignment", lambda _fd: (4, 4096))
    message = refused(stack, stack.path(8192 + 512), direct=True)[1]
    assert "4096" in message
    assert "512" in message
    bdev = stack.create(stack.path(8192))
    assert (bdev.block_size, bdev.required_alignment) == (4096, 12)
    stack.run(stack.registry.unregister(bdev))
    bdev = stack.create(stack.path(8192 + 512))
    assert (bdev.block_size, bdev.required_alignment) == (512, 0)


def test_one_file_is_one_bdev(stack):
    path = stack.path(1 << 20)
    stack.create(path, name="first")
    os.link(path, stack.directory / "other")
    with pytest.raises(BdevError, match="first") as caught:
        stack.create(str(stack.directory / "other"), Aio, name="second")
    assert caught.value.errno == errno.EBUSY
    assert [bdev.name for bdev in stack.registry] == ["first"]


def lock(fd, kind):
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, 0, 0, 0))


def test_locks(stack):
    path = stack.path(1 << 20)
    with Path(path).open("r+b") as file:
        lock(file.fileno(), fcntl.F_RDLCK)
        number, message = refused(stack, path)
        assert number == errno.EBUSY
        assert "another program" in message
        bdev = stack.create(path, readonly=True)
        with pytest.raises(BlockingIOError):
            lock(file.fileno(), fcntl.F_WRLCK)
        stack.run(stack.registry.unregister(bdev))
        lock(file.fileno(), fcntl.F_WRLCK)
        assert refused(stack, path, readonly=True)[0] == errno.EBUSY
        lock(file.fileno(), fcntl.F_UNLCK)
        bdev = stack.create(path)
        with pytest.raises(BlockingIOError):
            lock(file.fileno(), fcntl.F_RDLCK)


def test_the_lock_ends_with_the_bdev(make_stack):
    stack = make_stack("ring")
    path = stack.path(1 << 20)
    for _ in range(3):
        bdev = stack.create(path)
        descriptor = stack.open()
        stack.run(write_once(descriptor))
        descriptor.close()
        stack.run(stack.registry.unregister(bdev))


async def write_once(descriptor):
    await descriptor.io(Op.WRITE, 0, 1, bytes(512))


@pytest.mark.rule("A.27.15")
@pytest.mark.parametrize("cls", [Uring, Aio])
def test_readonly(stack, cls):
    path = stack.path(1 << 20)
    Path(path).chmod(0o400)
    bdev = stack.create(path, cls, readonly=True)
    assert bdev.ops == {Op.READ, Op.RESET, Op.ABORT, Op.SEEK_DATA, Op.SEEK_HOLE}
    assert not bdev.ops & WRITE_OPS
    descriptor = stack.open(write=True)

    async def main():
        await descriptor.io(Op.READ, 0, 1, bytearray(512))
        with pytest.raises(BdevError, match="not supported"):
            await descriptor.io(Op.WRITE, 0, 1, bytes(512))

    stack.run(main())


@pytest.mark.rule("A.27.14")
def test_aio_has_unmap_only_when_asked(stack):
    path = stack.path(1 << 20)
    bdev = stack.create(path, Aio)
    assert not bdev.ops & {Op.UNMAP, Op.WRITE_ZEROES}
    assert bdev.dump_info() == {
        "aio": {
            "filename": path,
            "block_size_override": False,
            "readonly": False,
            "fallocate": False,
            "nowait": False,
        }
    }
    stack.run(stack.registry.unregister(bdev))
    bdev = stack.create(path, Aio, fallocate=True, block_size=512)
    assert bdev.ops >= {Op.UNMAP, Op.WRITE_ZEROES}
    assert bdev.dump_info()["aio"]["block_size_override"] is True


def test_nowait_is_for_devices(stack):
    number, message = refused(stack, stack.path(1 << 20), Aio, nowait=True)
    assert number == errno.EOPNOTSUPP
    assert "nowait" in message


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (Uring, {}),
        (Uring, {"block_size": 1024, "readonly": True, "direct": False}),
        (Aio, {}),
        (Aio, {"block_size": 1024, "readonly": True, "fallocate": True}),
    ],
)
def test_the_configuration_makes_the_same_bdev_again(stack, cls, params):
    bdev = stack.create(stack.path(1 << 20), cls, **params)
    saved = stack.registry.config()
    described = (bdev.name, bdev.uuid, bdev.block_size, bdev.num_blocks, bdev.ops, bdev.dump_info())
    stack.run(stack.registry.unregister(bdev))
    assert saved[0]["method"] == f"bdev_{cls.kind}_create"
    again = msgspec.convert(saved[0]["params"], cls.Params)
    stack.run(stack.registry.create(cls, again))
    bdev = stack.registry.get(again.name)
    assert described == (
        bdev.name,
        bdev.uuid,
        bdev.block_size,
        bdev.num_blocks,
        bdev.ops,
        bdev.dump_info(),
    )
    assert stack.registry.config() == saved


def test_the_plain_configuration_is_spdk_s(stack):
    path = stack.path(1 << 20)
    bdev = stack.create(path)
    assert bdev.config_params() == {
        "name": "U0",
        "block_size": bdev.block_size,
        "filename": path,
        "uuid": str(bdev.uuid),
    }
    assert bdev.dump_info() == {"uring": {"filename": path}}


def test_going_without_a_ring_is_said_once(stack, caplog, monkeypatch):
    monkeypatch.setattr(service, "_warned", set())
    bdev = stack.create(stack.path(1 << 20))
    for _ in range(2):
        descriptor = stack.open(bdev.name)
        stack.run(write_once(descriptor))
        descriptor.close()
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert service.NO_RING_VARIABLE in said[0]
