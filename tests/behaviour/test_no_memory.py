"""A module without room for an I/O says NOMEM: it is tried again, in order, and nobody hears."""

import pytest

from support.stack import Stack, Stub, stack
from vbdev.bdev import VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.vocab import Op, Status


@pytest.fixture
def rig():
    with stack() as made:
        made.stub = made.disk(Stub)
        made.top = made.open("Disk")
        yield made


def offsets(stub, start=0):
    return [offset for _, offset, _ in stub.arrived[start:]]


def nomem(rig, which):
    rig.stub.complete(which, Status.NOMEM)
    rig.settle()


@pytest.mark.rule("A.13.1", "A.10.10", "E.bdev_mt.enomem")
def test_it_is_tried_again_and_nobody_hears_of_it(rig):
    requests = [rig.top.submit(Op.READ, n, 1, bytearray(512)) for n in range(4)]
    nomem(rig, [1])
    assert not requests[1].done
    assert offsets(rig.stub) == [0, 1, 2, 3]
    rig.stub.complete([0, 1])
    rig.settle()
    assert offsets(rig.stub) == [0, 1, 2, 3, 1]
    rig.stub.complete()
    rig.settle()
    assert {request.status for request in requests} == {Status.SUCCESS}
    assert entry_of(rig.stub).iostat().stats["read"][:2] == (4, 4)


@pytest.mark.rule("A.13.2", "E.bdev_mt.enomem")
@pytest.mark.parametrize(
    ("outstanding", "threshold"), [(2, 1), (8, 4), (16, 8), (20, 12), (64, 56)]
)
def test_when_it_is_tried_again(rig, outstanding, threshold):
    """With n in the module: when no more than max(n/2, n-8) are left."""
    for n in range(outstanding + 1):
        rig.top.submit(Op.READ, n, 1, bytearray(512))
    nomem(rig, [0])
    left = outstanding
    while len(rig.stub.arrived) == outstanding + 1:
        rig.stub.complete([0])
        rig.settle()
        left -= 1
    assert left == threshold
    assert offsets(rig.stub)[-1] == 0
    rig.stub.complete()


@pytest.mark.rule("A.13.3", "A.13.1", "E.bdev_mt.enomem")
def test_those_that_come_wait_behind_it(rig):
    for n in range(4):
        rig.top.submit(Op.READ, n, 1, bytearray(512))
    nomem(rig, [3, 2])
    for n in range(4, 7):
        rig.top.submit(Op.WRITE, n, 1, bytes(512))
    rig.top.submit(Op.FLUSH, 0, 0)
    assert len(rig.stub.arrived) == 4
    rig.stub.complete()
    rig.settle()
    ops = [op for op, _, _ in rig.stub.arrived[4:]]
    assert sorted(offsets(rig.stub, 4)[:2]) == [2, 3]
    assert offsets(rig.stub, 6) == [4, 5, 6, 0]
    assert ops == [Op.READ] * 2 + [Op.WRITE] * 3 + [Op.FLUSH]
    rig.stub.complete()


@pytest.mark.rule("A.13.1")
def test_those_that_find_no_room_again_keep_their_place(rig):
    for n in range(4):
        rig.top.submit(Op.READ, n, 1, bytearray(512))
    nomem(rig, [2])
    rig.top.submit(Op.READ, 4, 1, bytearray(512))
    rig.stub.complete([0])
    rig.settle()
    rig.stub.complete()
    rig.settle()
    assert offsets(rig.stub, 4) == [2, 4]
    nomem(rig, [0])
    rig.stub.complete()
    rig.settle()
    rig.pass_time(20_000)
    assert offsets(rig.stub, 6) == [2]
    rig.stub.complete()


@pytest.mark.rule("A.13.4")
def test_with_nothing_outstanding_time_brings_it_back(rig):
    request = rig.top.submit(Op.READ, 0, 1, bytearray(512))
    for tries in range(2, 5):
        nomem(rig, [0])
        rig.pass_time(9_000)
        assert len(rig.stub.arrived) == tries - 1
        rig.pass_time(1_500)
        assert len(rig.stub.arrived) == tries
    rig.stub.complete()
    rig.settle()
    assert request.status == Status.SUCCESS


@pytest.mark.rule("A.13.7")
def test_tries_are_counted(rig):
    rig.top.submit(Op.READ, 0, 1, bytearray(512))
    assert rig.top.channel.retries == 0
    for _ in range(3):
        nomem(rig, [0])
        rig.pass_time(11_000)
    assert rig.top.channel.retries == 3
    rig.stub.complete()


@pytest.mark.rule("A.13.5", "A.16.3", "A.25.7", "E.bdev_mt.enomem_retry_during_abort")
def test_abort_finds_what_waits(rig):
    requests = [rig.top.submit(Op.READ, n, 1, bytearray(512)) for n in range(6)]
    nomem(rig, [3, 4])
    late = rig.top.submit(Op.READ, 9, 1, bytearray(512))
    for victim in (requests[4], late, requests[3]):
        assert rig.top.io(Op.ABORT, 0, 0, victim=victim).status == Status.SUCCESS
        assert victim.status == Status.ABORTED
    rig.stub.complete()
    rig.settle()
    assert offsets(rig.stub) == [0, 1, 2, 3, 4, 5]


@pytest.mark.rule("A.13.6", "A.25.7", "A.15.3")
def test_reset_does_not_wait_and_ends_what_does(rig):
    requests = [rig.top.submit(Op.READ, n, 1, bytearray(512)) for n in range(4)]
    nomem(rig, [0])
    late = rig.top.submit(Op.READ, 9, 1, bytearray(512))
    reset = rig.top.submit(Op.RESET, 0, 0)
    rig.settle()
    assert [request.status for request in (requests[0], late)] == [Status.ABORTED] * 2
    assert rig.stub.arrived[-1][0] == Op.RESET
    rig.stub.complete()
    rig.settle()
    assert reset.status == Status.SUCCESS
    assert rig.top.submit(Op.READ, 0, 1, bytearray(512))
    assert len(rig.stub.held) == 1
    rig.stub.complete()


@pytest.mark.rule("A.7.2", "A.25.7", "E.bdev_mt.enomem_multi_bdev_unregister")
def test_removal_ends_what_waits(rig):
    other = rig.disk(Stub, name="Other")
    there = rig.open("Other")
    stays = [there.submit(Op.READ, n, 1, bytearray(512)) for n in range(2)]
    other.complete([0], Status.NOMEM)
    requests = [rig.top.submit(Op.READ, n, 1, bytearray(512)) for n in range(4)]
    nomem(rig, [0, 1])
    removal = rig.reactor.spawn(rig.registry.delete("Disk", "stub"))
    rig.settle()
    assert [request.status for request in requests] == [Status.ABORTED] * 2 + [Status.PENDING] * 2
    assert not removal.done
    rig.stub.complete()
    rig.settle()
    assert removal.done
    other.complete()
    rig.pass_time(11_000)
    other.complete()
    rig.settle()
    assert [request.status for request in stays] == [Status.SUCCESS] * 2


@pytest.mark.rule("A.13.8", "E.bdev_mt.enomem_multi_bdev", "E.bdev_mt.enomem_multi_io_target")
def test_a_bdev_without_room_does_not_hold_up_another(rig):
    other = rig.disk(Stub, name="Other")
    there = rig.open("Other")
    rig.top.submit(Op.READ, 0, 1, bytearray(512))
    rig.top.submit(Op.READ, 1, 1, bytearray(512))
    nomem(rig, [0])
    for n in range(5):
        there.submit(Op.READ, n, 1, bytearray(512))
        assert len(other.held) == n + 1
    other.complete()
    rig.settle()
    assert len(rig.stub.arrived) == 2
    rig.stub.complete()
    rig.settle()
    assert len(rig.stub.arrived) == 3
    rig.stub.complete()


@pytest.mark.rule("A.13.1", "A.10.10")
def test_a_layer_may_have_no_room_either(rig):
    """The I/O waits at the layer that said so, and is as it was when it comes again."""

    class Full(VirtualBdev):
        kind = "full"
        product_name = "full"
        room = 0

        def submit(self, channel, ios):
            ios.shift(100)
            if not self.room:
                ios.complete(Status.NOMEM)
                return
            channel.base.submit(ios)

    rig.top.close()
    full = rig.layer(Full)
    top = rig.open("Top")
    request = top.submit(Op.READ, 7, 1, bytearray(512))
    rig.pass_time(35_000)
    assert (request.done, rig.stub.arrived) == (False, [])
    full.room = 1
    rig.pass_time(11_000)
    assert rig.stub.arrived == [(Op.READ, 107, 1)]
    rig.stub.complete()
    rig.settle()
    assert request.status == Status.SUCCESS


# BdevIOs


@pytest.mark.rule("A.13.10", "A.13.12", "E.bdev_ut.bdev_io_wait_test")
def test_who_waits_for_an_io_is_called_when_one_is_free():
    with stack(pool_size=3) as made:
        stub = made.disk(Stub)
        top = made.open("Disk")
        called = []
        made.engine.io_wait(lambda: called.append("at once"))
        made.settle()
        assert called == ["at once"]
        for n in range(3):
            assert top.submit(Op.READ, n, 1, bytearray(512))
        assert top.submit(Op.READ, 3, 1, bytearray(512)) is None
        made.engine.io_wait(lambda: called.append(top.submit(Op.READ, 4, 1, bytearray(512))))
        made.settle()
        assert len(called) == 1
        stub.complete([0])
        made.settle()
        assert called[1] is not None
        stub.complete()
        made.settle()
        assert called[1].status == Status.SUCCESS


@pytest.mark.rule("A.13.11", "A.10.1", "A.10.8", "A.13.14", "E.bdev_ut.bdev_io_wait_test")
def test_first_come_first_served_across_bdevs():
    """Nobody who comes later gets the BdevIO that somebody waits for."""
    with stack(pool_size=2) as made:
        stubs = [made.disk(Stub, name=f"D{n}") for n in range(3)]
        tops = [made.open(f"D{n}") for n in range(3)]
        for n in range(2):
            tops[0].submit(Op.READ, n, 1, bytearray(512))
        order = []

        def woken(n):
            order.append(n)
            assert tops[n % 3].submit(Op.READ, 10 + n, 1, bytearray(512))

        for n in range(5):
            made.engine.io_wait(lambda n=n: woken(n))
        stubs[0].complete([0])
        assert tops[1].submit(Op.READ, 99, 1, bytearray(512)) is None
        for _ in range(10):
            made.settle()
            for stub in stubs:
                stub.complete()
        made.settle()
        assert order == [0, 1, 2, 3, 4]
        assert not any(99 in offsets(stub) for stub in stubs)


@pytest.mark.rule("A.25.12")
def test_what_waits_for_a_bdev_io_is_nowhere_yet():
    """It can not be aborted, and meets the bdev as it is when it comes."""
    made = Stack(pool_size=2)
    stub = made.disk(Stub)
    top = made.open("Disk")
    for n in range(2):
        top.submit(Op.READ, n, 1, bytearray(512))
    called = []
    made.engine.io_wait(lambda: called.append(top.submit(Op.READ, 2, 1, bytearray(512))))
    assert top.submit(Op.ABORT, 0, 0, victim=None) is None
    stub.complete()
    made.settle()
    assert stub.arrived[-1] == (Op.READ, 2, 1)
    stub.complete()
    made.close()


class Halves(Stub):
    max_rw_size = 4


@pytest.mark.rule("A.13.13")
def test_a_parent_without_a_child_goes_before_those_that_wait():
    """With every BdevIO in use, a split gets the next one, and io_wait the one after."""
    with stack(pool_size=3) as made:
        disk = made.disk(Halves)
        top = made.open("Disk")
        data = bytearray(8 * 512)
        single = [top.submit(Op.READ, 100 + n, 1, bytearray(512)) for n in range(2)]
        split = top.submit(Op.READ, 0, 8, data)
        made.settle()
        # The reserve gives a split that has no child one: it never waits for ever.
        assert disk.arrived[2:] == [(Op.READ, 0, 4)]
        called = []
        made.engine.io_wait(lambda: called.append(len(disk.arrived)))
        disk.complete([0])
        made.settle()
        disk.complete()
        made.settle()
        while not split.done:
            disk.complete()
            made.settle()
        assert [one.status for one in (*single, split)] == [Status.SUCCESS] * 3
        assert called
        assert made.engine.reserve_in_use == 0


@pytest.mark.rule("A.10.2")
def test_an_io_is_pending_until_it_ends_and_knows_its_time():
    seen = []

    class Looking(VirtualBdev):
        kind = "looking"
        product_name = "looking"

        def submit(self, channel, ios):
            seen.append((ios.statuses.tolist(), ios.submit_ns.tolist()))
            channel.base.submit(ios)

        def completed(self, channel, ios):
            seen.append((ios.statuses.tolist(), ios.submit_ns.tolist()))

    with stack() as made:
        disk = made.disk(Stub)
        made.layer(Looking)
        top = made.open("Top")
        made.pass_time(7)
        now_ns = made.reactor.clock.now_ns()
        request = top.submit(Op.READ, 0, 1, bytearray(512))
        assert (request.done, request.status) == (False, Status.PENDING)
        made.pass_time(50)
        disk.complete()
        made.settle()
    assert seen == [([Status.PENDING], [now_ns]), ([Status.SUCCESS], [now_ns])]
