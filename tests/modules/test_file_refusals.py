"""Zeroes and unmaps where the file system, the driver or a sandbox does not do them.

Method: a seccomp filter refuses the call with each errno that is about; what is in the file
afterwards, and whether there are holes in it, shows what was done instead.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from support.clients import find, requires
from support.denied import Denied, run_denied
from vbdev.bdev import IoError
from vbdev.vocab import IoFlag, Op

BLOCKS, BLOCK = 8, 4096
DATA = b"x" * BLOCK * BLOCKS
MISSING = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.ENODEV)
DECLINED = (*MISSING, errno.EINVAL, errno.EPERM, errno.EACCES)
REAL = (errno.EIO, errno.ENOSPC, errno.EFBIG, errno.ETXTBSY)
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F
WHENCE, OFFSET, REQUEST = 2, 2, 1
"""Numbers of arguments of lseek, fallocate and ioctl."""


async def outcome(descriptor, op, offset=0, data=None, num_blocks=BLOCKS, **flags):
    try:
        await descriptor.io(op, offset, num_blocks, data, **flags)
    except IoError as error:
        return error.errno
    return 0


def carried_out(stack, rules, ios, path=None, **params):
    """Return the errnos of I/Os on a file full of data, with calls refused once it is open."""
    path = path or stack.path(64 * BLOCK)
    stack.create(path, block_size=BLOCK, **params)
    descriptor = stack.open()

    async def before():
        for offset in range(0, 64, BLOCKS):
            await descriptor.io(Op.WRITE, offset, BLOCKS, DATA)

    async def after():
        return [await outcome(descriptor, *io[:2], **(io[2] if io[2:] else {})) for io in ios]

    def work(deny):
        deny(*rules)  # before the first worker starts
        stack.run(before())
        return stack.run(after())

    return run_denied(work)


def content(stack, offset=0):
    data = bytearray(len(DATA))

    async def main():
        await stack.open().io(Op.READ, offset, BLOCKS, data)

    stack.run(main())
    return bytes(data)


def is_hole(path, offset):
    with Path(path).open("rb") as file:
        try:
            return os.lseek(file.fileno(), offset * BLOCK, os.SEEK_DATA) != offset * BLOCK
        except OSError:
            return True


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("flags", [IoFlag(0), IoFlag.NO_HOLE, IoFlag.FUA])
@pytest.mark.parametrize("number", DECLINED, ids=errno.errorcode.get)
def test_zeroes_are_written_where_there_is_no_other_way(stack, number, flags, direct):
    ios = [(Op.WRITE_ZEROES, 0, {"flags": flags})]
    rules = [Denied("fallocate", number)]
    assert carried_out(stack, rules, ios, direct=direct) == [0]
    assert content(stack) == bytes(len(DATA))
    assert content(stack, BLOCKS) == DATA


@pytest.mark.parametrize("number", DECLINED, ids=errno.errorcode.get)
def test_fast_zero_is_refused_with_enotsup_whatever_the_reason(stack, number):
    ios = [(Op.WRITE_ZEROES, 0, {"flags": IoFlag.FAST_ZERO})]
    assert carried_out(stack, [Denied("fallocate", number)], ios) == [errno.ENOTSUP]
    assert content(stack) == DATA


@pytest.mark.parametrize("number", REAL, ids=errno.errorcode.get)
def test_an_error_is_an_error(stack, number):
    ios = [(Op.WRITE_ZEROES, 0), (Op.UNMAP, 0)]
    assert carried_out(stack, [Denied("fallocate", number)], ios) == [number, number]
    assert content(stack) == DATA


@pytest.mark.parametrize("number", [*MISSING, errno.EINVAL], ids=errno.errorcode.get)
def test_an_unmap_that_is_not_to_be_had_succeeds(stack, number):
    assert carried_out(stack, [Denied("fallocate", number)], [(Op.UNMAP, 0)]) == [0]
    assert content(stack) == DATA  # undefined; but nobody's work to write


@pytest.mark.parametrize("number", MISSING, ids=errno.errorcode.get)
def test_what_is_missing_is_not_asked_for_again(stack, number):
    path = stack.path(64 * BLOCK)
    rules = [Denied("fallocate", number, (OFFSET, 0))]
    assert carried_out(stack, rules, [(Op.WRITE_ZEROES, 0), (Op.WRITE_ZEROES, 16)], path) == [0, 0]
    assert content(stack, 16) == bytes(len(DATA))
    assert not is_hole(path, 16)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM], ids=errno.errorcode.get)
def test_what_a_range_was_refused_for_is_asked_for_again(stack, number):
    path = stack.path(64 * BLOCK)
    rules = [Denied("fallocate", number, (OFFSET, 0))]
    assert carried_out(stack, rules, [(Op.WRITE_ZEROES, 0), (Op.WRITE_ZEROES, 16)], path) == [0, 0]
    assert content(stack) == content(stack, 16) == bytes(len(DATA))
    assert is_hole(path, 16)


@pytest.mark.parametrize("number", DECLINED, ids=errno.errorcode.get)
def test_where_it_is_refused_from_the_first_moment(stack, number):
    path = stack.path(64 * BLOCK)
    with Path(path).open("r+b") as file:
        file.write(DATA)

    async def main():
        descriptor = stack.open()
        assert await outcome(descriptor, Op.WRITE_ZEROES) == 0

    def work(deny):
        deny(Denied("fallocate", number))
        bdev = stack.create(path, block_size=BLOCK)
        assert Op.UNMAP not in bdev.ops
        assert not bdev.fast_zero
        stack.run(main())

    run_denied(work)
    assert content(stack) == bytes(len(DATA))


@pytest.mark.parametrize("number", DECLINED, ids=errno.errorcode.get)
def test_without_seeking_all_is_data(stack, number):
    stack.create(stack.path(64 * BLOCK), block_size=BLOCK)
    descriptor = stack.open()

    async def main():
        found = [await descriptor.io(op, 8, 0) for op in (Op.SEEK_DATA, Op.SEEK_HOLE)]
        return [io.result for io in found]

    def work(deny):
        whence = [(WHENCE, os.SEEK_DATA), (WHENCE, os.SEEK_HOLE)]
        deny(*(Denied("lseek", number, which) for which in whence))
        return stack.run(main())

    assert run_denied(work) == [8, 64]


@pytest.fixture
def device(tmp_path):
    requires("losetup", "blockdev")
    if os.geteuid():
        pytest.skip("a loop device takes root")
    image = tmp_path / "image"
    image.write_bytes(bytes(64 * BLOCK))
    done = subprocess.run(
        [find("losetup"), "-f", "--show", image], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr}")
    # Whoever had it before may have left it read-only.
    subprocess.run([find("blockdev"), "--setrw", done.stdout.strip()], check=True)
    yield done.stdout.strip()
    subprocess.run([find("losetup"), "-d", done.stdout.strip()], check=False)


@pytest.fixture
def device_stack(device, stack):
    """A stack that is closed before its device goes."""
    return device, stack


@pytest.mark.parametrize("number", DECLINED, ids=errno.errorcode.get)
def test_devices(device_stack, number):
    device, stack = device_stack
    rules = [
        Denied("fallocate", number),
        Denied("ioctl", number, (REQUEST, BLKDISCARD)),
        Denied("ioctl", number, (REQUEST, BLKZEROOUT)),
    ]
    ios = [
        *[(Op.WRITE_ZEROES, 0, {"flags": IoFlag.FAST_ZERO}), (Op.WRITE_ZEROES, 0)],
        *[(Op.WRITE_ZEROES, 8, {"flags": IoFlag.NO_HOLE}), (Op.UNMAP, 16)],
    ]
    unmapped = number if number in (errno.EPERM, errno.EACCES) else 0
    assert carried_out(stack, rules, ios, device) == [errno.ENOTSUP, 0, 0, unmapped]
    assert content(stack) == content(stack, 8) == bytes(len(DATA))
    assert content(stack, 16) == DATA
