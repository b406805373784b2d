"""RESET and locked ranges with channels on several reactors, by hand and under contention."""

import random
import threading

import pytest

from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, gather
from vbdev.testing import Stub, layer
from vbdev.vocab import Op, Status

BLOCK = 512


def submit(hand, descriptor, reactor, op, *what, **more):
    """Submit one I/O on a reactor; return its Request."""
    return hand.on(reactor, lambda: descriptor.submit(op, *what, callback=lambda _: None, **more))


def statuses(*requests):
    return [Status(r.status) if r.done else None for r in requests]


@pytest.fixture
def stub(hand):
    """Return a leaf that holds everything, and a descriptor with a channel on each reactor."""
    bdev = hand.disk(Stub)
    descriptor = hand.open("Disk")
    for reactor in hand.reactors:
        hand.channel(descriptor, reactor)
    yield bdev, descriptor
    if not descriptor.closed:
        hand.close(descriptor)


@pytest.mark.rule("E.bdev_mt.io_during_reset", "A.15.2", "A.15.4", "A.15.7")
def test_io_of_any_reactor_during_a_reset_is_aborted(hand, stub):
    bdev, descriptor = stub
    _, two, three = hand.reactors
    before = submit(hand, descriptor, three, Op.FLUSH, 0, 1)
    reset = submit(hand, descriptor, two, Op.RESET)
    hand.settle()
    assert [op for op, _, _ in bdev.arrived] == [Op.FLUSH, Op.RESET]
    during = [submit(hand, descriptor, reactor, Op.FLUSH, 0, 1) for reactor in hand.reactors]
    hand.settle()
    assert statuses(*during) == [Status.ABORTED] * 3
    assert statuses(before, reset) == [None, None]
    bdev.complete()
    hand.settle()
    assert statuses(before, reset) == [Status.SUCCESS] * 2
    after = [submit(hand, descriptor, reactor, Op.FLUSH, 0, 1) for reactor in hand.reactors]
    hand.settle()
    bdev.complete()
    hand.settle()
    assert statuses(*after) == [Status.SUCCESS] * 3


@pytest.mark.rule("E.bdev_mt.put_channel_during_reset")
def test_a_channel_goes_while_a_reset_is_under_way(hand, stub):
    bdev, descriptor = stub
    one, two, _ = hand.reactors
    reset = submit(hand, descriptor, one, Op.RESET)
    hand.settle()
    channel = descriptor.channels[two]
    hand.on(two, descriptor.put_channel, channel)
    hand.settle()
    assert channel.closed
    bdev.complete()
    hand.settle()
    assert statuses(reset) == [Status.SUCCESS]


def test_a_channel_that_comes_while_a_reset_is_under_way_is_frozen_too(hand, stub):
    bdev, descriptor = stub
    one, two, _ = hand.reactors
    other = hand.open("Disk")
    reset = submit(hand, descriptor, one, Op.RESET)
    hand.settle()
    late = submit(hand, other, two, Op.FLUSH, 0, 1)
    hand.settle()
    assert statuses(late) == [Status.ABORTED]
    bdev.complete()
    hand.settle()
    assert statuses(reset) == [Status.SUCCESS]
    late = submit(hand, other, two, Op.FLUSH, 0, 1)
    hand.settle()
    bdev.complete()
    hand.settle()
    assert statuses(late) == [Status.SUCCESS]
    hand.close(other)


@pytest.mark.rule("E.bdev_mt.aborted_reset", "A.15.1", "A.15.9")
@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILED])
def test_a_queued_reset_keeps_its_channel_and_ends_as_the_first_does(hand, stub, status):
    bdev, descriptor = stub
    one, two, _ = hand.reactors
    other = hand.open("Disk", reactor=two)
    first = submit(hand, descriptor, one, Op.RESET)
    hand.settle()
    queued = submit(hand, other, two, Op.RESET)
    hand.settle()
    assert [op for op, _, _ in bdev.arrived] == [Op.RESET]
    with pytest.raises(BdevError, match="1 I/Os are outstanding"):
        hand.on(two, other.close)
    bdev.complete(status=status)
    hand.settle()
    assert statuses(first, queued) == [status, status]
    assert bdev.held == []
    hand.close(other)


@pytest.mark.rule("E.bdev_mt.aborted_reset_no_outstanding_io", "A.15.5")
def test_resets_of_a_bdev_that_has_drained_never_reach_the_module(hand, stub):
    bdev, descriptor = stub
    bdev.reset_io_drain_timeout = 5
    one, two, _ = hand.reactors
    resets = [submit(hand, descriptor, reactor, Op.RESET) for reactor in (one, two)]
    hand.settle()
    assert statuses(*resets) == [Status.SUCCESS] * 2
    assert bdev.arrived == []


@pytest.mark.rule("E.bdev_mt.reset_completions", "A.15.6")
@pytest.mark.parametrize("drains", [True, False])
def test_a_drain_timeout_looks_at_all_reactors(hand, stub, drains):
    """What another reactor has outstanding is waited for; a reset comes when it does not end."""
    bdev, descriptor = stub
    bdev.reset_io_drain_timeout = 5
    one, _, three = hand.reactors
    before = submit(hand, descriptor, three, Op.FLUSH, 0, 1)
    hand.settle()
    reset = submit(hand, descriptor, one, Op.RESET)
    hand.settle()

    async def wait(us):
        await one.sleep(us)

    hand.run(wait(2_000_000))
    assert statuses(reset) == [None]
    assert len(bdev.arrived) == 1
    if drains:
        bdev.complete()
    hand.run(wait(4_000_000))
    assert len(bdev.arrived) == (1 if drains else 2)
    bdev.complete()
    hand.settle()
    assert statuses(before, reset) == [Status.SUCCESS] * 2


@pytest.mark.rule("E.bdev_mt.unregister_during_reset", "A.7.4")
def test_unregister_waits_for_a_reset(hand, stub):
    bdev, descriptor = stub
    one, two, _ = hand.reactors
    reset = submit(hand, descriptor, two, Op.RESET)
    hand.settle()
    removal = one.spawn(hand.registry.unregister(bdev))
    hand.settle()
    assert not removal.done
    bdev.complete()
    hand.settle()
    assert statuses(reset) == [Status.SUCCESS]
    hand.close(descriptor)
    assert removal.done


@pytest.mark.rule("E.bdev_mt.lock_lba_range_then_submit_io")
def test_a_lock_holds_on_all_reactors(hand, stub):
    bdev, descriptor = stub
    lock = hand.run(entry_of(bdev).control.lock(8, 8))
    inside = [
        submit(hand, descriptor, reactor, Op.WRITE, 10, 1, bytes(BLOCK))
        for reactor in hand.reactors
    ]
    outside = submit(hand, descriptor, hand.reactors[2], Op.WRITE, 30, 1, bytes(BLOCK))
    reading = submit(hand, descriptor, hand.reactors[1], Op.READ, 10, 1, bytearray(BLOCK))
    hand.settle()
    assert sorted(at for _, at, _ in bdev.arrived) == [10, 30]
    bdev.complete()
    hand.settle()
    assert statuses(outside, reading) == [Status.SUCCESS] * 2
    assert statuses(*inside) == [None] * 3
    hand.run(entry_of(bdev).control.unlock(lock))
    hand.settle()
    bdev.complete()
    hand.settle()
    assert statuses(*inside) == [Status.SUCCESS] * 3


def test_a_lock_waits_for_what_other_reactors_have_in_its_range(hand, stub):
    bdev, descriptor = stub
    one, _, three = hand.reactors
    before = submit(hand, descriptor, three, Op.WRITE, 10, 1, bytes(BLOCK))
    hand.settle()
    locking = one.spawn(entry_of(bdev).control.lock(8, 8))
    hand.settle()
    assert not locking.done
    bdev.complete()

    async def wait():
        return await locking

    lock = hand.run(wait())
    assert statuses(before) == [Status.SUCCESS]
    hand.run(entry_of(bdev).control.unlock(lock))


# Under contention


async def io(descriptor, op, *what, **more):
    """Carry out one I/O on the calling reactor; return its Request, whatever its status."""
    here, future = Reactor.current(), Future()
    descriptor.submit(op, *what, callback=future.set_result, **more)
    request = await future
    assert Reactor.current() is here
    return request


def on_all(app, work, timeout_s=60):
    """Run `work(reactor)` on every reactor at once; return the results, or raise what it raises."""
    ended, done = {}, threading.Event()

    def end(reactor, task):
        ended[reactor] = task
        if len(ended) == len(app.reactors):
            done.set()

    for reactor in app.reactors:
        reactor.send_msg(
            lambda reactor=reactor: reactor.spawn(work(reactor)).add_done_callback(
                lambda task, reactor=reactor: end(reactor, task)
            )
        )
    assert done.wait(timeout_s), list(ended)
    return [ended[reactor].result() for reactor in app.reactors]


@pytest.fixture
def top(threads):
    """Return (App, descriptor of a layer on a disk in memory)."""
    threads.start()
    registry = threads.app.registry
    threads.run(
        registry.create(Malloc, Malloc.Params(name="Disk", num_blocks=1024, block_size=BLOCK))
    )
    slow = layer(hold_a_little, kind="slow")
    threads.run(registry.create(slow, slow.Params(name="Slow", base_bdev_name="Disk")))
    threads.run(registry.create(Passthru, Passthru.Params(name="Top", base_bdev_name="Slow")))
    descriptor = threads.ask(
        lambda: registry.open("Top", write=True, on_event=lambda _: None, holder="test")
    )
    yield threads, descriptor

    async def close():
        await descriptor.close()

    threads.run(close())


def hold_a_little(_self, channel, ios):
    """Forward every other batch a little later, so that RESETs and locks find something."""
    if random.random() < 0.5:
        batch = ios.take()
        Reactor.current().call_later(random.randrange(500), lambda: channel.base.submit(batch))
    else:
        channel.base.submit(ios)


@pytest.mark.rule("E.bdev_mt.reset_start_complete_race")
def test_resets_and_io_from_all_reactors(top):
    app, descriptor = top

    async def work(reactor):
        rng = random.Random(reactor.id)
        seen = []
        for _ in range(60):
            if rng.random() < 0.2:
                requests = [await io(descriptor, Op.RESET)]
            else:
                requests = await gather(
                    [
                        io(descriptor, Op.WRITE, rng.randrange(1024), 1, bytes(BLOCK))
                        for _ in range(4)
                    ]
                )
            seen += [Status(request.status) for request in requests]
        return seen

    results = on_all(app, work)
    for seen in results:
        assert set(seen) <= {Status.SUCCESS, Status.ABORTED}
        assert Status.SUCCESS in seen
    assert app.run(_idle(app)) == 0


async def _idle(app):
    return sum(entry_of(bdev).outstanding for bdev in app.app.registry)


def test_compare_and_write_is_atomic_between_reactors(top):
    """Each reactor adds 1 to the same block, as often as it has to try: no addition is lost."""
    app, descriptor = top
    rounds = 15

    async def work(reactor):
        added = tries = 0
        rng = random.Random(reactor.id)
        while added < rounds:
            back = bytearray(BLOCK)
            assert (await io(descriptor, Op.READ, 5, 1, back)).status == Status.SUCCESS
            value = int.from_bytes(back[:8], "little")
            new = (value + 1).to_bytes(8, "little") + bytes(BLOCK - 8)
            request = await io(descriptor, Op.COMPARE_AND_WRITE, 5, 1, bytes(back), write_data=new)
            tries += 1
            assert request.status in (Status.SUCCESS, Status.MISCOMPARE)
            added += request.status == Status.SUCCESS
            await reactor.sleep(rng.randrange(1500))
        return tries

    on_all(app, work)

    async def value():
        back = bytearray(BLOCK)
        await io(descriptor, Op.READ, 5, 1, back)
        return int.from_bytes(back[:8], "little")

    assert app.run(value()) == rounds * len(app.reactors)


def test_quiesced_ranges_and_channels_that_come_and_go(top):
    app, descriptor = top
    bdev = app.app.registry.get("Disk")
    over = threading.Event()

    async def work(reactor):
        done = 0
        while not over.is_set():
            channel = descriptor.get_channel()
            request = await io(descriptor, Op.READ, 3, 1, bytearray(BLOCK))
            assert request.status == Status.SUCCESS
            descriptor.put_channel(channel)
            done += 1
            await reactor.sleep(100)
        return done

    async def lock_again_and_again():
        for _ in range(40):
            lock = await entry_of(bdev).control.lock(0, 8, quiesce=True)
            await app.app.reactor.sleep(1000)
            await entry_of(bdev).control.unlock(lock)
        over.set()

    app.app.reactor.send_msg(lambda: app.app.reactor.spawn(lock_again_and_again()))
    assert all(on_all(app, work))
    assert app.ask(lambda: entry_of(bdev).control.busy) is False
