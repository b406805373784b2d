"""Waits that must not close a circle: memory, locks and room in a module, each held by an I/O
that waits for another one.

Method: a few buffers, a layer that holds one for each WRITE (`copying`), and a Stub below.
"""

import mmap

import pytest

from support.stack import Stub, describe, layer, stack
from vbdev.bdev.entry import entry_of
from vbdev.core.engine.requests import Requests
from vbdev.modules.malloc import Malloc
from vbdev.vocab import Op, Status

LIMIT = 16384  # four small buffers


def copying(_self, channel, ios):
    ios.copy_data(Op.WRITE)
    channel.base.submit(ios)


def finish(rig, *stubs):
    for _ in range(20):
        rig.settle()
        for stub in stubs:
            stub.complete()
    rig.settle()


def offsets(stub):
    return [offset for one in stub.held for _, offset, _ in describe(one)]


def evenly(_self, channel, ios):
    """WRITEs at even blocks get a copy, and hold memory; the others pass."""
    even = ios.take(ios.offset_blocks % 2 == 0)
    even.copy_data(Op.WRITE)
    channel.base.submit(ios)
    channel.base.submit(even)


def test_pieces_of_what_holds_memory_wait_for_none():
    """The only buffer that there is holds the whole's data, and the second piece is to be moved."""

    class Narrow(Stub):
        max_rw_size = 1

    with stack(buffer_limit_bytes=4096) as rig:
        stub = rig.disk(Narrow)
        stub.required_alignment = 12
        top = rig.layer(layer(copying))
        top.required_alignment = top.max_rw_size = 0
        whole = rig.open("Top").submit(Op.WRITE, 3, 2, bytes(1024))
        finish(rig, stub)
        assert whole.status == Status.SUCCESS
        assert stub.arrived == [(Op.WRITE, 3, 1), (Op.WRITE, 4, 1)]


def test_what_finds_no_room_gives_its_memory_back_meanwhile():
    with stack(buffer_limit_bytes=4096) as rig:
        stub = rig.disk(Stub)
        stub.required_alignment = 12
        top = rig.open("Disk")
        whole = top.submit(Op.WRITE, 3, 1, memoryview(bytearray(513))[1:])
        rig.settle()
        assert rig.engine.buffers.used_bytes == 4096
        stub.complete(status=Status.NOMEM)
        rig.settle()
        assert rig.engine.buffers.used_bytes == 0
        rig.pass_time(11_000)
        finish(rig, stub)
        assert whole.status == Status.SUCCESS


def test_what_holds_memory_passes_those_that_wait_for_it():
    """All wait for room in the module; the first that goes on needs what those behind it hold."""
    with stack(buffer_limit_bytes=LIMIT) as rig:
        stub = rig.disk(Stub)
        stub.required_alignment = 12  # a block is shorter, and bounced
        rig.layer(layer(evenly, kind="evenly")).required_alignment = 0
        top = rig.open("Top")
        first = top.submit(Op.FLUSH, 1, 0)
        rig.settle()
        stub.complete([0], Status.NOMEM)  # for 10 ms
        rig.settle()
        wants = [top.submit(Op.WRITE, 2 * n + 1, 1, bytes(512)) for n in range(3)]
        holds = [top.submit(Op.WRITE, 2 * n, 1, bytes(512)) for n in range(4)]
        rig.settle()
        assert rig.engine.buffers.used_bytes == LIMIT
        assert not stub.held
        rig.pass_time(11_000)
        finish(rig, stub)
        assert {r.status for r in (first, *wants, *holds)} == {Status.SUCCESS}


def test_compare_and_write_gets_memory_while_it_holds_up_others():
    """It reads what it compares into a buffer; WRITEs that wait for its end have them all."""
    with stack(buffer_limit_bytes=LIMIT) as rig:
        stub = rig.disk(Stub)
        stub.ops -= {Op.COMPARE, Op.COMPARE_AND_WRITE}
        direct = rig.open("Disk")
        rig.layer(layer(copying, kind="copying"))
        top = rig.open("Top")
        before = direct.submit(Op.WRITE, 5, 1, bytes(512))
        rig.settle()
        swap = direct.submit(Op.COMPARE_AND_WRITE, 5, 1, bytes(512), write_data=bytes([1]) * 512)
        rig.pass_time(300)
        holds = [top.submit(Op.WRITE, 5, 1, bytes(512)) for _ in range(4)]
        rig.settle()
        assert rig.engine.buffers.used_bytes == LIMIT
        for _ in range(10):
            rig.pass_time(300)
            for one in stub.held:  # what a disk of zeroes holds
                for view in one.data(Op.READ):
                    view[:] = bytes(len(view))
            stub.complete()
        assert {r.status for r in (before, swap, *holds)} == {Status.SUCCESS}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_a_lock_waits_for_no_memory_of_those_that_wait_for_the_lock(split):
    """Whoever writes on takes what is free at once, before those in the base's queue look."""
    holds = []
    with stack(buffer_limit_bytes=LIMIT) as rig:
        stub = rig.disk(Stub, block_size=4096)
        stub.required_alignment = 12
        if split:
            stub.max_rw_size = 1
        direct = rig.open("Disk")
        rig.layer(layer(copying, kind="copying"))
        top = rig.open("Top")

        # A mapping is aligned, what comes one byte later in it is not, and is bounced.
        pages = memoryview(mmap.mmap(-1, 16384))
        block, unaligned = pages[:4096], pages[1:8193]

        def write_on(_request):
            holds.append(top.submit(Op.WRITE, 10, 1, block))

        early = [top.submit(Op.WRITE, 100 + n, 1, block, callback=write_on) for n in range(4)]
        rig.settle()
        other = direct.submit(Op.WRITE, 50, 1, unaligned[:4096])
        waits = direct.submit(Op.WRITE, 10, 2, unaligned)
        rig.settle()
        assert rig.engine.waiting
        locked = rig.reactor.spawn(entry_of(stub).control.lock(10, 2))
        rig.settle()
        stub.complete()
        for _ in range(20):
            rig.pass_time(300)
            stub.complete()
        assert len(holds) == 4
        assert locked.done
        rig.run(entry_of(stub).control.unlock(locked.result()))
        finish(rig, stub)
        assert {r.status for r in (other, waits, *early, *holds)} == {Status.SUCCESS}


def test_a_lock_waits_for_a_command_that_is_with_a_lower_control_path():
    """A COMPARE_AND_WRITE that waits below for its own lock is under way in the layer above."""
    with stack() as rig:
        stub = rig.disk(Stub)
        stub.ops -= {Op.COMPARE_AND_WRITE}
        direct = rig.open("Disk")
        layer_above = rig.layer()
        top = rig.open("Top")
        assert Op.COMPARE_AND_WRITE not in layer_above.ops
        layer_above.ops |= {Op.COMPARE_AND_WRITE}
        entry_of(layer_above).reconfigure(top.channel)
        held_up = direct.submit(Op.WRITE, 5, 1, bytes(512))
        rig.settle()
        swap = top.submit(Op.COMPARE_AND_WRITE, 5, 1, bytes(512), write_data=bytes(512))
        rig.pass_time(300)
        quiet = rig.reactor.spawn(layer_above.quiesce(type(layer_above)))
        rig.pass_time(1000)
        assert not quiet.done
        for _ in range(10):
            stub.complete()
            rig.pass_time(300)
        assert quiet.done
        assert (held_up.status, swap.status) == (Status.SUCCESS, Status.SUCCESS)
        rig.run(layer_above.unquiesce(type(layer_above)))


def test_a_lock_that_can_not_be_taken_holds_up_nobody():
    with stack() as rig:
        disk = rig.disk(Malloc)
        opened = rig.open("Disk")

        def fails(_channel):
            raise ZeroDivisionError

        outstanding = entry_of(disk).control._outstanding
        entry_of(disk).control._outstanding = fails
        swap = opened.io(Op.COMPARE_AND_WRITE, 0, 1, bytes(512), write_data=bytes(512))
        assert swap.status == Status.FAILED
        entry_of(disk).control._outstanding = outstanding
        assert not entry_of(disk).control.busy
        swap = opened.io(Op.COMPARE_AND_WRITE, 0, 1, bytes(512), write_data=bytes(512))
        assert (swap.status, swap.detail) == (Status.SUCCESS, 0)


def test_an_abort_never_says_that_it_ended_what_goes_on():
    """A module that aborts while its channel goes through its queue is told the truth."""

    class Aborting(Stub):
        kind = "aborting"
        aborts = ()

        def submit(self, channel, ios):
            super().submit(channel, ios)
            if self.victim is not None:
                victim, self.victim = self.victim, None
                self.aborts = (self.own.submit(channel, Op.ABORT, 0, 0, victim=victim),)

    with stack(buffer_limit_bytes=LIMIT) as rig:
        stub = rig.disk(Aborting)
        stub.victim = None
        stub.own = Requests(rig.engine)
        top = rig.open("Disk")
        for n in range(4):
            top.submit(Op.READ, n)
        waits = [top.submit(Op.READ, 4 + n) for n in range(2)]
        stub.victim = waits[1]
        stub.complete([0])
        rig.settle()
        assert offsets(stub) == [1, 2, 3, 4]
        (abort,) = stub.aborts
        assert abort.status == Status.FAILED
        finish(rig, stub)
        assert [r.status for r in waits] == [Status.SUCCESS] * 2
        stub.own.close()
