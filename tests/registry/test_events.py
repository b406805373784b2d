"""Who waits for a bdev is woken, and looks at nothing in between.

Method: virtual time, which goes on only where a timer is due. So a wait that looks again and again
lets time go by, and one that is woken does not.
"""

import errno

import pytest

from support.stack import Stack, Stub, layer
from support.stack import stack as make_stack
from vbdev.bdev import BASIC_OPS, BdevError, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.reactor.task import Future, wake
from vbdev.vocab import Op, Status


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


class SlowToStart(Passthru):
    """Starts when it is told."""

    kind = "slow"
    told = None

    async def start(self):
        await super().start()
        await type(self).told


def now(stack):
    return stack.reactor.clock.now_ns()


def test_an_open_goes_on_as_soon_as_the_bdev_comes(stack):
    waiting = stack.reactor.spawn(
        stack.registry.open_async(
            "Disk", write=False, on_event=lambda _event: None, holder="patient", timeout_ms=60_000
        )
    )
    stack.settle()
    before = now(stack)
    # The end of the wait is all that a timer is set for.
    assert stack.reactor.deadline_ns == before + 60_000_000_000
    stack.disk(Null)
    stack.settle()
    assert waiting.done
    assert now(stack) == before
    waiting.result().close()


def test_an_open_goes_on_as_soon_as_the_bdev_has_the_name(stack):
    waiting = stack.reactor.spawn(
        stack.registry.open_async(
            "Alias", write=False, on_event=lambda _event: None, holder="patient", timeout_ms=60_000
        )
    )
    disk = stack.disk(Null)
    stack.settle()
    assert not waiting.done
    before = now(stack)
    stack.registry.add_alias(disk, "Alias")
    stack.settle()
    assert waiting.done
    assert now(stack) == before
    waiting.result().close()


def test_a_delete_waits_for_what_is_being_built_and_looks_at_nothing(stack):
    stack.disk(Null)
    SlowToStart.told = Future()
    params = SlowToStart.Params(name="Top", base_bdev_name="Disk")
    making = stack.reactor.spawn(stack.registry.create(SlowToStart, params))
    making.add_done_callback(lambda _task: None)
    stack.settle()
    deleting = stack.reactor.spawn(stack.registry.delete_creation(stack.registry.creations["Top"]))
    before = now(stack)
    stack.settle()
    assert not deleting.done
    assert not stack.reactors.advance()  # there is no timer that anybody waits for
    wake(SlowToStart.told)
    stack.settle()
    assert deleting.done
    assert now(stack) == before
    with pytest.raises(BdevError, match="was deleted while it started"):
        making.result()
    assert entry_of(stack.registry.get("Disk")).openers == []


def test_a_removal_goes_on_as_soon_as_the_last_one_lets_go(stack):
    disk = stack.disk(Stub)
    first, second = stack.open("Disk"), stack.open("Disk")
    pending = [opened.submit(Op.READ, 0, 1) for opened in (first, second)]
    removing = stack.reactor.spawn(stack.registry.unregister(disk))
    stack.settle()
    before = now(stack)
    assert not removing.done
    disk.complete()
    stack.settle()
    assert (removing.done, now(stack)) == (True, before)
    assert all(request.done for request in pending)


def test_a_removal_goes_on_as_soon_as_blocks_are_locked_no_more(stack):
    disk = stack.disk(Null)
    control = entry_of(disk).control
    lock = stack.run(control.lock(0, 4))
    removing = stack.reactor.spawn(stack.registry.unregister(disk))
    stack.settle()
    before = now(stack)
    assert not removing.done
    stack.reactor.spawn(control.unlock(lock))
    stack.settle()
    assert (removing.done, now(stack)) == (True, before)


def test_the_end_waits_for_removals_that_go_on_and_looks_at_nothing(stack):
    disk = stack.disk(Null)
    lock = stack.run(entry_of(disk).control.lock(0, 4))
    stack.reactor.spawn(stack.registry.unregister(disk)).add_done_callback(lambda _task: None)
    stack.settle()
    closing = stack.reactor.spawn(stack.registry.close())
    stack.settle()
    before = now(stack)
    assert not closing.done
    stack.reactor.spawn(entry_of(disk).control.unlock(lock))
    stack.settle()
    assert (closing.done, now(stack)) == (True, before)


def test_what_is_kept_of_a_bdev_is_there_from_its_registration_on(stack):
    bare = Null(Null.Params(name="Bare", num_blocks=8, block_size=512))
    with pytest.raises(BdevError, match="bdev Bare is not registered") as caught:
        entry_of(bare)
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(BdevError, match="bdev Bare is not registered"):
        stack.run(bare.quiesce(Null))
    bare.notify_blockcnt_change(16)
    assert (bare.num_blocks, bare.holders()) == (16, [])
    assert (bare.descriptors, bare.channels()) == ([], [])
    disk = stack.disk(Null)
    assert entry_of(disk).bdev is disk
    top = stack.layer(layer(lambda _self, channel, ios: channel.base.submit(ios)))
    assert (entry_of(disk).depth, entry_of(top).depth) == (1, 2)


def test_what_a_module_may_ask_about_itself(stack):
    disk = stack.disk(Stub)
    opened = stack.open("Disk")
    assert disk.descriptors == [opened.descriptor]
    assert disk.channels() == [opened.channel]
    disk.ops = disk.ops - {Op.UNMAP}
    disk.configure_channel(opened.channel)
    assert opened.io(Op.UNMAP, 0, 1).errno == errno.EOPNOTSUPP


# I/O under way


@pytest.fixture(params=[1, 2], ids=["one reactor", "two reactors"])
def held(request):
    """A Stub that has what it is given, open on the control plane's reactor, and on the last."""
    with make_stack(reactors=request.param) as made:
        made.stub = made.disk(Stub)
        made.tops = [made.open("Disk"), made.open("Disk", on=request.param - 1)]
        yield made


def ignore(_request):
    pass


def write(opened, offset):
    return opened.submit(Op.WRITE, offset, 1, bytes(512))


def complete_at(stub, block):
    stub.complete(n for n, ios in enumerate(stub.held) if int(ios.offset_blocks[0]) == block)


def test_a_lock_is_there_as_soon_as_what_it_waits_for_has_ended(held):
    requests = [write(top, offset) for top in held.tops for offset in (3, 4, 5, 8)]
    locking = held.reactor.spawn(entry_of(held.stub).control.lock(4, 4))
    held.settle()
    before = now(held)
    for block in (8, 4, 5):
        assert not locking.done
        complete_at(held.stub, block)
        held.settle()
    assert (locking.done, now(held)) == (True, before)
    assert [request.done for request in requests] == [False, True, True, True] * 2
    held.stub.complete()
    held.reactor.spawn(entry_of(held.stub).control.unlock(locking.result()))
    held.settle()


def test_a_lock_goes_on_as_soon_as_an_io_of_its_blocks_waits_for_one(stack):
    """Whose coroutine has asked for a lock changes nothing until it has it."""
    gate = Future()

    class Locking(VirtualBdev):
        kind = "locking"
        ops = BASIC_OPS

        async def handle(self, channel, io):
            await gate
            async with io.lock():
                await io.forward()

    stack.disk(Null)
    top = stack.layer(Locking)
    opened = stack.open(top.name)
    request = write(opened, 4)
    locking = stack.reactor.spawn(entry_of(top).control.lock(4, 4))
    stack.settle()
    before = now(stack)
    assert not locking.done
    wake(gate)
    stack.settle()
    assert (locking.done, request.done, now(stack)) == (True, False, before)
    stack.reactor.spawn(entry_of(top).control.unlock(locking.result()))
    stack.settle()
    assert (request.done, now(stack)) == (True, before)


def test_a_lock_that_nobody_waits_for_any_more_is_given_back_at_once(stack):
    class Locking(VirtualBdev):
        kind = "locking"
        ops = BASIC_OPS | {Op.ABORT}

        async def handle(self, channel, io):
            if io.op != Op.READ:
                return await io.forward()
            async with io.lock():
                return await io.forward()

    disk = stack.disk(Stub)
    top = stack.layer(Locking)
    opened = stack.open(top.name)
    written = write(opened, 4)
    reading = opened.submit(Op.READ, 4, 1)
    stack.settle()
    before = now(stack)
    assert len(entry_of(top).control.locks) == 1
    opened.submit(Op.ABORT, victim=reading)
    stack.settle()
    assert (reading.status, written.done) == (Status.ABORTED, False)
    assert (entry_of(top).control.locks, now(stack)) == ([], before)
    disk.complete()
    stack.settle()


def test_a_reset_goes_on_as_soon_as_the_module_has_nothing_more(held):
    held.stub.reset_io_drain_timeout = 5
    requests = [write(top, 3) for top in held.tops]
    reset = held.tops[0].submit(Op.RESET, 0, 0)
    held.settle()
    before = now(held)
    held.stub.complete([0])
    held.settle()
    assert not reset.done
    held.stub.complete([0], status=Status.NOMEM)  # taken back, to be tried again: and frozen
    held.settle()
    assert (reset.done, reset.status, now(held)) == (True, Status.SUCCESS, before)
    assert all(request.done for request in requests)


def test_a_base_is_let_go_as_soon_as_the_modules_own_io_has_ended(stack):
    disk = stack.disk(Stub)
    hold = stack.registry.hold(disk, "own", holder="own I/O")
    own = [hold.descriptor.submit(Op.READ, n, 1, bytearray(512), callback=ignore) for n in range(2)]
    giving = stack.reactor.spawn(hold.give())
    stack.settle()
    before = now(stack)
    for n in range(2):
        assert not giving.done
        disk.complete([0])
        stack.settle()
        assert own[n].done
    assert (giving.done, now(stack)) == (True, before)
    assert entry_of(disk).openers == []


def test_a_base_is_let_go_as_soon_as_a_zcopy_is_closed(stack):
    disk = stack.disk(Malloc)
    hold = stack.registry.hold(disk, "own", holder="own I/O")
    own = hold.descriptor.submit(Op.ZCOPY, 0, 1, callback=ignore)
    giving = stack.reactor.spawn(hold.give())
    stack.settle()
    before = now(stack)
    assert own.done
    assert not giving.done
    hold.descriptor.zcopy_end(own, commit=False, callback=ignore)
    stack.settle()
    assert (giving.done, now(stack)) == (True, before)


def test_a_descriptor_is_closed_as_soon_as_what_it_refuses_is_delivered(held):
    opened = held.tops[1]
    write(opened, 3)
    held.settle()
    held.stub.complete()
    held.settle()
    before = now(held)
    opened.close()
    held.settle()
    assert opened.descriptor.closed
    assert now(held) == before
