"""Closing a descriptor decides once for all its reactors: no I/O is accepted and then forgotten."""

import contextlib
import errno

import pytest

from vbdev.bdev import BdevError, BdevEvent
from vbdev.bdev.entry import entry_of
from vbdev.modules.delay import Delay
from vbdev.testing import Stack
from vbdev.vocab import Op, Status

SLOW = {
    "avg_read_latency": 100,
    "p99_read_latency": 100,
    "avg_write_latency": 0,
    "p99_write_latency": 0,
}


class Racer:
    """A descriptor with channels on three reactors, turned by hand."""

    def __init__(self):
        self.stack = Stack(reactors=3)
        self.reactors = list(self.stack.reactors)
        self.stack.disk()
        self.stack.layer(Delay, "Slow", "Disk", **SLOW)
        self.descriptor = self.stack.registry.open(
            "Slow", write=True, on_event=lambda _event: None, holder="racer"
        )
        self.ended = []
        for reactor in self.reactors:
            self.read(reactor)
        self.stack.pass_time(1000)
        self.stack.settle()
        self.ended.clear()

    def on(self, reactor, function):
        with reactor.here():
            return function()

    def read(self, reactor):
        return self.on(
            reactor,
            lambda: self.descriptor.submit(
                Op.READ, 0, 1, bytearray(512), callback=self.ended.append
            ),
        )

    def turn(self):
        for reactor in self.reactors:
            reactor.poll()

    def finish(self):
        """Let all end; nothing is left of the descriptor once it is closed."""
        self.stack.pass_time(2000)
        self.stack.settle()
        if not self.descriptor.closed:
            future = self.on(self.reactors[0], self.descriptor.close)
            self.stack.settle()
            self.stack.pass_time(1000)
            future.result()
        assert self.descriptor.channels == {}
        assert entry_of(self.stack.registry.get("Slow")).openers == []
        (base,) = entry_of(self.stack.registry.get("Disk")).openers
        assert base.channels == {}
        assert self.stack.errors == []
        self.stack.close()


@pytest.mark.parametrize("by", [0, 1, 2])
@pytest.mark.parametrize("at", range(9))
def test_io_submitted_while_it_is_closed_ends(by, at):
    racer = Racer()
    future = racer.on(racer.reactors[0], racer.descriptor.close)
    future.add_done_callback(lambda _future: None)
    refused = submitted = False
    for turn in range(40):
        if turn == at:
            try:
                racer.read(racer.reactors[by])
                submitted = True
            except BdevError as error:
                refused = error.errno == errno.EBADF
        racer.turn()
    assert submitted or refused
    racer.stack.pass_time(1000)
    racer.stack.settle()
    assert future.done
    assert len(racer.ended) == submitted
    if racer.descriptor.closed:
        future.result()
        assert all((r.status, r.errno) == (-1, errno.ENODEV) for r in racer.ended)
    else:  # it was there before its reactor was asked
        with pytest.raises(BdevError, match="1 I/Os are outstanding"):
            future.result()
        assert [r.status for r in racer.ended] == [Status.SUCCESS]
    racer.finish()


def test_a_descriptor_that_stays_open_loses_nothing():
    """What came while it was not known goes on, on all reactors, and the bdev can be used."""
    racer = Racer()
    racer.read(racer.reactors[2])
    future = racer.on(racer.reactors[0], racer.descriptor.close)
    future.add_done_callback(lambda _future: None)
    for reactor in racer.reactors * 3:
        racer.read(reactor)
    racer.turn()
    racer.stack.settle()
    with pytest.raises(BdevError, match="I/Os are outstanding"):
        future.result()
    racer.stack.pass_time(1000)
    racer.stack.settle()
    assert [r.status for r in racer.ended] == [Status.SUCCESS] * 10
    racer.finish()


def test_a_callback_that_tries_again_does_not_keep_it_open():
    racer = Racer()
    refused = []

    def again(request):
        racer.ended.append(request)
        try:
            racer.on(
                racer.reactors[2],
                lambda: racer.descriptor.submit(Op.READ, 0, 1, bytearray(512), callback=again),
            )
        except BdevError as error:
            refused.append(error.errno)

    future = racer.on(racer.reactors[0], racer.descriptor.close)
    racer.turn()
    racer.turn()
    racer.on(
        racer.reactors[2],
        lambda: racer.descriptor.submit(Op.READ, 0, 1, bytearray(512), callback=again),
    )
    racer.stack.settle()
    racer.stack.pass_time(1000)
    future.result()
    assert refused == [errno.EBADF]
    racer.finish()


@pytest.mark.parametrize("commit", [False, True])
def test_an_open_zcopy_can_be_ended_all_the_same(commit):
    """It is outstanding: the descriptor stays open until it has ended."""
    racer = Racer()
    two, done = racer.reactors[1], []
    request = racer.on(two, lambda: racer.descriptor.submit(Op.ZCOPY, 0, 1, callback=done.append))
    racer.stack.pass_time(1000)
    racer.stack.settle()
    assert request.status == Status.SUCCESS
    future = racer.on(racer.reactors[0], racer.descriptor.close)
    future.add_done_callback(lambda _future: None)
    racer.turn()
    racer.turn()
    racer.on(two, lambda: racer.descriptor.zcopy_end(request, commit=commit, callback=done.append))
    racer.stack.settle()
    with pytest.raises(BdevError, match="1 I/Os are outstanding"):
        future.result()
    racer.stack.pass_time(1000)
    racer.stack.settle()
    assert [r.status for r in done] == [Status.SUCCESS] * 2
    racer.finish()


def test_what_happens_to_the_bdev_meanwhile_is_told_where_it_stays_open():
    """Who is not told of a removal does not let go, and the removal never ends."""
    racer = Racer()
    events = []
    racer.descriptor._on_event = events.append
    racer.read(racer.reactors[2])
    future = racer.on(racer.reactors[0], racer.descriptor.close)
    future.add_done_callback(lambda _future: None)
    bdev = racer.descriptor.bdev
    racer.on(racer.reactors[0], lambda: bdev.notify_blockcnt_change(bdev.num_blocks + 1))
    removal = racer.on(racer.reactors[0], lambda: racer.stack.reactor.spawn(delete(racer)))
    racer.turn()
    assert events == []
    assert not future.done
    racer.stack.settle()
    with pytest.raises(BdevError, match="1 I/Os are outstanding"):
        future.result()
    assert events == [BdevEvent.RESIZE, BdevEvent.REMOVE]
    racer.stack.pass_time(1000)
    racer.on(racer.reactors[0], racer.descriptor.close)
    racer.stack.settle()
    racer.stack.pass_time(1000)
    assert removal.done
    assert events == [BdevEvent.RESIZE, BdevEvent.REMOVE]
    racer.stack.close()


async def delete(racer):
    await racer.stack.registry.delete("Slow", "delay")


@pytest.mark.parametrize("later", range(6))
def test_the_end_of_one_attempt_undoes_nothing_of_the_next(later):
    """What the first one gives back is held by the second: nothing comes in behind its count."""
    racer = Racer()
    first_io = racer.read(racer.reactors[2])
    first = racer.on(racer.reactors[0], racer.descriptor.close)
    first.add_done_callback(lambda _future: None)
    while racer.descriptor.closed:  # until the first has decided, and not yet undone
        racer.turn()
    assert not first.done
    racer.stack.reactor.clock.advance_to(racer.stack.reactor.clock.now_ns() + 200_000)
    while not first_io.done:
        racer.reactors[2].poll()
    second = racer.on(racer.reactors[0], racer.descriptor.close)
    second.add_done_callback(lambda _future: None)
    racer.ended.clear()
    for turn in range(12):
        if turn == later and racer.descriptor.channels:
            with contextlib.suppress(BdevError):
                racer.read(racer.reactors[1])
        racer.turn()
    with pytest.raises(BdevError, match="1 I/Os are outstanding"):
        first.result()
    racer.stack.pass_time(1000)
    racer.stack.settle()
    if racer.descriptor.closed:
        assert all((r.status, r.errno) == (-1, errno.ENODEV) for r in racer.ended)
        second.result()
    else:
        assert [r.status for r in racer.ended] == [Status.SUCCESS]
        with pytest.raises(BdevError, match="1 I/Os are outstanding"):
            second.result()
    racer.finish()
