"""Who waits for a bdev is woken, and looks at nothing in between.

Method: virtual time, which goes on only where a timer is due. So a wait that looks again and again
lets time go by, and one that is woken does not.
"""

import errno

import pytest

from support.stack import Stack, Stub, layer
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.reactor.task import Future, wake
from vbdev.vocab import Op


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
