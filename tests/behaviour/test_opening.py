"""Opening, events and closing, from the side of who opens; what a hot removal means for them."""

import errno

import pytest

from support.stack import Stack, Stub, layer
from vbdev.bdev import BdevError, BdevEvent
from vbdev.modules.null import Null
from vbdev.vocab import Op, Status


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def refused(number, action, *args, **params):
    with pytest.raises(BdevError) as caught:
        action(*args, **params)
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def told(stack, name, log, tag, **options):
    """Open a bdev with a callback that only notes what it was told."""
    return stack.registry.open(
        name, on_event=lambda event: log.append((tag, event)), holder=tag, **options
    )


@pytest.mark.rule("E.bdev_ut.bdev_open_ext_test", "A.2.21")
def test_each_descriptor_hears_of_the_removal_with_its_own_callback(stack):
    stack.disk()
    log = []
    descriptors = [told(stack, "Disk", log, tag, write=True) for tag in ("a", "b")]
    refused(errno.ENODEV, told, stack, "Nobody", log, "c", write=False)
    removal = stack.reactor.spawn(stack.registry.delete("Disk", "malloc"))
    assert log == []
    stack.settle()
    assert log == [("a", BdevEvent.REMOVE), ("b", BdevEvent.REMOVE)]
    assert not removal.done
    for descriptor in descriptors:
        descriptor.close()
    stack.settle()
    assert removal.done
    assert len(log) == 2


@pytest.mark.rule(
    "E.bdev_ut.bdev_open_ext_unregister",
    "E.bdev_ut.bdev_close_while_hotremove",
    "E.bdev_mt.unregister_and_close",
    "A.7.3",
    "A.2.16",
)
def test_removal_ends_with_the_last_descriptor(stack):
    stopped = []

    class Noted(Null):
        async def stop(self):
            stopped.append(self.name)

    stack.disk(Noted)
    log = []
    descriptors = [told(stack, "Disk", log, str(n), write=n == 0) for n in range(4)]
    removal = stack.reactor.spawn(stack.registry.delete("Disk", "null"))
    for descriptor in descriptors:
        stack.settle()
        assert (stopped, removal.done) == ([], False)
        refused(errno.ENODEV, told, stack, "Disk", log, "late", write=False)
        descriptor.close()
    stack.settle()
    assert (stopped, removal.done) == (["Disk"], True)
    assert stack.registry.find("Disk") is None


@pytest.mark.rule("E.bdev_ut.bdev_open_while_hotremove", "A.2.4")
@pytest.mark.parametrize("write", [False, True])
def test_nobody_opens_what_is_going(stack, write):
    stack.disk()
    log = []
    first = told(stack, "Disk", log, "first", write=False)
    removal = stack.reactor.spawn(stack.registry.delete("Disk", "malloc"))
    stack.settle()
    refused(errno.ENODEV, told, stack, "Disk", log, "late", write=write)
    first.close()
    stack.settle()
    assert removal.done
    refused(errno.ENODEV, told, stack, "Disk", log, "late", write=write)
    stack.disk()
    told(stack, "Disk", log, "next", write=write).close()


@pytest.mark.rule("A.2.20", "A.2.18")
def test_events_come_in_the_order_they_were_sent(stack):
    disk = stack.disk(Null, num_blocks=10)
    log = []
    descriptor = told(stack, "Disk", log, "d", write=False)
    disk.notify_blockcnt_change(20)
    removal = stack.reactor.spawn(stack.registry.delete("Disk", "null"))
    stack.settle()
    assert log == [("d", BdevEvent.RESIZE), ("d", BdevEvent.REMOVE)]
    descriptor.close()
    stack.settle()
    assert removal.done


@pytest.mark.rule("E.bdev_ut.bdev_io_types_test", "A.9.32", "A.9.4", "A.9.30")
def test_what_a_bdev_has_not_is_refused_and_never_arrives(stack):
    class Small(Stub):
        ops = frozenset({Op.READ, Op.WRITE})

    disk = stack.disk(Small)
    stack.layer()
    top = stack.open("Top")
    for op in (Op.UNMAP, Op.FLUSH, Op.RESET, Op.ZCOPY):
        request = top.io(op, 0, 0 if op in (Op.FLUSH, Op.RESET) else 1)
        assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP), op
    assert disk.arrived == []


@pytest.mark.rule("E.bdev_ut.open_write_test", "A.2.5", "A.2.6", "A.3.20")
def test_writing_is_for_the_top_of_a_stack(stack):
    """Two disks, and a layer on each: only what nobody has claimed opens for writing."""
    for name in ("A", "B"):
        stack.disk(name=name)
    stack.layer(name="A1", base="A")
    stack.layer(name="A2", base="A1")
    stack.layer(name="B1", base="B")
    for name in ("A", "A1", "B"):
        assert "claimed" in refused(errno.EPERM, stack.open, name)
        stack.open(name, write=False).close()
    for name in ("A2", "B1"):
        stack.open(name).close()
    stack.delete("A2")
    stack.open("A1").close()
    refused(errno.EPERM, stack.open, "A")


@pytest.mark.rule("E.bdev_ut.for_each_bdev_test")
def test_walking_all_bdevs_while_they_come_and_go(stack):
    for number in range(5):
        stack.disk(name=f"D{number}")
    stack.layer(base="D2")
    seen = []
    for bdev in stack.registry:
        seen.append(bdev.name)
        if bdev.name == "D1":
            stack.delete("D3")
            stack.disk(name="D5")
    assert [name for name in seen if name != "D3"] == ["D0", "D1", "D2", "D4", "Top"]
    assert [bdev.name for bdev in stack.registry] == ["D0", "D1", "D2", "D4", "Top", "D5"]


@pytest.mark.rule("E.bdev_ut.get_numa_id", "A.21.3")
def test_the_numa_node_is_the_bases(stack):
    from support.told import describe

    class Near(Null):
        numa_id = 1

    stack.disk(Near)
    stack.layer()
    stack.disk(name="Anywhere")  # a malloc, which always shows one
    stack.disk(Null, "Nowhere")
    shown = {bdev.name: describe(bdev).get("numa_id") for bdev in stack.registry}
    assert shown == {"Disk": 1, "Top": 1, "Anywhere": -1, "Nowhere": None}


@pytest.mark.rule("A.8.15", "E.thread_ut.channel_create_cb_failed", "E.bdev_mt.basic")
def test_a_channel_that_can_not_be_made_is_an_error_for_its_opener(stack):
    class Full(Null):
        room = 0

        def create_channel(self, channel):
            if not self.room:
                raise BdevError(errno.ENOMEM, "no room for a channel")
            self.room -= 1
            return "context"

        def destroy_channel(self, channel):
            self.room += 1

    disk = stack.disk(Full)
    stack.layer()
    for name in ("Disk", "Top"):
        descriptor = told(stack, name, [], "test", write=name == "Top")
        refused(errno.ENOMEM, descriptor.get_channel)
        disk.room = 1
        channel = descriptor.get_channel()
        assert descriptor.get_channel() is channel
        assert (channel if name == "Disk" else channel.base).context == "context"
        assert disk.room == 0
        descriptor.close()
        if name == "Disk":
            assert disk.room == 1
            disk.room = 0
    stack.delete("Top")
    assert disk.room == 1


@pytest.mark.rule("A.10.5")
def test_a_completion_inside_submit_calls_back_later(stack):
    """Whatever a layer completes at once, the caller has its request first."""

    def at_once(_self, _channel, ios):
        ios.complete(Status.SUCCESS)

    stack.disk()
    stack.layer(layer(at_once))
    top, order = stack.open("Top"), []
    top.submit(Op.READ, 0, 1, bytearray(512), callback=lambda _request: order.append("called back"))
    order.append("submitted")
    stack.settle()
    assert order == ["submitted", "called back"]
