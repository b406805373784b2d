"""Parts of a base with protection information: reference tags are the part's own addresses."""

import random

import pytest

from support.dif_twin import Twin
from vbdev.modules.malloc import Malloc
from vbdev.modules.split import SplitCreateParams, create
from vbdev.testing import stack
from vbdev.vocab import Op, Status

LAYOUTS = {
    "interleaved": {"md_size": 8, "md_interleave": True, "dif_type": 1},
    "separate": {"md_size": 16, "dif_type": 2, "dif_is_head_of_md": True},
    "type3": {"md_size": 8, "md_interleave": True, "dif_type": 3},
}


@pytest.fixture(params=LAYOUTS)
def made(request):
    with stack() as stack_:
        bdev = stack_.disk(Malloc, num_blocks=60, **LAYOUTS[request.param])
        wish = SplitCreateParams(base_bdev="Disk", split_count=3)
        assert stack_.run(create(stack_.registry, wish)) == ["Diskp0", "Diskp1", "Diskp2"]
        stack_.twin = Twin(
            bdev.block_size,
            bdev.md_len,
            bdev.md_interleave,
            bdev.dif_type,
            bdev.dif_is_head_of_md,
            bdev.dif_check_flags,
            bdev.dif_pi_format,
        )
        yield stack_


def blocks_of(twin, offset, count):
    source = random.Random(offset)
    made = []
    for i in range(count):
        data = source.randbytes(twin.data_size)
        made.append((data, twin.generate(data, bytes(twin.md_len), i, offset)))
    return made


@pytest.mark.rule("A.19.17", "A.26.6")
def test_tags_are_moved_with_their_blocks(made):
    twin = made.twin
    whole = made.open("Disk", write=False)
    for part in range(3):
        opened = made.open(f"Diskp{part}")
        blocks = blocks_of(twin, 3, 5)
        data, md = twin.join(blocks)
        assert opened.io(Op.WRITE, 3, 5, data, metadata=md or None).status == Status.SUCCESS
        for reader, offset in ((opened, 3), (whole, 20 * part + 3)):
            got, got_md = bytearray(len(data)), bytearray(len(md)) if md else None
            request = reader.io(Op.READ, offset, 5, got, metadata=got_md)
            assert request.status == Status.SUCCESS
            for i, (block, block_md) in enumerate(twin.blocks(got, got_md)):
                assert block == blocks[i][0]
                if twin.dif_type != 3:
                    assert twin.unpack(block_md)[2] == offset + i
        assert opened.io(Op.COPY, 12, 5, src_offset_blocks=3).status == Status.SUCCESS
        got, got_md = bytearray(len(data)), bytearray(len(md)) if md else None
        assert opened.io(Op.READ, 12, 5, got, metadata=got_md).status == Status.SUCCESS


def test_what_a_part_with_tags_cannot_do(made):
    first, second = made.registry.get("Diskp0"), made.registry.get("Diskp1")
    moves = made.twin.dif_type != 3
    assert Op.ZCOPY in first.ops
    assert (Op.ZCOPY in second.ops) == (not moves)
    assert (second.sees_completed(), first.sees_completed()) == (moves, False)


def test_hidden_metadata_through_a_part(made):
    if not made.twin.md_interleave:
        return
    data = random.Random(1).randbytes(4 * 512)
    opened = made.open("Diskp2", hide_metadata=True)
    assert opened.io(Op.WRITE, 1, 4, data).status == Status.SUCCESS
    got = bytearray(len(data))
    assert opened.io(Op.READ, 1, 4, got).status == Status.SUCCESS
    assert got == data
    assert made.open("Disk", hide_metadata=True, write=False).io(Op.READ, 41, 4, got).status == 1
    assert got == data
