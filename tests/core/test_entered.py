"""What a question about one channel costs is what that channel has under way."""

import time

import pytest

from vbdev.testing import Stub, layer, stack
from vbdev.vocab import Op

EVERYTHING = (0, 1024, True)


@pytest.fixture
def rig():
    with stack(pool_size=20000) as made:
        made.stub = made.disk(Stub)
        made.other = made.disk(Stub, name="Other")
        made.top = made.open("Disk")
        made.aside = made.open("Other")
        yield made


def read(opened, n=0):
    return opened.submit(Op.READ, n, 1, bytearray(512))


def nobody():
    raise AssertionError("nobody waits")


def asked(opened, offset=0, count=1024):
    return opened.channel.outstanding_in(offset, count, True, nobody)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_what_is_under_way_is_known_exactly(rig, before):
    """That which was there before anybody asked, that which came since, and not what has left."""
    for n in range(before):
        read(rig.top, n)
    assert asked(rig.top) == before
    for n in range(before, before + 7):
        read(rig.top, n)
    assert asked(rig.top) == before + 7
    assert asked(rig.top, before, 2) == 2
    rig.stub.complete(range(0, before + 7, 2))
    rig.settle()
    assert asked(rig.top) == (before + 7) // 2
    rig.stub.complete()
    rig.settle()
    assert asked(rig.top) == 0


def test_bdev_ios_that_are_used_again_elsewhere_are_not_counted(rig):
    assert asked(rig.top) == 0
    for n in range(10):
        read(rig.top, n)
    assert asked(rig.top) == 10
    rig.stub.complete()
    rig.settle()
    for n in range(10):
        read(rig.aside, n)
    assert (asked(rig.top), asked(rig.aside)) == (0, 10)
    read(rig.top)
    assert asked(rig.top) == 1
    rig.stub.complete()
    rig.other.complete()


def test_one_that_is_sent_again_is_one():
    """And the list of a channel does not grow with how often."""
    sent = []

    def completed(_self, channel, ios):
        sent.append(1)
        if len(sent) < 500:
            channel.base.submit(ios)

    with stack() as rig:
        stub = rig.disk(Stub)
        rig.layer(layer(completed=completed))
        top = rig.open("Top")
        base = top.channel.base
        request = read(top)
        for _ in range(499):
            assert base.outstanding_in(*EVERYTHING, nobody) == 1
            stub.complete()
            rig.settle()
        stub.complete()
        rig.settle()
        assert request.done
        assert base.outstanding_in(*EVERYTHING, nobody) == 0


def test_a_channel_that_nobody_asks_stops_noting_and_still_knows(rig):
    assert asked(rig.top) == 0
    held = read(rig.top, 5)
    for _ in range(10):
        for n in range(1000):
            read(rig.top, n % 1024)
        rig.stub.complete(range(1, 1001))
        rig.settle()
    assert not held.done
    assert (asked(rig.top), asked(rig.top, 5, 1), asked(rig.top, 6, 1)) == (1, 1, 0)
    rig.stub.complete()


def test_overdue_ios_are_found_among_others(rig):
    for n in range(3):
        read(rig.aside, n)
    for n in range(3):
        read(rig.top, n)
        rig.pass_time(1000)
    assert [o[1] for o in rig.top.channel.overdue(2_000_000)] == [0, 1]
    read(rig.top, 9)
    assert [o[1] for o in rig.top.channel.overdue(0)] == [0, 1, 2, 9]
    rig.stub.complete([0])
    rig.settle()
    assert [o[1] for o in rig.top.channel.overdue(0)] == [1, 2, 9]
    rig.stub.complete()
    rig.other.complete()


def test_a_question_costs_what_the_channel_has(rig):
    """With 15,000 I/Os of another bdev under way, and when they have ended: no pool is searched."""

    def cost():
        began = time.process_time()
        for _ in range(2000):
            asked(rig.top)
        return time.process_time() - began

    read(rig.top)
    asked(rig.top)
    before = min(cost() for _ in range(3))
    for _ in range(15000):
        rig.aside.submit(Op.FLUSH, 0, 0)
    during = min(cost() for _ in range(3))
    rig.other.complete()
    rig.settle()
    after = min(cost() for _ in range(3))
    assert max(during, after) < 20 * before  # a search is 200 times as much
    rig.stub.complete()


def test_who_waits_is_called_once_when_one_of_them_has_left(rig):
    told = []

    def tell():
        told.append(rig.top.channel.in_module)

    def fail():
        raise ValueError("not the engine's fault")

    for n in range(4):
        read(rig.top, n)
    read(rig.aside)
    for callback in (tell, tell, fail):
        rig.top.channel.call_when_left(callback)
    read(rig.top, 4)  # nobody waits for it
    for wanted, which in (([], [4]), ([2], [0, 1]), ([2], [0])):
        rig.stub.complete(which)
        rig.settle()
        assert told == wanted
    assert [str(error) for _, error, _ in rig.errors] == ["not the engine's fault"]
    rig.errors.clear()
    rig.top.channel.call_when_left(tell)
    rig.other.complete()
    rig.settle()
    assert told == [2]
    rig.stub.complete()
    rig.settle()
    assert told == [2, 0]


def test_who_waits_for_blocks_is_called_for_these_alone(rig):
    told = []
    for n in range(4):
        read(rig.top, n)
    assert rig.top.channel.outstanding_in(1, 2, True, lambda: told.append(True)) == 2
    rig.stub.complete([0, 3])
    rig.settle()
    assert told == []
    rig.stub.complete([1])
    rig.settle()
    assert told == [True]
    assert rig.top.channel.outstanding_in(0, 1, True, nobody) == 0
    rig.stub.complete()
    rig.settle()
    assert told == [True]
