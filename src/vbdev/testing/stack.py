"""Stack: reactors, engines and a registry without a daemon, turned by hand.

Everything runs on the caller's thread, on a virtual clock unless a test asks for the real one.
`close` ends it and holds that nothing is left in use.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from vbdev.bdev import Bdev, BdevEvent, VirtualBdev
from vbdev.core.engine.engine import Engine
from vbdev.core.engine.requests import Request, Requests
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors
from vbdev.registry import Registry

__all__ = ["Opened", "Stack", "stack"]

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long `turn_until` waits on the real clock."""


class Stack:
    """A bdev layer of one's own.

    reactors: how many; all are turned by the caller's thread, each in its turn, so that what
        happens on several of them happens in the same order every time.
    real_clock: time goes by itself; needed where a kernel does the work (uring, aio).
    pool_size: I/Os that can be under way at once. A tiny one shows what happens without any.
    buffer_limit_bytes: of data buffers, likewise.
    errors: what modules raised: (bdev's name or owner, exception, I/Os that failed of it).
    expected_misuse: completions of I/Os that no layer held; `close` holds the count against this.
    """

    def __init__(
        self,
        *,
        reactors: int = 1,
        real_clock: bool = False,
        pool_size: int = 4096,
        buffer_limit_bytes: int = 16 << 20,
    ) -> None:
        self.errors: list[tuple[object, BaseException, int]] = []
        self.reactor = Reactor(clock=None if real_clock else VirtualClock())
        self.engines: list[Engine] = []

        def make_engine() -> Engine:
            engine = Engine(
                pool_size=pool_size,
                buffer_limit_bytes=buffer_limit_bytes,
                virtual=self.reactor.clock.virtual,
            )
            engine.on_module_error = self._failed
            self.engines.append(engine)
            return engine

        self.engine = self.reactor.engine = make_engine()
        self.reactors = Reactors(self.reactor, reactors, make_engine, self._reactor_failed)
        self.registry = Registry(self.reactor)
        self.descriptors: list[Opened] = []
        self.expected_misuse = 0

    def _reactor_failed(self, reactor: Reactor, error: BaseException) -> None:
        self.errors.append((reactor.name, error, 0))

    def _failed(self, source: Any, error: BaseException, failed: int) -> None:
        who = source.bdev.name if hasattr(source, "bdev") else source
        self.errors.append((who, error, failed))

    # Bdevs

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Turn the reactors until a coroutine on the first ends; return its result."""
        if len(self.reactors) == 1 or self.reactor.clock.virtual:
            return self.reactors.run_until_complete(coroutine)
        with self.reactor.here():
            task = self.reactor.spawn(coroutine)
        task.add_done_callback(lambda _task: None)  # its failure is raised here, not logged
        self.turn_until(lambda: task.done)
        return task.result()

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

    def open(
        self,
        name: str,
        *,
        write: bool = True,
        holder: str = "test",
        on: int = 0,
        hide_metadata: bool = False,
    ) -> Opened:
        """Open a bdev, with a channel on one of the reactors (`on`, from 0).

        REMOVE closes it, when its I/O has ended.
        """
        opened = Opened(self, name, write=write, holder=holder, on=on, hide_metadata=hide_metadata)
        self.descriptors.append(opened)
        return opened

    # Turning

    def settle(self, turns: int = 10_000) -> None:
        """Turn the reactors until nothing is left to do at this time."""
        for _ in range(turns):
            if not self.reactors.poll():
                return
        raise AssertionError("the reactors do not come to rest")

    def turn_until(self, condition: Callable[[], object]) -> None:
        """Turn until a condition holds. Virtual time goes on where only time can bring it."""
        self.settle()
        until = time.monotonic() + PATIENCE_S
        while not condition():
            if not self.reactors.poll() and self.reactor.clock.virtual:
                assert condition() or self.reactors.advance(), "it can not come true"
            assert condition() or time.monotonic() < until, "it does not come true"

    def pass_time(self, us: float) -> None:
        """Let virtual time go by, with whatever is due in it."""
        until_ns = self.reactor.clock.now_ns() + us * 1000
        ended: list[bool] = []
        self.reactor.call_later(us, lambda: ended.append(True))
        while not ended:
            if not self.reactors.poll():
                self.reactors.advance()
        assert self.reactor.clock.now_ns() >= until_ns

    def close(self) -> None:
        """Unregister everything; AssertionError where an I/O or a buffer is left in use."""
        self.settle()
        for opened in list(self.descriptors):
            opened.close()
        self.run(self.registry.close())
        self.settle()
        engines = self.engines
        left = [(e.ios_in_use, e.waiting, e.buffers.live_buffers) for e in engines]
        misused = sum(engine.misused for engine in engines)
        self.reactors.close()
        self.reactor.close()
        assert left == [(0, 0, 0)] * len(engines), f"I/Os in use, waiting, buffers: {left}"
        assert misused == self.expected_misuse, (
            f"{misused} I/Os were completed that no layer held; expected {self.expected_misuse}"
        )
        assert sum(engine.buffers.used_bytes for engine in engines) == 0


class Opened:
    """A descriptor that tests submit through: `submit` returns a Request, `io` one that ended.

    events: what the descriptor was told (`BdevEvent`), in order.
    """

    def __init__(
        self, stack: Stack, name: str, *, write: bool, holder: str, on: int, hide_metadata: bool
    ) -> None:
        self.stack = stack
        self.reactor = list(stack.reactors)[on]
        self.events: list[BdevEvent] = []
        self.descriptor = stack.registry.open(
            name,
            write=write,
            on_event=self._event,
            holder=holder,
            reactor=self.reactor,
            hide_metadata=hide_metadata,
        )
        self.requests = Requests(stack.engines[on])
        self._leaving = False
        with self.reactor.here():
            try:
                self.channel = self.descriptor.get_channel()
            except BaseException:
                self.descriptor.close()
                raise

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
        `vbdev.core.engine.requests.Requests.submit` has them. `callback(request)` when it has
        ended.
        """

        def ended(request: Request) -> None:
            if callback is not None:
                callback(request)
            self._leave()

        with self.reactor.here():
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
        with self.reactor.here():
            self.requests.zcopy_end(request, commit, lambda _request: self._leave())
        self.stack.turn_until(lambda: request.done)

    def close(self) -> None:
        """Close it, once. On another reactor than the first that takes a few turns."""
        if self in self.stack.descriptors:
            self.stack.descriptors.remove(self)
            with self.reactor.here():
                self.requests.close()
                self.descriptor.close()


@contextlib.contextmanager
def stack(**options: Any) -> Iterator[Stack]:
    """Return a Stack that is closed, and looked through, at the end."""
    made = Stack(**options)
    yield made
    made.close()
