"""RESET: every channel of the bdev stops, what waits ends, the module is told or not, all goes on.

Method: a Stub on one or two reactors that are turned by hand.
"""

import errno

import pytest

from support.stack import Stub, stack
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.vocab import Op, Status


@pytest.fixture(params=[1, 2], ids=["one reactor", "two reactors"])
def rig(request):
    with stack(reactors=request.param) as made:
        made.stub = made.disk(Stub)
        made.tops = [made.open("Disk", on=n % request.param) for n in range(2)]
        made.many = request.param > 1
        yield made


def draining(seconds):
    return type("Draining", (Stub,), {"reset_io_drain_timeout": seconds})


def read(opened, n=0):
    return opened.submit(Op.READ, n, 1, bytearray(512))


@pytest.mark.rule("A.15.2", "A.10.3", "A.25.14", "A.15.7", "E.bdev_mt.io_during_reset")
def test_io_during_a_reset_is_aborted_and_works_after(rig):
    before = [read(top, 1) for top in rig.tops]
    reset = rig.tops[0].submit(Op.RESET, 0, 0)
    rig.settle()
    assert rig.stub.arrived[-1][0] == Op.RESET
    during = [read(top, 2) for top in rig.tops]
    rig.settle()
    assert [request.status for request in during] == [Status.ABORTED] * 2
    assert [request.done for request in before] == [False] * 2
    rig.stub.complete()
    rig.settle()
    assert reset.status == Status.SUCCESS
    assert [request.status for request in before] == [Status.SUCCESS] * 2
    after = [read(top, 3) for top in rig.tops]
    rig.settle()
    rig.stub.complete()
    rig.settle()
    assert [request.status for request in after] == [Status.SUCCESS] * 2
    assert 2 not in [offset for _, offset, _ in rig.stub.arrived]


@pytest.mark.rule("A.15.1", "E.bdev_mt.reset_start_complete_race")
@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILED])
def test_resets_that_come_meanwhile_end_like_the_first(rig, status):
    resets = [top.submit(Op.RESET, 0, 0) for top in rig.tops * 2]
    rig.settle()
    assert [op for op, _, _ in rig.stub.arrived] == [Op.RESET]
    rig.stub.complete(None, status, errno.EIO if status < 0 else 0)
    rig.settle()
    assert [request.status for request in resets] == [status] * 4
    assert len(rig.stub.arrived) == 1
    again = rig.tops[1].submit(Op.RESET, 0, 0)
    rig.settle()
    rig.stub.complete()
    rig.settle()
    assert (again.status, len(rig.stub.arrived)) == (Status.SUCCESS, 2)


@pytest.mark.rule("A.15.10", "A.15.3")
def test_what_waits_for_memory_on_any_channel_ends(rig):
    requests = [[read(top, n) for n in range(3)] for top in rig.tops]
    rig.settle()
    rig.stub.complete([0, 3], Status.NOMEM)
    rig.settle()
    rig.tops[0].submit(Op.RESET, 0, 0)
    rig.settle()
    for mine in requests:
        assert sorted(request.status for request in mine) == [
            Status.ABORTED,
            Status.PENDING,
            Status.PENDING,
        ]
    rig.stub.complete()
    rig.settle()


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
@pytest.mark.parametrize("count", [0, 1])
def test_what_comes_meanwhile_is_aborted_however_little_it_is(rig, op, count):
    rig.tops[0].submit(Op.RESET, 0, 0)
    rig.settle()
    requests = [top.submit(op, 7, count, bytearray(count * 512)) for top in rig.tops]
    rig.settle()
    assert [request.status for request in requests] == [Status.ABORTED] * len(rig.tops)
    assert [op for op, _, _ in rig.stub.arrived] == [Op.RESET]
    rig.stub.complete()


@pytest.mark.rule("A.15.4", "A.25.9")
def test_without_a_drain_timeout_the_module_is_told_at_once(rig):
    read(rig.tops[1])
    rig.tops[0].submit(Op.RESET, 0, 0)
    before_ns = rig.reactor.clock.now_ns()
    rig.settle()
    assert rig.stub.arrived[-1][0] == Op.RESET
    assert rig.reactor.clock.now_ns() == before_ns
    rig.stub.complete()


@pytest.mark.rule("A.15.5", "E.bdev_mt.reset_completions", "A.25.9")
@pytest.mark.parametrize("reactors", [1, 2])
def test_with_one_it_waits_and_the_module_is_not_told(reactors):
    with stack(reactors=reactors) as made:
        stub = made.disk(draining(5))
        tops = [made.open("Disk", on=n % reactors) for n in range(2)]
        idle = tops[0].submit(Op.RESET, 0, 0)
        made.turn_until(lambda: idle.done)
        assert (idle.status, stub.arrived) == (Status.SUCCESS, [])
        request = read(tops[1])
        reset = tops[0].submit(Op.RESET, 0, 0)
        made.pass_time(3_000_000)
        assert (reset.done, request.done) == (False, False)
        stub.complete()
        made.pass_time(1_100_000)
        assert (reset.status, request.status) == (Status.SUCCESS, Status.SUCCESS)
        assert [op for op, _, _ in stub.arrived] == [Op.READ]


@pytest.mark.rule("A.15.6", "E.bdev_mt.reset_completions")
def test_with_one_that_runs_out_the_module_is_told():
    with stack() as made:
        stub = made.disk(draining(5))
        top = made.open("Disk")
        request = read(top)
        reset = top.submit(Op.RESET, 0, 0)
        made.pass_time(4_900_000)
        assert [op for op, _, _ in stub.arrived] == [Op.READ]
        made.pass_time(1_200_000)
        assert [op for op, _, _ in stub.arrived] == [Op.READ, Op.RESET]
        stub.complete([1])
        made.settle()
        assert (reset.status, request.done) == (Status.SUCCESS, False)
        stub.complete()
        made.settle()


@pytest.mark.rule("A.15.8", "A.24.9")
def test_a_module_without_reset():
    class Plain(Stub):
        ops = frozenset({Op.READ, Op.WRITE})

    with stack() as made:
        stub = made.disk(Plain)
        request = made.open("Disk").io(Op.RESET, 0, 0)
        assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP)
        assert stub.arrived == []


@pytest.mark.rule("E.bdev_mt.unregister_during_reset", "A.7.4")
def test_removal_waits_for_a_reset(rig):
    reset = rig.tops[1].submit(Op.RESET, 0, 0)
    rig.settle()
    removal = rig.reactor.spawn(rig.registry.delete("Disk", "stub"))
    rig.settle()
    assert (removal.done, reset.done) == (False, False)
    rig.stub.complete()
    rig.settle()
    assert reset.status == Status.SUCCESS
    assert removal.done


@pytest.mark.rule("A.15.9", "E.bdev_mt.put_channel_during_reset", "E.bdev_mt.aborted_reset")
def test_a_channel_closes_during_somebody_elses_reset(rig):
    reset = rig.tops[0].submit(Op.RESET, 0, 0)
    rig.settle()
    rig.tops[1].close()
    rig.settle()
    rig.stub.complete()
    rig.settle()
    assert reset.status == Status.SUCCESS
    opened = rig.open("Disk")
    request = read(opened)
    rig.stub.complete()
    rig.settle()
    assert request.status == Status.SUCCESS


@pytest.mark.rule("A.15.9", "E.bdev_mt.aborted_reset", "E.bdev_mt.aborted_reset_no_outstanding_io")
def test_a_queued_reset_ends_with_the_first_before_its_channel_closes(rig):
    """Its owner can not close the channel over it: the RESET is outstanding there."""
    first = rig.tops[0].submit(Op.RESET, 0, 0)
    second = rig.tops[1].submit(Op.RESET, 0, 0)
    rig.settle()
    if not rig.many:
        with pytest.raises(BdevError, match="outstanding"):
            rig.tops[1].descriptor.close()
    rig.stub.complete(None, Status.ABORTED)
    rig.settle()
    assert [first.status, second.status] == [Status.ABORTED] * 2


@pytest.mark.rule("A.15.2", "A.10.3")
def test_a_channel_that_opens_during_a_reset_is_frozen_too(rig):
    rig.tops[0].submit(Op.RESET, 0, 0)
    rig.settle()
    late = rig.open("Disk")
    request = read(late)
    rig.settle()
    assert request.status == Status.ABORTED
    rig.stub.complete()
    rig.settle()
    request = read(late)
    rig.settle()
    rig.stub.complete()
    rig.settle()
    assert request.status == Status.SUCCESS


@pytest.mark.rule("A.15.2")
def test_a_reset_of_a_layer_stops_the_layer_and_is_passed_on(rig):
    for top in rig.tops:
        top.close()
    rig.settle()
    rig.layer()
    top, below = rig.open("Top"), rig.open("Disk", write=False)
    reset = top.submit(Op.RESET, 0, 0)
    rig.settle()
    assert rig.stub.arrived == [(Op.RESET, 0, 0)]
    requests = [read(top), read(below)]
    rig.settle()
    assert requests[0].status == Status.ABORTED
    rig.stub.complete()
    rig.settle()
    assert reset.status == Status.SUCCESS


def test_a_reset_that_is_thrown_away_with_its_reactor_says_nothing(caplog):
    """Python closes a coroutine that nobody will ever wake; that is no failure of a reset."""
    with stack() as rig:
        disk = rig.disk(draining(0))
        opened = rig.open("Disk")
        rig.settle()
        control = entry_of(disk).control
        control._resets.append(object())
        coroutine = control._reset_all()

        async def begin():
            coroutine.send(None)

        rig.run(begin())
        coroutine.close()
        control._resets.clear()
        assert caplog.records == []
        assert not control.resetting
        opened.close()
