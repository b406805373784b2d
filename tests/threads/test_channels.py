"""Channels of several reactors, turned by hand: who has one, who is visited, who may close what."""

import errno

import pytest

from vbdev.bdev import Bdev, BdevError, BdevEvent
from vbdev.bdev.channels import for_each_channel
from vbdev.bdev.entry import entry_of
from vbdev.reactor.reactor import Reactor
from vbdev.testing import Stub, layer
from vbdev.vocab import Op, Status


class Noting(Stub):
    """Notes where channels are made and destroyed; fails where it is told to."""

    kind = "noting"

    async def start(self):
        await super().start()
        self.noted = []
        self.failing = set()

    def create_channel(self, _channel):
        here = Reactor.current().id
        if here in self.failing:
            raise BdevError(errno.EIO, f"no channel on {here}")
        self.noted.append(("create", here))
        return here

    def destroy_channel(self, channel):
        assert channel.context == Reactor.current().id
        self.noted.append(("destroy", Reactor.current().id))

    async def stop(self):
        self.noted.append(("stop", Reactor.current().id))


def visits(hand, bdev, status=lambda _channel: 0):
    """Walk over all channels; return the status and the reactors that were visited."""
    seen = []

    def visit(channel):
        seen.append(Reactor.current().id)
        return status(channel)

    return hand.run(for_each_channel(bdev, visit)), seen


# Getting and putting


@pytest.mark.rule("A.0.1", "A.0.3", "E.thread_ut.channel", "E.bdev_mt.basic")
def test_one_channel_for_each_reactor_counted(hand):
    bdev = hand.disk(Noting)
    descriptor = hand.open("Disk")
    one, two, _ = hand.reactors
    first = hand.channel(descriptor, two)
    assert hand.channel(descriptor, two) is first
    other = hand.channel(descriptor, one)
    assert other is not first
    assert (other.engine, first.engine) == (one.engine, two.engine)
    assert bdev.noted == [("create", 2), ("create", 1)]
    hand.on(two, descriptor.put_channel, first)
    hand.settle()
    assert not first.closed
    hand.on(two, descriptor.put_channel, first)
    assert not first.closed  # by a message, not in this call
    hand.settle()
    assert first.closed
    assert bdev.noted[2:] == [("destroy", 2)]
    hand.close(descriptor)
    assert bdev.noted[3:] == [("destroy", 1)]


@pytest.mark.rule("A.8.16", "E.thread_ut.channel_destroy_races")
def test_a_channel_asked_for_again_before_it_is_destroyed_lives(hand):
    bdev = hand.disk(Noting)
    descriptor = hand.open("Disk")
    two = hand.reactors[1]
    first = hand.channel(descriptor, two)
    hand.on(two, descriptor.put_channel, first)
    assert hand.channel(descriptor, two) is first
    hand.settle()
    assert not first.closed
    # Put, got and put before the first message has come: it is closed once.
    hand.on(two, descriptor.put_channel, first)
    hand.channel(descriptor, two)
    hand.on(two, descriptor.put_channel, first)
    hand.settle()
    assert first.closed
    assert bdev.noted == [("create", 2), ("destroy", 2)]
    hand.close(descriptor)


def test_putting_what_was_not_got_is_refused(hand):
    hand.disk()
    descriptor = hand.open("Disk")
    _, two, three = hand.reactors
    channel = hand.channel(descriptor, two)
    with pytest.raises(BdevError, match="did not get on reactor_2") as raised:
        hand.on(three, descriptor.put_channel, channel)
    assert raised.value.errno == errno.EINVAL
    hand.on(two, descriptor.put_channel, channel)
    with pytest.raises(BdevError):
        hand.on(two, descriptor.put_channel, channel)
    hand.settle()
    hand.close(descriptor)


@pytest.mark.rule("E.thread_ut.nested_channel")
def test_a_layers_channel_holds_its_bases_on_the_same_reactor(hand):
    base = hand.disk(Noting)
    top = hand.layer()
    _, two, three = hand.reactors
    descriptor, again = hand.open("Top"), hand.open("Top", write=False)
    channels = [hand.channel(d, r) for d in (descriptor, again) for r in (two, three)]
    assert base.noted == [("create", 2), ("create", 3)]
    assert channels[0].base is channels[2].base
    assert channels[0].base.engine is two.engine
    hand.on(two, descriptor.put_channel, channels[0])
    hand.settle()
    assert base.noted == [("create", 2), ("create", 3)]
    hand.on(two, again.put_channel, channels[2])
    hand.settle()
    assert base.noted[2:] == [("destroy", 2)]
    hand.close(descriptor)
    hand.close(again)
    hand.settle()
    assert base.noted[3:] == [("destroy", 3)]
    assert list(top.base_descriptor.channels) == []


@pytest.mark.rule("A.8.15", "E.thread_ut.channel_create_cb_failed")
def test_a_channel_that_can_not_be_made_leaves_nothing(hand):
    base = hand.disk(Noting)
    hand.layer()
    two = hand.reactors[1]
    base.failing = {2}
    descriptor = hand.open("Top")
    with pytest.raises(BdevError, match="no channel on 2"):
        hand.channel(descriptor, two)
    assert descriptor.channels == {}
    assert visits(hand, base) == (0, [])
    base.failing = set()
    hand.channel(descriptor, two)
    assert base.noted == [("create", 2)]
    hand.close(descriptor)


def test_a_layers_channel_that_can_not_be_made_gives_the_bases_back(hand):
    base = hand.disk(Noting)

    def fail(_self, _channel):
        raise BdevError(errno.EIO, "not here")

    hand.layer(layer(create_channel=fail))
    descriptor = hand.open("Top")
    with pytest.raises(BdevError, match="not here"):
        hand.channel(descriptor, hand.reactors[2])
    hand.settle()
    assert base.noted == [("create", 3), ("destroy", 3)]
    hand.close(descriptor)


@pytest.mark.rule("A.8.13")
def test_a_descriptor_that_closes_gives_no_new_channel(hand):
    hand.disk()
    descriptor = hand.open("Disk")
    one, two, three = hand.reactors
    hand.channel(descriptor, two)
    future = hand.on(one, descriptor.close)
    assert not future.done
    with pytest.raises(BdevError) as raised:
        hand.channel(descriptor, three)
    assert raised.value.errno == errno.EBADF
    hand.settle()
    assert future.done


# Opening and closing


@pytest.mark.rule("A.2.2", "A.0.4")
def test_opening_belongs_to_the_registrys_reactor(hand):
    hand.disk()
    two = hand.reactors[1]
    with pytest.raises(BdevError, match="opened on reactor_0") as raised:
        hand.on(two, lambda: hand.registry.open("Disk", write=True, on_event=print, holder="test"))
    assert raised.value.errno == errno.ENOTSUP


@pytest.mark.rule("A.2.13")
def test_a_descriptor_closes_where_it_was_opened(hand):
    hand.disk()
    one, two, three = hand.reactors
    for owner, stranger in ((one, two), (two, three), (two, one)):
        descriptor = hand.open("Disk", reactor=owner)
        with pytest.raises(BdevError, match=f"on {owner.name} and can not close it") as raised:
            hand.on(stranger, descriptor.close)
        assert raised.value.errno == errno.EPERM
        assert not descriptor.closed
        hand.close(descriptor)
        assert descriptor.closed
    assert hand.registry.get("Disk").holders() == []


@pytest.mark.rule("A.7.6", "A.2.16", "A.8.14")
def test_the_end_waits_for_the_channels_of_all_reactors(hand):
    bdev = hand.disk(Noting)
    one, two, three = hand.reactors
    descriptor = hand.open("Disk")
    for reactor in (one, two, three):
        hand.channel(descriptor, reactor)
    removal = one.spawn(hand.registry.unregister(bdev))
    hand.settle()
    assert not removal.done
    future = hand.on(one, descriptor.close)
    assert not future.done
    hand.settle()
    assert future.done
    assert removal.done
    assert bdev.noted[3:] == [("destroy", 2), ("destroy", 3), ("destroy", 1), ("stop", 1)]


@pytest.mark.rule("A.2.17")
def test_io_on_another_reactor_keeps_a_descriptor_open(hand):
    """Nothing is closed by halves, and it can be closed later."""
    bdev = hand.disk(Noting)
    one, two, three = hand.reactors
    descriptor = hand.open("Disk")
    hand.channel(descriptor, three)
    request = hand.on(two, lambda: descriptor.submit(Op.FLUSH, 0, 1, callback=lambda _: None))
    future = hand.on(one, descriptor.close)
    future.add_done_callback(lambda _: None)
    hand.settle()
    with pytest.raises(BdevError, match="1 I/Os are outstanding") as raised:
        future.result()
    assert raised.value.errno == errno.EBUSY
    assert not descriptor.closed
    assert [what for what, _ in bdev.noted] == ["create", "create"]
    bdev.complete()
    hand.settle()
    assert request.status == Status.SUCCESS
    hand.close(descriptor)
    assert bdev.noted[2:] == [("destroy", 3), ("destroy", 2)]


def test_closing_twice_is_closing_once(hand):
    hand.disk()
    one, two, _ = hand.reactors
    descriptor = hand.open("Disk")
    hand.channel(descriptor, two)
    first = hand.on(one, descriptor.close)
    assert hand.on(one, descriptor.close) is first
    hand.settle()
    assert first.done
    assert hand.on(one, descriptor.close) is first


def test_a_hook_that_raises_elsewhere_is_told_and_closes_all_the_same(hand):
    def fail(_self, _channel):
        raise ValueError("no")

    hand.disk()
    hand.layer(layer(destroy_channel=fail))
    one, two, three = hand.reactors
    descriptor = hand.open("Top")
    hand.channel(descriptor, two)
    hand.channel(descriptor, three)
    future = hand.on(one, descriptor.close)
    future.add_done_callback(lambda _: None)
    hand.settle()
    with pytest.raises(ValueError, match="no"):
        future.result()
    assert descriptor.channels == {}
    assert hand.registry.get("Top").holders() == []


@pytest.mark.rule("E.bdev_mt.unregister_and_close")
def test_unregister_ends_when_the_descriptor_is_closed(hand):
    bdev = hand.disk()
    events = []
    descriptor = hand.open("Disk", on_event=events.append)
    removal = hand.reactors[0].spawn(hand.registry.unregister(bdev))
    hand.settle()
    assert events == [BdevEvent.REMOVE]
    assert not removal.done
    hand.close(descriptor)
    assert removal.done
    assert hand.registry.find("Disk") is None


@pytest.mark.rule("E.bdev_mt.unregister_and_close_different_threads", "A.2.18")
def test_unregister_and_a_descriptor_of_another_reactor(hand):
    bdev = hand.disk()
    one, two, three = hand.reactors
    events = []
    descriptor = hand.open(
        "Disk", reactor=two, on_event=lambda e: events.append((e, Reactor.current()))
    )
    hand.channel(descriptor, two)
    hand.channel(descriptor, three)
    removal = one.spawn(hand.registry.unregister(bdev))
    hand.settle()
    assert events == [(BdevEvent.REMOVE, two)]
    assert not removal.done
    hand.on(two, descriptor.close)
    hand.settle()
    assert removal.done


@pytest.mark.rule("A.2.20")
def test_events_come_in_the_order_they_were_sent(hand):
    bdev = hand.disk(num_blocks=8)
    events = []
    descriptor = hand.open("Disk", reactor=hand.reactors[1], on_event=events.append)
    one = hand.reactors[0]
    hand.on(one, bdev.notify_blockcnt_change, 16)
    hand.on(one, bdev.notify_blockcnt_change, 32)
    one.spawn(hand.registry.unregister(bdev))
    hand.settle()
    assert events == [BdevEvent.RESIZE, BdevEvent.RESIZE, BdevEvent.REMOVE]
    hand.close(descriptor)


@pytest.mark.rule("A.2.24")
def test_a_resize_reaches_the_channels_of_every_reactor_before_its_event(hand):
    base = hand.disk(Stub, num_blocks=8)
    hand.layer()
    found = []
    two = hand.reactors[1]

    def on_event(event):
        assert event is BdevEvent.RESIZE
        descriptor.submit(Op.READ, 12, 1, bytearray(512), callback=found.append)

    descriptor = hand.open("Top", reactor=two, on_event=on_event)
    hand.channel(descriptor, two)
    hand.on(hand.reactors[0], base.notify_blockcnt_change, 16)
    hand.settle()
    base.complete()
    hand.settle()
    assert [request.status for request in found] == [Status.SUCCESS]
    hand.close(descriptor)


# Walks


@pytest.mark.rule("A.8.17")
def test_for_each_visits_reactors_in_order_one_at_a_time(hand):
    bdev = hand.disk()
    one, two, three = hand.reactors
    descriptors = [hand.open("Disk"), hand.open("Disk")]
    hand.channel(descriptors[0], three)
    hand.channel(descriptors[0], one)
    hand.channel(descriptors[1], three)
    under_way = []

    def visit(channel):
        assert under_way == []
        assert channel.engine is Reactor.current().engine
        return 0

    assert visits(hand, bdev, visit) == (0, [1, 3, 3])
    hand.channel(descriptors[1], two)
    assert visits(hand, bdev) == (0, [1, 2, 3, 3])
    for descriptor in descriptors:
        hand.close(descriptor)


@pytest.mark.rule("A.8.18")
def test_for_each_stops_at_a_status(hand):
    bdev = hand.disk()
    descriptor = hand.open("Disk")
    for reactor in hand.reactors:
        hand.channel(descriptor, reactor)
    stop = lambda _channel: -5 if Reactor.current().id == 2 else 0  # noqa: E731
    assert visits(hand, bdev, stop) == (-5, [1, 2])
    with pytest.raises(ZeroDivisionError):
        visits(hand, bdev, lambda _channel: 1 // 0)
    hand.close(descriptor)


@pytest.mark.rule("A.8.19")
def test_for_each_without_channels(hand):
    bdev = hand.disk()
    ended = []

    async def walk():
        ended.append(await for_each_channel(bdev, lambda _channel: 1))

    with hand.reactors[0].here():
        hand.reactors[0].spawn(walk())
        assert ended == []
    hand.settle()
    assert ended == [0]


@pytest.mark.rule("A.8.20", "E.thread_ut.for_each_channel_unreg")
def test_for_each_of_a_bdev_that_is_gone(hand):
    bdev = hand.disk()
    descriptor = hand.open("Disk")
    hand.channel(descriptor, hand.reactors[1])
    visited = []

    async def go():
        walk = hand.reactors[0].spawn(for_each_channel(bdev, lambda _c: visited.append(1)))
        removal = hand.reactors[0].spawn(hand.registry.unregister(bdev))
        await descriptor.close()
        await removal
        # It had begun before, and ended with the channel, or without.
        try:
            await walk
        except BdevError as error:
            assert error.errno == errno.ENODEV  # noqa: PT017 - it may also have ended before
        await for_each_channel(bdev, lambda _c: visited.append(2))

    with pytest.raises(BdevError, match="is gone") as raised:
        hand.run(go())
    assert raised.value.errno == errno.ENODEV
    assert 2 not in visited


@pytest.mark.rule("E.thread_ut.for_each_channel_remove")
def test_a_channel_that_goes_while_others_are_visited(hand):
    bdev = hand.disk()
    descriptor, other = hand.open("Disk"), hand.open("Disk")
    channels = [hand.channel(descriptor, reactor) for reactor in hand.reactors]
    hand.channel(other, hand.reactors[2])
    three = hand.reactors[2]

    def put_on_three(_channel):
        if Reactor.current().id == 1:
            three.send_msg(descriptor.put_channel, channels[2])
        return 0

    status, seen = visits(hand, bdev, put_on_three)
    assert status == 0
    assert seen in ([1, 2, 3], [1, 2, 3, 3])
    hand.settle()
    assert visits(hand, bdev) == (0, [1, 2, 3])
    hand.close(descriptor)
    hand.close(other)


def test_a_channel_that_comes_while_others_are_visited(hand):
    bdev = hand.disk()
    descriptor = hand.open("Disk")
    hand.channel(descriptor, hand.reactors[0])

    def make_more(_channel):
        for reactor in hand.reactors:
            reactor.send_msg(descriptor.get_channel)
        return 0

    assert visits(hand, bdev, make_more) == (0, [1, 2, 3])
    hand.close(descriptor)


@pytest.mark.rule("E.thread_ut.for_each_channel_and_thread_exit_race")
def test_for_each_leaves_out_a_reactor_that_has_ended(hand):
    bdev = hand.disk()
    descriptor = hand.open("Disk")
    for reactor in hand.reactors:
        hand.channel(descriptor, reactor)
    hand.reactors[1].finish()
    assert visits(hand, bdev) == (0, [1, 3])
    hand.close(descriptor)  # its channel is closed in its name
    assert bdev.holders() == []


@pytest.mark.rule("E.thread_ut.device_unregister_and_thread_exit_race")
@pytest.mark.parametrize("first", ["reactor", "bdev"])
def test_a_bdev_goes_while_a_reactor_ends(hand, first):
    """In either order: what the reactor had is closed in its name, and the bdev is gone."""
    bdev = hand.disk(Noting)
    one, two, three = hand.reactors
    descriptor = hand.open("Disk")
    for reactor in (two, three):
        hand.channel(descriptor, reactor)
    if first == "reactor":
        two.finish()
    removal = one.spawn(hand.registry.unregister(bdev))
    closing = hand.on(one, descriptor.close)
    if first == "bdev":
        one.poll()
        two.finish()
    hand.settle()
    assert closing.done
    assert removal.done
    assert sorted(bdev.noted[2:]) == [("destroy", 2), ("destroy", 3), ("stop", 1)]


# Counters


def write(hand, descriptor, reactor, times):
    for _ in range(times):
        hand.on(
            reactor,
            lambda: descriptor.submit(Op.WRITE, 0, 1, bytes(512), callback=lambda _r: None),
        )
    hand.settle()


def test_counters_of_a_channel_that_closes_come_to_the_bdev(hand):
    bdev = hand.disk()
    descriptor = hand.open("Disk")
    for reactor in hand.reactors:
        write(hand, descriptor, reactor, reactor.id)
    assert entry_of(bdev).totals.stats.get("write", (0,))[0] == 0
    hand.close(descriptor)
    assert entry_of(bdev).totals.stats["write"][0] == 6
    assert isinstance(bdev, Bdev)
