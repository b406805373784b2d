"""COMPARE_AND_WRITE on disks with metadata, whole and hidden.

It is carried out by a COMPARE and a WRITE of the channel's own: what they leave must verify.
"""

import pytest

from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.testing import stack
from vbdev.vocab import Op, Status

SEPARATE = {"md_size": 8, "dif_type": 1}
INTERLEAVED = {"md_size": 8, "dif_type": 1, "md_interleave": True}


def swap(opened, offset, count, expected, new, **more):
    request = opened.submit(Op.COMPARE_AND_WRITE, offset, count, expected, write_data=new, **more)
    opened.stack.turn_until(lambda: request.done)
    return request


class Wide(Malloc):
    """One that takes four blocks at once."""

    kind = "wide"

    async def start(self):
        await super().start()
        self.acwu = 4


def read(opened, offset, count, block_size):
    data = bytearray(count * block_size)
    assert opened.io(Op.READ, offset, count, data).status == Status.SUCCESS
    return bytes(data)


@pytest.mark.parametrize("height", [0, 1])
def test_separate_metadata_is_made_for_what_is_written(height):
    with stack() as made:
        made.disk(Wide, num_blocks=32, block_size=512, **SEPARATE)
        if height:
            made.layer()
        top = made.open("Top" if height else "Disk")
        assert swap(top, 3, 4, bytes(2048), b"n" * 2048).status == Status.SUCCESS
        assert read(top, 3, 4, 512) == b"n" * 2048
        assert swap(top, 3, 4, bytes(2048), b"m" * 2048).status == Status.MISCOMPARE
        assert read(top, 3, 4, 512) == b"n" * 2048


def test_interleaved_metadata_is_compared_and_verified():
    with stack() as made:
        made.disk(Wide, num_blocks=32, block_size=512, **INTERLEAVED)
        raw, plain = made.open("Disk"), made.open("Disk", hide_metadata=True)
        size = raw.descriptor.bdev.block_size
        assert plain.io(Op.WRITE, 5, 2, b"a" * 1024).status == Status.SUCCESS
        new = read(raw, 5, 2, size)
        assert plain.io(Op.WRITE, 5, 2, bytes(1024)).status == Status.SUCCESS
        before = read(raw, 5, 2, size)
        assert swap(raw, 5, 2, before, new).status == Status.SUCCESS
        assert read(plain, 5, 2, 512) == b"a" * 1024
        # What does not verify is not written, and the range is free afterwards.
        broken = bytes([new[0] ^ 1]) + new[1:]
        request = swap(raw, 5, 2, new, broken)
        assert (request.status, request.nvme_status[1:]) == (Status.NVME_ERROR, (2, 0x82))
        assert read(plain, 5, 2, 512) == b"a" * 1024
        assert entry_of(raw.descriptor.bdev).control.locks == []


def test_hidden_metadata():
    with stack() as made:
        made.disk(Wide, num_blocks=32, block_size=512, **INTERLEAVED)
        plain = made.open("Disk", hide_metadata=True)
        assert swap(plain, 7, 4, bytes(2048), b"x" * 2048).status == Status.SUCCESS
        assert read(plain, 7, 4, 512) == b"x" * 2048
        assert swap(plain, 7, 4, b"y" * 2048, bytes(2048)).status == Status.MISCOMPARE
        assert read(plain, 7, 4, 512) == b"x" * 2048
