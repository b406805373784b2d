"""Opening: now or later, and what openers are told."""

import errno
import gc

import pytest

from support.stack import Stack, Stub, layer
from vbdev.bdev import BdevError, BdevEvent
from vbdev.bdev.entry import entry_of
from vbdev.core.engine.channel import Channel
from vbdev.modules.null import Null
from vbdev.registry.media import (
    MEDIA_EVENTS,
    MediaEvent,
    get_media_events,
    notify_media_management,
    push_media_events,
)
from vbdev.vocab import Op


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def open_later(stack, timeout_ms, name="Disk", **more):
    task = stack.reactor.spawn(
        stack.registry.open_async(
            name, on_event=print, holder="patient", timeout_ms=timeout_ms, **{"write": True, **more}
        )
    )
    task.add_done_callback(lambda _task: None)
    return task


def failure(task):
    with pytest.raises(BdevError) as caught:
        task.result()
    return caught.value.errno, str(caught.value)


@pytest.mark.rule("A.2.1", "E.bdev_ut.bdev_open_ext_test")
def test_events_need_somebody_to_call(stack):
    stack.disk()
    for nothing in (None, 5):
        with pytest.raises(BdevError) as caught:
            stack.registry.open("Disk", write=False, on_event=nothing, holder="me")
        assert caught.value.errno == errno.EINVAL
    assert entry_of(stack.registry.get("Disk")).openers == []


@pytest.mark.rule("A.2.10")
def test_an_open_that_waits_gets_the_bdev_when_it_comes(stack):
    task = open_later(stack, 1000)
    stack.pass_time(550_000)
    assert not task.done
    stack.disk()
    stack.pass_time(60_000)  # it looks each 100 ms
    assert task.done
    assert stack.registry.get("Disk").holders() == ["patient"]
    task.result().close()


@pytest.mark.rule("A.2.10")
@pytest.mark.parametrize("timeout_ms", [1, 100, 250])
def test_an_open_that_waited_for_nothing(stack, timeout_ms):
    task = open_later(stack, timeout_ms)
    stack.pass_time(timeout_ms * 1000 - 1)
    assert not task.done
    stack.pass_time(2)
    assert failure(task) == (
        errno.ETIMEDOUT,
        f"patient: no bdev 'Disk' came within {timeout_ms} ms",
    )


def test_an_open_that_waits_for_longer_than_a_timer_can(stack):
    task = open_later(stack, 1 << 62)
    stack.settle()
    stack.pass_time(1_000_000_000)
    assert not task.done
    stack.disk()
    stack.settle()
    task.result().close()


@pytest.mark.rule("A.2.11")
def test_an_open_that_does_not_wait(stack):
    task = open_later(stack, 0)
    stack.settle()
    assert failure(task)[0] == errno.ENODEV
    stack.disk()
    task = open_later(stack, 0)
    stack.settle()
    task.result().close()


def test_an_open_waits_for_nothing_but_the_bdev(stack):
    stack.disk()
    stack.layer()
    task = open_later(stack, 1000)
    stack.settle()
    assert failure(task)[0] == errno.EPERM


def test_an_open_waits_past_a_bdev_that_is_going(stack):
    disk = stack.disk(Stub)
    stack.open("Disk").submit(Op.READ)
    stack.reactor.spawn(stack.registry.delete("Disk", "stub"))
    stack.settle()
    task = open_later(stack, 1000)
    stack.pass_time(200_000)
    disk.complete()
    stack.settle()
    assert not task.done
    stack.disk(Stub)
    stack.pass_time(101_000)
    task.result().close()


@pytest.mark.rule("A.2.12", "A.6.5")
def test_an_open_that_waits_ends_with_the_application(stack):
    tasks = [open_later(stack, 10_000), open_later(stack, 20_000, "Other")]
    stack.settle()
    stack.run(stack.registry.close())
    stack.settle()
    assert [failure(task)[0] for task in tasks] == [errno.ESHUTDOWN] * 2


@pytest.mark.rule("A.2.20", "A.2.18", "A.2.24", "A.2.21")
def test_events_come_in_the_order_in_which_they_were_sent(stack):
    disk = stack.disk(Null, num_blocks=10)
    opened = stack.open("Disk")
    disk.notify_blockcnt_change(20)
    push_media_events(disk, [MediaEvent(0, 1)])
    notify_media_management(disk)
    disk.notify_blockcnt_change(30)
    task = stack.reactor.spawn(stack.registry.unregister(disk))
    assert opened.events == []
    stack.settle()
    assert task.done
    assert opened.events == [
        BdevEvent.RESIZE,
        BdevEvent.MEDIA_MANAGEMENT,
        BdevEvent.RESIZE,
        BdevEvent.REMOVE,
    ]


@pytest.mark.rule("A.2.19", "E.bdev_mt.event_notify_and_close")
def test_an_event_under_way_to_a_descriptor_that_closes(stack):
    disk = stack.disk(Null, num_blocks=10)
    opened = stack.open("Disk")
    disk.notify_blockcnt_change(20)
    opened.close()
    stack.settle()
    assert opened.events == []


# Media management


@pytest.mark.rule("A.2.27", "A.2.28")
def test_media_events_go_to_a_writer_in_order(stack):
    disk = stack.disk()
    reader = stack.open("Disk", write=False)
    with pytest.raises(BdevError) as caught:
        push_media_events(disk, [MediaEvent(1, 1)])
    assert caught.value.errno == errno.ENODEV
    writer, second = stack.open("Disk"), stack.open("Disk")
    events = [MediaEvent(number, 8) for number in range(MEDIA_EVENTS + 5)]
    assert push_media_events(disk, events[:3]) == 3
    assert push_media_events(disk, events[3:]) == MEDIA_EVENTS - 3
    assert push_media_events(disk, events) == 0
    notify_media_management(disk)
    stack.settle()
    assert writer.events == [BdevEvent.MEDIA_MANAGEMENT]
    assert (reader.events, second.events) == ([], [])
    assert get_media_events(writer.descriptor, 10) == events[:10]
    assert push_media_events(disk, events) == 10
    assert get_media_events(writer.descriptor) == events[10:MEDIA_EVENTS] + events[:10]
    assert get_media_events(writer.descriptor) == get_media_events(reader.descriptor) == []
    notify_media_management(disk)
    stack.settle()
    assert len(writer.events) == 1


def test_the_bdev_says_how_many_media_events_are_kept(stack):
    disk = stack.disk()
    disk.media_events = 3
    writer = stack.open("Disk")
    assert push_media_events(disk, [MediaEvent(number, 1) for number in range(5)]) == 3
    assert len(get_media_events(writer.descriptor)) == 3


def test_media_events_go_with_their_descriptor(stack):
    disk = stack.disk()
    writer = stack.open("Disk")
    push_media_events(disk, [MediaEvent(1, 1)])
    writer.close()
    assert entry_of(disk).openers == []
    second = stack.open("Disk")
    notify_media_management(disk)
    stack.settle()
    assert (second.events, get_media_events(second.descriptor)) == ([], [])


@pytest.mark.parametrize("first", [True, False])
def test_a_channel_that_was_made_for_io_stays_when_another_user_puts_it(stack, first):
    """And one that was got before is its getter's: it goes when that one puts it."""
    stack.disk(Null)
    descriptor = stack.registry.open("Disk", write=False, on_event=print, holder="test")

    async def main():
        if first:
            await descriptor.io(Op.READ, 0, 1, bytearray(512))
        channel = descriptor.get_channel()
        if not first:
            await descriptor.io(Op.READ, 0, 1, bytearray(512))
        descriptor.put_channel(channel)
        await stack.reactor.sleep(1)
        return len(list(entry_of(stack.registry.get("Disk")).channels()))

    assert stack.run(main()) == first
    descriptor.close()


def test_a_channel_that_could_not_be_made_is_kept_by_nobody(stack):
    def fail(_self, _channel):
        raise BdevError(errno.ENOSPC, "no room")

    stack.disk(Null)
    stack.layer(layer(create_channel=fail))
    descriptor = stack.registry.open("Top", write=False, on_event=print, holder="test")

    def count():
        gc.collect()
        return sum(type(one) is Channel for one in gc.get_objects())

    with stack.reactor.here():
        before = count()
        for _ in range(3):
            with pytest.raises(BdevError, match="no room"):
                descriptor.get_channel()
        assert count() <= before + 1  # the last exception's frames have one
    descriptor.close()
