"""I/O of no blocks: it ends, by callback, and touches nothing."""

import pytest

from support.stack import Stack
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.uring import Uring
from vbdev.vocab import Op, Status


@pytest.fixture(params=["malloc", "null", "uring", "passthru"])
def top(request, tmp_path):
    stack = Stack(real_clock=request.param == "uring")
    if request.param == "uring":
        (tmp_path / "disk").write_bytes(bytes(1 << 20))
        stack.create(Uring, name="Disk", filename=str(tmp_path / "disk"), block_size=512)
    else:
        stack.disk(Null if request.param == "null" else Malloc)
    if request.param == "passthru":
        stack.layer()
    yield stack.open("Top" if request.param == "passthru" else "Disk")
    stack.close()


@pytest.mark.rule("A.9.3", "A.9.31", "A.9.17")
@pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.UNMAP, Op.WRITE_ZEROES, Op.COPY])
@pytest.mark.parametrize("offset", [0, 7, "end"])
def test_no_blocks(top, op, offset):
    bdev = top.descriptor.bdev
    if not bdev.can(op):
        pytest.skip(f"{bdev.kind} has no {op.name}")
    at = bdev.num_blocks if offset == "end" else offset
    data = bytearray() if op in (Op.READ, Op.WRITE) else None
    ended = []
    request = top.submit(op, at, 0, data, callback=ended.append)
    assert ended == []
    top.stack.turn_until(lambda: ended)
    assert ended == [request]
    assert request.status == Status.SUCCESS


@pytest.mark.rule("A.9.17")
def test_a_copy_onto_itself(top):
    data = bytes(range(256)) * 4
    assert top.io(Op.WRITE, 4, 2, data).status == Status.SUCCESS
    assert top.io(Op.COPY, 4, 2, src_offset_blocks=4).status == Status.SUCCESS
    got = bytearray(1024)
    assert top.io(Op.READ, 4, 2, got).status == Status.SUCCESS
    assert got in (data, bytes(1024))  # null forgets
