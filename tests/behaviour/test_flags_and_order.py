"""What is owed and no client sees at once: FUA on every way, the order of a COPY onto itself."""

from __future__ import annotations

import pytest

from vbdev.bdev import BASIC_OPS
from vbdev.testing import Stack, Stub, layer
from vbdev.vocab import IoFlag, Op, Status

BLOCK = 512


class Plain(Stub):
    """Reads and writes, and nothing else that could be made of it."""

    kind = "plain_stub"
    ops = BASIC_OPS
    fua = True


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def end(stack, disk, request):
    while not request.done:
        disk.complete()
        stack.settle()


def writes_of(disk):
    return [held for held in disk.held if held.ops[0] == Op.WRITE]


@pytest.mark.parametrize("fua", [0, IoFlag.FUA])
def test_emulated_zeroes_keep_fua(stack, fua):
    disk = stack.disk(Plain, num_blocks=8192, block_size=BLOCK)
    top = stack.open("Disk")
    zeroes = top.submit(Op.WRITE_ZEROES, 0, 8192, flags=fua)
    stack.settle()
    assert writes_of(disk)
    assert {int(held.flags[0]) & IoFlag.FUA for held in writes_of(disk)} == {fua}
    end(stack, disk, zeroes)
    assert zeroes.status == Status.SUCCESS


@pytest.mark.parametrize("fua", [0, IoFlag.FUA])
def test_an_emulated_copy_keeps_fua(stack, fua):
    disk = stack.disk(Plain, num_blocks=8192, block_size=BLOCK)
    top = stack.open("Disk")
    copy = top.submit(Op.COPY, 4096, 4, src_offset_blocks=0, flags=fua)
    stack.settle()
    assert not int(disk.held[0].flags[0]) & IoFlag.FUA  # the READ
    disk.complete()
    stack.settle()
    (write,) = writes_of(disk)
    assert int(write.flags[0]) & IoFlag.FUA == fua
    end(stack, disk, copy)


def test_a_copy_onto_its_own_place_makes_it_stable(stack):
    """Nothing changes, and what stands there may be in a cache."""
    disk = stack.disk(Plain, num_blocks=8192, block_size=BLOCK)
    top = stack.open("Disk")
    plain = top.submit(Op.COPY, 8, 600, src_offset_blocks=8)
    stack.settle()
    assert plain.done
    assert not disk.held
    copy = top.submit(Op.COPY, 8, 600, src_offset_blocks=8, flags=IoFlag.FUA)
    stable = set()
    while not copy.done:
        for held in writes_of(disk):
            assert int(held.flags[0]) & IoFlag.FUA
            first = int(held.offset_blocks[0])
            stable.update(range(first, first + int(held.num_blocks[0])))
        disk.complete()
        stack.settle()
    assert copy.status == Status.SUCCESS
    assert stable == set(range(8, 608))


class Narrow(Stub):
    """Takes a few blocks at once, of whatever it is."""

    kind = "narrow_stub"
    fua = True
    max_rw_size = max_write_zeroes = max_unmap = max_copy = 4


@pytest.mark.parametrize("fua", [0, IoFlag.FUA])
@pytest.mark.parametrize("op", [Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP, Op.COPY])
def test_pieces_keep_fua(stack, op, fua):
    disk = stack.disk(Narrow)
    top = stack.open("Disk")
    data = bytes(10 * BLOCK) if op == Op.WRITE else None
    request = top.submit(op, 4, 10, data, flags=fua, src_offset_blocks=100)
    stack.settle()
    assert [(held.ops[0], int(held.flags[0]) & IoFlag.FUA) for held in disk.held] == [(op, fua)] * 3
    end(stack, disk, request)
    assert request.status == Status.SUCCESS


@pytest.mark.parametrize("fua", [0, IoFlag.FUA])
@pytest.mark.parametrize("native", [False, True])
def test_the_write_of_a_compare_and_write_keeps_fua(stack, native, fua):
    """As a whole, or as what stands in for it; the comparison is none."""
    disk = stack.disk(Stub if native else Plain)
    top = stack.open("Disk")
    request = top.submit(
        Op.COMPARE_AND_WRITE, 4, 1, bytes(BLOCK), write_data=bytes(BLOCK), flags=fua
    )
    stack.settle()
    seen = []
    while not request.done:
        for held in disk.held:
            seen.append((Op(held.ops[0]), int(held.flags[0]) & IoFlag.FUA))
            for view in held.data(Op.READ):
                view[:] = bytes(len(view))
        disk.complete()
        stack.turn_until(lambda: disk.held or request.done)
    assert request.status == Status.SUCCESS
    assert seen == ([(Op.COMPARE_AND_WRITE, fua)] if native else [(Op.READ, 0), (Op.WRITE, fua)])


@pytest.mark.parametrize(("source", "target"), [(100, 0), (0, 100)])
def test_a_copy_onto_itself_goes_piece_by_piece(stack, source, target):
    disk = stack.disk(Plain, num_blocks=8192, block_size=BLOCK)
    top = stack.open("Disk")
    copy = top.submit(Op.COPY, target, 1024, src_offset_blocks=source)
    stack.settle()
    while not copy.done:
        assert len(disk.held) == 1
        disk.complete()
        stack.settle()
    reads = [offset for op, offset, _count in disk.arrived if op == Op.READ]
    assert len(reads) > 1
    assert reads == sorted(reads, reverse=source < target)


@pytest.mark.parametrize("fua", [0, IoFlag.FUA])
@pytest.mark.parametrize("op", [Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP])
@pytest.mark.parametrize("own", [False, True])
def test_a_child_of_a_coroutine_has_its_parents_flags_or_its_own(stack, op, fua, own):
    async def handle(_self, channel, io):
        if not own:
            return await io.child(channel.base)
        data = None if io.op != Op.WRITE else bytes(2 * BLOCK)
        return await io.child(channel.base, io.op, data=data, flags=fua)

    disk = stack.disk(Stub)
    stack.layer(layer(handle=handle))
    top = stack.open("Top")
    data = bytes(2 * BLOCK) if op == Op.WRITE else None
    request = top.submit(op, 4, 2, data, flags=0 if own else fua)
    stack.settle()
    (held,) = disk.held
    assert (held.ops[0], int(held.flags[0]) & IoFlag.FUA) == (op, fua)
    end(stack, disk, request)
    assert request.status == Status.SUCCESS
