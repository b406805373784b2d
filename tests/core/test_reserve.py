"""Children when the pool has no BdevIO left: each parent gets on with one, whoever it waits for."""

import pytest

from support.stack import stack
from vbdev.testing import Stub, layer
from vbdev.vocab import Op, Status


def test_resets_of_a_whole_stack_end_with_a_pool_that_they_fill():
    with stack(pool_size=4) as s:
        disk = s.disk(Stub)
        names = ["Disk"]
        for name in ("L1", "L2", "L3"):
            s.layer(name=name, base=names[-1])
            names.append(name)
        opens = [s.open(name, write=False) for name in names]
        # Each waits for the one below, which needs a child of its own.
        requests = [opened.submit(Op.RESET, 0, 0) for opened in reversed(opens)]
        assert s.engine.ios_in_use == 4
        for _ in range(20):
            s.settle()
            disk.complete()
        s.settle()
        assert [request.status for request in requests] == [Status.SUCCESS] * 4
        assert s.engine.reserve_in_use == 0


def test_split_ios_of_several_layers_end_with_a_pool_that_they_fill():
    with stack(pool_size=3) as s:
        disk = s.disk(Stub, num_blocks=64)
        disk.max_rw_size = 2
        s.layer(name="L1")
        opened = s.open("L1")
        disk.notify_blockcnt_change(65)  # which configures the channels anew
        data = [bytearray(8 * 512) for _ in range(3)]
        requests = [opened.submit(Op.READ, 8 * n, 8, data[n]) for n in range(3)]
        for _ in range(40):
            s.settle()
            disk.complete()
        s.settle()
        assert [request.status for request in requests] == [Status.SUCCESS] * 3
        assert s.engine.reserve_in_use == 0


async def by_a_child(_self, channel, io):
    return await io.child(channel.base)


@pytest.mark.parametrize("handle", [None, by_a_child])
def test_one_of_the_reserve_waits_for_no_memory_either(handle):
    """Whoever has all the memory may wait for the end of its parent."""
    with stack(pool_size=3, buffer_limit_bytes=8192) as s:
        disk = s.disk(Stub)
        disk.required_alignment = 12
        top = s.layer(layer(handle=handle))
        top.required_alignment = 0
        if handle is None:
            top.max_rw_size = 1
        below, opened = s.open("Disk", write=False), s.open("Top")
        for n in range(2):
            below.submit(Op.READ, n)
        data = memoryview(bytearray(3 * 512))[1:1025]
        request = opened.submit(Op.WRITE, 8, 2, data)
        s.settle()
        assert s.engine.reserve_in_use == 1
        assert [one.ops[0] for one in disk.held] == [Op.READ, Op.READ, Op.WRITE]
        while disk.held:
            disk.complete()
            s.settle()
        assert request.status == Status.SUCCESS
