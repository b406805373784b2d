"""Sizes are read behind foreign code that may change them; what it says of time is bounded."""

import time

import numpy as np
import pytest

from vbdev.core.engine.batch import IOBatch
from vbdev.reactor.reactor import Reactor
from vbdev.testing import Stub, layer, stack
from vbdev.vocab import Op, Status


class Mask:
    """A mask whose making runs a function; `answer` is the mask then."""

    def __init__(self, run, answer):
        self.run = run
        self.answer = answer

    def __array__(self, *_args, **_kwargs):
        self.run()
        return np.array(self.answer(), dtype=bool)


@pytest.mark.parametrize("more", [1, 31, 300])
def test_a_mask_that_adds_to_the_batch(more):
    """The batch is looked at as it is when the mask is there: room for all of it is made."""
    held, taken = IOBatch(), []

    def submit(_self, channel, ios):
        if len(held) < more:
            held.extend(ios)
            return
        out = ios.take(Mask(lambda: ios.extend(held), lambda: [True] * len(ios)))
        taken.append((len(out), len(ios)))
        channel.base.submit(out)

    with stack() as rig:
        rig.disk()
        rig.layer(layer(submit))
        top = rig.open("Top")
        reads = [top.submit(Op.READ, 0, 1, bytearray(512)) for _ in range(more + 1)]
        rig.settle()
        assert taken == [(more + 1, 0)]
        assert [r.status for r in reads] == [Status.SUCCESS] * (more + 1)


def test_a_mask_that_takes_from_the_batch_is_refused():
    def submit(_self, channel, ios):
        kept = []
        with pytest.raises(ValueError, match="a mask of 1 for 0 I/Os"):
            ios.take(Mask(lambda: kept.append(ios.take()), lambda: [True]))
        channel.base.submit(kept[0])

    with stack() as rig:
        rig.disk()
        rig.layer(layer(submit))
        assert rig.open("Top").io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS


def test_victims_are_not_looked_for_among_the_aborts_themselves():
    def submit(_self, channel, ios):
        with pytest.raises(ValueError, match="for itself"):
            ios.take_victims(ios)
        channel.base.submit(ios)

    with stack() as rig:
        rig.disk()
        rig.layer(layer(submit))
        assert rig.open("Top").io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS


def test_memory_domains_that_change_their_number_are_counted_once():
    """There is room for 8 in a channel."""

    class Growing(list):
        def __len__(self):
            return 1

    with stack() as rig:
        disk = rig.disk(Stub)
        disk.memory_domains = Growing(range(100))
        with pytest.raises(ValueError, match="100 memory domains; 8 at most"):
            rig.open("Disk")


@pytest.mark.parametrize(
    "delay_us", [1e16, 1e300, 10**30, float("inf"), float("nan"), 2**63, 2**64 / 1000, 2**51 + 1]
)
def test_a_timer_beyond_all_time(delay_us):
    """It is refused where it is asked for, and the loop goes on."""
    reactor, ran = Reactor(), []
    with pytest.raises(ValueError, match=r"a delay of .* us for .*; 2251799813685248 us at most"):
        reactor.call_later(delay_us, lambda: ran.append("far"))
    with pytest.raises(ValueError, match="a delay of"):
        reactor.sleep(delay_us)
    assert reactor.deadline_ns is None
    far = reactor.call_later(2**51, lambda: ran.append("far"))
    reactor.call_later(0, lambda: ran.append("near"))
    for _ in range(3):
        reactor._loop.turn(False)
    reactor.call_later(1000, lambda: ran.append("soon"))
    while len(ran) < 2:
        reactor._loop.turn(True)
    assert ran == ["near", "soon"]
    far.cancel()
    reactor.close()


@pytest.mark.parametrize("delay_us", [-1, -1e300, float("-inf"), -(10**30)])
def test_a_timer_for_what_has_passed_comes_at_once(delay_us):
    reactor, ran = Reactor(), []
    reactor.call_later(delay_us, lambda: ran.append(1))
    reactor.poll()
    assert ran == [1]
    reactor.close()


@pytest.mark.parametrize("period_us", [float("nan"), -1, float("-inf")])
def test_what_is_no_time(period_us):
    reactor = Reactor()
    with pytest.raises(ValueError, match="a period of"):
        reactor.register_poller(lambda: 0, period_us, "late")
    assert reactor.pollers == []
    assert reactor.deadline_ns is None
    reactor.close()


def test_a_poller_of_any_period():
    reactor = Reactor()
    poller = reactor.register_poller(lambda: 1, 2**63)
    assert reactor.poll() == 0
    poller.unregister()
    reactor.close()


@pytest.mark.parametrize("real_clock", [False, True])
@pytest.mark.parametrize("coroutine", [False, True])
def test_who_only_called_one_that_blocks_is_never_blamed(real_clock, coroutine):
    """The coarse clock of a call may have seen less than what was called took by the fine one."""
    told, seen = [], []

    def blocks(_self, channel, ios):
        time.sleep(0.11)
        channel.base.submit(ios)

    async def handle(_self, channel, io):
        for _ in range(3):
            await io.child(channel.base, Op.READ, 0, 1, bytearray(512))

    def completed(_self, channel, ios):
        seen.append(1)
        if len(seen) < 4:
            channel.base.submit(ios)

    with stack(real_clock=real_clock) as rig:
        rig.engine.on_slow_module = lambda channel, ns: told.append((channel.bdev.name, ns))
        rig.disk()
        rig.layer(layer(blocks), name="Slow", base="Disk")
        rig.layer(layer(handle=handle) if coroutine else layer(completed=completed), base="Slow")
        rig.open("Top").io(Op.READ, 0, 1, bytearray(512))
    assert {name for name, _ in told} == {"Slow"}
    assert all(10**8 <= ns < 10**10 for _, ns in told)
