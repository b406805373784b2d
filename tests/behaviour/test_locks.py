"""Locked ranges: what changes blocks waits, on every channel; quiesced, everything waits.

Method: a Stub on one or two reactors; the lock is taken by the control path, and by an emulated
COMPARE_AND_WRITE.
"""

import errno
from types import SimpleNamespace

import pytest

from support.stack import Stub, stack
from vbdev.bdev import BdevError, control
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.vocab import Op, Status


@pytest.fixture(params=[1, 2], ids=["one reactor", "two reactors"])
def rig(request):
    with stack(reactors=request.param) as made:
        made.stub = made.disk(Stub)
        made.tops = [made.open("Disk", on=n % request.param) for n in range(2)]
        yield made


def spawn(rig, coroutine):
    task = rig.reactor.spawn(coroutine)
    rig.settle()
    return task


def lock(rig, offset, count, **more):
    task = spawn(rig, entry_of(rig.stub).control.lock(offset, count, **more))
    rig.pass_time(300)
    return task


def unlock(rig, task):
    spawn(rig, entry_of(rig.stub).control.unlock(task.result()))


def write(opened, offset, count=1):
    return opened.submit(Op.WRITE, offset, count, bytes(count * 512))


def offsets(rig):
    return [offset for _, offset, _ in rig.stub.arrived]


def finish(rig):
    rig.stub.complete()
    rig.settle()


def test_a_lock_that_waits_for_long_says_so_now_and_then(rig, caplog, monkeypatch):
    monkeypatch.setattr(control, "SLOW_LOCK_US", 10_000)
    request = write(rig.tops[0], 5)
    task = lock(rig, 4, 4)
    told = []
    for _ in range(3):
        rig.pass_time(60_000)
        told.append(caplog.text.count("a lock of blocks waits for I/O under way bdev=Disk"))
    assert told == [1, 2, 3]
    finish(rig)
    rig.pass_time(300)
    assert (task.done, request.status) == (True, Status.SUCCESS)
    unlock(rig, task)


CHANGES = [Op.WRITE, Op.UNMAP, Op.WRITE_ZEROES, Op.ZCOPY, Op.COPY, Op.WRITE_UNCORRECTABLE]


@pytest.mark.rule("A.14.3", "A.14.8", "A.14.15", "E.bdev_mt.lock_lba_range_then_submit_io")
@pytest.mark.parametrize("op", CHANGES)
def test_what_changes_a_locked_block_waits(rig, op):
    locked = lock(rig, 10, 10)
    assert locked.done
    data = bytes(1024) if op == Op.WRITE else None
    requests = [
        top.submit(op, offset, 2, data, src_offset_blocks=100)
        for top in rig.tops
        for offset in (8, 9, 15, 19, 20)
    ]
    rig.settle()
    assert sorted(offsets(rig)) == [8, 8, 20, 20]
    finish(rig)
    unlock(rig, locked)
    assert sorted(offsets(rig)[4:]) == [9, 9, 15, 15, 19, 19]
    assert [o for o in offsets(rig)[4:] if o in (9, 15, 19)][:3] in ([9, 15, 19], [9, 9, 15])
    while not all(request.done for request in requests):
        finish(rig)
    assert {request.status for request in requests} == {Status.SUCCESS}
    for request, top in zip(requests, [t for t in rig.tops for _ in range(5)], strict=True):
        if op == Op.ZCOPY:
            top.requests.zcopy_end(request, False)
    finish(rig)


@pytest.mark.rule("A.14.4", "A.14.7", "E.bdev_ut.lock_lba_range_with_io_outstanding")
def test_what_only_reads_passes_a_lock(rig):
    locked = lock(rig, 10, 10)
    top = rig.tops[1]
    requests = [
        top.submit(Op.READ, 12, 1, bytearray(512)),
        top.submit(Op.COMPARE, 12, 1, bytes(512)),
        top.submit(Op.COPY, 100, 2, src_offset_blocks=12),
        top.submit(Op.FLUSH, 0, 0),
    ]
    rig.settle()
    finish(rig)
    assert {request.status for request in requests} == {Status.SUCCESS}
    unlock(rig, locked)


@pytest.mark.rule("A.14.2", "E.bdev_ut.lock_lba_range_with_io_outstanding")
def test_a_lock_waits_for_changes_under_way_and_not_for_reads(rig):
    read = rig.tops[1].submit(Op.READ, 12, 1, bytearray(512))
    locked = lock(rig, 10, 10)
    assert locked.done
    unlock(rig, locked)
    writes = [write(top, 12) for top in rig.tops]
    outside = write(rig.tops[0], 30)
    rig.settle()
    locked = lock(rig, 10, 10)
    assert not locked.done
    rig.stub.complete([1])
    rig.pass_time(1000)
    assert not locked.done
    late = write(rig.tops[1], 13)
    rig.stub.complete([1])
    rig.pass_time(1000)
    assert locked.done
    assert (late.done, outside.done, read.done) == (False, False, False)
    assert [one.status for one in writes] == [Status.SUCCESS] * 2
    unlock(rig, locked)
    finish(rig)
    assert late.status == Status.SUCCESS


@pytest.mark.rule("A.14.1", "E.bdev_ut.lba_range_overlap", "E.bdev_ut.lock_lba_range_overlapped")
def test_locks_that_overlap_come_one_after_the_other(rig):
    first = lock(rig, 10, 10)
    ranges = [(0, 10), (20, 5), (19, 1), (5, 6), (0, 100)]
    tasks = [lock(rig, *one) for one in ranges]
    assert [task.done for task in tasks] == [True, True, False, False, False]
    unlock(rig, first)
    rig.pass_time(300)
    # (5, 6) overlaps (0, 10), and (0, 100) all of them.
    assert [task.done for task in tasks] == [True, True, True, False, False]
    for task, left in (
        (tasks[0], [True, False]),
        (tasks[1], [True, False]),
        (tasks[2], [True, False]),
    ):
        unlock(rig, task)
        rig.pass_time(300)
        assert [task.done for task in tasks[3:]] == left
    unlock(rig, tasks[3])
    rig.pass_time(300)
    assert tasks[4].done
    unlock(rig, tasks[4])
    assert entry_of(rig.stub).control.locks == []


@pytest.mark.rule("A.14.10", "E.bdev_ut.lba_range_overlap")
def test_no_blocks_are_locked_at_once_and_overlap_nothing(rig):
    first = lock(rig, 10, 10)
    empty = lock(rig, 12, 0)
    assert empty.done
    nothing = write(rig.tops[0], 12, 0)
    rig.settle()
    assert len(rig.stub.held) == 1
    finish(rig)
    assert nothing.status == Status.SUCCESS
    unlock(rig, empty)
    unlock(rig, first)


@pytest.mark.rule("A.14.14", "E.bdev_ut.lock_lba_range_check_ranges")
def test_a_channel_that_is_made_later_holds_back_too(rig):
    locked = lock(rig, 10, 10)
    late = rig.open("Disk")
    request = write(late, 12)
    rig.settle()
    assert rig.stub.arrived == []
    unlock(rig, locked)
    finish(rig)
    assert request.status == Status.SUCCESS
    request = write(rig.open("Disk"), 12)
    rig.settle()
    assert len(rig.stub.held) == 1
    finish(rig)


@pytest.mark.rule("A.14.2", "A.11.17", "E.bdev_ut.lock_lba_range_with_split_io")
def test_a_lock_waits_for_the_children_of_what_began_before_it():
    class Short(Stub):
        max_rw_size = 1

    with stack(pool_size=4) as made:
        made.stub = made.disk(Short)
        top = made.open("Disk")
        request = write(top, 8, 8)
        locked = spawn(made, entry_of(made.stub).control.lock(14, 1))
        for _ in range(20):
            assert not locked.done or request.done
            finish(made)
            made.pass_time(200)
        assert (locked.done, request.status) == (True, Status.SUCCESS)
        unlock(made, locked)


# Quiesce


@pytest.mark.rule("A.14.7", "A.14.13", "A.14.14", "Dd.1", "E.bdev_ut.bdev_quiesce")
def test_quiesced_even_reads_wait(rig):
    under_way = rig.tops[0].submit(Op.READ, 5, 1, bytearray(512))
    quiesced = spawn(rig, rig.stub.quiesce(Stub))
    rig.pass_time(1000)
    assert not quiesced.done
    finish(rig)
    rig.pass_time(1000)
    assert quiesced.done
    assert under_way.status == Status.SUCCESS
    late = rig.open("Disk")
    requests = [top.submit(Op.READ, 7, 1, bytearray(512)) for top in (*rig.tops, late)]
    rig.settle()
    assert len(rig.stub.arrived) == 1
    spawn(rig, rig.stub.unquiesce(Stub))
    finish(rig)
    assert {request.status for request in requests} == {Status.SUCCESS}


@pytest.mark.rule("A.14.9", "A.14.11", "A.14.12", "A.14.13", "E.bdev_ut.bdev_quiesce")
def test_what_can_not_be_quiesced(rig):
    def refused(coroutine):
        task = rig.reactor.spawn(coroutine)
        task.add_done_callback(lambda _task: None)
        rig.settle()
        with pytest.raises(BdevError) as caught:
            task.result()
        return caught.value.errno

    stub = rig.stub
    assert refused(stub.quiesce(Malloc)) == errno.EINVAL
    assert refused(stub.unquiesce(Stub)) == errno.EINVAL
    assert refused(stub.quiesce(Stub, 1000, 25)) == errno.EINVAL
    assert refused(stub.quiesce(Stub, 2000)) == errno.EINVAL
    spawn(rig, stub.quiesce(Stub, 10, 10))
    rig.pass_time(300)
    for wrong in ((10, 9), (11, 9), (0, 1024)):
        assert refused(stub.unquiesce(Stub, *wrong)) == errno.EINVAL
    assert refused(stub.unquiesce(Malloc, 10, 10)) == errno.EINVAL
    spawn(rig, stub.unquiesce(Stub, 10, 10))
    assert refused(stub.unquiesce(Stub, 10, 10)) == errno.EINVAL


@pytest.mark.rule("A.25.1", "A.25.2")
def test_what_waits_behind_a_lock_can_be_aborted_and_survives_a_reset(rig):
    locked = lock(rig, 10, 10)
    requests = [write(rig.tops[0], n) for n in (12, 13)]
    rig.settle()
    abort = rig.tops[0].io(Op.ABORT, 0, 0, victim=requests[0])
    assert (abort.status, requests[0].status) == (Status.SUCCESS, Status.ABORTED)
    reset = rig.tops[1].submit(Op.RESET, 0, 0)
    rig.settle()
    finish(rig)
    assert reset.status == Status.SUCCESS
    assert not requests[1].done
    unlock(rig, locked)
    finish(rig)
    assert requests[1].status == Status.SUCCESS


@pytest.mark.rule("A.25.2", "A.7.4", "E.bdev_ut.bdev_unregister_during_quiesced_range_unlock")
def test_removal_waits_for_the_unlock(rig):
    locked = lock(rig, 10, 10)
    request = write(rig.tops[1], 12)
    rig.settle()
    removal = rig.reactor.spawn(rig.registry.delete("Disk", "stub"))
    rig.pass_time(5000)
    assert (removal.done, request.done) == (False, False)
    unlock(rig, locked)
    finish(rig)
    rig.pass_time(5000)
    assert removal.done
    assert request.done


# COMPARE_AND_WRITE


class Swaps(Malloc):
    """No native COMPARE_AND_WRITE."""

    acwu = 4


def swap(opened, offset, old, new, count=1):
    return opened.io(
        Op.COMPARE_AND_WRITE, offset, count, old * 512 * count, write_data=new * 512 * count
    )


@pytest.mark.rule(
    "A.9.14",
    "A.14.5",
    "A.24.5",
    "A.24.11",
    "E.bdev_ut.bdev_compare_and_write",
    "E.bdevio.comparev_and_writev",
)
@pytest.mark.parametrize("height", [0, 1])
@pytest.mark.parametrize("reactor", [0, 1])
def test_compare_and_write(height, reactor):
    with stack(reactors=2) as made:
        disk = made.disk(Swaps)
        if height:
            made.layer()
        top = made.open("Top" if height else "Disk", on=reactor)
        assert swap(top, 7, b"\0", b"a", 4).status == Status.SUCCESS
        assert swap(top, 7, b"\0", b"b", 4).status == Status.MISCOMPARE
        assert swap(top, 8, b"a", b"b").status == Status.SUCCESS
        got = bytearray(4 * 512)
        top.io(Op.READ, 7, 4, got)
        assert bytes(got[::512]) == b"abaa"
        assert entry_of(disk).control.locks == []
        request = write(top, 7)
        made.settle()
        assert request.status == Status.SUCCESS


@pytest.mark.rule("A.9.13")
def test_no_more_than_the_atomic_unit():
    with stack() as made:
        made.disk(Swaps)
        made.disk(Malloc, name="One")
        request = swap(made.open("Disk"), 0, b"\0", b"a", 5)
        assert request.errno == errno.EINVAL
        assert swap(made.open("One"), 0, b"\0", b"a", 2).errno == errno.EINVAL
        assert swap(made.open("One"), 0, b"\0", b"a", 1).status == Status.SUCCESS


class Bare(Stub):
    ops = frozenset({Op.READ, Op.WRITE})


class Abortable(Bare):
    ops = Bare.ops | {Op.ABORT}


@pytest.fixture
def bare():
    with stack() as made:
        made.stub = made.disk(Bare)
        made.top = made.open("Disk")
        made.swap = made.top.submit(Op.COMPARE_AND_WRITE, 5, 1, bytes(512), write_data=b"n" * 512)
        made.pass_time(300)
        assert made.stub.arrived == [(Op.READ, 5, 1)]
        yield made


@pytest.mark.rule("A.24.5", "A.9.14")
def test_nothing_comes_between_comparing_and_writing(bare):
    late = write(bare.top, 5)
    bare.settle()
    assert bare.stub.arrived == [(Op.READ, 5, 1)]
    for view in bare.stub.held[0].data(Op.READ):
        view[:] = bytes(len(view))
    finish(bare)
    assert bare.stub.arrived[1:] == [(Op.WRITE, 5, 1)]
    assert not bare.swap.done
    finish(bare)
    bare.pass_time(300)
    assert bare.swap.status == Status.SUCCESS
    assert bare.stub.arrived[2:] == [(Op.WRITE, 5, 1)]
    finish(bare)
    assert late.status == Status.SUCCESS


@pytest.mark.rule("A.16.1")
def test_an_abort_ends_the_one_that_waits_for_its_lock():
    """Two that came at once: the second waits with the control path, and its ABORT finds it."""
    with stack() as made:
        made.stub = made.disk(Abortable)
        top = made.open("Disk")
        first, second = (
            top.submit(Op.COMPARE_AND_WRITE, 5, 1, bytes(512), write_data=b"n" * 512)
            for _ in range(2)
        )
        made.pass_time(300)
        assert made.stub.arrived == [(Op.READ, 5, 1)]
        request = top.io(Op.ABORT, 0, 0, victim=second)
        assert (request.status, second.status) == (Status.SUCCESS, Status.ABORTED)
        assert not first.done
        assert top.io(Op.ABORT, 0, 0, victim=second).errno == errno.ENOENT
        made.stub.complete(None, Status.AIO_ERROR, errno.EREMOTEIO)
        made.pass_time(300)
        assert first.errno == errno.EREMOTEIO
        assert made.stub.arrived == [(Op.READ, 5, 1)]
        assert entry_of(made.stub).control.locks == []


def test_an_abort_of_one_that_is_done_and_not_delivered_is_answered():
    """Its parts have ended, and the control path has not said so yet: there is nothing to end."""
    with stack() as made:
        made.stub = made.disk(Abortable)
        top = made.open("Disk")
        swap = top.submit(Op.COMPARE_AND_WRITE, 5, 1, bytes(512), write_data=b"n" * 512)
        made.pass_time(300)
        for view in made.stub.held[0].data(Op.READ):
            view[:] = bytes(len(view))
        made.stub.complete()
        made.pass_time(300)
        assert made.stub.arrived[1:] == [(Op.WRITE, 5, 1)]
        made.stub.complete()
        made.engines[0].drain()  # and no message yet
        assert not swap.done
        late = top.submit(Op.ABORT, 0, 0, victim=swap)
        made.pass_time(300)
        assert (swap.status, late.status) == (Status.SUCCESS, Status.FAILED)
        assert late.errno == errno.ENOENT


@pytest.mark.rule("A.24.6", "A.24.5", "Dd.10")
def test_a_read_that_fails_is_no_miscompare(bare):
    bare.stub.complete(None, Status.AIO_ERROR, errno.EREMOTEIO)
    bare.pass_time(300)
    assert bare.swap.status not in (Status.SUCCESS, Status.MISCOMPARE)
    assert bare.swap.errno == errno.EREMOTEIO
    assert entry_of(bare.stub).control.locks == []
    write(bare.top, 5)
    assert len(bare.stub.held) == 1
    finish(bare)


@pytest.mark.rule("A.24.6", "A.24.5")
def test_a_write_that_fails(bare):
    for view in bare.stub.held[0].data(Op.READ):
        view[:] = bytes(len(view))
    finish(bare)
    bare.stub.complete(None, Status.FAILED, errno.ENOSPC)
    bare.pass_time(300)
    assert (bare.swap.status, bare.swap.errno) == (Status.FAILED, errno.ENOSPC)
    assert entry_of(bare.stub).control.locks == []


@pytest.mark.rule("E.bdev_ut.bdev_compare_and_write", "A.24.12")
def test_a_native_one_is_the_modules(rig):
    request = rig.tops[0].submit(Op.COMPARE_AND_WRITE, 5, 1, bytes(512), write_data=bytes(512))
    rig.settle()
    assert rig.stub.arrived == [(Op.COMPARE_AND_WRITE, 5, 1)]
    rig.stub.complete(None, Status.MISCOMPARE)
    rig.settle()
    assert request.status == Status.MISCOMPARE


@pytest.mark.rule("A.14.6")
@pytest.mark.parametrize("op", [Op.NVME_IO, Op.NVME_IO_MD])
def test_commands_of_which_nobody_knows_the_blocks_wait_for_every_lock(rig, op):
    locked = lock(rig, 500, 1)
    top = rig.tops[0]
    data = bytearray(512)
    command = top.submit(op, 0, 0, data, cmd=bytes(64))
    known = top.submit(Op.NVME_IOV_MD, 0, 0, data, cmd=bytes(64))
    rig.settle()
    assert [op for op, *_ in rig.stub.arrived] == [Op.NVME_IOV_MD]
    unlock(rig, locked)
    assert [op for op, *_ in rig.stub.arrived] == [Op.NVME_IOV_MD, op]
    finish(rig)
    assert (command.status, known.status) == (Status.SUCCESS, Status.SUCCESS)


def test_one_that_is_thrown_away_with_its_reactor_says_nothing(caplog):
    """Python closes a coroutine that nobody will ever wake; that is no failure of the swap."""
    with stack() as rig:
        disk = rig.disk()
        opened = rig.open(disk.name)
        rig.settle()
        control = entry_of(disk).control
        coroutine = control._compare_and_write(SimpleNamespace(reactor=rig.reactor), 5, 1)

        async def begin():
            coroutine.send(None)

        rig.run(begin())
        coroutine.close()
        control._locks = ()  # which goes with the reactor too
        assert caplog.records == []
        opened.close()


def test_one_that_can_not_be_carried_out_fails_and_lets_go(bare, monkeypatch, caplog):
    def broken(_held):
        raise OSError(errno.EIO, "no way")

    finish(bare)  # the one that the fixture has begun reads,
    finish(bare)  # and writes
    bare.pass_time(300)
    control = entry_of(bare.stub).control
    monkeypatch.setattr(control, "_swap", broken)
    again = bare.top.submit(Op.COMPARE_AND_WRITE, 5, 1, bytes(512), write_data=bytes(512))
    bare.pass_time(300)
    assert again.status == Status.FAILED
    assert control.locks == []
    assert "compare and write failed bdev=Disk" in caplog.text


def test_a_range_that_is_not_quiesced_yet_is_not_given_back(rig):
    """Whoever waits for it would go on without having it."""
    stub = rig.stub
    write(rig.tops[0], 12)
    quiescing = spawn(rig, stub.quiesce(Stub, 10, 10))
    rig.pass_time(300)
    with pytest.raises(BdevError, match="are not quiesced"):
        rig.run(stub.unquiesce(Stub, 10, 10))
    finish(rig)
    rig.pass_time(300)
    assert quiescing.done
    read = rig.tops[1].submit(Op.READ, 12, 1, bytearray(512))
    rig.pass_time(300)
    assert offsets(rig) == [12]
    rig.run(stub.unquiesce(Stub, 10, 10))
    rig.settle()
    finish(rig)
    assert read.done
