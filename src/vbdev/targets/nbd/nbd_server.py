"""The NBD server: listeners, exports, connections.

An export holds a descriptor, so a bdev that is exported is in use, and `vbdev ls` says by whom.
When the bdev goes away its export goes first: clients get the replies to what is in flight and
are disconnected, and the descriptor is closed.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterable

from vbdev.bdev import BdevError, BdevEvent
from vbdev.reactor.blocking import BlockedError, call_blocking
from vbdev.reactor.fd_limit import CONTROL_RESERVE
from vbdev.reactor.listen import Listener, ListenError, open_listener
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, Task
from vbdev.reactor.timers import Timer
from vbdev.registry import Registry
from vbdev.targets.nbd.export import Export, ExportClient
from vbdev.targets.nbd.nbd_connection import NbdConnection
from vbdev.targets.nbd.ourselves import own_ends
from vbdev.targets.nbd.poll_group import PollGroup
from vbdev.vocab import Op
from vbdev.vocab.address import Address, parse_address
from vbdev.vocab.text import is_utf8, printable

__all__ = ["NbdServer"]

log = logging.getLogger(__name__)

HANDSHAKE_US = 30_000_000
"""How long a client may take to choose its export. One that never does holds a descriptor, and
enough of them would keep everybody else out."""
DRAIN_US = 5_000_000
"""How long clients have to take the replies to what is in flight when an export goes."""
MAX_NAME_BYTES = 4096


class NbdServer:
    """Serves exports on any number of addresses. Belongs to the registry's reactor.

    Clients in transmission are spread over `reactors`, of which that one is the first.
    """

    def __init__(self, registry: Registry, reactors: Iterable[Reactor]) -> None:
        self.registry = registry
        self.reactor = registry.reactor
        self._groups = [PollGroup(reactor) for reactor in reactors]
        self.exports: dict[str, Export] = {}
        self.default_export: str | None = None
        self.max_connections = 0
        """Clients at most, on all addresses together; 0: as many as there are descriptors for."""
        self._is_crowded = False  # turned somebody away, and has had no room since
        self.strict_blocks = False
        """Whether exports are strict that nobody has said anything of."""
        self._listeners: dict[str, Listener] = {}
        self._closing = False
        self._connections: set[NbdConnection] = set()
        self._deadlines: dict[NbdConnection, int] = {}  # of those that negotiate, oldest first
        self._deadline_timer: Timer | None = None
        self._waiting: list[tuple[Export | None, Future[None]]] = []
        self._spared: set[NbdConnection] = set()
        """Clients that are not asked to leave yet."""

    # Addresses

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [listener.address for listener in self._listeners.values()]

    def listen(self, address: str) -> Address:
        """Listen on `unix:/path` or `tcp:host:port` and return the address in use. Blocks."""
        return self._listen_with(open_listener(_parse(address)))

    async def listen_beside(self, address: str) -> Address:
        """Do as `listen`, on a thread: names are looked up, and directories may hang."""
        where = _parse(address)
        try:
            opened = await call_blocking(
                self.reactor,
                f"listening on {where}",
                lambda: open_listener(where),
                give_back=socket.socket.close,
            )
        except BlockedError as error:
            raise ListenError(error.strerror or str(error), error.errno or errno.EIO) from error
        return self._listen_with(opened)

    def _listen_with(self, opened: socket.socket) -> Address:
        listener = Listener(self.reactor, opened, self._connected, reserve=CONTROL_RESERVE)
        if self._closing:
            listener.close()
            raise ListenError(f"{listener.address}: the application ends", errno.ESHUTDOWN)
        self._listeners[str(listener.address)] = listener
        log.info("nbd server listens address=%s", listener.address)
        return listener.address

    def unlisten(self, address: str) -> None:
        """Stop listening on an address; connections stay. BdevError ENOENT for an unknown one."""
        key = str(parse_address(address))
        if key not in self._listeners:
            known = ", ".join(self._listeners) or "none"
            raise BdevError(errno.ENOENT, f"no NBD server listens on {address}; addresses: {known}")
        self._listeners.pop(key).close()

    # Exports

    def add_export(
        self,
        bdev_name: str,
        export_name: str | None = None,
        *,
        read_only: bool = False,
        description: str = "",
        strict_blocks: bool | None = None,
    ) -> Export:
        """Export a bdev. The first export is also the default one (the empty name).

        strict_blocks: whether requests have to be whole blocks; None: as the server has it.

        Raises BdevError: ENODEV without such a bdev, EEXIST when the name is taken, EPERM when a
        module has claimed the bdev and the export is not read-only.
        """
        name = bdev_name if export_name is None else export_name
        for text, what in ((name, "export name"), (description, "description")):
            if len(text.encode()) > MAX_NAME_BYTES:
                raise BdevError(
                    errno.ENAMETOOLONG,
                    f"{what} of {len(text.encode())} bytes; {MAX_NAME_BYTES} are the most",
                )
        if name in self.exports:
            raise BdevError(
                errno.EEXIST,
                f"export {name!r} exists: it serves bdev {self.exports[name].bdev.name}",
            )
        bdev = self.registry.get(bdev_name)
        read_only = read_only or Op.WRITE not in bdev.ops
        descriptor = self.registry.open(
            bdev_name,
            write=not read_only,
            on_event=lambda event: self._bdev_event(export, event),
            holder=f"nbd export {name!r}",
            hide_metadata=bdev.md_interleave,  # NBD has no place for it, as little as for separate
        )
        export = Export(
            name,
            descriptor,
            read_only=read_only,
            description=description,
            strict_blocks=self.strict_blocks if strict_blocks is None else strict_blocks,
        )
        self.exports[name] = export
        if self.default_export is None:
            self.default_export = name
        log.info("nbd export added name=%s bdev=%s read_only=%s", name, bdev_name, read_only)
        return export

    def find_export(self, name: str) -> Export | None:
        """Return the export that a client means; the empty name is the default one."""
        if not name and "" not in self.exports and self.default_export is not None:
            name = self.default_export
        return self.exports.get(name)

    async def remove_export(self, name: str) -> None:
        """Take an export away: no new client, the present ones are disconnected in order."""
        export = self.exports.get(name)
        if export is None:
            known = ", ".join(map(repr, self.exports)) or "none"
            raise BdevError(errno.ENOENT, f"there is no export {name!r}; exports: {known}")
        await self._retire(export)

    def _retire(self, export: Export) -> Task[None]:
        """Take an export away; several may want that, and await the same end."""
        if export.retirement is None:
            del self.exports[export.name]
            if self.default_export == export.name:
                self.default_export = next(iter(self.exports), None)
            export.retirement = self.reactor.begin(
                self._end_export(export), f"removal of export {export.name}"
            )
        return export.retirement

    async def _end_export(self, export: Export) -> None:
        await self._drain(export)
        await export.descriptor.close()
        log.info("nbd export removed name=%s", export.name)

    def _bdev_event(self, export: Export, event: BdevEvent) -> None:
        if event is BdevEvent.REMOVE:
            self._retire(export)
        elif event is BdevEvent.RESIZE:
            # NBD has no message for it. The size of a connection is the one that was negotiated;
            # whoever asks from now on (NBD_OPT_INFO, NBD_OPT_GO) is told the new one.
            log.info(
                "nbd export resized name=%s bytes=%d", export.name, export.descriptor.size_bytes
            )

    # Connections

    def _connected(self, connection: socket.socket) -> None:
        if 0 < self.max_connections <= len(self._connections):
            connection.close()
            if not self._is_crowded:
                self._is_crowded = True
                log.warning(
                    "turning nbd clients away: there are %d, and max_connections is %d",
                    len(self._connections),
                    self.max_connections,
                )
            return
        self._is_crowded = False
        client = NbdConnection(self, connection)
        self._connections.add(client)  # before it starts, because it may end there
        client.start()
        if client in self._connections:
            self._deadlines[client] = self.reactor.clock.now_ns() + HANDSHAKE_US * 1000
            if self._deadline_timer is None:
                self._deadline_timer = self.reactor.call_later(HANDSHAKE_US, self._check_deadlines)

    def _check_deadlines(self) -> None:
        """Drop who has not chosen an export in time; look again when the next one is due."""
        self._deadline_timer = None
        now_ns = self.reactor.clock.now_ns()
        for client, deadline_ns in list(self._deadlines.items()):
            if deadline_ns > now_ns:
                delay_us = (deadline_ns - now_ns) / 1000
                self._deadline_timer = self.reactor.call_later(delay_us, self._check_deadlines)
                return
            client.drop(f"chose no export within {HANDSHAKE_US // 1_000_000} s")

    def place(self, connection: NbdConnection, tried: set[PollGroup]) -> PollGroup | None:
        """Give a connection that enters the transmission phase to the reactor with the fewest.

        None where all have been tried.
        """
        self._deadlines.pop(connection, None)
        return self.pick(tried)

    def pick(self, tried: set[PollGroup]) -> PollGroup | None:
        """Return the reactor with the fewest clients, which has one more now; None without any."""
        groups = [group for group in self._groups if group not in tried]
        if not groups:
            return None
        group = min(groups, key=lambda group: group.placed)
        group.placed += 1
        return group

    def connection_ended(self, connection: NbdConnection) -> None:
        """Forget a connection that has closed its socket."""
        self._connections.discard(connection)
        self._spared.discard(connection)
        self._deadlines.pop(connection, None)
        for export, future in list(self._waiting):
            if not self._has_clients(export) and not future.done:
                future.set_result(None)

    @property
    def connection_count(self) -> int:
        """Clients that are connected, in handshake or in transmission."""
        return len(self._connections)

    def _clients_of(self, export: Export | None) -> list[ExportClient]:
        """Return the connections of an export; of None, all that are not spared."""
        return list(self._connections - self._spared if export is None else export.connections)

    def _has_clients(self, export: Export | None) -> bool:
        """Whether there are any of `_clients_of`, without a look at each."""
        if export is None:
            return len(self._connections) > len(self._spared)
        return bool(export.connections)

    async def _drain(self, export: Export | None) -> None:
        """Disconnect in order; those who take no replies are dropped after DRAIN_US."""
        drained: Future[None] = Future()
        self._waiting.append((export, drained))

        def hurry() -> None:
            for connection in self._clients_of(export):
                connection.drop(f"took no replies for {DRAIN_US // 1_000_000} s at the end")

        timer = self.reactor.call_later(DRAIN_US, hurry)
        for connection in self._clients_of(export):
            connection.finish()
        if not self._has_clients(export) and not drained.done:
            drained.set_result(None)
        await drained
        timer.cancel()
        self._waiting.remove((export, drained))

    async def finish_others(self) -> bool:
        """Begin to stop: no new clients, and an orderly end of those that are not ourselves.

        Return whether there are others left: bdevs of this process that are clients of its own
        exports, and may still have to flush.
        """
        self._closing = True  # for who is opening a socket just now
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        clients = list(self._connections)
        own = own_ends(one.socket for one in clients)
        self._spared = {one for one, is_own in zip(clients, own, strict=True) if is_own}
        await self._drain(None)
        return bool(self._spared)

    async def close(self) -> None:
        """Stop: no new clients, replies to what is in flight, exports given up."""
        await self.finish_others()
        self._spared.clear()
        await self._drain(None)
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        for export in list(self.exports.values()):
            await self._retire(export)

    # Configuration

    def config(self) -> list[dict[str, object]]:
        """Return the RPC calls that make the same listeners and exports again."""
        limit = {"max_connections": self.max_connections} if self.max_connections else {}
        calls: list[dict[str, object]] = [
            {"method": "nbd_server_start", "params": {"address": str(address), **limit}}
            for address in self.addresses
        ]
        for export in self.exports.values():
            if not self.registry.comes_back(export.bdev):
                continue
            params: dict[str, object] = {"bdev_name": export.bdev.name, "export_name": export.name}
            if export.read_only:
                params["read_only"] = True
            if export.description:
                params["description"] = export.description
            if export.strict_blocks:
                params["strict_blocks"] = True
            calls.append({"method": "nbd_export_add", "params": params})
        return calls


def _parse(address: str) -> Address:
    if not is_utf8(address):  # it is a parameter in saved configurations, which are JSON
        raise ListenError(f"{printable(address)}: not UTF-8")
    return parse_address(address)
