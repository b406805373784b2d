"""Descriptors: an open of a bdev, through which all I/O goes (SPDK: spdk_bdev_desc)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from vbdev.bdev import Bdev, BdevError, BdevEvent, IoError, VirtualBdev
from vbdev.core.engine import Channel, Engine
from vbdev.core.requests import Request, Requests
from vbdev.reactor import Reactor
from vbdev.task import Future
from vbdev.vocab import Op, status_errno

__all__ = ["Descriptor"]


class Descriptor:
    """An open of a bdev: its mode, its event callback, its channels.

    Belongs to the reactor that opened it, and is closed there. `holder` says who has it, for
    whoever waits for the bdev to be let go.
    """

    def __init__(
        self,
        bdev: Bdev,
        reactor: Reactor,
        *,
        write: bool,
        on_event: Callable[[BdevEvent], object],
        holder: str,
    ) -> None:
        self.bdev = bdev
        self.write = write
        self.holder = holder
        self.channels: dict[Reactor, Channel] = {}
        self.closed = False
        self._reactor = reactor
        self._on_event = on_event
        self._on_close: list[Callable[[], None]] = []
        self._requests: Requests | None = None

    @property
    def reactor(self) -> Reactor:
        """The reactor that it, and its channels, belong to."""
        return self._reactor

    def post_event(self, event: BdevEvent) -> None:
        """Tell the owner by message; dropped if it closes the descriptor before."""
        self._reactor.send_msg(self._deliver_event, event)

    def _deliver_event(self, event: BdevEvent) -> None:
        if not self.closed:
            self._on_event(event)

    def get_channel(self) -> Channel:
        """Return this thread's channel, made at the first call. Closed with the descriptor."""
        channel = self.channels.get(self._reactor)
        if channel is None:
            engine = self._reactor.engine
            if self.closed or not isinstance(engine, Engine):
                raise BdevError(errno.EBADF, f"descriptor of {self.bdev.name} is closed")
            channel = Channel(engine, self.bdev, self)
            if isinstance(self.bdev, VirtualBdev):
                channel.base = self.bdev.base_descriptor.get_channel()
            self.bdev.configure_channel(channel)
            try:
                channel.context = self.bdev.create_channel(channel)
            except BaseException:
                channel.close()
                raise
            self.channels[self._reactor] = channel
        return channel

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back when the descriptor is closed."""
        self._on_close.append(callback)

    def close(self) -> None:
        """Close it, with its channels. I/O still outstanding is EBUSY: drain first. Idempotent."""
        if self.closed:
            return
        # A request may have left all channels and not been delivered yet, or be an open ZCOPY.
        outstanding = max(
            sum(channel.outstanding for channel in self.channels.values()),
            self._requests.in_flight if self._requests is not None else 0,
        )
        if outstanding:
            raise BdevError(
                errno.EBUSY,
                f"{self.holder} can not close bdev {self.bdev.name}:"
                f" {outstanding} I/Os are outstanding",
            )
        self.closed = True
        with ExitStack() as rest:  # all of it happens, whatever a module's hook raises
            for callback in reversed(self._on_close):
                rest.callback(callback)
            rest.callback(self.bdev.descriptors.remove, self)
            rest.callback(self.channels.clear)
            for channel in self.channels.values():
                rest.callback(channel.close)
                rest.callback(self.bdev.totals.add, channel)
                rest.callback(self.bdev.destroy_channel, channel)
            if self._requests is not None:
                rest.callback(self._requests.close)

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
        """Submit one I/O; `callback(request)` when it has ended.

        data: a buffer (or several) of `num_blocks` blocks, filled by a READ. Raises BdevError
        ENOMEM when all BdevIOs are in use.
        """
        channel = self.get_channel()
        if self._requests is None:
            self._requests = Requests(channel.engine)
        request = self._requests.submit(
            channel, op, offset_blocks, num_blocks, data, callback=callback, **kwargs
        )
        if request is None:
            raise BdevError(errno.ENOMEM, f"bdev {self.bdev.name}: all BdevIOs are in use")
        return request

    def zcopy_end(
        self, request: Request, *, commit: bool, callback: Callable[[Request], object]
    ) -> None:
        """End a ZCOPY whose start succeeded; `commit` makes what was written count."""
        assert self._requests is not None
        self._requests.zcopy_end(request, commit, callback)

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
