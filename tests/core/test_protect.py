"""Reference tags that move along with blocks: a layer that shifts, as parts of a disk do."""

import random

import pytest

from support.dif_twin import Twin
from vbdev.core.engine.protect import remap_down, remap_up
from vbdev.modules.malloc import Malloc
from vbdev.testing import Stub, layer
from vbdev.testing import stack as stack_of
from vbdev.vocab import DifCheck, Op, Status

REFTAG = (2, 0x84)
SHIFT = 11

LAYOUTS = {
    "interleaved": {"md_size": 8, "md_interleave": True, "dif_type": 1},
    "separate": {"md_size": 8, "md_interleave": False, "dif_type": 2},
    "wide": {"md_size": 64, "md_interleave": True, "dif_type": 1, "dif_pi_format": 2},
    "type 3": {"md_size": 8, "md_interleave": True, "dif_type": 3},
    "user's own": {"md_size": 8, "md_interleave": True},
}


def submit(self, channel, ios):
    remap_down(ios, self.base.metadata_layout(), SHIFT)
    ios.shift(SHIFT)
    channel.base.submit(ios)


def completed(self, _channel, ios):
    remap_up(ios, self.base.metadata_layout(), SHIFT)


shifted = layer(submit, completed, kind="shifted", inherit=lambda self: narrow(self))  # noqa: PLW0108 - it is defined below


def narrow(self):
    super(shifted, self).inherit()
    self.num_blocks -= SHIFT


def noise(length, seed):
    return random.Random(seed).randbytes(length)


class Rig:
    """A disk, and a layer over it that starts SHIFT blocks into it."""

    def __init__(self, stack, layout):
        self.bdev = stack.disk(Malloc, num_blocks=64, **layout)
        stack.layer(shifted)
        self.top, self.plain = stack.open("Top"), stack.open("Disk", write=False)
        self.twin = Twin(
            self.bdev.block_size,
            self.bdev.md_len,
            self.bdev.md_interleave,
            self.bdev.dif_type,
            self.bdev.dif_is_head_of_md,
            self.bdev.dif_check_flags,
            self.bdev.dif_pi_format,
        )

    def blocks(self, offset, count, seed=1):
        made = []
        for i in range(count):
            data, md = noise(self.twin.data_size, seed + i), noise(self.twin.md_len, seed - i)
            if self.twin.dif_type:
                md = self.twin.generate(data, md, i, offset)
            made.append((data, md))
        return made

    def write(self, offset, blocks, op=Op.WRITE, **more):
        data, md = self.twin.join(blocks)
        return self.top.io(
            op, offset, len(blocks), [data[:99], data[99:]], metadata=md or None, **more
        )

    def read(self, opened, offset, count, **more):
        data = bytearray(count * self.bdev.block_size)
        md = None if self.bdev.md_interleave else bytearray(count * self.bdev.md_len)
        request = opened.io(Op.READ, offset, count, data, metadata=md, **more)
        return request, self.twin.blocks(data, md)


@pytest.fixture(params=LAYOUTS)
def rig(stack, request):
    return Rig(stack, LAYOUTS[request.param])


@pytest.mark.rule("A.19.17")
def test_tags_are_the_addresses_that_each_side_sees(rig):
    blocks = rig.blocks(4, 6)
    data, _ = rig.twin.join(blocks)
    assert rig.write(4, blocks).status == Status.SUCCESS
    assert rig.twin.join(blocks)[0] == data  # the writer's memory is the writer's
    request, got = rig.read(rig.top, 4, 6)
    assert request.status == Status.SUCCESS
    assert got == blocks
    request, below = rig.read(rig.plain, 4 + SHIFT, 6)
    assert request.status == Status.SUCCESS
    for i, ((block, md), (want, want_md)) in enumerate(zip(below, blocks, strict=True)):
        assert block == want
        if rig.twin.dif_type in (1, 2):
            assert rig.twin.unpack(md)[2] == 4 + SHIFT + i
        else:
            assert md == want_md
    assert rig.write(4, blocks, Op.COMPARE).status == Status.SUCCESS


def test_tags_that_are_wrong_are_refused_before_they_are_moved(rig):
    blocks = rig.blocks(5, 3)  # and are written to 4
    request = rig.write(4, blocks)
    if rig.twin.dif_type in (1, 2):
        assert request.status == Status.NVME_ERROR
        assert divmod(request.detail, 256) == REFTAG
        assert rig.read(rig.top, 4, 3)[1] != blocks
    else:
        assert request.status == Status.SUCCESS
    # Without that check they are the writer's own, and stay as they are.
    exclude = {"dif_check_flags_exclude_mask": DifCheck.REFTAG}
    assert rig.write(4, blocks, **exclude).status == Status.SUCCESS
    request, got = rig.read(rig.top, 4, 3, **exclude)
    assert (request.status, got) == (Status.SUCCESS, blocks)


def test_new_blocks_keep_the_tags_that_switch_checking_off(rig):
    request, got = rig.read(rig.top, 2, 3)
    assert request.status == Status.SUCCESS
    if rig.twin.dif_type:
        assert all(rig.twin.escaped(md) for _, md in got)


def test_a_read_with_wrong_tags_fails_on_its_way_up(stack):
    """A base that checks nothing."""
    bdev = stack.disk(Stub, md_size=8, dif_type=1)
    stack.layer(shifted)
    top = stack.open("Top")
    data = bytearray(520)
    request = top.submit(Op.READ, 4, 1, data)
    stack.settle()
    bdev.held[0].data()[0][:] = bytes(520)  # a tag of 0, not of 15
    bdev.complete()
    stack.settle()
    assert request.status == Status.NVME_ERROR
    assert divmod(request.detail, 256) == REFTAG


def test_writes_wait_for_memory_and_come_again():
    with stack_of(buffer_limit_bytes=32 << 10) as small:
        bdev = small.disk(Malloc, num_blocks=512, **LAYOUTS["interleaved"])
        small.layer(shifted)
        top = small.open("Top")
        twin = Twin(bdev.block_size, 8, True, 1, False, bdev.dif_check_flags, 0)
        requests = []
        for i in range(40):
            blocks = [(noise(512, j), bytes(8)) for j in range(8)]
            blocks = [(d, twin.generate(d, m, j, 8 * i)) for j, (d, m) in enumerate(blocks)]
            requests.append(top.submit(Op.WRITE, 8 * i, 8, twin.join(blocks)[0]))
        assert small.engine.waiting == 36  # 8 KiB each
        small.settle()
        assert {r.status for r in requests} == {Status.SUCCESS}
        assert top.io(Op.READ, 0, 320, bytearray(320 * 520)).status == Status.SUCCESS
