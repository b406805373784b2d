"""What was so when somebody looked is not so any more when he goes on: bdevs, wishes, bases."""

import errno
from functools import partial

import pytest

from support.stack import Stub, stack
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.bdev.figures.queue_depth import set_sampling_period
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru


@pytest.fixture
def made():
    with stack() as stack_:
        yield stack_


class Slow(Stub):
    """Takes 1 ms to start."""

    kind = "slow"
    product_name = "slow"
    log = ()

    async def start(self):
        await self.reactor.sleep(1000)
        await super().start()
        type(self).log += ("started",)

    async def stop(self):
        type(self).log += ("stopped",)


class SlowLayer(Passthru):
    """Takes 1 ms to start."""

    kind = "slow_layer"
    started = ()

    async def start(self):
        type(self).started += (self.name,)
        await self.reactor.sleep(1000)


@pytest.fixture(autouse=True)
def forget():
    Slow.log, SlowLayer.started = (), ()


def spawn(made, coroutine):
    task = made.reactor.spawn(coroutine)
    task.add_done_callback(lambda _task: None)
    made.settle()
    return task


def slow(made, name="Late"):
    params = Slow.Params(name=name, num_blocks=8, block_size=512)
    return spawn(made, made.registry.create(Slow, params))


def wish(made, cls, name, base="Disk"):
    return spawn(made, made.registry.create(cls, cls.Params(name=name, base_bdev_name=base)))


def number(task):
    with pytest.raises(BdevError) as caught:
        task.result()
    return caught.value.errno


def test_what_starts_while_all_ends_is_not_there_afterwards():
    """Nobody would stop it, and a disk that nobody stops is not synced."""
    made = stack().__enter__()
    creating = slow(made)
    made.run(made.registry.close())
    made.pass_time(2000)
    assert number(creating) == errno.ESHUTDOWN
    assert list(made.registry) == []
    assert Slow.log == ("started", "stopped")
    made.close()


def test_who_asks_for_a_bdev_while_all_ends_does_not_wait_for_it(made):
    stopping = made.disk(Slow)
    stopping.stop = partial(made.reactor.sleep, 1000)
    closing = spawn(made, made.registry.close())
    opening = made.registry.open_async(
        "Late", write=False, on_event=lambda _event: None, holder="late", timeout_ms=1000
    )
    assert number(spawn(made, opening)) == errno.ESHUTDOWN
    made.turn_until(lambda: closing.done)


def test_a_wish_that_was_deleted_while_others_were_built_is_not_started(made, caplog):
    """The base was looked through for who waits for it before."""
    SlowLayer.base_claim = "read_many_write_none"
    wish(made, SlowLayer, "One")
    wish(made, SlowLayer, "Two")
    creating = spawn(
        made, made.registry.create(Malloc, Malloc.Params(name="Disk", num_blocks=8, block_size=512))
    )
    assert SlowLayer.started == ("One",)
    spawn(made, made.registry.delete("Two", "slow_layer")).result()
    made.pass_time(5000)
    assert creating.done
    assert SlowLayer.started == ("One",)
    assert [bdev.name for bdev in made.registry] == ["Disk", "One"]
    assert caplog.messages == []


def test_a_base_is_free_when_the_deletion_of_what_was_being_built_is_answered(made):
    made.disk(Malloc)
    creating = wish(made, SlowLayer, "Top")
    made.run(made.registry.delete("Top", "slow_layer"))
    assert number(creating) == errno.ENODEV
    assert made.registry.get("Disk").holders() == []
    assert made.run(made.registry.create(*passthru("Top"))) == "Top"


def test_a_base_is_free_when_the_deletion_of_a_wish_whose_vbdev_goes_is_answered(made):
    """Its base is removed, and is so while the vbdev takes its time to stop."""

    class SlowToStop(Passthru):
        kind = "slow_to_stop"

        async def stop(self):
            await self.reactor.sleep(1000)

    made.disk(Malloc)
    made.layer(SlowToStop, "Top")
    removal = spawn(made, made.registry.unregister(made.registry.get("Top")))
    creation = made.registry.creations["Top"]
    deletion = spawn(made, made.registry.delete_creation(creation))
    assert not removal.done
    assert not deletion.done
    made.turn_until(lambda: deletion.done)
    deletion.result()
    assert made.registry.find("Top") is None
    assert made.registry.get("Disk").holders() == []


def passthru(name):
    return Passthru, Passthru.Params(name=name, base_bdev_name="Disk")


def test_a_base_is_held_and_no_other_one_of_its_name(made):
    """Whoever waited before he asked has the bdev of before in his hands."""
    before = made.disk(Malloc)
    made.delete("Disk")
    after = made.disk(Malloc)
    with pytest.raises(BdevError, match="was removed before") as caught:
        made.registry.hold(before, "test", holder="test")
    assert caught.value.errno == errno.ENODEV
    assert (entry_of(before).claim, entry_of(after).claim, after.holders()) == (None, None, [])


def test_a_bdev_goes_between_the_poll_and_the_sample(made, caplog):
    disk = made.disk(Malloc)
    set_sampling_period(disk, 1000)
    poll = entry_of(disk).queue_depth._poll
    made.settle()
    with made.reactor.here():
        assert poll() == 1
        removal = made.reactor.begin(made.registry.unregister(disk))
    made.settle()
    assert removal.done
    assert caplog.messages == []


def test_building_on_a_base_that_is_removed_meanwhile_leaves_nothing(made):
    made.disk(Malloc)
    creating = wish(made, SlowLayer, "Top")
    removal = spawn(made, made.registry.delete("Disk", "malloc"))
    made.pass_time(2000)
    assert number(creating) == errno.ENODEV
    removal.result()
    assert list(made.registry) == []
