"""Hand: several reactors and a registry on one thread, turned by hand on one virtual clock."""

from __future__ import annotations

from vbdev.core.engine.engine import Engine
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors
from vbdev.registry import Registry


class Hand:
    """`reactors[0]` owns the registry. Nothing may be left in use at the end."""

    def __init__(self, count=3):
        first = Reactor(clock=VirtualClock())
        first.engine = self._engine()
        self.group = Reactors(first, count, self._engine, self._failed)
        self.reactors = list(self.group)
        self.registry = Registry(first)

    def _engine(self):
        return Engine(pool_size=256, buffer_limit_bytes=1 << 20, virtual=True)

    def _failed(self, reactor, error):
        raise AssertionError(reactor) from error

    def run(self, coroutine):
        """Turn all reactors until a coroutine on the first ends."""
        return self.group.run_until_complete(coroutine)

    def settle(self):
        """Turn all reactors until there is nothing to do at this time."""
        for _ in range(10_000):
            if not self.group.poll():
                return
        raise AssertionError("the reactors do not come to rest")

    def on(self, reactor, function, *args):
        """Call a function as a reactor's code would, and return its result."""
        with reactor.here():
            return function(*args)

    def create(self, cls, **params):
        """Create a bdev and return it."""
        return self.registry.find(self.run(self.registry.create(cls, cls.Params(**params))))

    def disk(self, cls=Malloc, name="Disk", num_blocks=64, **params):
        """Create a small disk."""
        return self.create(cls, name=name, num_blocks=num_blocks, block_size=512, **params)

    def layer(self, cls=Passthru, name="Top", base="Disk"):
        """Create a vbdev."""
        return self.create(cls, name=name, base_bdev_name=base)

    def open(self, name, *, reactor=None, write=True, on_event=lambda _event: None):
        """Open a bdev, for another reactor than the first where one is given."""
        return self.on(
            self.reactors[0],
            lambda: self.registry.open(
                name, write=write, on_event=on_event, holder="test", reactor=reactor
            ),
        )

    def channel(self, descriptor, reactor):
        """Get a reactor's channel."""
        return self.on(reactor, descriptor.get_channel)

    def close(self, descriptor):
        """Close a descriptor on its reactor and turn until it is closed."""
        future = self.on(descriptor.reactor, descriptor.close)
        self.settle()
        return future.result()

    def end(self):
        """Unregister everything, and look that nothing is left."""
        self.settle()
        self.run(self.registry.close())
        self.settle()
        for reactor in self.reactors:
            assert reactor.engine.ios_in_use == 0
            assert reactor.engine.buffers.live_buffers == 0
            assert reactor.engine.misused == 0
        self.group.close()
        self.reactors[0].close()
