"""Coroutines that do it wrong, and what comes in their way: ABORT, RESET, removal, no memory.

Each I/O ends once, a culprit is named, nothing else is taken down and nothing is left behind.
"""

import asyncio
import contextlib
import errno
import threading
import time

import pytest

from support.coroutines import BLOCK, built, read
from support.stack import Stub, gather, layer, stack
from vbdev.bdev import VirtualBdev
from vbdev.modules.malloc import Malloc
from vbdev.reactor.task import Future
from vbdev.vocab import Op, Status

# Exceptions


@pytest.mark.parametrize("where", ["before", "behind", "beside", "with a child"])
def test_raising_fails_the_io_once_nothing_of_it_is_under_way(where):
    async def handle(_self, channel, io):
        if where == "with a child":
            io.child(channel.base)
        elif where != "before":
            sent = io.forward()
            if where == "behind":
                await sent
        raise ZeroDivisionError(where)

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        rig.settle()
        assert request.done == (where == "before")
        disk.complete()
        rig.settle()
        assert (request.status, request.errno) == (Status.FAILED, 0)
        ((who, error, failed),) = rig.errors
        assert (who, str(error), failed) == ("Top", where, 1)


def test_a_batch_of_failures_is_told_once_for_each_kind():
    async def handle(_self, _channel, io):
        if io.offset_blocks % 4 == 0:
            raise ValueError(io.offset_blocks)
        if io.offset_blocks % 4 == 1:
            raise KeyError(io.offset_blocks)
        await io.forward()

    with stack() as rig:
        disk, below = built(rig, handle)
        below.close()
        rig.layer(gather(16), name="Together", base="Top")
        top = rig.open("Together")
        reads = [read(top, n) for n in range(16)]
        assert disk.batch_sizes == [8]
        disk.complete()
        rig.settle()
        assert [r.status for r in reads] == [-1, -1, 1, 1] * 4
        assert [(type(error), n) for _, error, n in rig.errors] == [(ValueError, 4), (KeyError, 4)]


def test_a_keyboard_interrupt_reaches_the_loop_and_no_io_is_lost():
    async def handle(_self, _channel, io):
        if io.offset_blocks == 1:
            raise KeyboardInterrupt
        await io.forward()

    with stack() as rig:
        disk, below = built(rig, handle)
        below.close()
        rig.layer(gather(3), name="Together", base="Top")
        top = rig.open("Together")
        reads = [read(top, n) for n in range(3)]
        with pytest.raises(KeyboardInterrupt):
            rig.settle()
        disk.complete()
        rig.settle()
        assert [r.status for r in reads] == [Status.SUCCESS, Status.FAILED, Status.SUCCESS]


def test_one_that_blocks_is_named_wherever_it_does():
    slow, woken = [], Future()

    def block():
        time.sleep(0.11)

    async def handle(_self, channel, io):
        block()
        await io.child(channel.base)
        block()
        await woken
        block()

    with stack(real_clock=True) as rig:
        rig.engine.on_slow_module = lambda channel, ns: slow.append((channel.bdev.name, ns))
        _, top = built(rig, handle, Malloc)
        request = read(top)
        rig.settle()
        woken.set_result(None)
        rig.turn_until(lambda: request.done)
        assert [name for name, _ in slow] == ["Top"] * 3
        assert all(ns >= 100_000_000 for _, ns in slow)


def test_a_handle_that_is_no_coroutine():
    def handle(_self, _channel, io):
        return io.forward()

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        disk.complete()
        rig.settle()
        assert request.status == Status.FAILED
        ((who, error, _),) = rig.errors
        assert who == "Top"
        assert "async def" in str(error)


@pytest.mark.parametrize("returned", [True, 0, 2, -9, "done", object(), b""])
def test_returning_what_is_no_status(returned):
    async def handle(_self, _channel, _io):
        return returned

    with stack() as rig:
        _, top = built(rig, handle)
        request = read(top)
        rig.settle()
        assert request.status == Status.FAILED
        ((_, error, failed),) = rig.errors
        assert (type(error), failed) == (TypeError, 1)


def test_completed_and_handle_do_not_go_together():
    with pytest.raises(TypeError, match="completed"):
        layer(handle=lambda: None, completed=lambda: None)


def test_neither_submit_nor_handle():
    class Empty(VirtualBdev):
        kind = "empty"
        product_name = "empty"

    with stack() as rig:
        rig.disk()
        rig.layer(Empty)
        assert rig.open("Top").io(Op.FLUSH, 0, 0).status == Status.FAILED
        ((_, error, _),) = rig.errors
        assert isinstance(error, NotImplementedError)


def test_a_submit_that_raises_behind_its_coroutines():
    class Both(VirtualBdev):
        kind = "both"
        product_name = "both"

        def submit(self, channel, ios):
            super().submit(channel, ios.take(Op.READ))
            raise ZeroDivisionError

        async def handle(self, channel, io):
            await channel.reactor.sleep(5)
            await io.forward()

    with stack() as rig:
        rig.disk()
        rig.layer(Both)
        rig.layer(gather(2), name="Together", base="Top")
        top = rig.open("Together")
        held, lost = read(top), top.submit(Op.FLUSH, 0, 0)
        rig.settle()
        assert lost.status == Status.FAILED
        assert not held.done
        rig.pass_time(5)
        rig.settle()
        assert held.status == Status.SUCCESS
        assert [(who, n) for who, _, n in rig.errors] == [("Top", 1)]


# Too often, too late


def test_what_can_not_be_done_with_an_io_is_an_exception_and_takes_nothing_down():
    kept = []

    async def handle(_self, channel, io):
        kept.append(io)
        io.forward()
        for attempt in (
            io.forward,
            io.complete,
            io.data,
            io.copy_data,
            lambda: io.child(channel.base),
            lambda: setattr(io, "offset_blocks", 1),
        ):
            with pytest.raises(RuntimeError, match="on its way"):
                attempt()
        await io
        io.complete()
        for attempt in (
            io.forward,
            io.complete,
            io.data,
            io.copy_data,
            lambda: io.child(channel.base),
            lambda: setattr(io, "offset_blocks", 1),
            *(lambda name=name: getattr(io, name) for name in vars(type(io)) if name in KNOWN),
        ):
            with pytest.raises(RuntimeError, match="has ended"):
                attempt()

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS
        assert rig.errors == []
        with pytest.raises(RuntimeError, match="has ended"):
            kept[0].op  # noqa: B018 - it raises
        assert "ended" in repr(kept[0])


KNOWN = {"op", "offset_blocks", "num_blocks", "flags", "status", "errno", "detail", "result", "id"}


def test_completing_while_children_are_under_way_is_refused():
    async def handle(_self, channel, io):
        child = io.child(channel.base)
        with pytest.raises(RuntimeError, match="await them first"):
            io.complete()
        await child

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS


def test_another_thread_is_refused():
    said = []

    async def handle(_self, channel, io):
        def elsewhere():
            for attempt in (io.forward, io.copy_data, lambda: io.child(channel.base)):
                try:
                    attempt()
                except RuntimeError as error:
                    said.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    with stack() as rig:
        _, top = built(rig, handle)
        rig.settle()  # the engine knows its thread from here on
        assert top.io(Op.READ, 0, 1, bytearray(BLOCK)).status == Status.SUCCESS
        assert len(said) == 3
        assert all("another's thread" in one for one in said)


def test_channels_of_other_reactors_and_other_blocks_are_refused():
    others = []

    async def handle(_self, _channel, io):
        for attempt in (io.forward, io.child):
            with pytest.raises(RuntimeError, match="channel of another"):
                attempt(others[0].channel)
            with pytest.raises(ValueError, match="blocks"):
                attempt(others[1].channel)

    with stack(reactors=2) as rig:
        _, top = built(rig, handle)
        rig.disk(Stub, name="Wide", block_size=4096)
        others += [rig.open("Disk", on=1, write=False), rig.open("Wide")]
        request = read(top)
        rig.settle()
        assert (request.status, rig.errors) == (Status.SUCCESS, [])


def test_a_leaf_has_nothing_to_forward_to():
    class Leaf(Stub):
        submit = VirtualBdev.submit

        async def handle(self, channel, io):
            with pytest.raises(RuntimeError, match="no base"):
                io.forward()

    with stack() as rig:
        rig.disk(Leaf)
        assert rig.open("Disk").io(Op.FLUSH, 0, 0).status == Status.SUCCESS
        assert rig.errors == []


def test_a_task_that_sends_off_what_a_coroutine_has():
    """Outside of any coroutine's step nothing else would hand it on."""

    async def helper(io):
        io.forward()

    async def handle(_self, channel, io):
        await channel.reactor.spawn(helper(io))
        return await io

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        rig.settle()
        disk.complete(status=Status.FAILED, errno=errno.EIO)
        rig.settle()
        assert (request.status, request.errno) == (Status.FAILED, errno.EIO)


# Awaiting what can not come


async def bare():
    class Bare:
        def __await__(self):
            return (yield)

    return await Bare()


@pytest.fixture
def foreign_loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


FOREIGN = [
    lambda _loop: asyncio.sleep(0),
    lambda _loop: asyncio.sleep(1),
    lambda loop: asyncio.Future(loop=loop),
    lambda _loop: bare(),
]


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("caught", [False, True])
def test_awaiting_something_foreign_is_an_error_where_it_is_awaited(make, caught, foreign_loop):
    async def handle(_self, _channel, io):
        try:
            await make(foreign_loop)
        except (TypeError, RuntimeError):  # asyncio's own: no running event loop
            if not caught:
                raise
        await io.forward()

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        rig.settle()
        disk.complete()
        rig.settle()
        assert request.status == (Status.SUCCESS if caught else Status.FAILED)
        assert len(rig.errors) == (not caught)


def test_awaiting_another_coroutines_io_is_an_error():
    ios = []

    async def handle(_self, channel, io):
        if not ios:
            ios.extend((io.child(channel.base), io))
            await io.forward()
            return
        for other in ios:
            with pytest.raises(RuntimeError, match="which another coroutine has"):
                await other

    with stack() as rig:
        disk, top = built(rig, handle)
        first, second = read(top), read(top)
        rig.settle()
        assert second.status == Status.SUCCESS
        disk.complete()
        rig.settle()
        assert first.status == Status.SUCCESS
        assert rig.errors == []


def test_a_future_that_comes_when_its_coroutine_is_gone():
    never = Future()

    async def handle(_self, _channel, _io):
        await never

    with stack() as rig:
        _, top = built(rig, handle)
        request = read(top)
        abort = top.submit(Op.ABORT, 0, 0, victim=request)
        rig.settle()
        assert (request.status, abort.status) == (Status.ABORTED, Status.SUCCESS)
        never.set_result(None)
        rig.settle()


# ABORT and RESET


@pytest.mark.parametrize("together", [1, 2])
def test_an_abort_closes_the_coroutine_that_waits(together):
    closed = []

    async def handle(_self, _channel, io):
        try:
            await Future()
        finally:
            closed.append(io.status)
            with pytest.raises(RuntimeError, match="aborted"):
                io.forward()

    with stack() as rig:
        disk, below = built(rig, handle)
        below.close()
        rig.layer(gather(together), name="Together", base="Top")
        top = rig.open("Together")
        victim = read(top)
        abort = top.submit(Op.ABORT, 0, 0, victim=victim)
        rig.settle()
        if together == 1:
            assert (victim.status, abort.status) == (Status.ABORTED, Status.SUCCESS)
            assert len(closed) == 1
        else:  # gather has the victim, and knows of no ABORT; it comes down with it then
            assert victim.status == Status.ABORTED
        assert disk.arrived == []
        assert rig.errors == []


def test_an_abort_of_what_is_below_goes_there():
    async def handle(_self, _channel, io):
        await io.forward()

    with stack() as rig:
        disk, top = built(rig, handle)
        victim = read(top)
        abort = top.submit(Op.ABORT, 0, 0, victim=victim)
        assert [op for op, _, _ in disk.arrived] == [Op.READ, Op.ABORT]
        disk.complete([0], Status.ABORTED)
        disk.complete()
        rig.settle()
        assert (victim.status, abort.status) == (Status.ABORTED, Status.SUCCESS)


def test_an_abort_with_children_under_way_aborts_these_and_waits_for_them():
    ended = []

    async def handle(_self, channel, io):
        io.child(channel.base)
        try:
            await io.child(channel.base)
        finally:
            ended.append(True)

    with stack() as rig:
        disk, top = built(rig, handle)
        victim = read(top)
        aborts = [top.submit(Op.ABORT, 0, 0, victim=victim) for _ in range(2)]
        rig.settle()
        assert [op for op, _, _ in disk.arrived] == [Op.READ, Op.READ, Op.ABORT, Op.ABORT]
        disk.complete([0, 1, 2], Status.ABORTED)
        rig.settle()
        assert not victim.done
        assert ended == []
        disk.complete()
        rig.settle()
        assert ended == [True]
        assert victim.status == Status.ABORTED
        assert {a.status for a in aborts} == {Status.SUCCESS}


def test_an_abort_of_one_that_goes_on_without_its_io_finds_nothing():
    async def handle(_self, channel, io):
        io.complete()
        await channel.reactor.sleep(10)

    with stack() as rig:
        disk, top = built(rig, handle)
        victim = read(top)
        abort = top.submit(Op.ABORT, 0, 0, victim=victim)
        rig.settle()
        assert victim.status == Status.SUCCESS
        assert abort.status == Status.FAILED
        assert disk.arrived == []
        rig.pass_time(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python's own word
def test_a_coroutine_that_ignores_being_closed_is_named_and_its_io_ends():
    async def handle(_self, _channel, _io):
        while True:
            with contextlib.suppress(GeneratorExit):
                await Future()

    with stack() as rig:
        _, top = built(rig, handle)
        victim = read(top)
        top.submit(Op.ABORT, 0, 0, victim=victim)
        rig.settle()
        assert victim.status == Status.ABORTED
        ((who, error, failed),) = rig.errors
        assert (who, failed) == ("Top", 0)
        assert "ignored GeneratorExit" in str(error)


@pytest.mark.parametrize("reactors", [1, 2])
def test_a_reset_ends_what_waits_on_all_channels_and_reaches_the_base(reactors):
    closed = []

    async def handle(_self, channel, io):
        if io.op == Op.RESET or io.offset_blocks == 3:
            await io.forward()
            return
        try:
            await Future()
        finally:
            closed.append(channel.reactor.name)

    with stack(reactors=reactors) as rig:
        disk, top = built(rig, handle)
        tops = [top, *(rig.open("Top", on=n) for n in range(1, reactors))]
        held = [read(each) for each in tops for _ in range(3)]
        below = read(top, 3)
        reset = top.submit(Op.RESET, 0, 0)
        rig.turn_until(lambda: len(disk.held) == 2)
        assert {r.status for r in held} == {Status.ABORTED}
        assert len(closed) == 3 * reactors
        assert not reset.done
        disk.complete([0], Status.ABORTED)
        disk.complete()
        rig.turn_until(lambda: reset.done)
        assert (reset.status, below.status) == (Status.SUCCESS, Status.ABORTED)


# Memory and BdevIOs


def test_children_of_more_ios_than_there_are_bdevios():
    """Parents that fill the pool wait for nothing that only their end could bring."""

    async def handle(_self, channel, io):
        for _ in range(3):
            io.child(channel.base)
        await io.child(channel.base)

    with stack(pool_size=4) as rig:
        _, below = built(rig, handle, Malloc)
        below.close()
        rig.layer(gather(4), name="Together", base="Top")
        top = rig.open("Together")
        ended = []
        reads = [read(top, n, callback=ended.append) for n in range(4)]
        assert read(top) is None
        rig.turn_until(lambda: len(ended) == 4)
        assert {r.status for r in reads} == {Status.SUCCESS}


async def copies(_self, _channel, io):
    await io.copy_data()
    for view in io.data():
        view[:] = bytes(len(view))
    await io.forward()


def write(top, blocks, offset=0):
    return top.submit(Op.WRITE, offset, blocks, bytes([7]) * (blocks * BLOCK))


def test_copies_wait_for_memory_in_order():
    with stack(buffer_limit_bytes=8192) as rig:
        disk, top = built(rig, copies)
        writes = [write(top, 16, n * 16) for n in range(3)]
        for n in range(3):
            rig.settle()
            assert disk.arrived == [(Op.WRITE, k * 16, 16) for k in range(n + 1)]
            disk.complete()
        rig.settle()
        assert {w.status for w in writes} == {Status.SUCCESS}


def test_an_offset_that_was_set_before_the_wait_for_memory_stays():
    async def handle(_self, _channel, io):
        io.offset_blocks += 100
        await io.copy_data()
        await io.forward()

    with stack(buffer_limit_bytes=8192) as rig:
        disk, top = built(rig, handle)
        writes = [write(top, 16, n * 16) for n in range(2)]
        for _ in writes:
            disk.complete()
            rig.settle()
        assert disk.arrived == [(Op.WRITE, 100, 16), (Op.WRITE, 116, 16)]
        assert {w.status for w in writes} == {Status.SUCCESS}


@pytest.mark.parametrize("how", ["abort", "reset", "remove"])
def test_what_waits_for_memory_is_found(how):
    with stack(buffer_limit_bytes=8192) as rig:
        disk, top = built(rig, copies)
        first, second = write(top, 16), write(top, 16, 16)
        rig.settle()
        if how == "abort":
            top.submit(Op.ABORT, 0, 0, victim=second)
        elif how == "reset":
            reset = top.submit(Op.RESET, 0, 0)
        else:
            rig.registry.hot_remove(rig.registry.get("Top"))
        rig.settle()
        assert second.status == Status.ABORTED
        assert not first.done
        disk.complete()
        rig.settle()
        assert first.status == Status.SUCCESS
        if how == "reset":
            assert reset.status == Status.SUCCESS
        assert rig.errors == []


def test_data_larger_than_any_buffer_fails():
    with stack(buffer_limit_bytes=4096) as rig:
        _, top = built(rig, copies)
        request = write(top, 64)
        rig.settle()
        assert (request.status, request.errno) == (Status.FAILED, errno.ENOMEM)
        assert rig.errors == []


def test_what_a_lock_waits_for_gets_memory():
    """A child waits for a buffer; who has them waits for the lock, and that for the child."""

    async def handle(_self, channel, io):
        if io.offset_blocks < 16:
            await io.child(channel.base)
        else:
            await io.copy_data()
            await io.forward()

    with stack(buffer_limit_bytes=8192) as rig:
        disk = rig.disk(Stub)
        bdev = rig.layer(layer(handle=handle, kind="locked"))
        disk.required_alignment = 12
        top = rig.open("Top")
        holder = write(top, 16, 64)
        victim = write(top, 8)
        rig.settle()
        assert disk.arrived == [(Op.WRITE, 64, 16)]
        task = rig.reactor.spawn(bdev.quiesce(type(bdev), 0, 16))
        rig.turn_until(lambda: len(disk.held) == 2)
        disk.complete([1])
        rig.turn_until(lambda: task.done)
        assert victim.status == Status.SUCCESS
        disk.complete()
        rig.run(bdev.unquiesce(type(bdev), 0, 16))
        rig.settle()
        assert holder.status == Status.SUCCESS


# Removal and the end


def test_the_base_goes_away_while_coroutines_wait():
    async def handle(_self, channel, io):
        await channel.reactor.sleep(50)
        return await io.forward()

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        rig.settle()
        rig.registry.hot_remove(disk)
        rig.turn_until(lambda: disk.held)
        disk.complete(status=Status.FAILED, errno=errno.ENODEV)
        rig.turn_until(lambda: rig.registry.find("Disk") is None)
        assert request.errno == errno.ENODEV
        assert rig.registry.find("Top") is None


def test_what_goes_on_without_its_io_is_closed_with_the_channel():
    closed = []

    async def handle(_self, _channel, io):
        io.complete()
        try:
            await Future()
        finally:
            closed.append(True)

    with stack() as rig:
        _, top = built(rig, handle, destroy_channel=lambda *_: closed.append("channel"))
        assert top.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
        assert closed == []
        top.close()
        assert closed == [True, "channel"]


def test_one_that_never_ends_holds_its_channel_as_any_module_would():
    async def handle(_self, _channel, _io):
        await never

    never = Future()
    with stack() as rig:
        _, top = built(rig, handle)
        request = read(top)
        with pytest.raises(Exception, match="1 I/Os are outstanding"):
            top.descriptor.close()
        never.set_result(None)
        rig.settle()
        assert request.status == Status.SUCCESS


def test_objects_that_a_module_keeps_hold_no_io():
    kept = []

    async def handle(_self, channel, io):
        child = io.child(channel.base)
        kept.extend((io, child))
        await child
        await io.forward()

    with stack() as rig:
        _, top = built(rig, handle, Malloc)
        for n in range(5):
            assert top.io(Op.READ, n, 1, bytearray(BLOCK)).status == Status.SUCCESS
        assert rig.engine.ios_in_use == 0
    assert [child.status for child in kept[1::2]] == [Status.SUCCESS] * 5
    with pytest.raises(RuntimeError, match="has ended"):
        kept[0].complete()
