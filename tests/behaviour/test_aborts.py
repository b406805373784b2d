"""ABORT finds its victim wherever it is: in a queue of the layer, in the module, in pieces."""

import errno

import pytest

from support.stack import Stub, gather, layer, stack
from vbdev.bdev.entry import entry_of
from vbdev.vocab import Op, Status


@pytest.fixture
def rig():
    with stack() as made:
        made.stub = made.disk(Stub)
        made.top = made.open("Disk")
        yield made


def read(opened, n=0, count=1):
    return opened.submit(Op.READ, n, count, bytearray(count * 512))


def abort(opened, victim):
    return opened.submit(Op.ABORT, 0, 0, victim=victim)


@pytest.mark.rule("A.16.1", "A.16.4", "E.bdev_ut.bdev_io_abort")
@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILED])
def test_the_module_decides(rig, status):
    victim, other = read(rig.top, 1), read(rig.top, 2)
    request = abort(rig.top, victim)
    assert [op for op, _, _ in rig.stub.arrived] == [Op.READ, Op.READ, Op.ABORT]
    if status == Status.SUCCESS:
        rig.stub.complete([0], Status.ABORTED)
    rig.stub.complete([len(rig.stub.held) - 1], status)
    rig.settle()
    assert request.status == status
    assert victim.status == (Status.ABORTED if status == Status.SUCCESS else Status.PENDING)
    assert not other.done
    rig.stub.complete()


@pytest.mark.rule("A.16.5", "A.25.11", "E.bdev_ut.bdev_io_abort")
def test_nothing_to_abort(rig):
    done = read(rig.top)
    rig.stub.complete()
    late = abort(rig.top, done)  # completed below, not called back yet
    rig.settle()
    assert done.status == Status.SUCCESS
    assert late.status == Status.FAILED
    assert rig.top.io(Op.ABORT, 0, 0, victim=done).status == Status.FAILED
    assert rig.top.io(Op.ABORT, 0, 0).status == Status.FAILED
    assert len(rig.stub.arrived) == 1


@pytest.mark.rule("A.16.2")
@pytest.mark.parametrize("op", [Op.RESET, Op.ABORT])
def test_resets_and_aborts_are_not_aborted(rig, op):
    first = read(rig.top)
    victim = rig.top.submit(op, 0, 0, victim=first)
    rig.settle()
    request = rig.top.io(Op.ABORT, 0, 0, victim=victim)
    # During a RESET it does not come as far as being refused.
    assert request.status == (Status.ABORTED if op == Op.RESET else Status.FAILED)
    assert not victim.done
    rig.stub.complete()
    rig.settle()
    assert victim.status == Status.SUCCESS


@pytest.mark.rule("A.9.15")
def test_a_module_without_abort():
    class Plain(Stub):
        ops = frozenset({Op.READ, Op.WRITE})

    with stack() as made:
        stub = made.disk(Plain)
        top = made.open("Disk")
        victim = read(top)
        assert top.io(Op.ABORT, 0, 0, victim=victim).errno == errno.ENOTSUP
        stub.complete()


class Short(Stub):
    max_rw_size = 1
    max_write_zeroes = 1


@pytest.mark.parametrize("status", [Status.ABORTED, Status.AIO_ERROR, Status.NVME_ERROR])
def test_a_piece_that_can_not_be_aborted_fails_the_abort_however_it_says_so(status):
    with stack() as made:
        stub = made.disk(Short)
        top = made.open("Disk")
        victim = read(top, 0, 2)
        made.settle()
        request = abort(top, victim)
        made.settle()
        detail = (
            {"status": None, "nvme": (0, 7)} if status == Status.NVME_ERROR else {"status": status}
        )
        stub.complete([2, 3], **detail)
        made.settle()
        assert request.status == Status.FAILED
        stub.complete()
        made.settle()
        assert victim.done


@pytest.mark.rule("A.16.6", "E.bdev_ut.bdev_io_abort")
@pytest.mark.parametrize("how", ["all", "none", "some"])
def test_an_io_in_pieces_is_aborted_when_all_its_pieces_are(how):
    with stack() as made:
        stub = made.disk(Short)
        top = made.open("Disk")
        victim = read(top, 0, 4)
        made.settle()
        request = abort(top, victim)
        made.settle()
        assert [op for op, _, _ in stub.arrived] == [Op.READ] * 4 + [Op.ABORT] * 4
        aborted = {"all": 4, "none": 0, "some": 2}[how]
        stub.complete(range(aborted), Status.ABORTED)
        stub.complete(range(4 - aborted), Status.SUCCESS)
        stub.complete(range(aborted), Status.SUCCESS)
        stub.complete(None, Status.FAILED)
        made.settle()
        assert request.status == (Status.SUCCESS if how == "all" else Status.FAILED)
        assert victim.status == (Status.SUCCESS if how == "none" else Status.ABORTED)


@pytest.mark.parametrize("op", [Op.WRITE, Op.READ, Op.WRITE_ZEROES, Op.COMPARE])
@pytest.mark.parametrize("first", ["the end", "the abort"])
def test_an_abort_that_finds_all_pieces_done_changes_nothing(op, first):
    class Pieces(Stub):
        ops = Stub.ops - {Op.WRITE_ZEROES, Op.COMPARE}
        max_rw_size = 4

    with stack() as rig:
        stub = rig.disk(Pieces)
        top = rig.open("Disk")
        victim = top.submit(op, 0, 16, None if op == Op.WRITE_ZEROES else bytearray(16 * 512))
        rig.settle()
        assert len(stub.held) == 4
        if first == "the end":
            stub.complete()
        request = abort(top, victim)
        if first != "the end":
            stub.complete()
        rig.settle()
        assert (request.status, victim.status) == (Status.FAILED, Status.SUCCESS)
        assert len(stub.arrived) == 4


def test_an_abort_that_finds_all_of_a_copy_read_keeps_it_from_being_written():
    class Pieces(Stub):
        ops = Stub.ops - {Op.COPY}
        max_rw_size = 4

    with stack() as rig:
        stub = rig.disk(Pieces)
        top = rig.open("Disk")
        victim = top.submit(Op.COPY, 0, 8, src_offset_blocks=100)
        rig.settle()
        assert [op for op, _, _ in stub.arrived] == [Op.READ] * 2
        request = abort(top, victim)
        stub.complete()
        rig.settle()
        assert (request.status, victim.status) == (Status.FAILED, Status.ABORTED)
        assert len(stub.arrived) == 2


@pytest.mark.rule("A.16.6")
def test_no_more_pieces_come_of_what_is_aborted():
    with stack() as made:
        stub = made.disk(Short)
        top = made.open("Disk")
        victim = top.submit(Op.WRITE_ZEROES, 0, 50)
        made.settle()
        abort(top, victim)
        made.settle()
        while stub.held:
            stub.complete(
                [n for n, one in enumerate(stub.held) if one.ops[0] != Op.ABORT], Status.ABORTED
            )
            stub.complete()
            made.settle()
        assert victim.status == Status.ABORTED
        assert len([op for op, _, _ in stub.arrived if op == Op.WRITE_ZEROES]) == 8


@pytest.mark.rule("A.16.7", "A.16.11", "D.13")
def test_abort_reaches_the_queue_of_the_layer_that_has_its_victim(rig):
    """The base has no room: the victim waits there, two layers below who aborts it."""
    rig.top.close()
    rig.layer(name="P1")
    rig.layer(name="P2", base="P1")
    top = rig.open("P2")
    victims = [read(top, n) for n in range(3)]
    rig.stub.complete([1], Status.NOMEM)
    rig.settle()
    request = abort(top, victims[1])
    rig.settle()
    assert (request.status, victims[1].status) == (Status.SUCCESS, Status.ABORTED)
    rig.stub.complete()
    rig.settle()
    assert len(rig.stub.arrived) == 3


@pytest.mark.rule("A.16.1")
def test_a_victim_that_a_layer_holds_is_the_layers(rig):
    """The layer keeps READs and passes ABORTs on, to where their victim is not: that fails."""
    kept = []

    def keep(_self, channel, ios):
        reads = ios.take(Op.READ)
        if len(reads):
            kept.append((channel.base, reads))
        channel.base.submit(ios)

    rig.top.close()
    rig.layer(layer(keep))
    top = rig.open("Top")
    victim = read(top)
    request = top.io(Op.ABORT, 0, 0, victim=victim)
    assert (request.status, request.errno) == (Status.FAILED, errno.ENOENT)
    assert (victim.done, rig.stub.arrived) == (False, [])
    ((base, reads),) = kept
    base.submit(reads)
    rig.settle()
    rig.stub.complete()
    rig.settle()
    assert victim.status == Status.SUCCESS


def test_an_old_name_aborts_nothing(rig):
    """A BdevIO that went back to the pool is another I/O."""
    for _ in range(50):
        victim = read(rig.top)
        rig.stub.complete()
        rig.settle()
        other = read(rig.top)
        assert rig.top.io(Op.ABORT, 0, 0, victim=victim).status == Status.FAILED
        assert not other.done
        rig.stub.complete()
        rig.settle()


def parked_read(rig, opened):
    """Return a READ that waits in a queue of `opened`'s channel, for a range that is quiesced."""
    rig.run(entry_of(opened.descriptor.bdev).control.quiesce(0, 8))
    victim = read(opened, 0)
    assert opened.channel.waiting == 1
    return victim


@pytest.mark.parametrize("where", ["waiting", "module", "parent", "swap"])
def test_a_victim_of_another_channel_is_left_alone(where):
    """Another bdev's, or the same bdev's through another descriptor (SPDK: bdev_abort_io)."""
    with stack() as rig:
        theirs, _ = rig.disk(Stub, name="Theirs"), rig.disk(Stub, name="Mine")
        owner, mine, beside = rig.open("Theirs"), rig.open("Mine"), rig.open("Theirs")
        if where == "waiting":
            victim = parked_read(rig, owner)
        elif where == "module":
            victim = read(owner)
        elif where == "parent":
            theirs.max_rw_size = 1
            entry_of(theirs).reconfigure(owner.channel)
            victim = read(owner, 0, 3)
            rig.settle()
        else:
            theirs.ops = theirs.ops - {Op.COMPARE_AND_WRITE}
            entry_of(theirs).reconfigure(owner.channel)
            victim = owner.submit(Op.COMPARE_AND_WRITE, 0, 1, bytes(512), write_data=bytes(512))
        for other in (mine, beside):
            request = abort(other, victim)
            rig.settle()
            assert (request.status, request.errno) == (Status.FAILED, errno.ENOENT)
        assert not victim.done
        if where == "waiting":
            rig.run(entry_of(owner.descriptor.bdev).control.unquiesce(0, 8))
        while not victim.done:
            theirs.complete()
            rig.pass_time(100)
        assert victim.status != Status.ABORTED


def test_a_victim_that_a_layer_below_has_is_the_channels_own():
    """It came through the channel of its ABORT, wherever it waits further down."""
    with stack() as rig:
        rig.disk(Stub)
        rig.layer(layer())
        top = rig.open("Top")
        rig.run(entry_of(rig.registry.get("Disk")).control.quiesce(0, 8))
        victim = read(top)
        request = abort(top, victim)
        rig.settle()
        assert (request.status, victim.status) == (Status.SUCCESS, Status.ABORTED)
        rig.run(entry_of(rig.registry.get("Disk")).control.unquiesce(0, 8))


def test_an_abort_follows_its_victim_to_where_a_coroutine_sent_it():
    """To another bdev than the base."""
    with stack() as rig:
        other = rig.disk(Stub, name="Other")
        rig.disk(Stub)
        aside = rig.open("Other")

        async def handle(_self, _channel, io):
            await io.forward(aside.channel)

        rig.layer(layer(handle=handle))
        top = rig.open("Top")
        victim = read(top)
        request = abort(top, victim)
        assert [op for op, _, _ in other.arrived] == [Op.READ, Op.ABORT]
        other.complete([0], Status.ABORTED)
        other.complete([0])
        rig.settle()
        assert (request.status, victim.status) == (Status.SUCCESS, Status.ABORTED)


def test_an_abort_that_comes_together_with_its_victim_follows_it_down():
    """Both are in one batch for a coroutine's channel, which has sent nothing of it off yet."""

    async def handle(_self, _channel, io):
        await io.forward()

    with stack() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle), name="Middle")
        rig.layer(gather(2), name="Top", base="Middle")
        top = rig.open("Top")
        victim = read(top, 3)
        request = abort(top, victim)
        rig.settle()
        assert [op for op, *_ in disk.arrived] == [Op.READ, Op.ABORT]
        disk.complete([0], Status.ABORTED)
        disk.complete()
        rig.settle()
        assert (victim.status, request.status) == (Status.ABORTED, Status.SUCCESS)
