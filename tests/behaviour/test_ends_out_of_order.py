"""What ends, fails or is aborted while something else has not: who hears of it, and who must not.

Method: a Stub below, whose I/O ends in the order that a test chooses.
"""

from __future__ import annotations

import errno

import pytest

from vbdev.bdev import BASIC_OPS
from vbdev.bdev.entry import entry_of
from vbdev.core.engine.requests import Requests
from vbdev.testing import Stub, layer, stack
from vbdev.vocab import IoFlag, Op, Status

BLOCK = 512


class Plain(Stub):
    """Reads and writes, and nothing else."""

    kind = "plain_stub"
    ops = BASIC_OPS


class Short(Stub):
    kind = "short_stub"
    max_rw_size = 1


@pytest.fixture
def rig():
    with stack() as made:
        made.stub = made.disk(Stub)
        made.top = made.open("Disk")
        yield made


def read(opened, n=0, count=1):
    return opened.submit(Op.READ, n, count, bytearray(count * BLOCK))


def finish(rig, disk):
    while disk.held:
        disk.complete()
        rig.settle()


# Parts of what has failed already


def test_a_copy_that_has_failed_writes_no_more():
    """Its other READs end well afterwards. What they brought is nobody's."""
    with stack() as rig:
        disk = rig.disk(Plain, num_blocks=8192)
        copy = rig.open("Disk").submit(Op.COPY, 4096, 2048, src_offset_blocks=0)
        rig.settle()
        assert len(disk.held) > 1
        disk.complete([0], Status.FAILED, errno.EREMOTEIO)
        rig.settle()
        finish(rig, disk)
        assert (copy.status, copy.errno) == (Status.FAILED, errno.EREMOTEIO)
        assert {op for op, *_ in disk.arrived} == {Op.READ}


def test_the_first_failure_of_the_parts_is_the_whole_ones():
    with stack() as rig:
        disk = rig.disk(Short)
        request = read(rig.open("Disk"), 0, 3)
        rig.settle()
        disk.complete([1], Status.FAILED, errno.EREMOTEIO)
        disk.complete([0], Status.FAILED, errno.ENOSPC)
        finish(rig, disk)
        assert (request.status, request.errno) == (Status.FAILED, errno.EREMOTEIO)


def test_a_difference_found_after_a_failure_is_not_what_a_compare_says():
    with stack() as rig:
        disk = rig.disk(Plain, num_blocks=8192)
        request = rig.open("Disk").submit(Op.COMPARE, 0, 2048, b"x" * (2048 * BLOCK))
        rig.settle()
        assert len(disk.held) > 1
        for held in disk.held:
            for view in held.data(Op.READ):
                view[:] = bytes(len(view))
        disk.complete([1], Status.FAILED, errno.EREMOTEIO)
        finish(rig, disk)
        assert (request.status, request.errno) == (Status.FAILED, errno.EREMOTEIO)


# ABORT


def test_an_abort_does_not_wait_behind_those_that_find_no_room(rig):
    """Room comes when what the module has ends: that is what the ABORT is about."""
    requests = [read(rig.top, n) for n in range(4)]
    rig.stub.complete([0], Status.NOMEM)
    rig.settle()
    abort = rig.top.submit(Op.ABORT, 0, 0, victim=requests[1])
    rig.settle()
    assert rig.stub.arrived[-1][0] == Op.ABORT
    rig.stub.complete([0], Status.ABORTED)
    rig.stub.complete([len(rig.stub.held) - 1])
    rig.settle()
    assert (abort.status, requests[1].status) == (Status.SUCCESS, Status.ABORTED)
    finish(rig, rig.stub)


def test_an_abort_that_a_layer_kept_does_not_hit_who_came_after_its_victim():
    """The victim has ended meanwhile, and its BdevIO, the only free one, is another I/O."""
    kept = []

    def keep_aborts(_self, channel, ios):
        aborts = ios.take(Op.ABORT)
        if len(aborts):
            kept.append((channel.base, aborts))
        channel.base.submit(ios)

    with stack(pool_size=2) as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(keep_aborts))
        top = rig.open("Top")
        victim = read(top)
        abort = top.submit(Op.ABORT, 0, 0, victim=victim)
        rig.settle()
        ((base, aborts),) = kept
        finish(rig, disk)
        assert victim.done
        other = read(top, 8)
        assert read(top, 40) is None  # all are in use
        base.submit(aborts)
        rig.settle()
        assert (abort.status, abort.errno) == (Status.FAILED, errno.ENOENT)
        finish(rig, disk)
        assert other.status == Status.SUCCESS
        assert Op.ABORT not in {op for op, *_ in disk.arrived}


def test_an_abort_that_waits_its_turn_does_not_hit_who_came_after_its_victim():
    """The victim was being split, and so is the I/O that has its BdevIO now, on the same channel.

    Many of another client are split before the ABORT is looked at, in several turns.
    """
    with stack(pool_size=16384) as rig:
        disk = rig.disk(Short)
        top = rig.open("Disk")
        others = Requests(rig.engine)
        later = []

        def come_after(request):
            assert request.status == Status.SUCCESS
            later.append(read(top, 8, 2))

        victim = top.submit(Op.READ, 0, 2, bytearray(2 * BLOCK), callback=come_after)
        rig.settle()
        disk.complete()
        many = [
            others.submit(top.channel, Op.READ, 0, 64, bytearray(64 * BLOCK)) for _ in range(100)
        ]
        abort = others.submit(top.channel, Op.ABORT, 0, 0, victim=victim)
        for _ in range(20):
            rig.reactor.poll()
        assert abort.status == Status.FAILED
        assert later
        assert not later[0].done
        finish(rig, disk)
        assert {request.status for request in [*many, *later]} == {Status.SUCCESS}
        assert {op for op, *_ in disk.arrived} == {Op.READ}
        others.close()


# Locks


def test_quiesced_blocks_are_not_copied_from(rig):
    control = entry_of(rig.stub).control
    first = rig.top.submit(Op.COPY, 100, 4, src_offset_blocks=4)
    quiesced = rig.reactor.spawn(control.quiesce(0, 8))
    rig.pass_time(1000)
    assert not quiesced.done  # what reads there has not ended
    finish(rig, rig.stub)
    rig.pass_time(1000)
    assert (quiesced.done, first.status) == (True, Status.SUCCESS)
    copy = rig.top.submit(Op.COPY, 100, 4, src_offset_blocks=7)
    beside = rig.top.submit(Op.COPY, 200, 4, src_offset_blocks=8)
    rig.settle()
    assert [offset for _, offset, _ in rig.stub.arrived] == [100, 200]
    rig.run(control.unquiesce(0, 8))
    rig.settle()
    finish(rig, rig.stub)
    assert (copy.status, beside.status) == (Status.SUCCESS, Status.SUCCESS)


def test_the_end_of_a_zcopy_does_not_wait_for_a_lock(rig):
    """The lock may wait for that very end."""
    task = rig.reactor.spawn(entry_of(rig.stub).control.lock(0, 8))
    rig.pass_time(300)
    end = rig.top.submit(Op.ZCOPY, 0, 4, flags=IoFlag.ZCOPY_END)
    rig.settle()
    assert [op for op, *_ in rig.stub.arrived] == [Op.ZCOPY]
    finish(rig, rig.stub)
    assert end.done
    rig.run(entry_of(rig.stub).control.unlock(task.result()))


# No room


def test_what_finds_no_room_while_a_reset_is_under_way_ends(rig):
    request = read(rig.top)
    reset = rig.top.submit(Op.RESET, 0, 0)
    rig.settle()
    rig.stub.complete([0], Status.NOMEM)
    rig.settle()
    assert (request.status, reset.done) == (Status.ABORTED, False)
    finish(rig, rig.stub)
    assert reset.status == Status.SUCCESS


def test_a_layer_hears_the_end_of_what_it_had_no_room_for_and_of_nothing_else():
    """It has seen the first one, and may keep something of it; the second came no further."""
    given, ended = [], []

    def refuse(_self, _channel, ios):
        given.extend(ios.offset_blocks.tolist())
        ios.complete(Status.NOMEM)

    def hear(_self, _channel, ios):
        ended.extend(zip(ios.offset_blocks.tolist(), ios.statuses.tolist(), strict=True))

    with stack() as rig:
        rig.disk(Stub)
        rig.layer(layer(refuse, hear))
        top = rig.open("Top")
        requests = [read(top, n) for n in (1, 2)]
        rig.settle()
        assert given[0] == 1
        seen = set(given)
        for victim in requests:
            assert top.io(Op.ABORT, 0, 0, victim=victim).status == Status.SUCCESS
        rig.settle()
        assert ended == [(n, Status.ABORTED) for n in (1, 2) if n in seen]


# RESET that drains


def test_each_reset_has_its_own_time_to_drain():
    class Draining(Stub):
        reset_io_drain_timeout = 5

    with stack() as rig:
        disk = rig.disk(Draining)
        top = rig.open("Disk")
        for _ in range(3):
            request = read(top)
            reset = top.submit(Op.RESET, 0, 0)
            rig.pass_time(4_000_000)
            assert not reset.done
            disk.complete()
            rig.pass_time(1_100_000)
            assert (reset.status, request.status) == (Status.SUCCESS, Status.SUCCESS)
        read(top)
        rig.pass_time(10_000_000)  # no deadline of those that have drained is left
        assert {op for op, *_ in disk.arrived} == {Op.READ}
        disk.complete()
