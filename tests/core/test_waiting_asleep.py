"""A reactor that may sleep: what waits in a queue goes on as soon as there is room for it."""

import pytest

from support.stack import Stub, layer, stack
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import Op, Status

BLOCK = 512
LATE_US = 2_000_000


async def handle(_self, _channel, io):
    await io.copy_data()
    await io.forward()


def submit(_self, channel, ios):
    ios.copy_data()
    channel.base.submit(ios)


class Disk(Stub):
    """Stops the reactor when the second I/O has come. With `rooms`, takes no more at once."""

    rooms = 2

    def submit(self, channel, ios):
        if len(self.held) + len(ios) > self.rooms:
            ios.complete(Status.NOMEM)
            return
        super().submit(channel, ios)
        if len(self.arrived) == 2:
            Reactor.current().stop()


class OneBlock(Stub):
    max_rw_size = 1


class Narrow(Disk):
    rooms = 1


@pytest.mark.parametrize(
    ("disk", "how"),
    [(Disk, {"handle": handle}), (Disk, {"submit": submit}), (Narrow, {})],
    ids=["coroutine", "copy", "no room"],
)
def test_what_the_end_of_a_turn_makes_room_for(disk, how):
    """Nothing else happens on that reactor: no message, no timer, no descriptor."""
    with stack(real_clock=True, buffer_limit_bytes=8192) as rig:
        below = rig.disk(disk)
        rig.layer(layer(**how))
        top = rig.open("Top")
        writes = [top.submit(Op.WRITE, n * 16, 16, bytes(16 * BLOCK)) for n in range(2)]
        rig.settle()
        assert len(below.held) == 1
        rig.reactor.call_later(1000, below.complete)
        alarm = rig.reactor.call_later(LATE_US, rig.reactor.stop)
        rig.reactor.run()
        assert rig.reactor.clock.now_ns() < alarm.when_ns  # which would have woken it
        alarm.cancel()
        below.complete()
        rig.settle()
        assert {w.status for w in writes} == {Status.SUCCESS}


def test_whoever_waits_for_a_bdevio():
    with stack(real_clock=True, pool_size=1) as rig:
        below = rig.disk(Stub)
        rig.layer(layer())
        top = rig.open("Top")
        assert top.submit(Op.FLUSH, 0, 0) is not None
        assert top.submit(Op.FLUSH, 0, 0) is None
        rig.engine.io_wait(rig.reactor.stop)
        rig.settle()
        rig.reactor.call_later(1000, below.complete)
        alarm = rig.reactor.call_later(LATE_US, rig.reactor.stop)
        rig.reactor.run()
        assert rig.reactor.clock.now_ns() < alarm.when_ns  # which would have woken it
        alarm.cancel()


def test_children_for_which_there_is_no_bdevio_keep_no_reactor_awake():
    parents = 2300  # the reserve has 2048 first children
    with stack(real_clock=True, pool_size=parents) as rig:
        below = rig.disk(OneBlock)
        top = rig.open("Disk")
        data = bytearray(2 * BLOCK)
        reads = [top.submit(Op.READ, 0, 2, data) for _ in range(parents)]
        rig.settle()
        assert len(below.held) < parents
        before = rig.reactor.idle_turns
        rig.reactor.call_later(20_000, rig.reactor.stop)
        rig.reactor.run()
        assert rig.reactor.idle_turns - before < 20
        while below.held:
            below.complete()
            rig.settle()
        assert {read.status for read in reads} == {Status.SUCCESS}
