"""Stack: a reactor, an engine and a registry without a daemon, and bdevs that tests steer.

Everything runs on the caller's thread, on a virtual clock unless a test asks for the real one.
`close` ends it and holds that nothing is left in use.
"""

from __future__ import annotations

import contextlib
import time

from vbdev.bdev import ALL_OPS, Bdev, BdevEvent, VirtualBdev
from vbdev.clock import VirtualClock
from vbdev.core.batch import IOBatch
from vbdev.core.engine import Engine
from vbdev.core.requests import Requests
from vbdev.geometry import SizedParams, set_geometry
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.reactor import Reactor
from vbdev.registry import Registry
from vbdev.vocab import Status


class Stack:
    """`errors` gathers what the engine reports: (bdev name or owner, exception, I/Os failed)."""

    def __init__(self, *, real_clock=False, pool_size=4096, buffer_limit_bytes=16 << 20):
        self.reactor = Reactor(clock=None if real_clock else VirtualClock())
        self.engine = Engine(
            pool_size=pool_size,
            buffer_limit_bytes=buffer_limit_bytes,
            virtual=self.reactor.clock.virtual,
        )
        self.reactor.engine = self.engine
        self.registry = Registry(self.reactor)
        self.errors = []
        self.engine.on_module_error = self._failed
        self.descriptors = []
        self.expected_misuse = 0

    def _failed(self, source, error, failed):
        who = source.bdev.name if hasattr(source, "bdev") else source
        self.errors.append((who, error, failed))

    # Bdevs

    def run(self, coroutine):
        """Turn the reactor until a coroutine ends; return its result."""
        return self.reactor.run_until_complete(coroutine)

    def create(self, cls, **params):
        """Create a bdev and return it, or None where it waits for its base."""
        return self.registry.find(self.run(self.registry.create(cls, cls.Params(**params))))

    def disk(self, cls=Malloc, name="Disk", num_blocks=1024, block_size=512, **params):
        """Create a bdev that is made to measure."""
        return self.create(cls, name=name, num_blocks=num_blocks, block_size=block_size, **params)

    def layer(self, cls=Passthru, name="Top", base="Disk", **params):
        """Create a vbdev."""
        return self.create(cls, name=name, base_bdev_name=base, **params)

    def delete(self, name):
        """Delete a bdev, whatever its kind."""
        self.run(self.registry.delete(name, self.registry.get(name).kind))

    def open(self, name, *, write=True, holder="test"):
        """Open a bdev. REMOVE closes it, when its I/O has ended."""
        opened = Opened(self, name, write, holder)
        self.descriptors.append(opened)
        return opened

    # Turning

    def settle(self, turns=10_000):
        """Turn the reactor until nothing is left to do at this time."""
        for _ in range(turns):
            if not self.reactor.poll():
                return
        raise AssertionError("the reactor does not come to rest")

    def turn_until(self, condition):
        """Turn until a condition holds; on the real clock, things may take a while."""
        self.settle()
        until = time.monotonic() + (0 if self.reactor.clock.virtual else 10)
        while not condition():
            self.reactor.poll()
            assert condition() or time.monotonic() < until, "it does not come true"

    def pass_time(self, us):
        """Let virtual time go by, with whatever is due in it."""
        until_ns = self.reactor.clock.now_ns() + us * 1000
        ended = []
        self.reactor.call_later(us, lambda: ended.append(True))
        while not ended:
            if not self.reactor.poll():
                self.reactor.advance()
        assert self.reactor.clock.now_ns() >= until_ns

    def close(self):
        """Unregister everything; nothing may be left in use."""
        self.settle()
        for opened in list(self.descriptors):
            opened.close()
        self.run(self.registry.close())
        self.settle()
        engine = self.engine
        left = (engine.ios_in_use, engine.waiting, engine.buffers.live_buffers)
        self.reactor.close()
        assert left == (0, 0, 0), f"I/Os in use, waiting, buffers: {left}"
        assert engine.misused == self.expected_misuse
        assert engine.buffers.used_bytes == 0


class Opened:
    """A descriptor that tests submit through: `submit` returns a Request, `io` one that ended."""

    def __init__(self, stack, name, write, holder):
        self.stack = stack
        self.events = []
        self.descriptor = stack.registry.open(
            name, write=write, on_event=self._event, holder=holder
        )
        self.channel = self.descriptor.get_channel()
        self.requests = Requests(stack.engine)
        self._leaving = False

    def _event(self, event):
        self.events.append(event)
        if event is BdevEvent.REMOVE:
            self._leaving = True
            self._leave()

    def _leave(self):
        if self._leaving and not self.requests.in_flight:
            self.close()

    def submit(self, op, offset_blocks=0, num_blocks=1, data=None, *, callback=None, **more):
        """Submit one I/O; None where no BdevIO is free."""

        def ended(request):
            if callback is not None:
                callback(request)
            self._leave()

        return self.requests.submit(
            self.channel, op, offset_blocks, num_blocks, data, callback=ended, **more
        )

    def io(self, op, offset_blocks=0, num_blocks=1, data=None, **more):
        """Submit one I/O and turn until it has ended."""
        request = self.submit(op, offset_blocks, num_blocks, data, **more)
        self.stack.turn_until(lambda: request.done)
        return request

    def zcopy_end(self, request, *, commit):
        """End a ZCOPY and turn until it has."""
        self.requests.zcopy_end(request, commit, lambda _request: self._leave())
        self.stack.turn_until(lambda: request.done)

    def close(self):
        """Close it, once."""
        if self in self.stack.descriptors:
            self.stack.descriptors.remove(self)
            self.requests.close()
            self.descriptor.close()


class Stub(Bdev):
    """A leaf that holds every I/O until the test completes it."""

    kind = "stub"
    product_name = "stub"
    Params = SizedParams
    ops = ALL_OPS

    async def start(self):
        set_geometry(self, self.params)
        self.held = []
        self.batch_sizes = []
        self.arrived = []

    def submit(self, channel, ios):
        self.batch_sizes.append(len(ios))
        self.arrived += describe(ios)
        self.held += ios.split()

    def complete(self, which=None, status=Status.SUCCESS, errno=0):
        """Complete the held I/Os with these indices (all without), in that order."""
        chosen = list(range(len(self.held))) if which is None else list(which)
        batches = [self.held[i] for i in chosen]
        self.held = [one for i, one in enumerate(self.held) if i not in set(chosen)]
        for one in batches:
            one.complete(status, errno)


def describe(ios):
    """Return [(op, offset, number of blocks)] of a batch."""
    return list(
        zip(ios.ops.tolist(), ios.offset_blocks.tolist(), ios.num_blocks.tolist(), strict=True)
    )


def layer(submit=None, completed=None, *, kind="layer", **attributes):
    """Return a class of vbdev out of functions (self, channel, ios); forwarding by default."""
    body = {"kind": kind, "product_name": kind, "ops": ALL_OPS, **attributes}
    body["submit"] = submit or forward
    if completed is not None:
        body["completed"] = completed
    return type(kind.title(), (VirtualBdev,), body)


def gather(number):
    """Return a class of vbdev that holds I/Os until it has this many, then sends one batch."""

    def submit(self, channel, ios):
        if not hasattr(self, "gathered"):
            self.gathered = IOBatch()
        self.gathered.extend(ios)
        if len(self.gathered) >= number:
            channel.base.submit(self.gathered.take())

    return layer(submit, kind="gather")


def forward(_self, channel, ios):
    """Hand a batch on."""
    channel.base.submit(ios)


@contextlib.contextmanager
def stack(**options):
    """Return a Stack that is closed, and looked through, at the end."""
    made = Stack(**options)
    yield made
    made.close()
