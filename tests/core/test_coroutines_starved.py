"""Children of coroutines when there is no BdevIO for them: they wait, and for no longer than that.

Method: pools of a few BdevIOs. A Stub below holds what got one.
"""

import contextlib
import gc

from support.stack import Stub, describe, layer, stack
from vbdev.core.coroutine.runner import ChildIO
from vbdev.reactor.task import Future
from vbdev.vocab import Op, Status


def fan_out(number):
    """Return a `handle` that makes so many children of an I/O, at block 100 times its own."""

    async def handle(_self, channel, io):
        children = [
            io.child(channel.base, Op.READ, 100 * io.offset_blocks + n, data=bytearray(512))
            for n in range(number)
        ]
        for child in children:
            await child

    return handle


def read(opened, n=0, **more):
    return opened.submit(Op.READ, n, 1, bytearray(512), **more)


def held(disk):
    return [describe(one)[0][1] for one in disk.held]


@contextlib.contextmanager
def built(handle, pool_size):
    """Return a rig with a Stub `Disk` below a layer `Top` with this `handle`."""
    with stack(pool_size=pool_size) as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        yield rig, disk
        finish(rig, disk)


def finish(rig, disk, status=Status.SUCCESS):
    while disk.held:
        disk.complete(status=status)
        rig.settle()


def test_who_has_all_children_under_way_is_in_nobodys_way():
    """Once none waits any more, whoever comes next gets the BdevIO that is free: at once."""
    with built(fan_out(5), 5) as (rig, disk):
        top, below = rig.open("Top"), rig.open("Disk", write=False)
        got = []
        read(below, 7, callback=lambda _request: got.append(read(below, 8)))
        read(top)
        rig.settle()
        assert held(disk) == [7, 0, 1, 2]  # the other two wait
        disk.complete([1, 2])
        rig.settle()
        assert held(disk) == [7, 2, 3, 4]
        disk.complete([1, 0])
        rig.settle()
        assert got[0] is not None
        assert held(disk) == [3, 4, 8]


def test_neither_is_who_got_the_last_one_from_others():
    with built(fan_out(4), 5) as (rig, disk):
        top, below = rig.open("Top"), rig.open("Disk", write=False)
        read(below, 7)
        whole = read(top)
        rig.settle()
        assert held(disk) == [7, 0, 1, 2]
        disk.complete([0])  # whose BdevIO the fourth child gets
        rig.settle()
        assert held(disk) == [0, 1, 2, 3]
        disk.complete([0])
        rig.settle()
        assert read(below, 8) is not None
        finish(rig, disk)
        assert whole.status == Status.SUCCESS


def test_each_bdevio_that_becomes_free_goes_to_one_that_waits():
    """Nothing of the coroutine's own ends meanwhile: it has to ask each time."""
    with built(fan_out(4), 5) as (rig, disk):
        below, top = rig.open("Disk", write=False), rig.open("Top")
        for n in range(3):
            read(below, 7 + n)
        read(top)
        rig.settle()
        assert held(disk) == [7, 8, 9, 0]
        for n in range(3):
            disk.complete([0])
            rig.settle()
            assert held(disk)[-1] == n + 1


def test_children_that_wait_come_in_the_order_of_asking():
    """One that is made when a BdevIO is free already waits behind those that were there before."""
    go_on = Future()

    async def handle(_self, channel, io):
        children = [io.child(channel.base, offset_blocks=100 * io.offset_blocks)]
        if io.offset_blocks == 2:
            await go_on
        children += [
            io.child(channel.base, offset_blocks=100 * io.offset_blocks + n) for n in range(1, 4)
        ]
        for child in children:
            await child

    with built(handle, 7) as (rig, disk):
        top, below = rig.open("Top"), rig.open("Disk", write=False)
        read(below, 7, callback=lambda _request: go_on.set_result(None))
        requests = [read(top, n) for n in (2, 1)]
        rig.settle()
        assert held(disk) == [7, 200, 100, 101, 102]  # 103 waits
        disk.complete([0])
        rig.settle()
        assert held(disk) == [200, 100, 101, 102, 103]
        seen = held(disk)
        while disk.held:
            disk.complete([0])
            rig.settle()
            seen += [offset for offset in held(disk) if offset not in seen]
        assert seen == [200, 100, 101, 102, 103, 201, 202, 203]
        assert {request.status for request in requests} == {Status.SUCCESS}


def test_an_abort_ends_children_that_wait():
    """It was on its way before they took all that there was."""
    kept, go_on = [], Future()

    def keep_aborts(_self, channel, ios):
        aborts = ios.take(Op.ABORT)
        if len(aborts):
            kept.append((channel.base, aborts))
        channel.base.submit(ios)

    async def handle(_self, channel, io):
        await go_on
        for child in [io.child(channel.base, offset_blocks=n) for n in range(4)]:
            await child

    with built(handle, 4) as (rig, disk):
        rig.layer(layer(keep_aborts, kind="keep"), name="Upper", base="Top")
        upper = rig.open("Upper")
        victim = read(upper)
        abort = upper.submit(Op.ABORT, 0, 0, victim=victim)
        rig.settle()
        ((base, aborts),) = kept
        go_on.set_result(None)
        rig.settle()
        assert held(disk) == [0, 1]
        base.submit(aborts)
        rig.settle()
        finish(rig, disk, Status.ABORTED)
        assert (victim.status, abort.status) == (Status.ABORTED, Status.SUCCESS)
        assert {offset for op, offset, _ in disk.arrived if op == Op.READ} == {0, 1}
        assert read(upper) is not None  # nobody waits for a BdevIO any more
        rig.settle()


def test_a_coroutine_that_goes_on_for_long_keeps_none_of_the_children_that_ended():
    alive = []

    def count():
        gc.collect()
        alive.append(sum(isinstance(one, ChildIO) for one in gc.get_objects()))

    async def handle(_self, channel, io):
        count()
        for n in range(300):
            await io.child(channel.base, offset_blocks=n)
        count()

    with built(handle, 4) as (rig, disk):
        request = read(rig.open("Top"))
        finish(rig, disk)
        assert request.status == Status.SUCCESS
        assert alive[1] - alive[0] < 3
