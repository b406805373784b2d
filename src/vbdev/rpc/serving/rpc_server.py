"""The control plane's server: sockets in, calls to the dispatcher, answers out.

It runs on one reactor, the one that owns the registry, and takes any number of addresses. Several
requests of a client may be in flight; their answers carry their ids and come as they are ready.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Final

from vbdev.reactor.blocking import BlockedError, call_blocking
from vbdev.reactor.listen import Listener, ListenError, open_listener
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.reactor.timers import Timer
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.rpc.serving.rpc_connection import Connection
from vbdev.rpc.serving.socket_lock import SocketLock
from vbdev.rpc.serving.turns import ClientTurns
from vbdev.vocab.address import Address, parse_address

__all__ = ["DRAIN_TIMEOUT_S", "MAX_CONNECTIONS", "RpcServer"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
"""Clients at once (SPDK: SPDK_JSONRPC_MAX_CONNS).

For one more the one leaves that has been idle for the longest time. Where none is idle it waits in
the kernel until one is. So no client keeps others out by being there; only requests that run do.
"""
MAX_DEPARTED: Final = 1024
"""Clients that have left requests behind which still run; beyond that nobody new is served."""
ROOM_CHECK_US: Final = 100_000
"""How often to look whether one of them has become idle, while others wait, in us."""
DRAIN_TIMEOUT_S: Final = 5.0
"""How long `close` waits for requests in flight, in seconds."""


class RpcServer:
    """Serves a dispatcher's methods on a reactor. All of it belongs to the reactor's thread."""

    def __init__(self, reactor: Reactor, dispatcher: Dispatcher) -> None:
        self._reactor = reactor
        self._dispatcher = dispatcher
        self._listeners: list[Listener] = []
        self._locks: list[SocketLock] = []
        self._connections: set[Connection] = set()
        self._departed: set[Connection] = set()  # without a socket, and with requests in flight
        self._drained: Future[None] | None = None
        self._held = False
        self._turns = ClientTurns(reactor)
        self._room_timer: Timer | None = None  # the listeners are held: all places are taken

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, ports that the kernel chose included."""
        return [listener.address for listener in self._listeners]

    @property
    def connection_count(self) -> int:
        """Clients that are connected."""
        return len(self._connections)

    def listen(self, path: str) -> Address:
        """Listen on a unix socket's path, or whatever else `parse_address` understands.

        ListenError: it is no address, or another process has it.
        """
        return self._listen_with(*_open(parse_address(path, bare_path=True)))

    async def listen_beside(self, path: str) -> Address:
        """Do as `listen`, on a thread: names are looked up, and directories may hang."""
        address = parse_address(path, bare_path=True)
        try:
            opened = await call_blocking(
                self._reactor,
                f"listening on {address}",
                lambda: _open(address),
                give_back=lambda opened: _give_back(*opened),
            )
        except BlockedError as error:
            raise ListenError(error.strerror or str(error), error.errno or errno.EIO) from error
        return self._listen_with(*opened)

    def _listen_with(self, lock: SocketLock | None, opened: socket.socket) -> Address:
        if lock is not None:
            self._locks.append(lock)
        self._listeners.append(Listener(self._reactor, opened, self._connected))
        return self._listeners[-1].address

    def hold(self) -> None:
        """Let what clients send wait until `release`: nobody is to see a stack half built.

        Requests in flight go on. (SPDK: spdk_rpc_server_pause.)
        """
        self._held = True
        for connection in self._connections:
            connection.hold()

    def release(self) -> None:
        """Go on with what has come meanwhile."""
        self._held = False
        for connection in self._connections:
            connection.release()

    async def close(self, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Stop: no more requests; those in flight have `drain_timeout_s` to be answered."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for lock in self._locks:
            lock.release()
        self._locks.clear()
        if self._room_timer is not None:
            self._room_timer.cancel()
            self._room_timer = None
        for connection in list(self._connections):
            connection.finish()
        if not self._connections and not self._departed:
            return
        drained: Future[None] = Future()
        self._drained = drained

        def give_up() -> None:
            if not drained.done:
                drained.set_result(None)

        timer = self._reactor.call_later(drain_timeout_s * 1e6, give_up)
        await drained
        timer.cancel()
        self._drained = None
        for connection in [*self._connections, *self._departed]:
            log.warning(
                "rpc server stops with requests in flight count=%d unsent_bytes=%d",
                connection.in_flight,
                connection.unsent_bytes,
            )
            connection.drop("the server stops")

    def _connected(self, connection: socket.socket) -> None:
        # There is one more than there may be where all have come to ask something meanwhile.
        if len(self._connections) >= MAX_CONNECTIONS:
            self._make_room()
        self._connections.add(
            Connection(
                self._reactor,
                connection,
                self._dispatcher,
                self._closed,
                turns=self._turns,
                held=self._held,
            )
        )
        if self._is_crowded:
            self._wait_for_room()

    @property
    def _is_crowded(self) -> bool:
        if len(self._departed) >= MAX_DEPARTED:
            return True
        return len(self._connections) >= MAX_CONNECTIONS and not any(
            connection.is_idle for connection in self._connections
        )

    def _idlest(self) -> Connection | None:
        """Return who has left, or else has been idle for the longest time, if anybody is."""
        idle = [connection for connection in self._connections if connection.is_idle]
        return min(idle, key=lambda one: (not one.has_left, one.active_ns), default=None)

    def _make_room(self) -> None:
        idlest = self._idlest()
        if idlest is not None:
            idle_s = (self._reactor.clock.now_ns() - idlest.active_ns) / 1e9
            log.info("rpc client hung up on to let another in idle_s=%.1f", idle_s)
            idlest.drop("makes room for another client")

    def _wait_for_room(self) -> None:
        if self._room_timer is None:
            log.info("rpc server has as many clients as it may, and none is idle: others wait")
            for listener in self._listeners:
                listener.hold()
        self._room_timer = self._reactor.call_later(ROOM_CHECK_US, self._look_for_room)

    def _look_for_room(self) -> None:
        if self._room_timer is None:
            return
        if self._is_crowded:
            self._wait_for_room()
            return
        self._room_timer.cancel()
        self._room_timer = None
        for listener in self._listeners:
            listener.release()

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection.in_flight:
            self._departed.add(connection)
        else:
            self._departed.discard(connection)
        if self._room_timer is not None and not self._is_crowded:
            self._look_for_room()
        left = self._connections or self._departed
        if self._drained is not None and not left and not self._drained.done:
            self._drained.set_result(None)


def _open(address: Address) -> tuple[SocketLock | None, socket.socket]:
    lock = SocketLock(address) if address.is_unix else None
    try:
        return lock, open_listener(address)
    except ListenError:
        if lock is not None:
            lock.release()
        raise


def _give_back(lock: SocketLock | None, opened: socket.socket) -> None:
    opened.close()  # its file is one that a dead process left, to the next one
    if lock is not None:
        lock.release()
