"""Reactors on threads that all want the same bdevs, while these come, go, grow and are counted."""

import errno
import random
import threading

import pytest

from vbdev.bdev import BdevError, BdevEvent, IoError
from vbdev.bdev.channels import for_each_channel, gather_iostat
from vbdev.bdev.entry import entry_of
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.passthru import Passthru
from vbdev.modules.uring import Uring
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, gather
from vbdev.vocab import Op

BLOCK = 512
BLOCKS_EACH = 64


class Load:
    """I/O through one descriptor from every reactor, each on blocks of its own, until `stop`.

    REMOVE ends it too; when the last reactor has ended, the descriptor is closed.
    """

    def __init__(self, app, name, *, num_ios=1 << 40, pause_us=0):
        self.app = app
        self.pause_us = pause_us
        self.descriptor = app.ask(
            lambda: app.app.registry.open(name, write=True, on_event=self.on_event, holder="load")
        )
        self.num_ios = num_ios
        self.done = dict.fromkeys(app.reactors, 0)
        self.errors = []
        self.events = []
        self.ended = threading.Event()
        self._leaving = threading.Event()
        self._running = len(app.reactors)
        for reactor in app.reactors:
            reactor.send_msg(self._start, reactor)

    def on_event(self, event):
        self.events.append((event, Reactor.current().id))
        if event is BdevEvent.REMOVE:
            self._leaving.set()

    def _start(self, reactor):
        channel = self.descriptor.get_channel()
        reactor.spawn(self._work(reactor, channel)).add_done_callback(
            lambda task: self.app.app.reactor.send_msg(self._left, task)
        )

    async def _work(self, reactor, channel):
        first = (reactor.id - 1) * BLOCKS_EACH
        rng = random.Random(reactor.id)
        shadow = {}
        while not self._leaving.is_set() and self.done[reactor] < self.num_ios:
            block = first + rng.randrange(BLOCKS_EACH)
            data = rng.randbytes(BLOCK)
            back = bytearray(BLOCK)
            try:
                await self.descriptor.io(Op.WRITE, block, 1, data)
                shadow[block] = data
                await self.descriptor.io(Op.READ, block, 1, back)
            except IoError as error:
                self.errors.append(error)
                continue
            assert Reactor.current() is reactor
            assert back == data, (reactor, block)
            self.done[reactor] += 1
            if self.pause_us:
                await reactor.sleep(self.pause_us)
        for block, data in shadow.items():
            if not self._leaving.is_set():
                back = bytearray(BLOCK)
                await self.descriptor.io(Op.READ, block, 1, back)
                assert back == data, (reactor, block)
        self.descriptor.put_channel(channel)

    def _left(self, task):
        self._running -= 1
        task.result()
        if not self._running:
            self.app.app.reactor.spawn(self._close())

    async def _close(self):
        await self.descriptor.close()
        self.ended.set()

    def stop(self):
        self._leaving.set()
        self.wait()

    def wait(self):
        assert self.ended.wait(60), (self._running, self.errors[:3])


def create(app, kind, **params):
    registry = app.app.registry
    return app.run(registry.create(kind, kind.Params(**params)))


def make_disk(app, kind=Malloc, layers=1, name="Disk", **params):
    """Create a disk with layers on it and start the reactors; return the name of the top."""
    app.start()
    if kind is not Uring:
        params |= {"num_blocks": 1024, "block_size": BLOCK}
    create(app, kind, name=name, **params)
    for n in range(layers):
        create(
            app, Passthru, name=f"{name}-{n}", base_bdev_name=name if not n else f"{name}-{n - 1}"
        )
    return f"{name}-{layers - 1}" if layers else name


def delete(app, name):
    registry = app.app.registry
    app.run(registry.delete(name, registry.get(name).kind))


def test_reactors_share_a_stack(threads):
    top = make_disk(threads, layers=3)
    load = Load(threads, top, num_ios=150)
    load.wait()
    assert set(load.done.values()) == {150}
    assert load.errors == []


def test_reactors_share_a_file(threads, tmp_path):
    file = tmp_path / "disk"
    file.write_bytes(bytes(1024 * BLOCK))
    top = make_disk(threads, Uring, filename=str(file), block_size=BLOCK, direct=False)
    load = Load(threads, top, num_ios=60)
    load.wait()
    assert set(load.done.values()) == {60}
    threads.wait_until(lambda: not any(reactor.locals for reactor in threads.reactors))


@pytest.mark.rule("A.7.11", "A.7.3")
def test_hot_removal_under_load(threads):
    """The base goes while every reactor writes to the top of the stack; no I/O is lost."""
    top = make_disk(threads, layers=2)
    for number in range(5):
        load = Load(threads, top)
        while min(load.done.values()) < 5:
            pass
        delete(threads, "Disk")
        load.wait()
        assert load.events == [(BdevEvent.REMOVE, 1)]
        assert [error.errno for error in load.errors if error.errno != errno.EIO] == []
        assert threads.ask(lambda: [bdev.name for bdev in threads.app.registry]) == []
        if number < 4:  # the layers were only waiting for it
            create(threads, Malloc, name="Disk", num_blocks=1024, block_size=BLOCK)


@pytest.mark.rule("D.22", "A.7.15")
def test_a_thousand_vbdevs_under_load(threads):
    """Made and deleted on a disk beside the load; each is used on every reactor meanwhile."""
    top = make_disk(threads, layers=1)
    create(threads, Malloc, name="Other", num_blocks=64, block_size=BLOCK)
    load = Load(threads, top, pause_us=500)  # so that a slow machine gets through the thousand
    registry, reactors = threads.app.registry, threads.reactors

    async def cycle(number):
        name = await registry.create(Passthru, Passthru.Params(name="P", base_bdev_name="Other"))
        descriptor = registry.open(name, write=True, on_event=lambda _: None, holder="cycle")
        reactor = reactors[number % len(reactors)]
        ended = Future()

        def used(request):
            home.send_msg(ended.set_result, request.status)

        home = Reactor.current()
        await reactor.ask(lambda: descriptor.submit(Op.WRITE, 0, 1, bytes(BLOCK), callback=used))
        assert await ended == 1
        await descriptor.close()
        await registry.delete(name, "passthru")
        assert registry.find(name) is None
        assert registry.get("Other").holders() == []

    async def all_cycles():
        for number in range(1000):
            await cycle(number)

    threads.run(all_cycles(), timeout_s=100)
    load.stop()
    assert load.errors == []
    assert min(load.done.values()) > 0


def test_channels_come_and_go_while_they_are_visited_counted_and_resized(threads):
    """On each reactor a channel is made, used and put, over and over."""
    threads.start()
    create(threads, Null, name="Disk", num_blocks=1024, block_size=BLOCK)
    create(threads, Passthru, name="Top", base_bdev_name="Disk")
    registry, home = threads.app.registry, threads.app.reactor
    descriptor = threads.ask(
        lambda: registry.open("Top", write=True, on_event=lambda _: None, holder="churn")
    )
    cycles = 200

    async def churn(reactor):
        for _ in range(cycles):
            channel = descriptor.get_channel()
            await descriptor.io(Op.WRITE, 0, 1, bytes(BLOCK))
            descriptor.put_channel(channel)
            await reactor.sleep(random.randrange(300))

    async def watch():
        top = registry.get("Top")
        for number in range(100):
            visited = []
            status = await for_each_channel(
                top,
                lambda channel, seen=visited: seen.append((Reactor.current().id, channel.closed)),
            )
            assert status == 0
            assert visited == sorted(visited)
            assert not any(closed for _, closed in visited)
            registry.get("Disk").notify_blockcnt_change(2048 + number)
            await gather_iostat(top)
            await home.sleep(200)

    tasks = []
    for reactor in threads.reactors:
        done = threading.Event()
        tasks.append(done)
        reactor.send_msg(
            lambda reactor=reactor, done=done: reactor.spawn(churn(reactor)).add_done_callback(
                lambda _task: done.set()
            )
        )
    threads.run(watch())
    for done in tasks:
        assert done.wait(60)
    threads.wait_until(lambda: descriptor.channels == {})

    async def total():
        counted, _ = await gather_iostat(registry.get("Top"))
        return counted.stats["write"][0]

    assert threads.run(total()) == cycles * len(threads.reactors)
    assert threads.ask(lambda: registry.get("Top").num_blocks) == 2147
    threads.run(_closed(descriptor))


async def _closed(descriptor):
    await descriptor.close()


def test_closing_races_with_getting(threads):
    """Whoever comes too late is refused, and nothing is left of either."""
    make_disk(threads, layers=1)
    registry = threads.app.registry

    async def rounds():
        refused = 0
        for _ in range(150):
            descriptor = registry.open("Disk-0", write=True, on_event=print, holder="race")
            asked = [reactor.ask(descriptor.get_channel) for reactor in threads.reactors[1:]]
            closing = descriptor.close()
            for future in asked:
                try:
                    await future
                except BdevError as error:
                    assert error.errno == errno.EBADF  # noqa: PT017 - both ends are right
                    refused += 1
            await closing
            assert descriptor.channels == {}
            assert "race" not in registry.get("Disk-0").holders()
        return refused

    threads.run(rounds())


@pytest.mark.rule("A.2.13")
def test_descriptors_of_every_reactor(threads):
    """Each reactor has its own opened for it, uses it and closes it, while the base is removed."""
    make_disk(threads, layers=1)
    registry, home = threads.app.registry, threads.app.reactor

    async def user(reactor):
        gone = Future()

        def on_event(event):
            assert Reactor.current() is reactor
            if event is BdevEvent.REMOVE and not gone.done:
                gone.set_result(None)

        def open_mine():
            return registry.open(
                "Disk-0", write=True, on_event=on_event, holder=reactor.name, reactor=reactor
            )

        descriptor = await home.ask(open_mine)
        for _ in range(20):
            await descriptor.io(Op.WRITE, 0, 1, bytes(BLOCK))
        await gone
        await descriptor.close()

    results = []
    for reactor in threads.reactors:
        done = threading.Event()
        results.append(done)
        reactor.send_msg(
            lambda reactor=reactor, done=done: reactor.spawn(user(reactor)).add_done_callback(
                lambda task: (task.result(), done.set())
            )
        )
    threads.wait_until(
        lambda: len(entry_of(registry.get("Disk-0")).openers) == len(threads.reactors)
    )
    delete(threads, "Disk")
    for done in results:
        assert done.wait(20)
    assert threads.ask(lambda: list(registry)) == []


def test_two_walks_at_a_time(threads):
    make_disk(threads, layers=0)
    load = Load(threads, "Disk", pause_us=300)
    bdev = threads.app.registry.get("Disk")

    async def walks():
        seen = [[], []]
        for _ in range(50):
            await gather(
                [for_each_channel(bdev, lambda c, s=s: s.append(c.outstanding)) for s in seen]
            )
        return seen

    assert all(walk for walk in threads.run(walks()))
    load.stop()
