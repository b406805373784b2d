"""Where things run: channels on their reactor, the life of a bdev on the first."""

import errno
import threading

import pytest

from support.stack import Stub, layer, stack
from vbdev.bdev import BdevError, BdevEvent
from vbdev.bdev.entry import entry_of
from vbdev.modules.null import Null
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import Op, Status


@pytest.fixture
def rig():
    with stack(reactors=3) as made:
        yield made


@pytest.mark.rule("A.0.1", "A.10.4")
def test_an_io_is_submitted_and_completes_where_its_channel_is(rig):
    seen = []

    def down(_self, channel, ios):
        seen.append(("down", Reactor.current()))
        channel.base.submit(ios)

    def up(_self, _channel, _ios):
        seen.append(("up", Reactor.current()))

    stub = rig.disk(Stub)
    rig.layer(layer(down, up))
    for opened in [rig.open("Top", on=n) for n in (2, 0, 1)]:
        del seen[:]
        request = opened.submit(
            Op.READ,
            0,
            1,
            bytearray(512),
            callback=lambda _r: seen.append(("end", Reactor.current())),
        )
        rig.settle()
        with opened.reactor.here():
            stub.complete()
        rig.settle()
        assert request.status == Status.SUCCESS
        assert seen == [(what, opened.reactor) for what in ("down", "up", "end")]


@pytest.mark.rule("A.0.3")
def test_one_channel_for_a_descriptor_and_a_reactor(rig):
    class Counted(Null):
        channels = 0

        def create_channel(self, _channel):
            self.channels += 1
            return self.channels

        def destroy_channel(self, _channel):
            self.channels -= 1

    disk = rig.disk(Counted)
    opened = [rig.open("Disk", on=n) for n in range(3)]
    assert disk.channels == 3
    assert [one.channel.context for one in opened] == [1, 2, 3]
    for one in opened:
        with one.reactor.here():
            assert one.descriptor.get_channel() is one.channel
    assert disk.channels == 3
    for one in opened:
        one.close()
    rig.settle()
    assert disk.channels == 0


@pytest.mark.rule("A.0.4", "A.1.25", "A.7.7")
def test_a_bdev_starts_and_stops_on_the_first_reactor(rig):
    seen = []

    class Noted(Null):
        async def start(self):
            await super().start()
            seen.append(Reactor.current())
            await self.reactor.sleep(10)
            seen.append(Reactor.current())

        async def stop(self):
            seen.append(Reactor.current())

    rig.disk(Noted)
    opened = rig.open("Disk", on=2)
    opened.io(Op.READ, 0, 1, bytearray(512))
    rig.delete("Disk")
    assert seen == [rig.reactor] * 3


@pytest.mark.rule("A.7.6", "A.7.3", "E.bdev_mt.unregister_and_close_different_threads")
def test_removal_waits_for_channels_of_all_reactors(rig):
    stopped = []

    class Noted(Stub):
        async def stop(self):
            stopped.append([channel for channel in entry_of(self).channels() if not channel.closed])

    stub = rig.disk(Noted)
    opened = [rig.open("Disk", write=False, on=n) for n in range(3)]
    requests = [one.submit(Op.READ, n, 1, bytearray(512)) for n, one in enumerate(opened)]
    rig.settle()
    removal = rig.reactor.spawn(rig.registry.delete("Disk", "stub"))
    for _ in range(3):
        rig.settle()
        assert (removal.done, stopped) == (False, [])
        stub.complete([0])
    rig.settle()
    assert removal.done
    assert stopped == [[]]
    assert all(request.status == Status.SUCCESS for request in requests)
    assert [one.events for one in opened] == [[BdevEvent.REMOVE]] * 3


@pytest.mark.rule("A.2.13")
def test_a_descriptor_closes_where_it_was_opened(rig):
    rig.disk()
    opened = rig.open("Disk", on=1)
    other = list(rig.reactors)[2]
    with other.here(), pytest.raises(BdevError, match="can not close it on") as caught:
        opened.descriptor.close()
    assert caught.value.errno == errno.EPERM
    opened.close()
    rig.settle()
    assert opened.descriptor.closed
    assert entry_of(rig.registry.get("Disk")).openers == []


@pytest.mark.rule("A.2.2")
def test_a_thread_without_a_reactor_submits_nothing(rig):
    rig.disk()
    descriptor = rig.open("Disk").descriptor
    caught = []

    def elsewhere():
        try:
            descriptor.get_channel()
        except BdevError as error:
            caught.append(error.errno)

    thread = threading.Thread(target=elsewhere)
    with rig.reactor.here():
        thread.start()
        thread.join()
    assert caught == [errno.ENOTSUP]


@pytest.mark.rule("A.5.8")
def test_what_stands_on_nothing_waits_for_nothing(tmp_path):
    from vbdev.modules.aio import Aio
    from vbdev.modules.uring import Uring

    with stack() as made:
        for cls in (Aio, Uring):
            for _ in range(2):
                with pytest.raises(BdevError, match="No such file"):
                    made.create(cls, name="Disk", filename=str(tmp_path / "absent"))
        assert made.registry.creations == {}
        with pytest.raises(BdevError):
            made.disk(Null, num_blocks=0)
        assert made.registry.config() == []


@pytest.mark.rule("A.9.1", "A.12.1")
def test_a_read_without_a_buffer_is_given_one_where_it_is_needed():
    seen = []

    class Fills(Stub):
        def submit(self, channel, ios):
            for view in ios.data(Op.READ):
                seen.append(("leaf", len(view)))
                view[:] = b"d" * len(view)
            super().submit(channel, ios)

    def look(_self, channel, ios):
        seen.append(("layer", sum(map(len, ios.data(Op.READ)))))
        channel.base.submit(ios)

    with stack() as made:
        disk = made.disk(Fills)
        made.layer(name="P1")
        made.layer(layer(look), name="P2", base="P1")
        made.layer(name="P3", base="P2")
        for name, first in (("P1", "leaf"), ("P3", "layer")):
            opened = made.open(name, write=name == "P3")
            del seen[:]
            request = opened.submit(Op.READ, 0, 4)
            assert seen[0] == (first, 2048)
            assert made.engine.buffers.live_buffers == 1
            disk.complete()
            made.settle()
            assert request.status == Status.SUCCESS
            assert made.engine.buffers.live_buffers == 0
