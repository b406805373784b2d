"""Descriptors: an open of a bdev, through which all I/O goes (SPDK: spdk_bdev_desc).

A descriptor belongs to the reactor that opened it: events come there, and it is closed there. Its
channels are each reactor's own: made, used and given back on that reactor's thread. The table of
them has a lock, because any reactor may make one while the control plane looks for those there
are; nothing is called with the lock held.

Whoever changes what a channel is configured from changes that first, and then tells the channels
in the table. A new channel enters the table first, and then is configured. So none is forgotten.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from vbdev.bdev.contract import VirtualBdev
from vbdev.bdev.entry import Entry
from vbdev.bdev.host import BdevEvent, MediaEvent
from vbdev.bdev.iostat import IoTotals
from vbdev.bdev.paths import Path, State
from vbdev.bdev.timeouts import IoTimeout, OverdueIo, check_seconds
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine
from vbdev.core.engine.requests import Request, Requests
from vbdev.reactor.event import Event
from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.vocab import Op, status_errno
from vbdev.vocab.errors import BdevError, IoError

__all__ = ["Descriptor"]

log = logging.getLogger(__name__)


class Descriptor:
    """An open of a bdev: its mode, its event callback, its channels.

    Belongs to the reactor that opened it, and is closed there. `holder` says who has it, for
    whoever waits for the bdev to be let go.
    """

    def __init__(
        self,
        entry: Entry,
        reactor: Reactor,
        *,
        write: bool,
        on_event: Callable[[BdevEvent], object],
        holder: str,
        hide_metadata: bool = False,
    ) -> None:
        self.bdev = entry.bdev
        self.write = write
        self.hide_metadata = hide_metadata and entry.bdev.md_len > 0
        self.holder = holder
        self.media_events: deque[MediaEvent] = deque()
        """What a module has told, and the owner has not taken (`vbdev.registry.media`)."""
        self._entry = entry
        self._reactor = reactor
        self._on_event = on_event
        self._on_close: list[Callable[[], object]] = []
        self._lock = threading.Lock()  # over _paths and _state
        self._paths: dict[Reactor, Path] = {}
        self._state = State.OPEN
        self._closing: Future[None] | None = None
        self._attempts = 0  # to close it
        self._kept_events: list[BdevEvent] = []  # until it is known whether it is closed
        self._timeout: IoTimeout | None = None

    @property
    def reactor(self) -> Reactor:
        """The reactor that it belongs to."""
        return self._reactor

    @property
    def block_size(self) -> int:
        """Bytes of a block as it is seen through this descriptor."""
        return self.bdev.data_block_size if self.hide_metadata else self.bdev.block_size

    @property
    def size_bytes(self) -> int:
        """Capacity in such bytes."""
        return self.bdev.num_blocks * self.block_size

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._state is not State.OPEN

    @property
    def channels(self) -> dict[Reactor, Channel]:
        """The channels there are at this moment, by reactor, in the order of their ids."""
        with self._lock:
            paths = sorted(self._paths.items(), key=lambda item: item[0].id)
        return {reactor: path.channel for reactor, path in paths}

    # Events

    def post_event(self, event: BdevEvent) -> None:
        """Tell the owner by message; dropped if it closes the descriptor before.

        What comes while it is not known whether that succeeds is told where it does not.
        """
        self._reactor.send_msg(self._deliver_event, event)

    def _deliver_event(self, event: BdevEvent) -> None:
        if self._state is State.OPEN:
            self._on_event(event)
        elif self._state is State.CLOSING:
            self._kept_events.append(event)

    # Channels

    def _here(self, what: str) -> Reactor:
        """Return the calling reactor. Outside of any, whoever polls by hand means the owner."""
        reactor = Reactor.current()
        if reactor is None:
            if not self._reactor.is_here:
                raise BdevError(
                    errno.ENOTSUP,
                    f"{self.holder} {what} of bdev {self.bdev.name} on a thread that runs no"
                    " reactor",
                )
            reactor = self._reactor
        return reactor

    def get_channel(self) -> Channel:
        """Return the calling reactor's channel, made at the first call (spdk_bdev_get_io_channel).

        Each call counts. `put_channel` gives one back; what is not given back is closed with the
        descriptor. BdevError EBADF when that is closed; and what the module's `create_channel`
        raises.
        """
        path = self._path()
        path.refs += 1
        return path.channel

    def put_channel(self, channel: Channel) -> None:
        """Give a channel back on the reactor that got it (spdk_put_io_channel).

        The last one closes it, by a message: until that comes, `get_channel` revives it.
        """
        reactor = self._here("puts a channel")
        with self._lock:
            path = self._paths.get(reactor)
        if path is None or path.channel is not channel or not path.refs:
            raise BdevError(
                errno.EINVAL,
                f"{self.holder} puts a channel of bdev {self.bdev.name} that it did not get on"
                f" {reactor.name}",
            )
        path.refs -= 1
        if not path.refs and not path.kept:
            reactor.send_msg(self._drop, reactor, path)

    def channel_refs(self) -> int:
        """Return how many hold the calling reactor's channel; 0 where there is none."""
        reactor = self._here("looks for its channel")
        with self._lock:
            path = self._paths.get(reactor)
        return max(path.refs, 1) if path is not None else 0

    def _drop(self, reactor: Reactor, path: Path) -> None:
        with self._lock:
            gone = self._paths.get(reactor) is not path
        if gone or path.refs or path.kept:
            return
        if path.outstanding:
            log.error(
                "%s put its channel of bdev %s with %d I/Os outstanding; it stays until the"
                " descriptor is closed",
                self.holder,
                self.bdev.name,
                path.outstanding,
            )
            return
        self._close_path(reactor, path)

    def _path(self) -> Path:
        reactor = self._here("gets a channel")
        path = self._path_of(reactor)
        if path is not None and path.refuses:
            raise self._is_closed()
        return path or self._make_path(reactor)

    def _is_closed(self) -> BdevError:
        return BdevError(errno.EBADF, f"descriptor of {self.bdev.name} is closed")

    def _make_path(self, reactor: Reactor) -> Path:
        bdev, engine = self.bdev, reactor.engine
        if not isinstance(engine, Engine):
            raise BdevError(errno.ENOTSUP, f"{reactor.name} drives no engine: bdev {bdev.name}")
        channel = Channel(engine, bdev, self)
        path = Path(channel)
        with ExitStack() as undo:
            undo.callback(channel.close)
            with self._lock:
                if self._state is not State.OPEN:
                    raise self._is_closed()
                self._paths[reactor] = path
            undo.callback(self._forget_path, reactor)
            if isinstance(bdev, VirtualBdev):
                channel.base = base = bdev.base_descriptor.get_channel()
                undo.callback(bdev.base_descriptor.put_channel, base)
                if bdev.base.block_size != bdev.block_size:
                    base.check_lengths()
            self._entry.set_up(channel)
            with reactor.here():  # for modules; it is, but for a test that polls by hand
                try:
                    channel.context = bdev.create_channel(channel)
                except (BdevError, OSError):
                    raise
                except Exception as error:  # whoever wants the channel shall know whose fault it is
                    raise BdevError(
                        errno.EIO, f"bdev {bdev.name} ({bdev.kind}): create_channel: {error!r}"
                    ) from error
            undo.pop_all()
        return path

    def _forget_path(self, reactor: Reactor) -> None:
        with self._lock:
            del self._paths[reactor]

    def _close_path(self, reactor: Reactor, path: Path) -> None:
        """Close a channel on its own thread, whatever the module's hook raises."""
        channel, bdev = path.channel, self.bdev
        base = channel.base
        with reactor.here(), ExitStack() as rest:
            # Added first, done last.
            rest.callback(self._forget_path, reactor)
            if base is not None and isinstance(bdev, VirtualBdev):
                rest.callback(bdev.base_descriptor.put_channel, base)
            rest.callback(channel.close)
            rest.callback(self._fold, channel)
            rest.callback(bdev.destroy_channel, channel)
            if channel.coroutines is not None:
                rest.callback(channel.coroutines.close)
            if path.requests is not None:
                rest.callback(path.requests.close)

    def _fold(self, channel: Channel) -> None:
        """Add a channel's counters to the bdev's, which belong to the control plane."""
        counted = IoTotals()
        counted.add(channel)
        latencies = channel.histogram_copy()
        control = self.bdev.reactor
        if control.is_here:
            self._entry.fold(counted, latencies)
        else:
            control.send_msg(self._entry.fold, counted, latencies)

    # Closing

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call back, on the control plane's reactor, when the descriptor is closed."""
        self._on_close.append(callback)

    def close(self) -> Future[None]:
        """Close it, with its channels, on the reactor that opened it; idempotent.

        Without channels on other reactors it is closed when this returns. With some, these are
        closed on their own threads, and the future resolves when all is done. I/O still
        outstanding is EBUSY, at once or through the future: drain first. EPERM on another reactor.

        What is submitted meanwhile waits until it is known which: it goes on where the descriptor
        stays open, and ends as FAILED with ENODEV where it is closed. That takes a message to each
        reactor, and waits for nothing else.
        """
        if self._closing is not None:
            return self._closing
        here = self._here("closes its descriptor")
        if here is not self._reactor:
            raise BdevError(
                errno.EPERM,
                f"{self.holder} opened bdev {self.bdev.name} on {self._reactor.name} and can not"
                f" close it on {here.name}",
            )
        with self._lock:
            own = self._paths.get(here)
        if own is not None and own.outstanding:
            raise self._busy(own.outstanding)
        with self._lock:
            self._state = State.CLOSING
            others = [reactor for reactor in self._paths if reactor is not here]
        if others or not self.bdev.reactor.is_here:
            self._attempts += 1
            self._hold(self._attempts, here)
            closing = self._close_elsewhere(self._attempts, others)
            self._closing = here.spawn(closing, f"close by {self.holder}")
        else:
            self._closing = Future()
            self._closing.set_result(None)
            with ExitStack() as rest:
                rest.callback(self._closed)
                rest.callback(self._end_timeout)
                if own is not None:
                    rest.callback(self._close_path, here, own)
        return self._closing

    def _busy(self, outstanding: int) -> BdevError:
        return BdevError(
            errno.EBUSY,
            f"{self.holder} can not close bdev {self.bdev.name}:"
            f" {outstanding} I/Os are outstanding",
        )

    async def _close_elsewhere(self, attempt: int, others: list[Reactor]) -> None:
        failures: list[Exception] = []
        here = self._reactor
        outstanding = 0
        for reactor in others:  # counted where nothing can be added any more
            outstanding += await self._ask(reactor, partial(self._hold, attempt))
        if outstanding:  # nothing is closed unless everything can be
            with self._lock:
                self._state = State.OPEN
            self._closing = None
            events, self._kept_events = self._kept_events, []
            for event in events:
                self.post_event(event)
            for reactor in [here, *others]:
                await self._ask(reactor, partial(self._release, attempt))
            raise self._busy(outstanding)
        self._end_timeout()
        for reactor in [*others, here]:
            await self._ask(reactor, self._refuse)
        for reactor in [*others, here]:
            await self.drained(reactor)  # what has just been refused is to be delivered
            try:
                await self._ask(reactor, self._close_here)
            except Exception as error:  # noqa: BLE001 - raised below, when all are closed
                failures.append(error)
        await self.bdev.reactor.ask(self._closed)
        if failures:
            raise failures[0]

    async def _ask(self, reactor: Reactor, function: Callable[[Reactor], int]) -> int:
        try:
            return await reactor.ask(function, reactor)
        except ReactorStoppedError:  # then nobody else touches what was its own
            with reactor.here():
                return function(reactor)

    def _path_of(self, reactor: Reactor) -> Path | None:
        with self._lock:
            return self._paths.get(reactor)

    async def drained(self, only: Reactor | None = None) -> None:
        """Wait until nothing is outstanding, on any reactor or on `only`. On the descriptor's own.

        It waits for the module's I/O, and for whoever has a ZCOPY open: for as long as these take.
        What comes meanwhile is waited for too.
        """
        left = Event(self._reactor)
        for reactor in self.channels if only is None else [only]:
            while await self._ask(reactor, partial(self._count_outstanding, left)):
                await left.wait()

    def _count_outstanding(self, left: Event, reactor: Reactor) -> int:
        path = self._path_of(reactor)
        return path.await_left(left.set) if path is not None else 0

    def _hold(self, attempt: int, reactor: Reactor) -> int:
        """Let nothing more in, and return what is under way: in one go, on the reactor's thread."""
        path = self._path_of(reactor)
        if path is None:
            return 0
        outstanding = path.outstanding
        path.channel.hold()
        path.attempt = attempt
        return outstanding

    def _release(self, attempt: int, reactor: Reactor) -> int:
        path = self._path_of(reactor)
        if path is not None and path.attempt == attempt:  # else a later one holds, and has counted
            path.channel.release()
        return 0

    def _refuse(self, reactor: Reactor) -> int:
        path = self._path_of(reactor)
        if path is not None:
            path.refuses = True
            path.channel.refuse()
        return 0

    def _close_here(self, reactor: Reactor) -> int:
        path = self._path_of(reactor)
        if path is not None:
            self._close_path(reactor, path)
        return 0

    def _closed(self) -> None:
        """Let go of the bdev, on the reactor of the control plane."""
        self._state = State.CLOSED
        with ExitStack() as rest:
            for callback in reversed(self._on_close):
                rest.callback(callback)
            rest.callback(self._entry.drop, self)

    # Timeouts

    def set_timeout(self, seconds: int, callback: Callable[[OverdueIo], object]) -> None:
        """Call back for each I/O that is under way for `seconds` or longer; 0 ends it.

        The descriptor looks each second at what was submitted on its own reactor, and calls again
        each time it finds an I/O still there; the pieces of one that was split are not looked at.
        Nothing is aborted: that is for `callback(overdue)` to do. Later calls replace earlier
        ones. On the descriptor's reactor (SPDK: spdk_bdev_set_timeout).
        """
        check_seconds(self.bdev.name, seconds)
        if self.closed:
            raise BdevError(errno.EBADF, f"descriptor of {self.bdev.name} is closed")
        self._end_timeout()
        if seconds:
            self._timeout = IoTimeout(
                self._reactor,
                self.bdev.name,
                lambda: self.channels.get(self._reactor),
                self.request_of,
                seconds=seconds,
                callback=callback,
            )

    def _end_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.close()
        self._timeout = None

    def request_of(self, index: int) -> Request | None:
        """Return the request of the own reactor whose BdevIO has this number in the pool."""
        path = self._path_of(self._reactor)
        if path is None or path.requests is None:
            return None
        return path.requests.request_of(index)

    # I/O of Python callers

    def submit(
        self,
        op: Op,
        offset_blocks: int = 0,
        num_blocks: int = 0,
        data: Any = None,
        *,
        callback: Callable[[Request], object],
        **kwargs: Any,
    ) -> Request:
        """Submit one I/O on the calling reactor; `callback(request)` there when it has ended.

        data: a buffer (or several) of `num_blocks` blocks, filled by a READ. Raises BdevError
        ENOMEM when all BdevIOs are in use.
        """
        path = self._path()
        if path.requests is None:
            path.requests = Requests(path.channel.engine)
            path.kept = path.kept or not path.refs
        request = path.requests.submit(
            path.channel, op, offset_blocks, num_blocks, data, callback=callback, **kwargs
        )
        if request is None:
            raise BdevError(errno.ENOMEM, f"bdev {self.bdev.name}: all BdevIOs are in use")
        return request

    def zcopy_end(
        self, request: Request, *, commit: bool, callback: Callable[[Request], object]
    ) -> None:
        """End a ZCOPY whose start succeeded; `commit` makes what was written count."""
        requests = self._path().requests
        assert requests is not None
        requests.zcopy_end(request, commit, callback)

    def io(
        self, op: Op, offset_blocks: int = 0, num_blocks: int = 0, data: Any = None, **kwargs: Any
    ) -> Future[Request]:
        """Submit one I/O and return a future of it; awaiting a failure raises IoError."""
        future: Future[Request] = Future()

        def ended(request: Request) -> None:
            number = status_errno(request.status, request.errno)
            if number:
                where = (
                    f"bdev {self.bdev.name}: {op.name} of {num_blocks} blocks at {offset_blocks}"
                )
                future.set_exception(
                    IoError(request.status, number, f"{where}: {os.strerror(number)}")
                )
            else:
                future.set_result(request)

        self.submit(op, offset_blocks, num_blocks, data, callback=ended, **kwargs)
        return future
