"""Stack: a reactor, an engine and a registry without a daemon, turned by hand.

Everything runs on the caller's thread, on a virtual clock unless a test asks for the real one.
`close` ends it and holds that nothing is left in use.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from vbdev.bdev import Bdev, BdevEvent, VirtualBdev
from vbdev.clock import VirtualClock
from vbdev.core.engine import Engine
from vbdev.core.requests import Request, Requests
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.reactor import Reactor
from vbdev.registry import Registry

__all__ = ["Opened", "Stack", "stack"]

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long `turn_until` waits on the real clock."""


class Stack:
    """A bdev layer of one's own.

    real_clock: time goes by itself; needed where a kernel does the work (uring, aio).
    pool_size: I/Os that can be under way at once. A tiny one shows what happens without any.
    buffer_limit_bytes: of data buffers, likewise.
    errors: what modules raised: (bdev's name or owner, exception, I/Os that failed of it).
    expected_misuse: completions of I/Os that no layer held; `close` holds the count against this.
    """

    def __init__(
        self,
        *,
        real_clock: bool = False,
        pool_size: int = 4096,
        buffer_limit_bytes: int = 16 << 20,
    ) -> None:
        self.reactor = Reactor(clock=None if real_clock else VirtualClock())
        self.engine = Engine(
            pool_size=pool_size,
            buffer_limit_bytes=buffer_limit_bytes,
            virtual=self.reactor.clock.virtual,
        )
        self.reactor.engine = self.engine
        self.registry = Registry(self.reactor)
        self.errors: list[tuple[object, BaseException, int]] = []
        self.engine.on_module_error = self._failed
        self.descriptors: list[Opened] = []
        self.expected_misuse = 0

    def _failed(self, source: Any, error: BaseException, failed: int) -> None:
        who = source.bdev.name if hasattr(source, "bdev") else source
        self.errors.append((who, error, failed))

    # Bdevs

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Turn the reactor until a coroutine ends; return its result."""
        return self.reactor.run_until_complete(coroutine)

    def create(self, cls: type[Bdev], **params: Any) -> Any:
        """Create a bdev and return it, or None where it waits for its base.

        `params` are those of `bdev_<kind>_create`.
        """
        return self.registry.find(self.run(self.registry.create(cls, cls.Params(**params))))

    def disk(
        self,
        cls: type[Bdev] = Malloc,
        name: str = "Disk",
        num_blocks: int = 1024,
        block_size: int = 512,
        **params: Any,
    ) -> Any:
        """Create a bdev that is made to measure."""
        return self.create(cls, name=name, num_blocks=num_blocks, block_size=block_size, **params)

    def layer(
        self,
        cls: type[VirtualBdev] = Passthru,
        name: str = "Top",
        base: str = "Disk",
        **params: Any,
    ) -> Any:
        """Create a vbdev."""
        return self.create(cls, name=name, base_bdev_name=base, **params)

    def delete(self, name: str) -> None:
        """Delete a bdev, whatever its kind."""
        self.run(self.registry.delete(name, self.registry.get(name).kind))

    def open(self, name: str, *, write: bool = True, holder: str = "test") -> Opened:
        """Open a bdev. REMOVE closes it, when its I/O has ended."""
        opened = Opened(self, name, write=write, holder=holder)
        self.descriptors.append(opened)
        return opened

    # Turning

    def settle(self, turns: int = 10_000) -> None:
        """Turn the reactor until nothing is left to do at this time."""
        for _ in range(turns):
            if not self.reactor.poll():
                return
        raise AssertionError("the reactor does not come to rest")

    def turn_until(self, condition: Callable[[], object]) -> None:
        """Turn until a condition holds. Virtual time goes on where only time can bring it."""
        self.settle()
        until = time.monotonic() + PATIENCE_S
        while not condition():
            if not self.reactor.poll() and self.reactor.clock.virtual:
                assert condition() or self.reactor.advance(), "it can not come true"
            assert condition() or time.monotonic() < until, "it does not come true"

    def pass_time(self, us: float) -> None:
        """Let virtual time go by, with whatever is due in it."""
        until_ns = self.reactor.clock.now_ns() + us * 1000
        ended: list[bool] = []
        self.reactor.call_later(us, lambda: ended.append(True))
        while not ended:
            if not self.reactor.poll():
                self.reactor.advance()
        assert self.reactor.clock.now_ns() >= until_ns

    def close(self) -> None:
        """Unregister everything; AssertionError where an I/O or a buffer is left in use."""
        self.settle()
        for opened in list(self.descriptors):
            opened.close()
        self.run(self.registry.close())
        self.settle()
        engine = self.engine
        left = (engine.ios_in_use, engine.waiting, engine.buffers.live_buffers)
        misused = engine.misused
        self.reactor.close()
        assert left == (0, 0, 0), f"I/Os in use, waiting, buffers: {left}"
        assert misused == self.expected_misuse, (
            f"{misused} I/Os were completed that no layer held; expected {self.expected_misuse}"
        )
        assert engine.buffers.used_bytes == 0


class Opened:
    """A descriptor that tests submit through: `submit` returns a Request, `io` one that ended.

    events: what the descriptor was told (`BdevEvent`), in order.
    """

    def __init__(self, stack: Stack, name: str, *, write: bool, holder: str) -> None:
        self.stack = stack
        self.events: list[BdevEvent] = []
        self.descriptor = stack.registry.open(
            name, write=write, on_event=self._event, holder=holder
        )
        self.channel = self.descriptor.get_channel()
        self.requests = Requests(stack.engine)
        self._leaving = False

    def _event(self, event: BdevEvent) -> None:
        self.events.append(event)
        if event is BdevEvent.REMOVE:
            self._leaving = True
            self._leave()

    def _leave(self) -> None:
        if self._leaving and not self.requests.in_flight:
            self.close()

    def submit(
        self,
        op: int,
        offset_blocks: int = 0,
        num_blocks: int = 1,
        data: Any = None,
        *,
        callback: Callable[[Request], object] | None = None,
        **more: Any,
    ) -> Any:
        """Submit one I/O and return its Request; None where no BdevIO is free.

        data: a buffer, or a list of them; of a READ it is filled. More keywords as
        `vbdev.core.requests.Requests.submit` has them. `callback(request)` when it has ended.
        """

        def ended(request: Request) -> None:
            if callback is not None:
                callback(request)
            self._leave()

        return self.requests.submit(
            self.channel, op, offset_blocks, num_blocks, data, callback=ended, **more
        )

    def io(
        self, op: int, offset_blocks: int = 0, num_blocks: int = 1, data: Any = None, **more: Any
    ) -> Any:
        """Submit one I/O and turn until it has ended; return its Request."""
        request = self.submit(op, offset_blocks, num_blocks, data, **more)
        assert request is not None, "no BdevIO is free"
        self.stack.turn_until(lambda: request.done)
        return request

    def zcopy_end(self, request: Any, *, commit: bool) -> None:
        """End a ZCOPY and turn until it has."""
        self.requests.zcopy_end(request, commit, lambda _request: self._leave())
        self.stack.turn_until(lambda: request.done)

    def close(self) -> None:
        """Close it, once."""
        if self in self.stack.descriptors:
            self.stack.descriptors.remove(self)
            self.requests.close()
            self.descriptor.close()


@contextlib.contextmanager
def stack(**options: Any) -> Iterator[Stack]:
    """Return a Stack that is closed, and looked through, at the end."""
    made = Stack(**options)
    yield made
    made.close()
