"""Connecting to an NBD server, and negotiating with it, without ever blocking the reactor.

A `Dial` is one attempt. It has a deadline as a whole, so that a server that accepts and then says
nothing, or a byte a minute, costs no more than one that is not there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from typing import Any, Final

from vbdev.bdev import BdevError
from vbdev.modules.nbd.uri import Server
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, wake
from vbdev.reactor.threads import NamedThread
from vbdev.vocab.address import Address
from vbdev.wire.nbd import (
    NEED_DATA,
    ClientHandshake,
    Closed,
    ProtocolError,
    Refused,
    Transmission,
)
from vbdev.wire.nbd.constants import OptionReply

__all__ = ["Dial", "Dialed"]

RECEIVE_BYTES: Final = 64 << 10
FULL_BACKLOG_RETRY_US: Final = 10_000
"""How soon a unix socket is tried again whose backlog is full."""
_REFUSALS: Final = {
    OptionReply.ERR_UNKNOWN: errno.ENOENT,
    OptionReply.ERR_TLS_REQD: errno.EACCES,
    OptionReply.ERR_POLICY: errno.EACCES,
    OptionReply.ERR_SHUTDOWN: errno.ESHUTDOWN,
}


@dataclass(frozen=True, slots=True)
class Dialed:
    """A connection in transmission. The socket is whose it is given to; `early`: bytes behind."""

    socket: socket.socket
    over: Transmission
    early: bytes


class Dial:
    """One attempt to reach a server. Belongs to the reactor's thread."""

    def __init__(self, reactor: Reactor, server: Server, timeout_us: int) -> None:
        self._reactor = reactor
        self._server = server
        self._timeout_us = timeout_us
        self._give_up_ns = reactor.clock.now_ns() + timeout_us * 1000
        self._waiting: Future[None] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """End the attempt: whoever awaits it gets OSError ECANCELED."""
        self._cancelled = True
        if self._waiting is not None:
            wake(self._waiting)

    async def run(self) -> Dialed:
        """Connect and negotiate. OSError, or BdevError where the server refuses or is none."""
        connection = await self._connect()
        try:
            return await self._negotiate(connection)
        except ProtocolError as error:
            connection.close()
            raise BdevError(errno.EPROTO, str(error)) from error
        except BaseException:
            connection.close()
            raise

    # Waiting

    async def _wait(self, fd: int | None, *, write: bool = False, pause_us: int = 0) -> None:
        """Wait until the socket is ready, or for a time where there is none."""
        future = self._waiting = Future()
        left_us = (self._give_up_ns - self._reactor.clock.now_ns()) // 1000
        late = self._reactor.call_later(max(left_us, 0), lambda: wake(future))
        pause = self._reactor.call_later(pause_us, lambda: wake(future)) if pause_us else None
        watch = None
        try:
            if fd is not None:

                def ready() -> None:
                    wake(future)

                watch = self._reactor.watch(fd, readable=ready, writable=ready)
                watch.update(read=not write, write=write)
            self._check()
            await future
        finally:
            late.cancel()
            if pause is not None:
                pause.cancel()
            if watch is not None:
                watch.close()
            self._waiting = None
        self._check()

    def _check(self) -> None:
        if self._cancelled:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        if self._reactor.clock.now_ns() >= self._give_up_ns:
            raise OSError(errno.ETIMEDOUT, f"no answer within {self._timeout_us / 1e6:g} s")

    # Connecting

    async def _connect(self) -> socket.socket:
        address = self._server.address
        if address.is_unix:
            return await self._connect_to(socket.AF_UNIX, address.path)
        failure: OSError | None = None
        for family, place in await self._resolve(address):
            try:
                return await self._connect_to(family, place)
            except OSError as error:
                if error.errno in (errno.ETIMEDOUT, errno.ECANCELED):
                    raise
                failure = error
        raise failure or OSError(errno.EHOSTUNREACH, f"{address.host} has no address")

    async def _connect_to(self, family: int, place: Any) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            if family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A peer whose machine is gone is noticed even while nothing is asked of it.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            while True:
                number = connection.connect_ex(place)
                if number == 0:
                    return connection
                if number == errno.EINPROGRESS:
                    await self._wait(connection.fileno(), write=True)
                    number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if number == 0:
                        return connection
                if number != errno.EAGAIN:
                    raise OSError(number, os.strerror(number))  # noqa: TRY301 - closed below
                await self._wait(None, pause_us=FULL_BACKLOG_RETRY_US)
        except BaseException:
            connection.close()
            raise

    async def _resolve(self, address: Address) -> list[tuple[int, Any]]:
        """Return the addresses of a host; a name is looked up on a thread of its own."""
        with contextlib.suppress(socket.gaierror):
            return _look_up(address, socket.AI_NUMERICHOST)
        found: list[list[tuple[int, Any]] | OSError] = []
        reactor = self._reactor

        def work() -> None:
            try:
                found.append(_look_up(address, 0))
            except (OSError, UnicodeError) as error:
                found.append(OSError(errno.EHOSTUNREACH, f"{address.host}: {error}"))
            reactor.send_msg(self._found)

        NamedThread(target=work, name="nbd-name-lookup", daemon=True).start()
        while not found:
            await self._wait(None)
        answer = found[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _found(self) -> None:
        if self._waiting is not None:
            wake(self._waiting)

    # Negotiating

    async def _negotiate(self, connection: socket.socket) -> Dialed:
        handshake = ClientHandshake(self._server.export_name)
        refusal: Refused | None = None
        while True:
            while (event := handshake.next_event()) is not NEED_DATA:
                if isinstance(event, Transmission):
                    await self._send(connection, handshake.data_to_send())
                    return Dialed(connection, event, handshake.trailing_data)
                if isinstance(event, Refused) and not event.goes_on:
                    refusal = event
                if isinstance(event, Closed):
                    raise self._refused(refusal, event.reason)
            await self._send(connection, handshake.data_to_send())
            if refusal is not None:
                raise self._refused(refusal, "")
            try:
                data = connection.recv(RECEIVE_BYTES)
            except BlockingIOError:
                await self._wait(connection.fileno())
                continue
            if data:
                handshake.feed(data)
            else:
                handshake.feed_eof()

    def _refused(self, refusal: Refused | None, reason: str) -> BdevError:
        if refusal is None:
            return BdevError(errno.ECONNREFUSED, f"the server ends the negotiation: {reason}")
        label = OptionReply.label(refusal.error)
        said = f": {refusal.message}" if refusal.message else ""
        number = (
            _REFUSALS.get(OptionReply(refusal.error), errno.EINVAL)
            if (refusal.error in set(OptionReply))
            else errno.EINVAL
        )
        name = self._server.export_name
        return BdevError(number, f"the server refuses export {name!r} with {label}{said}")

    async def _send(self, connection: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[connection.send(view) :]
            except BlockingIOError:
                await self._wait(connection.fileno(), write=True)


def _look_up(address: Address, flags: int) -> list[tuple[int, Any]]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=flags | socket.AI_NUMERICSERV
    )
    return [(int(family), place) for family, _, _, _, place in found]
