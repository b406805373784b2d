"""Removal: whom it waits for, deadlines, what is told to whom, and the end of all."""

import errno
import logging

import pytest

from support.stack import Stack, Stub, layer
from vbdev.bdev import BdevError, BdevState
from vbdev.bdev.entry import entry_of
from vbdev.modules.null import Null
from vbdev.registry.claims import claim_bdev
from vbdev.registry.notifications import MAX_EVENTS, Notifications
from vbdev.registry.removal import holders
from vbdev.vocab import Op, Status


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def start(stack, coroutine):
    """Begin something that a test looks at later, whatever comes of it."""
    task = stack.reactor.spawn(coroutine)
    task.add_done_callback(lambda _task: None)
    stack.settle()
    return task


def failure(task):
    with pytest.raises(BdevError) as caught:
        task.result()
    return caught.value.errno, str(caught.value)


@pytest.mark.rule("A.7.3", "A.7.8", "A.7.9", "Dd.13", "E.bdev_ut.bdev_open_ext_unregister")
def test_a_deadline_names_the_holders_and_the_removal_goes_on(stack):
    disk = stack.disk(Stub)
    stack.layer()
    top = stack.open("Top", holder="a reader")
    idle = stack.open("Disk", write=False, holder="an idler")
    requests = [top.submit(Op.READ, number) for number in range(3)]
    task = start(stack, stack.registry.unregister(disk, timeout_ms=500))
    idle.close()  # it was told, and Opened lets go when it can
    stack.pass_time(499_000)
    assert not task.done
    stack.pass_time(1_001)
    number, message = failure(task)
    assert number == errno.ETIMEDOUT
    assert message == (
        "bdev Disk is not gone after 500 ms; held by passthru vbdev Top (3 I/Os)."
        " The removal goes on"
    )
    assert disk.state is BdevState.REMOVING
    assert holders(stack.registry.get("Top")) == [
        {
            "holder": "a reader",
            "write": True,
            "claim_type": None,
            "outstanding": 3,
            "thread": stack.reactor.name,
        }
    ]
    again = start(stack, stack.registry.unregister(disk, timeout_ms=1))
    assert failure(again)[0] == errno.EBUSY
    assert "held by passthru vbdev Top (3 I/Os)" in failure(again)[1]
    disk.complete()
    stack.settle()
    assert [request.status for request in requests] == [Status.SUCCESS] * 3
    assert list(stack.registry) == []
    assert stack.registry.removals == {}
    stack.disk(Stub)


@pytest.mark.rule("A.7.9")
def test_a_deadline_that_is_met(stack):
    disk = stack.disk(Stub)
    opened = stack.open("Disk")
    opened.submit(Op.READ)
    task = start(stack, stack.registry.unregister(disk, timeout_ms=500))
    stack.pass_time(400_000)
    disk.complete()
    stack.settle()
    assert task.result() is None
    stack.disk(Stub)
    stack.run(stack.registry.unregister(stack.registry.get("Disk"), timeout_ms=0))
    assert list(stack.registry) == []


@pytest.mark.rule("A.7.9", "A.7.7")
def test_what_fails_behind_a_deadline_is_logged(stack, caplog):
    class Bad(Stub):
        async def stop(self):
            raise OSError(errno.EIO, "the last sync failed")

    disk = stack.disk(Bad)
    stack.open("Disk").submit(Op.READ)
    task = start(stack, stack.registry.unregister(disk, timeout_ms=10))
    stack.pass_time(20_000)
    assert failure(task)[0] == errno.ETIMEDOUT
    with caplog.at_level(logging.ERROR):
        disk.complete()
        stack.settle()
    assert "removal failed bdev=Disk" in caplog.text
    assert "the last sync failed" in caplog.text
    assert list(stack.registry) == []
    disk = stack.disk(Bad)
    with pytest.raises(OSError, match="the last sync failed"):
        stack.run(stack.registry.unregister(disk, timeout_ms=1000))


@pytest.mark.rule("D.15", "A.5.11")
def test_a_deadline_does_not_forget_the_wish_to_delete(stack):
    disk = stack.disk(Stub)
    stack.layer()
    stack.open("Top").submit(Op.READ)
    task = start(stack, stack.registry.delete_bdev(stack.registry.get("Top"), 10))
    stack.pass_time(20_000)
    assert failure(task)[0] == errno.ETIMEDOUT
    disk.complete()
    stack.settle()
    assert [bdev.name for bdev in stack.registry] == ["Disk"]
    stack.delete("Disk")
    stack.disk(Stub)
    assert stack.registry.find("Top") is None


@pytest.mark.rule("A.7.10", "A.7.15", "D.22")
def test_the_base_is_closed_and_unclaimed_before_the_answer(stack):
    disk = stack.disk(Stub)
    top = stack.layer()
    stack.open("Top")
    stack.delete("Top")
    assert (entry_of(disk).openers, entry_of(disk).claim) == ([], None)
    assert top.base_descriptor.closed
    assert stack.layer().name == "Top"


def test_the_hook_of_a_channel_that_raises_does_not_keep_the_bdev(stack):
    def destroy_channel(_self, _channel):
        raise ZeroDivisionError

    stack.disk()
    stack.layer(layer(destroy_channel=destroy_channel))
    descriptor = stack.registry.open("Top", write=False, on_event=print, holder="me")
    descriptor.get_channel()
    task = start(stack, stack.registry.delete("Top", "layer"))
    with pytest.raises(ZeroDivisionError):
        descriptor.close()
    stack.settle()
    assert task.result() is None
    assert entry_of(stack.registry.get("Disk")).claim is None


@pytest.mark.rule("A.7.4", "E.bdev_ut.bdev_unregister_during_quiesced_range_unlock")
def test_locked_blocks_are_waited_for(stack):
    disk = stack.disk(Stub)
    stack.run(disk.quiesce(Stub, 8, 8))
    task = start(stack, stack.registry.unregister(disk, timeout_ms=100))
    stack.pass_time(200_000)
    assert failure(task)[0] == errno.ETIMEDOUT
    assert "held by a RESET under way, or locked blocks" in failure(task)[1]
    unlocking = start(stack, disk.unquiesce(Stub, 8, 8))
    stack.pass_time(1_000)
    assert unlocking.result() is None
    assert list(stack.registry) == []


@pytest.mark.rule("A.7.4", "E.bdev_mt.unregister_during_reset")
def test_a_reset_is_waited_for(stack):
    disk = stack.disk(Stub)
    opened = stack.open("Disk")
    request = opened.submit(Op.RESET, 0, 0)
    stack.settle()
    task = start(stack, stack.registry.unregister(disk))
    stack.pass_time(10_000)
    assert not task.done
    assert entry_of(disk).control.busy
    disk.complete()
    stack.pass_time(1_000)
    assert request.status == Status.SUCCESS
    assert task.result() is None


# The end


@pytest.mark.rule("A.6.7", "A.6.8")
def test_a_claimed_bdev_that_is_left_over(stack, caplog):
    class Ghost(Null):
        pass

    disk = stack.disk(Ghost)
    claim_bdev(disk, None, "nvmf", "the target")
    stack.disk(Null, "Free")
    stack.layer(base="Free")
    order = []
    Ghost.stop = Null.stop
    for bdev in stack.registry:

        async def stop(bdev=bdev):
            order.append(bdev.name)

        bdev.stop = stop
    with caplog.at_level(logging.WARNING):
        stack.run(stack.registry.close())
    assert order == ["Top", "Free", "Disk"]
    assert caplog.messages == [
        "unregistering claimed bdev name=Disk claim=exclusive_write by=the target"
    ]


@pytest.mark.parametrize("ends", [True, False])
def test_a_base_whose_vbdev_is_still_being_deleted_is_not_called_claimed(stack, caplog, ends):
    disk = stack.disk(Stub)
    stack.layer()
    opened = stack.open("Top")
    opened.submit(Op.READ)
    deleting = start(stack, stack.registry.delete("Top", "passthru"))
    with caplog.at_level(logging.WARNING):
        closing = start(stack, stack.registry.close())
        if ends:
            disk.complete()
            stack.settle()
            assert (deleting.done, closing.done) == (True, True)
        else:  # and it is not waited for without an end
            stack.pass_time(2_000_000)
    told = [message for message in caplog.messages if message.startswith("unregistering claimed")]
    assert len(told) == (0 if ends else 1)
    if not ends:
        disk.complete()
        stack.settle()
        assert closing.done


def test_nothing_is_registered_at_the_end(stack):
    async def start_slowly(self):
        await self.reactor.sleep(100)

    slow = type("Slow", (Null,), {"start": start_slowly, "num_blocks": 8, "block_size": 512})
    disk = stack.disk(Stub)
    opened = stack.open("Disk")
    opened.submit(Op.READ)
    late = start(
        stack, stack.registry.create(slow, slow.Params(name="Late", num_blocks=8, block_size=512))
    )
    closing = start(stack, stack.registry.close())
    stack.pass_time(1000)
    assert failure(late)[0] == errno.ESHUTDOWN
    disk.complete()
    stack.pass_time(2000)
    assert closing.done
    assert list(stack.registry) == []


# Notifications


def told(stack):
    return [
        (one.type.removeprefix("bdev_"), one.ctx) for one in stack.registry.notifications.since()
    ]


@pytest.mark.rule("A.1.15")
def test_what_comes_and_goes_is_noted(stack):
    stack.layer()
    disk = stack.disk(Null, num_blocks=8)
    assert told(stack) == [("register", "Top"), ("register", "Disk")]
    disk.notify_blockcnt_change(8)
    disk.notify_blockcnt_change(16)
    stack.settle()
    stack.delete("Disk")
    assert told(stack)[2:] == [
        ("resize", "Disk"),
        ("resize", "Top"),
        ("unregister", "Top"),
        ("unregister", "Disk"),
    ]
    with pytest.raises(BdevError):
        stack.disk(Null, num_blocks=0)
    assert len(told(stack)) == 6


@pytest.mark.rule("A.1.15")
def test_what_goes_while_it_is_examined_came_first(stack):
    async def start_slowly(self):
        await self.reactor.sleep(1000)

    stack.layer(layer(start=start_slowly))
    creating = start(
        stack, stack.registry.create(Null, Null.Params(name="Disk", num_blocks=8, block_size=512))
    )
    assert told(stack) == []
    deleting = start(stack, stack.registry.delete("Disk", "null"))
    stack.pass_time(2000)
    assert (creating.done, deleting.done) == (True, True)
    assert told(stack) == [("register", "Disk"), ("unregister", "Disk")]


def test_the_ring_of_notifications():
    ring = Notifications()
    for number in range(MAX_EVENTS + 10):
        ring.send("bdev_register", f"b{number}")
    assert len(ring.since()) == MAX_EVENTS
    assert [one.id for one in ring.since(0, 3)] == [10, 11, 12]
    assert [one.ctx for one in ring.since(MAX_EVENTS + 8)] == ["b1032", "b1033"]
    assert ring.since(5000) == ring.since(0, 0) == []


@pytest.mark.rule("A.2.16", "E.bdev_ut.bdev_close_while_hotremove")
def test_the_last_close_ends_it(stack):
    stack.disk()
    descriptors = [
        stack.registry.open("Disk", write=False, on_event=print, holder=f"d{n}") for n in range(2)
    ]
    task = start(stack, stack.registry.delete("Disk", "malloc"))
    descriptors[0].close()
    stack.settle()
    assert not task.done
    assert stack.registry.get("Disk").holders() == ["d1"]
    descriptors[1].close()
    stack.settle()
    assert task.done
