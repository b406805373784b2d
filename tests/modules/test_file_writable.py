"""What opens for writing and takes no write is refused in words; with `readonly` it is a bdev."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess

import pytest

from support.clients import find, requires
from vbdev.bdev import BdevError
from vbdev.files import access, opening
from vbdev.modules.uring import Uring
from vbdev.vocab import WRITE_OPS, Op

SIZE = 1 << 20


@pytest.fixture
def stack(make_stack):
    return make_stack("threads")


def refused_and_readable(stack, path, *said):
    with pytest.raises(BdevError) as caught:
        stack.create(path)
    assert caught.value.errno == errno.EACCES
    for words in (path, "readonly", *said):
        assert words in str(caught.value)
    assert access._open_files == {}
    bdev = stack.create(path, Uring, readonly=True)
    assert not bdev.ops & WRITE_OPS
    data = bytearray(512)

    async def read():
        await stack.open(write=False).io(Op.READ, 0, 1, data)

    stack.run(read())


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, 0x10])
def test_a_sealed_memfd(stack, seal):
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    try:
        os.truncate(fd, SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
        refused_and_readable(stack, f"/proc/self/fd/{fd}", "sealed")
        stack.close()
    finally:
        os.close(fd)


def test_a_memfd_that_may_be_written(stack):
    fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    try:
        os.truncate(fd, SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        assert Op.WRITE in stack.create(f"/proc/self/fd/{fd}").ops
        stack.close()
    finally:
        os.close(fd)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EACCES])
def test_what_the_kernel_refuses_to_write(stack, monkeypatch, number):
    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    path = stack.path(SIZE)
    monkeypatch.setattr(opening.os, "pwrite", refuse)
    refused_and_readable(stack, path, os.strerror(number))


@pytest.fixture
def loop_device(tmp_path):
    requires("losetup", "blockdev")
    if os.geteuid():
        pytest.skip("a loop device takes root")
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    made = []

    def make(*options):
        done = subprocess.run(
            [find("losetup"), *options, "-f", "--show", image],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no loop device: {done.stderr}")
        made.append(done.stdout.strip())
        return made[-1]

    yield make
    for device in made:  # it would be read-only for whoever has it next
        subprocess.run([find("blockdev"), "--setrw", device], check=False)
        subprocess.run([find("losetup"), "-d", device], check=False)


def test_a_read_only_device(loop_device, stack):
    refused_and_readable(stack, loop_device("-r"), "the device is read-only")


def test_a_device_that_somebody_has_set_read_only(loop_device, stack):
    device = loop_device()
    subprocess.run([find("blockdev"), "--setro", device], check=True)
    refused_and_readable(stack, device, "blockdev --setro")


def test_an_immutable_file(stack):
    requires("chattr")
    path = stack.path(SIZE)
    for flag in ("i", "a"):
        if subprocess.run(
            ["chattr", f"+{flag}", path], check=False, capture_output=True
        ).returncode:
            pytest.skip("no such attributes here")
        try:
            with pytest.raises(BdevError) as caught:
                stack.create(path)
        finally:
            subprocess.run(["chattr", f"-{flag}", path], check=True)
        assert caught.value.errno == errno.EPERM
        assert path in str(caught.value)
