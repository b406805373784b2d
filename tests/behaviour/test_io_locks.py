"""`io.lock` in `handle`, and the mirror of the examples, whose repair it protects.

Method: stacks turned by hand on a virtual clock; a disk that completes what the test says, when.
"""

from __future__ import annotations

import errno
import importlib.util
from pathlib import Path

import pytest

from vbdev.bdev import BASIC_OPS, BdevError, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.testing import Stack, Stub
from vbdev.vocab import Op, Status

BLOCK = 512
MIRROR = Path(__file__).parents[2] / "examples" / "mirror.py"


def load_mirror():
    spec = importlib.util.spec_from_file_location("mirror_example", MIRROR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Mirror


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


class Locking(VirtualBdev):
    """Locks each READ's blocks, or what `where` says, before it goes on."""

    kind = "locking"
    product_name = "Locking"
    ops = BASIC_OPS | {Op.UNMAP}
    where: tuple = ()
    reads = False
    write_too = False
    told = ()

    async def handle(self, channel, io):
        if io.op != Op.READ and not self.write_too:
            return await io.forward()
        try:
            async with io.lock(*self.where, reads=self.reads):
                self.told = (*self.told, "locked")
                status = await io.forward()
        finally:
            self.told = (*self.told, "left")
        return status


def locking(stack, **more):
    disk = stack.disk(Stub, num_blocks=2048, block_size=BLOCK)
    made = stack.layer(Locking)
    for name, value in more.items():
        setattr(made, name, value)
    return disk, made, stack.open("Top"), stack.open("Top")


# The mirror


def end_all(stack, disk, *requests):
    while not all(request.done for request in requests):
        disk.complete()
        stack.settle()


@pytest.mark.parametrize("when", ["before the lock", "while it reads", "while it repairs"])
def test_a_repair_undoes_no_write_that_was_acknowledged(stack, when):
    disk = stack.disk(Stub, num_blocks=2048, block_size=BLOCK)
    stack.layer(load_mirror())
    reader, writer = stack.open("Top"), stack.open("Top")
    stored = {5: b"o" * BLOCK, 1029: b"o" * BLOCK}

    def carry_out(failing=()):
        """Do what the disk has been given, as a disk would."""
        for held in disk.held:
            ((op, offset, _count),) = [
                (int(op), int(offset), int(count)) for op, offset, count in held.extents()
            ]
            (piece,) = held.data()
            if op == Op.WRITE:
                stored[offset] = bytes(piece)
            elif (op, offset) not in failing:
                piece[:] = stored[offset]
        failed = [
            n
            for n, held in enumerate(disk.held)
            if any((int(op), int(offset)) in failing for op, offset, _count in held.extents())
        ]
        disk.complete(failed, status=Status.FAILED)
        disk.complete()
        stack.settle()

    read = reader.submit(Op.READ, 5, 1, bytearray(BLOCK))
    write = None
    if when == "before the lock":
        write = writer.submit(Op.WRITE, 5, 1, b"n" * BLOCK)
        legs = [n for n, held in enumerate(disk.held) if held.ops[0] == Op.READ]
        disk.complete(legs, status=Status.FAILED)
        stack.reactor.poll()
        assert not any(op == Op.READ and at == 1029 for op, at, _count in disk.arrived)
        carry_out()
    else:
        carry_out(failing={(Op.READ, 5)})
        assert disk.arrived[-1] == (Op.READ, 1029, 1)
        if when == "while it repairs":
            carry_out()
            assert disk.arrived[-1] == (Op.WRITE, 5, 1)
        write = writer.submit(Op.WRITE, 5, 1, b"n" * BLOCK)
        for _ in range(3):
            stack.reactor.poll()
        assert not write.done
    for _ in range(20):
        if read.done and write.done:
            break
        for _turn in range(3):
            stack.settle()
        stack.reactor.advance() if not disk.held else carry_out()
    assert (read.status, write.status) == (Status.SUCCESS, Status.SUCCESS)
    assert stored == {5: b"n" * BLOCK, 1029: b"n" * BLOCK}


# The lock


def test_what_comes_waits_and_what_is_elsewhere_does_not(stack):
    disk, made, top, other = locking(stack)
    read = top.submit(Op.READ, 8, 4, bytearray(4 * BLOCK))
    stack.settle()
    assert made.told == ("locked",)
    inside = other.submit(Op.WRITE, 11, 1, bytes(BLOCK))
    beside = other.submit(Op.WRITE, 12, 1, bytes(BLOCK))
    stack.settle()
    assert disk.arrived == [(Op.READ, 8, 4), (Op.WRITE, 12, 1)]
    end_all(stack, disk, read, inside, beside)
    assert disk.arrived[-1] == (Op.WRITE, 11, 1)
    assert not entry_of(made).control.busy


def test_what_is_under_way_ends_first(stack):
    disk, made, top, other = locking(stack)
    write = other.submit(Op.WRITE, 9, 1, bytes(BLOCK))
    read = top.submit(Op.READ, 8, 4, bytearray(4 * BLOCK))
    for _ in range(10):
        stack.reactor.poll()
        stack.reactor.advance()
    assert made.told == ()
    end_all(stack, disk, write)
    for _ in range(10):
        stack.reactor.poll()
        stack.reactor.advance()
    assert made.told == ("locked",)
    end_all(stack, disk, read)


@pytest.mark.parametrize("reads", [False, True])
def test_two_that_lock_what_both_of_them_change_follow_each_other(stack, reads):
    disk, made, top, other = locking(stack, write_too=True, reads=reads)
    requests = [one.submit(Op.WRITE, 8, 4, bytes(4 * BLOCK)) for one in (top, other, top)]
    for n in range(3):
        for _ in range(100):
            if not stack.reactor.poll() and not disk.held:
                stack.reactor.advance()
        assert len(disk.held) == 1
        assert made.told.count("locked") == n + 1
        disk.complete()
    end_all(stack, disk, *requests)
    assert all(request.status == Status.SUCCESS for request in requests)


def test_locks_in_each_others_blocks_follow_each_other(stack):
    """The first one's range is where the second one is, and the other way round."""
    disk, made, top, other = locking(stack, write_too=True, where=(8, 1))
    first = top.submit(Op.WRITE, 0, 1, bytes(BLOCK))
    stack.reactor.poll()
    made.where = (0, 1)
    second = other.submit(Op.WRITE, 8, 1, bytes(BLOCK))
    for _ in range(100):
        stack.reactor.poll()
        if disk.held:
            disk.complete()
        elif not (first.done and second.done):
            stack.reactor.advance()
    assert (first.status, second.status) == (Status.SUCCESS, Status.SUCCESS)


@pytest.mark.parametrize("how", ["abort", "reset"])
@pytest.mark.parametrize("state", ["waiting", "holding"])
def test_abort_and_reset_end_it_and_give_the_lock_back(stack, how, state):
    disk, made, top, other = locking(stack)
    write = other.submit(Op.WRITE, 9, 1, bytes(BLOCK)) if state == "waiting" else None
    read = top.submit(Op.READ, 8, 4, bytearray(4 * BLOCK))
    stack.reactor.poll()
    stack.reactor.poll()
    stop = top.submit(Op.ABORT, 0, 0, victim=read) if how == "abort" else top.submit(Op.RESET, 0, 0)
    ended = (Status.SUCCESS, Status.ABORTED)
    for _ in range(50):
        stack.reactor.poll()
        for n, held in reversed(list(enumerate(disk.held))):
            if held.ops[0] in (Op.RESET, Op.ABORT) or state == "holding":
                disk.complete([n], status=ended[int(held.ops[0] == Op.READ)])
        if read.done and stop.done:
            break
    assert read.status == Status.ABORTED
    assert made.told[-1] == "left"
    end_all(stack, disk, stop, *([write] if write else []))
    for _ in range(10):
        stack.reactor.poll()
        if entry_of(made).control.busy:
            stack.reactor.advance()
    assert not entry_of(made).control.busy
    after = other.submit(Op.WRITE, 9, 1, bytes(BLOCK))
    end_all(stack, disk, after)
    assert after.status == Status.SUCCESS


def refused(stack, code):
    """Run `code` in handle; return what it raised."""
    errors = []

    class Refused(VirtualBdev):
        kind = "refused"
        product_name = "Refused"
        ops = BASIC_OPS

        async def handle(self, channel, io):
            try:
                await code(self, channel, io)
            except (RuntimeError, BdevError) as error:
                errors.append(error)
            return Status.SUCCESS

    stack.disk(num_blocks=64, block_size=BLOCK)
    stack.layer(Refused)
    assert stack.open("Top").io(Op.WRITE, 0, 1, bytes(BLOCK)).status == Status.SUCCESS
    (error,) = errors
    return error


def test_a_second_lock_is_refused(stack):
    async def twice(_self, _channel, io):
        async with io.lock(0, 1), io.lock(8, 1):
            pass

    assert "has a lock already" in str(refused(stack, twice))


def test_a_lock_with_a_child_under_way_is_refused(stack):
    async def busy(_self, channel, io):
        child = io.child(channel.base)
        try:
            async with io.lock():
                pass
        finally:
            await child

    assert "under way" in str(refused(stack, busy))


def test_no_blocks_are_locked_at_once_and_hold_up_nobody(stack):
    disk, made, top, other = locking(stack, where=(8, 0))
    under_way = other.submit(Op.WRITE, 4, 8, bytes(8 * BLOCK))
    first = top.submit(Op.READ, 8, 1)
    stack.settle()
    assert made.told == ("locked",)
    later = other.submit(Op.WRITE, 8, 1, bytes(BLOCK))
    stack.settle()
    assert len(disk.held) == 3
    end_all(stack, disk, under_way, first, later)
    assert {one.status for one in (under_way, first, later)} == {Status.SUCCESS}


def test_a_range_outside_is_refused(stack):
    async def outside(_self, _channel, io):
        async with io.lock(60, 5):
            pass

    assert refused(stack, outside).errno == errno.EINVAL


def test_quiesce_in_handle_is_refused_at_once(stack):
    async def quiet(self, _channel, _io):
        await self.quiesce(type(self))

    error = refused(stack, quiet)
    assert error.errno == errno.EDEADLK
    assert "io.lock" in str(error)


def test_quiesce_in_submit_and_completed_is_refused_at_once(stack):
    errors = []

    class Quiet(VirtualBdev):
        kind = "quiet"
        product_name = "Quiet"
        ops = BASIC_OPS

        def ask(self, channel):
            task = channel.reactor.begin(self.quiesce(type(self)))
            task.add_done_callback(lambda _task: None)
            try:
                task.result()
            except BdevError as error:
                errors.append(error.errno)

        def submit(self, channel, ios):
            self.ask(channel)
            channel.base.submit(ios)

        def completed(self, channel, ios):
            self.ask(channel)

    stack.disk(num_blocks=64, block_size=BLOCK)
    stack.layer(Quiet)
    assert stack.open("Top").io(Op.WRITE, 0, 1, bytes(BLOCK)).status == Status.SUCCESS
    assert errors == [errno.EDEADLK] * 2
