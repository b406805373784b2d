"""Modules that lie about their geometry: refused at registration, or harmless."""

import errno

import pytest

from support.stack import layer, stack
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.testing import Stub
from vbdev.vocab import Op, Status


def lying(**lies):
    async def start(self):
        vars(self).update(lies)

    return start


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_blocks", 0),
        ("num_blocks", -1),
        ("num_blocks", 1 << 64),
        ("num_blocks", 1.5),
        ("block_size", 0),
        ("block_size", 513),
        ("block_size", "512"),
        ("required_alignment", 63),
        ("required_alignment", -1),
        ("max_rw_size", -1),
        ("max_rw_size", 1 << 64),
        ("max_unmap", 1 << 64),
        ("max_unmap_segments", -3),
        ("max_write_zeroes", "all"),
        ("max_copy", 1 << 80),
        ("max_segment_size", 1 << 32),
        ("max_num_segments", -1),
        ("optimal_io_boundary", -1),
        ("write_unit_size", -8),
        ("acwu", -1),
    ],
)
def test_a_number_that_can_not_be_is_refused(name, value):
    with stack() as s:
        s.disk()
        with pytest.raises(
            BdevError, match=name.removeprefix("num_").replace("_", "[ _]")
        ) as refusal:
            s.layer(layer(start=lying(**{name: value})))
        assert refusal.value.errno == errno.EINVAL
        assert "Top" in str(refusal.value)
        assert s.registry.find("Top") is None
        assert entry_of(s.registry.get("Disk")).claim is None


@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("block_size", [1024, 4096])
def test_blocks_that_are_larger_than_the_bases_reach_no_memory_that_is_not_there(
    block_size, buffers
):
    with stack() as s:
        s.disk(num_blocks=64)
        s.layer(layer(start=lying(block_size=block_size), gives_read_buffers=buffers))
        top = s.open("Top")
        for request in (
            top.io(Op.READ, 0, 2),
            top.io(Op.READ, 0, 2, bytearray(2 * block_size)),
            top.io(Op.WRITE, 0, 2, bytes(2 * block_size)),
        ):
            assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)


def test_blocks_that_are_smaller_than_the_bases():
    with stack() as s:
        s.disk(num_blocks=64, block_size=4096)
        s.layer(layer(start=lying(block_size=512)))
        top = s.open("Top")
        request = top.io(Op.READ, 0, 1, bytearray(512))
        assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)


def test_blocks_that_the_base_has_not():
    with stack() as s:
        s.disk(num_blocks=64)
        s.layer(layer(start=lying(num_blocks=128)))
        top = s.open("Top")
        assert top.io(Op.READ, 63, 1, bytearray(512)).status == Status.SUCCESS
        for op in (Op.READ, Op.UNMAP, Op.FLUSH, Op.WRITE_ZEROES):
            data = bytearray(512) if op == Op.READ else None
            request = top.io(op, 64, 1, data)
            assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL), op


def test_a_size_that_changes_without_notice():
    with stack() as s:
        disk = s.disk(num_blocks=64)
        s.layer()
        top = s.open("Top")
        disk.num_blocks = 1 << 40
        s.registry.get("Top").num_blocks = 1 << 40
        request = top.io(Op.READ, 64, 1, bytearray(512))
        assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)


def test_a_disk_that_lies_can_not_be_registered_either():
    with stack() as s:
        cls = type("Liar", (Stub,), {"required_alignment": 63})
        with pytest.raises(BdevError, match="required_alignment"):
            s.disk(cls)
        assert list(s.registry) == []
