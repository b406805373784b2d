"""What a turn does is bounded in time: long work goes on in the next ones, and clients take turns.

Method: stacks on a virtual clock, where guesses alone decide how much fits into a turn.
"""

from __future__ import annotations

import errno
import os
import time

import pytest

from vbdev.bdev import ALL_OPS, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.bdev.figures.rates import set_rate_limits
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
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


# What leaves a queue, and what has come up


PIECE = 256 << 10
MANY = 400


class Layer(VirtualBdev):
    """Forwards, and answers NOMEM as long as there is no room; says how many came up at once."""

    kind = "full"
    product_name = "Full"
    ops = ALL_OPS
    has_room = True
    came_up = ()

    def submit(self, channel, ios):
        if self.has_room:
            channel.base.submit(ios)
        else:
            ios.complete(Status.NOMEM, errno.ENOMEM)

    def completed(self, channel, ios):
        if ios.ops.tolist().count(Op.WRITE):
            type(self).came_up += (len(ios),)


def waiting_writes(stack, bdev, begin, end):
    """Let MANY WRITEs wait at a bdev; return after how many turns a READ and each of them end."""
    writer, reader = stack.open(bdev), stack.open("Other")
    data = bytes(PIECE)
    begin()
    blocks = PIECE // BLOCK
    writes = [writer.submit(Op.WRITE, n * blocks, blocks, data) for n in range(MANY)]
    stack.settle()
    assert not any(write.done for write in writes)
    end()
    while all(write.status != Status.SUCCESS for write in writes):
        if not stack.reactor.poll():
            stack.reactor.advance()
    read = reader.submit(Op.READ, 0, 1, bytearray(BLOCK))
    ended = turns_until(stack, read, *writes)
    assert all(write.status == Status.SUCCESS for write in writes)
    assert ended[1:] == sorted(ended[1:]), "in order"
    return ended


@pytest.fixture
def queued(stack):
    stack.disk(name="Other", num_blocks=8, block_size=BLOCK)
    stack.disk(num_blocks=MANY * PIECE // BLOCK, block_size=BLOCK)
    return stack


def holds_up_nobody(ended):
    assert ended[0] <= 2
    assert ended[-1] > MANY // 20


@pytest.mark.parametrize("quiesce", [False, True])
def test_what_a_lock_has_held_up_goes_on_in_its_time(queued, quiesce):
    control = entry_of(queued.registry.get("Disk")).control

    def begin():
        begin.lock = queued.run(control.lock(0, MANY * PIECE // BLOCK, quiesce=quiesce))

    def end():
        with queued.reactor.here():
            queued.reactor.spawn(control.unlock(begin.lock))

    holds_up_nobody(waiting_writes(queued, "Disk", begin, end))


def test_what_a_rate_has_held_up_goes_on_in_its_time(queued):
    disk = queued.registry.get("Disk")

    def begin():
        queued.run(set_rate_limits(disk, {"w_mbytes_per_sec": 1}))
        queued.open("Disk").submit(Op.WRITE, 0, 4096, bytes(4096 * BLOCK))  # all of its seconds

    def end():
        with queued.reactor.here():
            queued.reactor.spawn(set_rate_limits(disk, {"w_mbytes_per_sec": 0}))

    holds_up_nobody(waiting_writes(queued, "Disk", begin, end))


def test_what_there_was_no_room_for_goes_on_in_its_time(queued):
    top = queued.layer(Layer)
    holds_up_nobody(
        waiting_writes(
            queued,
            "Top",
            lambda: setattr(top, "has_room", False),
            lambda: setattr(top, "has_room", True),
        )
    )


def test_those_behind_a_lock_are_found_while_they_wait_for_their_turn(queued):
    """By an ABORT, by another lock, by a RESET."""
    control = entry_of(queued.registry.get("Disk")).control
    all_blocks = MANY * PIECE // BLOCK
    lock = queued.run(control.lock(0, all_blocks))
    disk = queued.open("Disk")
    writes = [disk.submit(Op.WRITE, n, 512, bytes(PIECE)) for n in range(MANY)]
    queued.settle()
    unlocking = queued.reactor.spawn(control.unlock(lock))
    while not writes[0].done:
        queued.reactor.poll()
    assert unlocking is not None
    assert not writes[-1].done
    abort = disk.submit(Op.ABORT, 0, 0, victim=writes[-1])
    again = queued.reactor.spawn(control.lock(all_blocks - 1, 1))
    turns_until(queued, abort, writes[-1])
    assert (abort.status, writes[-1].status) == (Status.SUCCESS, Status.ABORTED)
    reset = disk.submit(Op.RESET, 0, 0)
    turns_until(queued, reset, *writes)
    assert reset.status == Status.SUCCESS
    assert {write.status for write in writes} == {Status.SUCCESS, Status.ABORTED}
    queued.turn_until(lambda: again.done)
    queued.run(control.unlock(again.result()))


def test_callbacks_share_their_time_with_others(stack):
    """Of 1000 I/Os that end at once, those of the first turn are not all."""
    stub = stack.disk(Stub, num_blocks=1024, block_size=BLOCK)
    disk, ended = stack.open("Disk"), []
    for _ in range(1000):
        disk.submit(Op.READ, 0, 1, bytearray(BLOCK), callback=ended.append)
    stub.complete()
    per_turn = []
    while len(ended) < 1000:
        before = len(ended)
        assert stack.reactor.poll() > 0, "whoever waits for an event would wait for ever"
        per_turn.append(len(ended) - before)
    assert max(per_turn) <= 50
    assert min(per_turn) >= 1


def test_a_loop_that_may_sleep_does_not_while_callbacks_are_due():
    stack = Stack(real_clock=True)
    stub = stack.disk(Stub, num_blocks=1024, block_size=BLOCK)
    opened = [stack.open("Disk") for _ in range(20)]
    ended = []

    def slow(request):
        time.sleep(0.0005)
        ended.append(request)

    for one in opened:
        one.submit(Op.READ, 0, 1, bytearray(BLOCK), callback=slow)
    stub.complete()
    guard = stack.reactor.call_later(2_000_000, lambda: None)
    with stack.reactor.here():
        sleeps = stack.reactor.sleeps
        while len(ended) < len(opened):
            stack.reactor._loop.turn(wait=True)
        assert stack.reactor.sleeps == sleeps
    guard.cancel()
    stack.close()


def test_a_module_is_not_shown_more_at_once_than_it_can_look_at(stack):
    Layer.came_up = ()
    stub = stack.disk(Stub, num_blocks=1024, block_size=BLOCK)
    stack.layer(Layer)
    disk = stack.open("Top")
    writes = [disk.submit(Op.WRITE, n, 1, bytes(BLOCK)) for n in range(1000)]
    stub.complete()
    turns_until(stack, *writes)
    assert sum(Layer.came_up) == 1000
    assert max(Layer.came_up) == 256


# Disks with metadata


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("op", [Op.WRITE, Op.READ, Op.COPY])
def test_blocks_with_metadata_hold_up_nobody(stack, op, interleaved):
    size = 520 if interleaved else 512
    blocks = (16 << 20) // size
    stack.disk(
        num_blocks=3 * blocks,
        block_size=512,
        md_size=8,
        md_interleave=interleaved,
        dif_type=1,
    )
    stack.disk(name="Other", num_blocks=8, block_size=BLOCK)
    greedy, honest = stack.open("Disk"), stack.open("Other")
    assert greedy.descriptor.block_size == size
    data = None if op == Op.COPY else bytearray(blocks * size)
    if op == Op.WRITE and interleaved:
        greedy.io(Op.READ, 0, blocks, data)  # with the tags of blocks that nobody has written
    long = greedy.submit(op, blocks, blocks, data, src_offset_blocks=blocks - 7)
    read = honest.submit(Op.READ, 0, 1, bytearray(BLOCK))
    ended = turns_until(stack, read, long)
    assert ended[0] == 1
    assert ended[1] > 10
    assert long.status == Status.SUCCESS


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_write_with_a_wrong_tag_far_behind_stores_nothing(stack, interleaved):
    size, blocks = (520 if interleaved else 512), 4000
    stack.disk(
        num_blocks=blocks,
        block_size=512,
        md_size=8,
        md_interleave=interleaved,
        dif_type=1,
    )
    disk = stack.open("Disk")
    data, tags = bytearray(os.urandom(blocks * size)), bytearray(blocks * 8)
    more = {} if interleaved else {"metadata": tags}
    layout = disk.descriptor.bdev.metadata_layout()
    layout.generate(data, None if interleaved else tags, num_blocks=blocks, ref_tag=0)
    (data if interleaved else tags)[-1] ^= 1
    assert disk.io(Op.WRITE, 0, blocks, data, **more).status == Status.NVME_ERROR
    got = bytearray(blocks * size)
    assert disk.io(Op.READ, 0, blocks, got).status == Status.SUCCESS
    if interleaved:
        got = b"".join(got[n : n + 512] for n in range(0, len(got), size))
    assert not any(got)
    (data if interleaved else tags)[-1] ^= 1
    assert disk.io(Op.WRITE, 0, blocks, data, **more).status == Status.SUCCESS
    for source, target in ((0, 1), (1, 0)):
        moved = disk.io(Op.COPY, target, blocks - 1, src_offset_blocks=source)
        assert moved.status == Status.SUCCESS
    got, got_tags = bytearray(blocks * size), bytearray(blocks * 8)
    more = {} if interleaved else {"metadata": got_tags}
    assert disk.io(Op.READ, 0, blocks, got, **more).status == Status.SUCCESS
    kept = slice(0, (blocks - 1) * size)
    assert got[kept] == data[kept]
    assert interleaved or got_tags[:-8] == tags[:-8]


def test_metadata_that_is_made_on_the_way_holds_up_nobody(stack):
    size = 16 << 20
    stack.disk(num_blocks=size // BLOCK, block_size=512, md_size=8, md_interleave=True, dif_type=1)
    stack.disk(name="Other", num_blocks=8, block_size=BLOCK)
    greedy, honest = stack.open("Disk", hide_metadata=True), stack.open("Other")
    data, got = os.urandom(size), bytearray(size)
    for op, memory in ((Op.WRITE, data), (Op.READ, got)):
        long = greedy.submit(op, 0, size // BLOCK, memory)
        read = honest.submit(Op.READ, 0, 1, bytearray(BLOCK))
        ended = turns_until(stack, read, long)
        assert ended[0] == 1
        assert ended[1] > 10
        assert long.status == Status.SUCCESS
    assert got == data
