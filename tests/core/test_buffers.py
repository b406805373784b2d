"""BufferPool: sizes, alignment, reuse, the limit, and what happens when slabs run out.

Method: a READ without a buffer makes the core take one for the stub below; the stub's views show
where it lies, and the pool's counters what was taken.
"""

import errno

import numpy as np
import pytest

from support.stack import Stub, stack
from vbdev.vocab import Op, Status

KIB = 1024
BLOCK = 4 * KIB


def held_views(disk):
    return [one.data()[0] for one in disk.held]


def address(view):
    return np.frombuffer(view, dtype=np.uint8).ctypes.data


@pytest.fixture
def rig():
    with stack(pool_size=6000, buffer_limit_bytes=2 << 30) as made:
        made.stub = made.disk(Stub, block_size=BLOCK, num_blocks=1 << 20)
        made.top = made.open("Disk")
        yield made
        made.stub.complete()
        made.settle()
        assert made.engine.buffers.live_buffers == 0
        assert made.engine.buffers.used_bytes == 0


@pytest.mark.parametrize(
    ("blocks", "used_kib"), [(1, 4), (2, 8), (3, 16), (5, 32), (64, 256), (65, 512), (16384, 65536)]
)
def test_a_buffer_is_the_next_power_of_two(rig, blocks, used_kib):
    rig.top.submit(Op.READ, 0, blocks)
    pool = rig.engine.buffers
    assert (pool.live_buffers, pool.used_bytes) == (1, used_kib * KIB)
    (view,) = held_views(rig.stub)
    assert len(view) == blocks * BLOCK
    assert address(view) % BLOCK == 0


def test_buffers_do_not_overlap(rig):
    sizes = [1, 3, 17, 64, 65, 200, 1, 2] * 8
    for blocks in sizes:
        rig.top.submit(Op.READ, 0, blocks)
    for number, view in enumerate(held_views(rig.stub)):
        np.frombuffer(view, dtype=np.uint8)[:] = number
    for number, view in enumerate(held_views(rig.stub)):
        assert (np.frombuffer(view, dtype=np.uint8) == number).all()


def test_what_is_given_back_is_used_again(rig):
    places = []
    for _ in range(3):
        for blocks in (1, 64, 128):
            rig.top.submit(Op.READ, 0, blocks)
        places.append([address(view) for view in held_views(rig.stub)])
        rig.stub.complete(reversed(range(3)))
        rig.settle()
    assert places[0] == places[1] == places[2]
    assert rig.engine.buffers.num_slabs == 2
    assert rig.engine.buffers.cached_large_bytes == 512 * KIB


def test_few_large_ones_are_kept(rig):
    for _ in range(4):
        rig.top.submit(Op.READ, 0, 32 * KIB * KIB // BLOCK)
    rig.stub.complete()
    rig.settle()
    assert rig.engine.buffers.cached_large_bytes == 64 << 20


def test_larger_than_any_buffer_is_refused_at_once(rig):
    request = rig.top.io(Op.READ, 0, 16385)
    assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
    assert rig.engine.waiting == 0


def test_small_buffers_outlive_the_slabs(rig):
    """All 512 slabs cut into one size: other sizes are mapped one by one, and none waits."""
    for _ in range(512 * 8):
        rig.top.submit(Op.READ, 0, 64)
    assert rig.engine.buffers.num_slabs == 512
    for blocks in (32, 1, 64):
        rig.top.submit(Op.READ, 0, blocks)
    assert rig.engine.waiting == 0
    assert len(rig.stub.held) == 512 * 8 + 3
    assert address(held_views(rig.stub)[-2]) % BLOCK == 0


def test_the_limit_counts_whole_buffers():
    with stack(buffer_limit_bytes=24 * KIB) as made:
        disk = made.disk(Stub, block_size=BLOCK)
        top = made.open("Disk")
        for blocks in (3, 2, 1):
            top.submit(Op.READ, 0, blocks)
        assert (len(disk.held), made.engine.waiting) == (2, 1)
        assert made.engine.buffers.used_bytes == 24 * KIB
        # 20 KiB need a buffer of 32 KiB, which there will never be.
        request = top.io(Op.READ, 0, 5)
        assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
        disk.complete()
        made.settle()
        disk.complete()


def test_the_pool_counts_where_buffers_came_from():
    with stack(buffer_limit_bytes=256 * KIB) as made:
        stub = made.disk(Stub, block_size=BLOCK, num_blocks=1 << 20)
        top = made.open("Disk")
        pool = made.engine.buffers
        for blocks in (1, 2, 1):
            top.submit(Op.READ, 0, blocks)
        assert pool.counts(0, 8 * KIB) == (0, 3, 0)
        assert pool.counts(0, 4 * KIB) == (0, 2, 0)
        assert pool.counts(4 * KIB, 1 << 63) == (0, 1, 0)
        stub.complete()
        made.settle()
        top.submit(Op.READ, 0, 1)
        assert pool.counts(0, 8 * KIB) == (1, 3, 0)
        top.submit(Op.READ, 0, 64)  # 256 KiB beside the 4 that are out
        assert pool.counts(8 * KIB, 1 << 63) == (0, 0, 1)
        stub.complete()
        made.settle()
        assert pool.counts(8 * KIB, 1 << 63)[1] == 1
        stub.complete()
        made.settle()
