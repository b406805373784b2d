"""Coroutines that are aborted, closed and come round while they run, and generators in between."""

import gc
import sys
import threading
from types import coroutine

import pytest

from support.coroutines import BLOCK, built, read
from support.stack import Stub, layer, stack
from vbdev.modules.malloc import Malloc
from vbdev.reactor.task import Future
from vbdev.vocab import Op, Status


@coroutine
def each(awaited):
    """Wait for each of these in turn, as a generator does that knows no better."""
    yield from awaited


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [0, 1], [1]])
def test_what_has_come_before_it_is_waited_for_is_not_waited_for(order):
    async def handle(_self, channel, io):
        children = [io.child(channel.base) for _ in range(3)]
        await each(children)
        return children[2]

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        disk.complete(order)
        rig.settle()
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS


def test_an_io_that_is_nowhere_is_not_waited_for():
    async def handle(_self, _channel, io):
        await each([io])
        await io.forward()
        await each([io, io])
        io.complete()
        await each([io])
        ended.append(True)

    ended = []
    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        rig.settle()
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS
        assert ended == [True]


def test_forwarding_to_its_own_channel_is_refused():
    async def handle(_self, channel, io):
        with pytest.raises(ValueError, match="own channel"):
            io.forward(channel)
        return await io.forward()

    with stack() as rig:
        disk, top = built(rig, handle)
        request = read(top)
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS
        assert rig.errors == []


def test_forwarding_to_a_layer_above_itself_ends():
    above = []
    said = []

    async def handle(_self, _channel, io):
        said.append((await io.forward(above[0].channel), io.errno, io.offset_blocks))
        return await io.forward()

    with stack() as rig:
        disk, top = built(rig, handle)
        above.append(top)
        top.close()
        rig.layer(layer(), name="Above", base="Top")
        above[0] = rig.open("Above")
        request = read(above[0], 5)
        rig.settle()
        disk.complete()
        rig.settle()
        assert request.status == Status.SUCCESS
        assert [one[0] for one in said] == [Status.FAILED]
        assert said[0][2] == 5


@pytest.mark.parametrize("returned", [None, Status.FAILED, Status.SUCCESS])
@pytest.mark.parametrize("op", [Op.ABORT, Op.RESET])
def test_one_that_is_aborted_while_it_runs_ends_as_aborted(returned, op):
    opened, requests = [], []

    async def handle(_self, channel, io):
        if io.op == Op.RESET:
            return await io.forward()
        await channel.reactor.sleep(1)
        requests.append(
            opened[0].submit(op, 0, 0, **({"victim": requests[0]} if op == Op.ABORT else {}))
        )
        return returned

    with stack() as rig:
        _, top = built(rig, handle, Malloc)
        opened.append(top)
        requests.append(read(top))
        rig.pass_time(1)
        rig.settle()
        if op == Op.ABORT:
            assert requests[0].status == Status.ABORTED
        assert all(r.done for r in requests)


@pytest.mark.parametrize("then", ["returns", "waits"])
def test_a_channel_that_is_closed_by_what_goes_on_without_its_io(then):
    woken, ended = Future(), []

    async def handle(_self, channel, io):
        io.complete()
        await woken
        try:
            channel.close()
            gc.collect()
            if then == "waits":
                await Future()
        finally:
            ended.append([bytes(100) for _ in range(100)])

    with stack() as rig:
        _, top = built(rig, handle)
        request = read(top)
        rig.settle()
        assert request.status == Status.SUCCESS
        woken.set_result(None)
        rig.settle()
        assert len(ended) == 1
        assert rig.errors == []


def test_completing_on_another_thread_is_refused():
    said = []

    async def handle(_self, _channel, io):
        def elsewhere():
            try:
                io.complete()
            except RuntimeError as error:
                said.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    with stack() as rig:
        _, top = built(rig, handle)
        rig.settle()
        assert top.io(Op.READ, 0, 1, bytearray(BLOCK)).status == Status.SUCCESS
        assert len(said) == 1
        assert "another's thread" in said[0]


def test_an_abort_made_while_another_coroutine_is_closed():
    """Children of both have come back in one go; one of them has not been told of it yet."""
    opened, requests = [], []

    async def handle(_self, channel, io):
        try:
            await io.child(channel.base)
            await Future()
        finally:
            if io.offset_blocks == 0:
                requests.append(opened[0].submit(Op.ABORT, 0, 0, victim=requests[1]))

    with stack() as rig:
        disk, top = built(rig, handle)
        opened.append(top)
        requests += [read(top, 0), read(top, 1)]
        requests.append(top.submit(Op.ABORT, 0, 0, victim=requests[0]))
        rig.settle()
        disk.complete([0, 2, 1])
        rig.settle()
        disk.complete()
        rig.settle()
        assert rig.errors == []
        assert [r.status for r in requests[:2]] == [Status.ABORTED] * 2
        assert all(r.done for r in requests)


class Strange:
    @property
    def __class__(self):
        raise ZeroDivisionError("class")

    def __repr__(self):
        raise ZeroDivisionError("repr")


@pytest.mark.parametrize("how", ["awaited", "returned"])
def test_objects_that_do_not_say_what_they_are(how):
    async def handle(_self, _channel, _io):
        if how == "awaited":
            await each([Strange()])
        return Strange()

    with stack() as rig:
        _, top = built(rig, handle)
        requests = [read(top), read(top)]
        rig.settle()
        assert [r.status for r in requests] == [Status.FAILED] * 2
        assert rig.errors


class Growing:
    def __init__(self, pieces):
        self.pieces = pieces

    def __buffer__(self, flags):
        self.pieces += [bytearray(8)] * 1000
        return memoryview(bytearray(BLOCK)).cast("B")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes have no __buffer__ before")
def test_pieces_that_come_while_they_are_looked_at():
    async def handle(_self, channel, io):
        pieces = []
        pieces.append(Growing(pieces))
        await io.child(channel.base, Op.WRITE, 0, 1, pieces)

    with stack() as rig:
        _, top = built(rig, handle, Malloc)
        request = top.submit(Op.FLUSH, 0, 0)
        rig.settle()
        assert request.status == Status.SUCCESS
        assert rig.errors == []


def test_a_child_waits_for_no_memory_that_its_parent_got_meanwhile():
    async def lower(_self, _channel, io):
        await io.copy_data()
        await io.forward()

    async def upper(_self, channel, io):
        if io.offset_blocks == 0:
            return await io.forward()
        child = io.child(channel.base, Op.WRITE, 64, 16, bytes(16 * BLOCK))
        await io.copy_data()
        return await child

    with stack(buffer_limit_bytes=8192) as rig:
        disk = rig.disk(Stub)
        rig.layer(layer(handle=lower, kind="lower"), name="Lower")
        rig.layer(layer(handle=upper, kind="upper"), base="Lower")
        top = rig.open("Top")
        writes = [top.submit(Op.WRITE, n, 8, bytes(8 * BLOCK)) for n in (0, 8)]
        rig.settle()
        for _ in range(2):
            disk.complete()
            rig.settle()
        assert [w.status for w in writes] == [Status.SUCCESS] * 2


def test_a_message_and_a_task_that_take_a_turn_themselves():
    with stack() as rig:
        seen = []

        def message(n):
            rig.reactor.poll()
            seen.append(n)

        async def task(n):
            rig.reactor.poll()
            seen.append(n)

        for n in range(3):
            rig.reactor.send_msg(message, n)
            rig.reactor.spawn(task(n))
        rig.settle()
        assert sorted(seen) == [0, 0, 1, 1, 2, 2]


def test_what_a_base_has_its_layer_send_off_while_it_takes_a_batch_is_a_batch_of_its_own():
    waits = []

    async def handle(_self, channel, io):
        if io.offset_blocks == 5:
            waits.append((channel, io))
            await Future()
        await io.forward()

    class Below(Stub):
        def submit(self, channel, ios):
            if waits:
                above, io = waits.pop()
                io.child(above.base, offset_blocks=9)
            super().submit(channel, ios)

    with stack() as rig:
        disk, top = built(rig, handle, Below)
        requests = [read(top, 0), read(top, 1)]
        keeps = read(top, 5)
        rig.settle()
        requests.append(read(top, 2))
        rig.settle()
        assert [offset for _op, offset, _ in disk.arrived] == [0, 1, 9, 2]
        abort = top.submit(Op.ABORT, 0, 0, victim=keeps)
        rig.settle()
        while disk.held:
            disk.complete()
            rig.settle()
        assert {request.status for request in [*requests, abort]} == {Status.SUCCESS}
