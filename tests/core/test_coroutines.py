"""Modules with `async def handle`: what a coroutine can do with its I/O, and in what batches."""

import contextlib
import errno

import pytest

from support.coroutines import BLOCK, built, read
from support.stack import Stub, layer, stack
from support.stack import gather as together
from vbdev.bdev import Bdev, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.bdev.geometry import SizedParams, set_geometry
from vbdev.reactor.task import Future, gather
from vbdev.vocab import IoFlag, Op, Status


@contextlib.contextmanager
def flawless(**options):
    """Return a stack in which no module raises."""
    with stack(**options) as rig:
        yield rig
        assert rig.errors == []


async def pass_on(_self, _channel, io):
    await io.forward()


async def pass_on_unseen(_self, _channel, io):
    io.forward()


@pytest.mark.parametrize("handle", [pass_on, pass_on_unseen])
def test_a_batch_stays_one_on_its_way_down(handle):
    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle), name="One")
        rig.layer(layer(handle=handle), name="Two", base="One")
        rig.layer(together(200), base="Two")
        top = rig.open("Top")
        reads = [read(top, n) for n in range(200)]
        assert disk.batch_sizes == [200]
        assert disk.arrived == [(Op.READ, n, 1) for n in range(200)]
        disk.complete()
        rig.settle()
        assert {r.status for r in reads} == {Status.SUCCESS}


def test_those_that_go_on_in_one_turn_leave_as_one_batch():
    """Behind an await of the base, of a child, of a Future."""
    opened = Future()

    async def handle(_self, channel, io):
        await io.forward()
        await io.child(channel.base)
        await opened
        await io.forward()

    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        top = rig.open("Top")
        reads = [read(top, n) for n in range(8)]
        assert disk.batch_sizes == [1] * 8
        for _ in range(2):
            disk.complete()
            rig.settle()
        assert disk.batch_sizes == [1] * 8 + [8]
        opened.set_result(None)
        rig.settle()
        assert disk.batch_sizes == [1] * 8 + [8, 8]
        disk.complete()
        rig.settle()
        assert {r.status for r in reads} == {Status.SUCCESS}


def test_what_a_coroutine_sees():
    seen = []

    async def handle(_self, _channel, io):
        seen.append((io.op, io.offset_blocks, io.num_blocks, io.flags, io.status))
        seen.append([len(view) for view in io.data()])
        io.offset_blocks += 10
        seen.append(await io.forward())
        seen.append((io.status, io.errno, io.detail, io.offset_blocks, io.src_offset_blocks))

    with flawless() as rig:
        disk = rig.disk(Stub)
        disk.fua = True
        rig.layer(layer(handle=handle))
        top = rig.open("Top")
        write = top.submit(Op.WRITE, 3, 2, [bytes(300), bytes(724)], flags=IoFlag.FUA)
        assert disk.arrived == [(Op.WRITE, 13, 2)]
        disk.complete(status=Status.FAILED, errno=errno.ENOSPC)
        rig.settle()
        assert (write.status, write.errno) == (Status.FAILED, errno.ENOSPC)
        assert seen == [
            (Op.WRITE, 3, 2, IoFlag.FUA, Status.PENDING),
            [300, 724],
            Status.FAILED,
            (Status.FAILED, errno.ENOSPC, errno.ENOSPC, 3, 0),
        ]
        assert isinstance(seen[0][0], Op)
        assert isinstance(seen[2], Status)


def test_each_layer_changes_a_copy_of_its_own():
    seen = []

    def copies(mark):
        async def handle(_self, _channel, io):
            for _ in range(2):  # the second time there is one already
                await io.copy_data()
            (view,) = io.data()
            before, view[:] = bytes(view), mark * len(view)
            await io.forward()
            seen.append((mark, before[:1], bytes(io.data()[0])))

        return layer(handle=handle, kind=f"copies_{mark.decode()}")

    with flawless() as rig:
        rig.disk()
        rig.layer(copies(b"l"), name="Lower")
        rig.layer(copies(b"u"), base="Lower")
        given = b"g" * 512
        assert rig.open("Top").io(Op.WRITE, 3, 1, given).status == Status.SUCCESS
        assert seen == [(b"l", b"u", b"l" * 512), (b"u", b"g", b"u" * 512)]
        got = bytearray(512)
        rig.open("Disk", write=False).io(Op.READ, 3, 1, got)
        assert (got, given) == (b"l" * 512, b"g" * 512)


@pytest.mark.parametrize("aligned", [False, True])
def test_data_is_looked_at_and_changed_both_ways(aligned):
    async def handle(_self, _channel, io):
        if io.op == Op.WRITE:
            if not aligned:
                with pytest.raises(TypeError):
                    io.data()[0][0] = 1  # a writer's data is the writer's
            await io.copy_data()
            flip(io.data())
        if await io.forward() == Status.SUCCESS and io.op == Op.READ:
            flip(io.data())

    def flip(views):
        for view in views:
            view[:] = bytes(byte ^ 0xFF for byte in view)

    with flawless() as rig:
        rig.disk()
        rig.layer(layer(handle=handle, ops=frozenset({Op.READ, Op.WRITE}))).required_alignment = (
            12 if aligned else 0
        )
        top = rig.open("Top")
        given = bytes(range(256)) * 4
        assert top.io(Op.WRITE, 1, 2, given).status == Status.SUCCESS
        assert given == bytes(range(256)) * 4
        below = rig.open("Disk", write=False)
        got = bytearray(1024)
        below.io(Op.READ, 1, 2, got)
        assert got == bytes(byte ^ 0xFF for byte in given)
        top.io(Op.READ, 1, 2, got)
        assert got == given


ENDS = [
    ("nothing", None, Status.SUCCESS, 0),
    ("a status", Status.MISCOMPARE, Status.MISCOMPARE, 0),
    ("a number", -1, Status.FAILED, 0),
]


@pytest.mark.parametrize(("what", "returned", "status", "number"), ENDS)
def test_returning_ends_an_io_that_went_nowhere(what, returned, status, number):
    async def handle(_self, _channel, _io):
        return returned

    with flawless() as rig:
        rig.disk(Stub)
        rig.layer(layer(handle=handle))
        request = rig.open("Top").io(Op.READ, 0, 1, bytearray(BLOCK))
        assert (request.status, request.errno) == (status, number), what


def test_returning_ends_it_as_the_base_did_with_all_detail():
    async def returns(_self, _channel, io):
        return await io.forward()

    for handle in (pass_on, pass_on_unseen, returns):
        with flawless() as rig:
            disk = rig.disk(Stub)
            rig.layer(layer(handle=handle))
            request = read(rig.open("Top"))
            disk.complete(status=None, nvme=(2, 0x81), cdw0=7)
            rig.settle()
            assert request.nvme_status == (7, 2, 0x81)


def test_complete_says_how_and_the_coroutine_goes_on():
    went_on, later = [], Future()

    async def handle(_self, _channel, io):
        await io.forward()
        io.complete(nvme=(1, 2), cdw0=3)
        await later
        went_on.append(True)

    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        request = read(rig.open("Top"))
        disk.complete()
        rig.settle()
        assert request.nvme_status == (3, 1, 2)
        assert not went_on
        later.set_result(None)
        rig.settle()
        assert went_on == [True]


def test_no_room_brings_a_coroutine_of_its_own_again():
    tries = []

    async def handle(_self, _channel, io):
        tries.append(io)
        if len(tries) < 3:
            io.offset_blocks += 5
            return Status.NOMEM
        return await io.forward()

    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        request = read(rig.open("Top"), 4)
        rig.turn_until(lambda: disk.held)
        assert disk.arrived == [(Op.READ, 4, 1)]
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS
        assert len(set(tries)) == len(tries) == 3


# Children


def test_both_legs_of_a_mirror_are_written_at_once():
    async def handle(_self, channel, io):
        second = io.child(channel.context)
        await io.forward()
        await second

    with flawless() as rig:
        disks = [rig.disk(Stub, name=name) for name in ("Disk", "Other")]
        other = rig.open("Other", holder="mirror")
        rig.layer(layer(handle=handle, create_channel=lambda _self, _channel: other.channel))
        top = rig.open("Top")
        data = bytes(range(256)) * 4
        writes = [top.submit(Op.WRITE, n, 2, data) for n in range(0, 8, 2)]
        for disk in disks:
            assert disk.arrived == [(Op.WRITE, n, 2) for n in range(0, 8, 2)]
            assert b"".join(map(bytes, disk.held[3].data())) == data  # not a copy of it
        disks[1].complete()
        rig.settle()
        assert not any(w.done for w in writes)
        disks[0].complete()
        rig.settle()
        assert {w.status for w in writes} == {Status.SUCCESS}


def test_what_goes_to_another_channel_in_one_run_goes_in_one_batch():
    batches = []

    class Counting(Stub):
        def submit(self, channel, ios):
            batches.append(range(len(ios)))
            super().submit(channel, ios)

    async def handle(_self, channel, io):
        io.child(channel.context)
        io.child(channel.context, offset_blocks=io.offset_blocks + 8)
        return await io.forward()

    with stack() as rig:
        base, _ = rig.disk(Stub), rig.disk(Counting, name="Other")
        other = rig.open("Other", holder="mirror")
        rig.layer(layer(handle=handle, create_channel=lambda _self, _channel: other.channel))
        top = rig.open("Top")
        requests = [top.submit(Op.WRITE, n, 1, bytes(BLOCK)) for n in range(2)]
        rig.settle()
        assert [len(batch) for batch in batches] in ([4], [2, 2])
        rig.registry.get("Other").complete()
        base.complete()
        rig.settle()
        assert {request.status for request in requests} == {Status.SUCCESS}


def test_a_child_that_fails_fails_its_parent_unless_that_says_otherwise():
    answers = []

    async def handle(_self, channel, io):
        first = io.child(channel.base)
        await io.child(channel.base)
        await first
        return first if answers[-1] == "first" else answers[-1]

    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        top = rig.open("Top")
        for answer, expected in (
            (None, (Status.FAILED, errno.ENOSPC)),
            (Status.SUCCESS, (Status.SUCCESS, 0)),
            ("first", (Status.SUCCESS, 0)),
            (Status.FAILED, (Status.FAILED, errno.ENOSPC)),
        ):
            answers.append(answer)
            request = read(top)
            disk.complete([1], Status.FAILED, errno.ENOSPC)
            disk.complete([0])
            rig.settle()
            assert (request.status, request.errno) == expected


def test_success_that_was_said_while_a_child_was_under_way_is_no_word_about_that():
    async def handle(_self, channel, io):
        io.child(channel.base)
        return await io.forward()

    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        request = read(rig.open("Top"))
        disk.complete([1])
        rig.settle()
        assert not request.done
        disk.complete(status=Status.FAILED, errno=errno.ENOSPC)
        rig.settle()
        assert (request.status, request.errno) == (Status.FAILED, errno.ENOSPC)


def test_children_with_an_op_and_data_of_their_own():
    told = []

    async def handle(_self, channel, io):
        base = channel.base
        block = bytearray(BLOCK)
        told.append(await io.child(base, Op.READ, 7, 1, block))
        told.append(bytes(block[:3]))
        told.append(await io.child(base, Op.WRITE, 8, 2, [b"a" * 100, b"b" * 924]))
        told.append(await io.child(base, Op.COMPARE, 8, 1, b"x" * BLOCK))
        told.append(await io.child(base, Op.COPY, 20, 1, src_offset_blocks=8))
        told.append(await io.child(base, Op.UNMAP, 7, 1))
        told.append(await io.child(base, Op.FLUSH, 0, 0))
        return Status.SUCCESS

    with flawless() as rig:
        rig.disk()
        below = rig.open("Disk")
        below.io(Op.WRITE, 7, 1, b"abc" + bytes(509))
        below.close()
        rig.layer(layer(handle=handle))
        top = rig.open("Top")
        read(top)
        rig.settle()
        assert told == [1, b"abc", 1, Status.MISCOMPARE, 1, 1, 1]
        got = bytearray(BLOCK)
        rig.open("Disk", write=False).io(Op.READ, 20, 1, got)
        assert got == b"a" * 100 + b"b" * 412


def test_returning_a_child_brings_its_result_in_blocks_of_the_parent():
    async def handle(_self, channel, io):
        child = io.child(channel.base, offset_blocks=io.offset_blocks + 10)
        await child
        return child

    with flawless() as rig:
        rig.disk(block_size=4096)
        below = rig.open("Disk")
        below.io(Op.WRITE, 30, 1, b"x" * 4096)
        below.close()
        rig.layer(layer(handle=handle))
        top = rig.open("Top")
        assert top.io(Op.SEEK_DATA, 2, 0).result == 20
        assert top.io(Op.SEEK_HOLE, 20, 0).result == 21
        assert top.io(Op.SEEK_DATA, 21, 0).result == 2**64 - 1


def test_what_an_io_says_before_anybody_was_asked_is_nobodys():
    """Also where its BdevIO was one before that failed."""
    seen = []

    async def handle(_self, _channel, io):
        seen.append((io.id, io.status, io.errno, io.detail, io.flags, io.src_offset_blocks))
        return await io.forward()

    with stack() as rig:
        disk, top = built(rig, handle)
        for _ in range(3):
            request = read(top)
            disk.complete(status=Status.AIO_ERROR, errno=errno.EREMOTEIO)
            rig.settle()
            assert request.errno == errno.EREMOTEIO
        assert len({one[0] for one in seen}) == 1
        assert {one[1:] for one in seen} == {(Status.PENDING, 0, 0, 0, 0)}


def test_a_child_of_another_kind_brings_no_result():
    async def handle(_self, channel, io):
        io.result = 7
        child = io.child(channel.base, Op.READ, 30, 1, bytearray(512))
        await child
        return child

    with flawless() as rig:
        rig.disk()
        rig.layer(layer(handle=handle))
        assert rig.open("Top").io(Op.SEEK_DATA, 2, 0).result == 7


def test_a_write_child_may_repair_from_what_was_read():
    async def handle(_self, channel, io):
        await io.forward()
        await io.child(channel.base, Op.WRITE, io.offset_blocks + 1)

    with flawless() as rig:
        rig.disk()
        below = rig.open("Disk")
        below.io(Op.WRITE, 0, 1, b"z" * BLOCK)
        below.close()
        rig.layer(layer(handle=handle))
        got = bytearray(BLOCK)
        assert rig.open("Top").io(Op.READ, 0, 1, got).status == Status.SUCCESS
        rig.open("Disk", write=False).io(Op.READ, 1, 1, got)
        assert got == b"z" * BLOCK


REFUSED = [
    (lambda io, base: io.child(base, Op.ABORT), "can not be a"),
    (lambda io, base: io.child(base, Op.ZCOPY), "can not be a"),
    (lambda io, base: io.child(base, 99), "can not be a"),
    (lambda io, base: io.child(base, Op.READ), "a READ fills data of its own"),
    (lambda io, base: io.child(base, Op.WRITE, 0, 2), "512 bytes of data for 2 blocks"),
    (lambda io, base: io.child(base, Op.WRITE, 0, 2**63), "512 bytes of data for"),
    (lambda io, base: io.child(base, Op.READ, 0, 1, bytearray(1)), "1 bytes of data for 1 bl"),
    (lambda io, base: io.child(base, Op.FLUSH, 0, 0, b"x"), "a FLUSH takes no data"),
    (lambda io, base: io.child(base, flags=1), "its parent's data, length and flags"),
    (lambda io, base: io.child(base, num_blocks=3), "its parent's data, length and flags"),
]


@pytest.mark.parametrize(("attempt", "message"), REFUSED)
def test_children_that_can_not_be(attempt, message):
    async def handle(_self, channel, io):
        with pytest.raises(ValueError, match=message):
            attempt(io, channel.base)

    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        assert rig.open("Top").io(Op.WRITE, 0, 1, bytes(BLOCK)).status == Status.SUCCESS
        assert disk.arrived == []
        assert rig.errors == []


def test_a_read_child_needs_memory_that_can_be_written():
    async def handle(_self, channel, io):
        with pytest.raises(BufferError):
            io.child(channel.base, Op.READ, 0, 1, bytes(BLOCK))

    with flawless() as rig:
        rig.disk(Stub)
        rig.layer(layer(handle=handle))
        assert rig.open("Top").io(Op.FLUSH, 0, 0).status == Status.SUCCESS


# What else can be awaited


def test_futures_tasks_sleep_and_other_coroutines():
    async def nap(channel, us):
        await channel.reactor.sleep(us)
        return us

    async def handle(_self, channel, io):
        task = channel.reactor.spawn(nap(channel, 30))
        assert await gather([nap(channel, 10), task]) == [10, 30]
        await io.forward()

    with flawless() as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=handle))
        request = read(rig.open("Top"))
        began_ns = rig.reactor.clock.now_ns()
        rig.turn_until(lambda: disk.held)
        assert rig.reactor.clock.now_ns() - began_ns == 30_000
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS


class Memory(Bdev):
    """A leaf of coroutines."""

    kind = "memory"
    product_name = "memory"
    Params = SizedParams

    async def start(self):
        set_geometry(self, self.params)
        self.bytes = bytearray(self.size_bytes)

    async def handle(self, channel, io):
        at = io.offset_blocks * self.block_size
        for view in io.data():
            if io.op == Op.READ:
                view[:] = self.bytes[at : at + len(view)]
            elif io.op == Op.WRITE:
                self.bytes[at : at + len(view)] = view
            at += len(view)


def test_a_bdev_of_coroutines_has_no_base():
    with flawless() as rig:
        rig.disk(Memory)
        top = rig.open("Disk")
        top.io(Op.WRITE, 2, 1, b"q" * BLOCK)
        got = bytearray(2 * BLOCK)
        assert top.io(Op.READ, 1, 2, got).status == Status.SUCCESS
        assert got == bytes(BLOCK) + b"q" * BLOCK


def test_a_module_that_takes_batches_and_hands_some_of_them_to_coroutines():
    handled = []

    class Both(VirtualBdev):
        kind = "both"
        product_name = "both"

        def submit(self, channel, ios):
            channel.base.submit(ios.take(Op.READ))
            super().submit(channel, ios)

        async def handle(self, channel, io):
            handled.append(io.op)
            await io.forward()

    with flawless() as rig:
        rig.disk()
        rig.layer(Both)
        top = rig.open("Top")
        assert read(top).status == 0
        rig.settle()
        assert top.io(Op.WRITE, 0, 1, b"x" * BLOCK).status == Status.SUCCESS
        assert handled == [Op.WRITE]


def test_each_reactor_runs_its_own():
    async def handle(_self, channel, io):
        assert channel.reactor is io_reactors[io.offset_blocks]
        await channel.reactor.sleep(1)
        await io.forward()

    with flawless(reactors=2) as rig:
        rig.disk()
        rig.layer(layer(handle=handle))
        tops = [rig.open("Top", on=n) for n in (0, 1)]
        io_reactors = [top.reactor for top in tops]
        reads = [read(top, n) for n, top in enumerate(tops)]
        rig.turn_until(lambda: all(r.done for r in reads))
        assert {r.status for r in reads} == {Status.SUCCESS}
        assert rig.errors == []


def test_iostat_rates_and_quiescing_see_them_as_any_other():
    with flawless() as rig:
        disk = rig.disk(Stub)
        top_bdev = rig.layer(layer(handle=pass_on, kind="q"))
        top = rig.open("Top")
        first = read(top)
        assert entry_of(top_bdev).outstanding == 1
        task = rig.reactor.spawn(top_bdev.quiesce(type(top_bdev)))
        rig.settle()
        assert not task.done  # `first` is under way
        second = read(top)
        disk.complete()
        rig.turn_until(lambda: task.done)
        assert first.status == Status.SUCCESS
        assert disk.held == []
        rig.run(top_bdev.unquiesce(type(top_bdev)))
        rig.settle()
        disk.complete()
        rig.settle()
        assert second.status == Status.SUCCESS
        assert top.channel.stats()["read"][:2] == (2, 2)


def test_twice_the_same_is_twice_the_same():
    def trace():
        told = []

        async def handle(_self, channel, io):
            await channel.reactor.sleep(io.offset_blocks * 7 % 5)
            told.append((io.offset_blocks, channel.reactor.clock.now_ns()))
            await io.forward()
            told.append(io.offset_blocks)

        with flawless() as rig:
            rig.disk()
            rig.layer(layer(handle=handle))
            top = rig.open("Top")
            reads = [read(top, n) for n in range(40)]
            rig.turn_until(lambda: all(r.done for r in reads))
        return told

    first = trace()
    assert len(first) == 80
    assert all(trace() == first for _ in range(3))
