"""What a turn does is bounded in time: long work goes on in the next ones, and clients take turns.

Method: stacks on a virtual clock, where guesses alone decide how much fits into a turn.
"""

from __future__ import annotations

import errno
import os

import pytest

from vbdev.bdev import ALL_OPS, VirtualBdev
from vbdev.clock import VirtualClock
from vbdev.reactor import Reactor
from vbdev.testing import Stack, Stub
from vbdev.vocab import IoFlag, Op, Status

GIB = 1 << 30
BLOCK = 512
NONE = 2**64 - 1


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


class Pages(VirtualBdev):
    """Takes one block at once, so that each I/O becomes many."""

    kind = "pages"
    product_name = "Pages"
    ops = ALL_OPS - {Op.WRITE_ZEROES, Op.COPY}

    def inherit(self):
        super().inherit()
        self.max_rw_size = 1

    def submit(self, channel, ios):
        channel.base.submit(ios)


def turns_until(stack, *requests):
    """Turn until these have ended; return after how many turns each had."""
    ended = dict.fromkeys(range(len(requests)), 0)
    turn = 0
    while not all(ended.values()):
        turn += 1
        assert turn < 200_000, "it never ends"
        stack.reactor.poll()
        for n, request in enumerate(requests):
            if request.done and not ended[n]:
                ended[n] = turn
    return [ended[n] for n in range(len(requests))]


@pytest.mark.parametrize(
    ("op", "flags", "mib"), [(Op.WRITE_ZEROES, IoFlag.NO_HOLE, 256), (Op.COPY, 0, 32)]
)
def test_long_work_of_one_client_holds_up_no_other(stack, op, flags, mib):
    stack.disk(num_blocks=4 * GIB // BLOCK, block_size=BLOCK)
    greedy, honest = stack.open("Disk"), stack.open("Disk")
    blocks = (mib << 20) // BLOCK
    long = [
        greedy.submit(op, 0, blocks, flags=flags, src_offset_blocks=2 * GIB // BLOCK)
        for _ in range(20)
    ]
    read = honest.submit(Op.READ, 0, 1, bytearray(BLOCK))
    also_long = honest.submit(op, GIB // BLOCK, blocks, flags=flags)
    ended = turns_until(stack, read, also_long, *long)
    assert ended[0] == 1
    assert ended[2] > 20, "it was short"
    assert ended[1] <= ended[2] + 3, "one client's first is not behind all of the other's"
    assert ended[1] < ended[3]
    assert all(request.status == Status.SUCCESS for request in [*long, also_long])


def test_steps_add_up(stack):
    """READ, WRITE, COMPARE and COPY longer than a step, in pieces that end anywhere."""
    size = 3 << 20
    stack.disk(num_blocks=4 * size // BLOCK, block_size=BLOCK)
    disk = stack.open("Disk")
    data = os.urandom(size)
    pieces = [data[:1000], data[1000 : size // 2 + 7], data[size // 2 + 7 :]]
    blocks = size // BLOCK
    assert disk.io(Op.WRITE, 5, blocks, pieces).status == Status.SUCCESS
    got = bytearray(size)
    assert disk.io(Op.READ, 5, blocks, got).status == Status.SUCCESS
    assert got == data
    assert disk.io(Op.COMPARE, 5, blocks, pieces).status == Status.SUCCESS
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    assert disk.io(Op.COMPARE, 5, blocks, wrong).status == Status.MISCOMPARE
    for source, target in ((5, 6), (6, 4), (4, 4 + blocks - 1)):
        assert disk.io(Op.COPY, target, blocks, src_offset_blocks=source).status == Status.SUCCESS
        disk.io(Op.READ, target, blocks, got)
        assert got == data


def test_an_abort_ends_what_goes_on_in_steps(stack):
    stack.disk(num_blocks=GIB // BLOCK, block_size=BLOCK)
    disk, other = stack.open("Disk"), stack.open("Disk")
    long = disk.submit(Op.WRITE_ZEROES, 0, GIB // BLOCK, flags=IoFlag.NO_HOLE)
    stack.reactor.poll()
    assert not long.done
    foreign = other.submit(Op.ABORT, 0, 0, victim=long)
    turns_until(stack, foreign)
    assert foreign.status == Status.FAILED
    abort = disk.submit(Op.ABORT, 0, 0, victim=long)
    turns_until(stack, abort, long)
    assert (abort.status, long.status) == (Status.SUCCESS, Status.ABORTED)


def test_a_reset_ends_what_goes_on_in_steps(stack):
    stack.disk(num_blocks=GIB // BLOCK, block_size=BLOCK)
    disk = stack.open("Disk")
    long = disk.submit(Op.WRITE_ZEROES, 0, GIB // BLOCK, flags=IoFlag.NO_HOLE)
    stack.reactor.poll()
    reset = disk.submit(Op.RESET, 0, 0)
    until, ended = turns_until(stack, reset, long)
    assert ended <= until < 20
    assert (reset.status, long.status) == (Status.SUCCESS, Status.ABORTED)
    assert disk.io(Op.READ, 0, 1, bytearray(BLOCK)).status == Status.SUCCESS


def test_a_sparse_terabyte_is_looked_through_in_a_turn(stack):
    blocks = (1 << 40) // BLOCK
    stack.disk(num_blocks=blocks, block_size=BLOCK)
    disk = stack.open("Disk")
    last = blocks - 3
    disk.io(Op.WRITE, last, 1, b"x" * BLOCK)
    seek = disk.submit(Op.SEEK_DATA, 0, 1)
    assert turns_until(stack, seek) < [10]
    assert seek.result == last // 8 * 8
    unmap = disk.submit(Op.UNMAP, 0, blocks)
    assert turns_until(stack, unmap) < [20]
    assert disk.io(Op.SEEK_DATA, 0, 1).result == NONE


def test_what_was_unmapped_and_written_again_is_found(stack):
    """The summary of the bitmap, at the borders of what one bit of it stands for."""
    per_word = (256 << 10) // BLOCK
    stack.disk(num_blocks=130 * per_word + 5, block_size=BLOCK)
    disk = stack.open("Disk")
    for at in (0, per_word - 1, per_word, 64 * per_word - 1, 64 * per_word, 130 * per_word + 4):
        disk.io(Op.WRITE, at, 1, b"x" * BLOCK)
        disk.io(Op.UNMAP, 0, 130 * per_word + 5)
        assert disk.io(Op.SEEK_DATA, 0, 1).result == NONE
        disk.io(Op.WRITE, at, 1, b"x" * BLOCK)
        assert disk.io(Op.SEEK_DATA, 0, 1).result == at // 8 * 8
        disk.io(Op.UNMAP, 0, 130 * per_word + 5)


def test_parents_of_different_clients_take_turns(stack):
    stack.disk(Stub, num_blocks=1 << 16)
    stack.layer(Pages)
    greedy, honest = stack.open("Top"), stack.open("Top")
    disk = stack.registry.get("Disk")
    data = bytes(BLOCK * 256)
    many = [greedy.submit(Op.WRITE, 0, 256, data) for _ in range(200)]
    one = honest.submit(Op.WRITE, 60000, 64, bytes(BLOCK * 64))
    turns = 0
    while not any(offset >= 60000 for _op, offset, _count in disk.arrived):
        before = len(disk.arrived)
        stack.reactor.poll()
        turns += 1
        assert len(disk.arrived) - before < 4000, "more than a turn's children in one turn"
        assert turns < 3, "all of the other client's come first"
    while not all(request.done for request in [*many, one]):
        disk.complete()
        stack.reactor.poll()


def test_messages_tasks_timers_and_pollers_leave_time_to_others():
    reactor = Reactor(clock=VirtualClock())
    seen = []
    try:
        for n in range(1000):
            reactor.send_msg(seen.append, ("message", n))
            reactor.call_later(0, lambda n=n: seen.append(("timer", n)))
        pollers = [
            reactor.register_poller(lambda n=n: seen.append(("poller", n)) or 1) for n in range(300)
        ]
        reactor.poll()
        for kind in ("message", "timer", "poller"):
            assert 0 < sum(what == kind for what, _n in seen) < 200
        while sum(what != "poller" for what, _n in seen) < 2000:
            reactor.poll()
        for kind in ("message", "timer"):
            assert [n for what, n in seen if what == kind] == list(range(1000))
        counts = [sum(1 for one in seen if one == ("poller", n)) for n in range(300)]
        assert max(counts) - min(counts) <= 1
        for poller in pollers:
            poller.unregister()
    finally:
        reactor.close()


def test_a_timer_that_is_due_at_once_again_waits_for_the_next_turn():
    reactor = Reactor(clock=VirtualClock())
    seen = []

    def again():
        seen.append(1)
        reactor.call_later(0, again)

    try:
        again()
        for turn in range(1, 4):
            reactor.poll()
            assert len(seen) == 1 + turn
    finally:
        reactor.close()


def test_descriptors_that_had_no_time_are_the_first_in_the_next_turn():
    reactor = Reactor(clock=VirtualClock())
    seen, fds = [], []
    try:
        for n in range(100):
            fd = os.eventfd(1, os.EFD_NONBLOCK)
            fds.append((fd, reactor.watch(fd, readable=lambda n=n: seen.append(n))))
        reactor.poll()
        assert 0 < len(seen) < 100
        for _ in range(10):
            reactor.poll()
        counts = [seen.count(n) for n in range(100)]
        assert max(counts) - min(counts) <= 1
    finally:
        for fd, watch in fds:
            watch.close()
            os.close(fd)
        reactor.close()


def test_a_watch_that_wants_nothing_any_more_is_not_told_what_was_found_before():
    reactor = Reactor(clock=VirtualClock())
    seen, fds = [], []

    def first():
        seen.append("first")
        for _fd, watch in fds[1:]:
            watch.update(read=False, write=False)

    try:
        for n in range(3):
            fd = os.eventfd(1, os.EFD_NONBLOCK)
            fds.append((fd, reactor.watch(fd, readable=first if n == 0 else seen.clear)))
        reactor.poll()
        assert seen == ["first"]
    finally:
        for fd, watch in fds:
            watch.close()
            os.close(fd)
        reactor.close()


def test_breathe_goes_on_in_the_next_turn_where_the_time_is_over():
    reactor = Reactor(clock=VirtualClock())
    done = []

    async def long():
        for n in range(1000):
            done.append(n)
            await reactor.breathe()

    try:
        reactor.spawn(long())
        reactor.poll()
        assert 0 < len(done) < 500
        for _ in range(100):
            reactor.poll()
        assert len(done) == 1000
    finally:
        reactor.close()


def test_an_abort_of_nothing_says_so(stack):
    stack.disk(num_blocks=64, block_size=BLOCK)
    disk = stack.open("Disk")
    write = disk.io(Op.WRITE, 0, 1, bytes(BLOCK))
    abort = disk.io(Op.ABORT, 0, 0, victim=write)
    assert (abort.status, abort.errno) == (Status.FAILED, errno.ENOENT)
