"""I/Os that pass a channel's gates at one look, and those that only look like them.

Method: for each property that the look is about, one I/O that has it and one beside it that has
not, and what arrives at the module, or comes back.
"""

import errno

import pytest

from vbdev.bdev import VirtualBdev
from vbdev.testing import Stub, stack
from vbdev.vocab import Op, Status


class Wider(VirtualBdev):
    """Has blocks twice as long as its base, and forgets to say so further down."""

    kind = "wider"
    product_name = "wider"
    ops = frozenset({Op.READ, Op.WRITE})

    def inherit(self):
        super().inherit()
        self.block_size *= 2
        self.num_blocks //= 2
        self.gives_read_buffers = False

    def submit(self, channel, ios):
        channel.base.submit(ios)


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_data_is_as_long_as_its_blocks(op):
    with stack() as made:
        disk = made.disk(Stub)
        made.layer(Wider)
        top = made.open("Top")
        request = top.io(op, 1, 2, bytearray(2048))
        assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
        assert disk.arrived == []


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
@pytest.mark.parametrize(
    ("lengths", "arrive"),
    [((1024,), 1), ((512, 512), 2), ((2, 1022), 1)],
    ids=["one piece", "two", "odd"],
)
def test_what_is_not_aligned_is_put_into_one_piece(op, lengths, arrive):
    class Aligned(Stub):
        required_alignment = 2

    with stack() as made:
        disk = made.disk(Aligned)
        opened = made.open("Disk")
        request = opened.submit(op, 4, 2, [bytearray(length) for length in lengths])
        made.settle()
        assert disk.arrived == [(op, 4, 2)]
        (held,) = disk.held
        assert len(held.data(op)) == arrive
        disk.complete()
        made.settle()
        assert request.status == Status.SUCCESS


@pytest.mark.parametrize(
    ("limits", "parts", "pieces"),
    [
        ({}, 1, 1),
        ({"max_rw_size": 9}, 1, 1),
        ({"max_rw_size": 8}, 2, 1),
        ({"max_segment_size": 9 * 512}, 1, 1),
        ({"max_segment_size": 8 * 512}, 1, 2),
        ({"optimal_io_boundary": 16, "split_on_optimal_io_boundary": True}, 2, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_what_nothing_splits_arrives_whole(op, limits, parts, pieces):
    kind = type("Limited", (Stub,), dict(limits))
    with stack() as made:
        disk = made.disk(kind)
        opened = made.open("Disk")
        request = opened.submit(op, 12, 9, bytearray(9 * 512))
        made.settle()
        assert len(disk.arrived) == parts
        assert sum(count for _, _, count in disk.arrived) == 9
        assert len(disk.held[0].data(op)) == pieces
        while disk.held:
            disk.complete()
            made.settle()
        assert request.status == Status.SUCCESS
