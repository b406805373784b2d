"""One NBD client as its server sees it: the handshake, then a session that a reactor serves.

The handshake, which needs what the server has, runs on the server's reactor. The transmission
phase then runs on the reactor with the fewest clients; the server asks it by message to end, and
is told by message when it has.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from typing import Protocol

from vbdev.core.nbd.server.stream import NbdStream
from vbdev.reactor.reactor import Reactor
from vbdev.targets.nbd.export import META_CONTEXT, Export
from vbdev.targets.nbd.poll_group import PollGroup
from vbdev.targets.nbd.session import CONTEXT_ID, Session
from vbdev.wire.nbd import (
    Closed,
    ContextRequest,
    ExportRequest,
    ListRequest,
    NeedData,
    OptionReply,
    RemoteProtocolError,
    ServerEvent,
    ServerHandshake,
    Transmission,
)

__all__ = ["NbdConnection"]

log = logging.getLogger(__name__)

HANDSHAKE_BYTES = 1 << 16


class ConnectionServer(Protocol):
    """What a connection asks of the server that has accepted it."""

    reactor: Reactor

    @property
    def exports(self) -> Mapping[str, Export]:
        """The exports, by name."""

    def find_export(self, name: str) -> Export | None:
        """Return the export of a name; the default one for the empty name."""

    def place(self, connection: NbdConnection, tried: set[PollGroup]) -> PollGroup | None:
        """Give a connection that enters the transmission phase to a reactor; None without any."""

    def connection_ended(self, connection: NbdConnection) -> None:
        """Forget a connection that has closed its socket."""


class NbdConnection:
    """A client of an `NbdServer`, from accept to close. Belongs to the server's reactor."""

    def __init__(self, server: ConnectionServer, connection: socket.socket) -> None:
        self.server = server
        self.socket = connection
        self.export: Export | None = None
        self._session: Session | None = None
        self._tried: set[PollGroup] = set()
        self._leaving = ""  # why it was asked to end
        self._handshake: ServerHandshake | None = ServerHandshake((META_CONTEXT,))
        self._unsent = b""
        self._talk_due = False  # it has options of the client that there was no time for
        self._told: Export | None = None  # the export that it was told of last
        self._over: tuple[Transmission, bytes] | None = None
        """How the handshake ended, while not all that it says is sent."""
        self._watch = server.reactor.watch(
            connection.fileno(), readable=self._readable, writable=self._writable
        )

    def start(self) -> None:
        """Greet the client; where it has gone already, this is the end of the connection."""
        self._talk()

    @property
    def peer(self) -> str:
        """Who this is, for logs."""
        try:
            name = self.socket.getpeername()
        except OSError:
            return "a client that has gone"
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a local client"

    @property
    def stream(self) -> NbdStream | None:
        """The stream of its session, which belongs to that one's reactor; None without one."""
        return self._session.stream if self._session is not None else None

    # Handshake

    def _readable(self) -> None:
        assert self._handshake is not None
        if self._talk_due:  # nothing more is read before what is here has been looked at
            return
        try:
            data = self.socket.recv(HANDSHAKE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"client went away: {error.strerror}")
            return
        if data:
            self._handshake.feed(data)
        else:
            self._handshake.feed_eof()
        self._talk()

    def _talk(self) -> None:
        """Answer what the client has asked; send what there is to send."""
        handshake = self._handshake
        assert handshake is not None
        event: ServerEvent | NeedData | None = None
        over: Transmission | Closed | None = None
        failure = ""
        # No further option is looked at before the answer to the last one is sent: the list of
        # exports, asked for a thousand times in one segment, would be a lot to keep.
        while not (over or failure or self._unsent or isinstance(event, NeedData)):
            try:
                event = handshake.next_event()
            except RemoteProtocolError as error:
                failure = str(error)
            else:
                if isinstance(event, Transmission | Closed):
                    over = event
                elif not isinstance(event, NeedData):
                    self._answer(handshake, event)
            self._unsent += handshake.data_to_send()
            if not self._send_handshake():
                return
            if not (over or failure or self._unsent) and self.server.reactor.late:
                self._talk_due = True  # others first
                self.server.reactor.send_msg(self._talk_on)
                return
        if failure:
            self._end(failure)
        elif isinstance(over, Closed):
            self._end(over.reason)
        elif over is not None:
            self._transmit(over, handshake.trailing_data)

    def _talk_on(self) -> None:
        self._talk_due = False
        if self._handshake is not None and self.socket.fileno() >= 0 and not self._unsent:
            self._talk()

    def _answer(
        self, handshake: ServerHandshake, event: ListRequest | ExportRequest | ContextRequest
    ) -> None:
        if isinstance(event, ListRequest):
            exports = self.server.exports.values()
            handshake.answer_list([(e.name, e.title) for e in exports])
            return
        export = self.server.find_export(event.export_name)
        if export is None:
            handshake.refuse(
                OptionReply.ERR_UNKNOWN, f"there is no export named {event.export_name!r}"
            )
        elif isinstance(event, ExportRequest):
            self._told = export
            handshake.answer_export(export.info())
        else:
            handshake.answer_contexts([(CONTEXT_ID, name) for name in event.matches])

    def _send_handshake(self) -> bool:
        """Send what is unsent; False when the client has gone."""
        while self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except BlockingIOError:
                # Not reading before it has taken its answers bounds what it makes us keep.
                self._watch.update(read=False, write=True)
                return True
            except OSError as error:
                self._end(f"client went away: {error.strerror}")
                return False
            self._unsent = self._unsent[sent:]
        self._watch.update(read=True, write=False)
        return True

    def _writable(self) -> None:
        if self._send_handshake() and not self._unsent:
            if self._over is not None:
                self._transmit(*self._over)
            else:
                self._talk()

    # Transmission

    def _transmit(self, over: Transmission, early: bytes) -> None:
        if self._unsent:
            # The stream sends for itself; what the handshake says comes first. A client that does
            # not take it is one that negotiates, and has as long as these.
            self._over = over, early
            return
        export = self.server.find_export(over.export_name)
        # Another one of its name has another size, other flags and other data than were told.
        if export is None or export is not self._told:
            self._end(f"export {over.export_name!r} was removed")
            return
        self._handshake = None
        self._watch.close()
        self.export = export
        export.connections.add(self)
        self._give(export, over, early)

    def _give(self, export: Export, over: Transmission, early: bytes) -> None:
        """Let the reactor with the fewest clients serve; where that one can not, the next."""
        group = self.server.place(self, self._tried)
        if group is None:
            self._end("no reactor can serve it")
            return
        self._tried.add(group)
        session = self._session = Session(
            group,
            self.socket,
            peer=self.peer,
            export=export,
            over=over,
            on_end=lambda: self.server.reactor.exec_msg(self._session_ended),
            on_refusal=lambda: self.server.reactor.exec_msg(self._refused, export, over, early),
        )
        if not group.reactor.exec_msg(session.start, early):
            self._refused(export, over, early)

    def _refused(self, export: Export, over: Transmission, early: bytes) -> None:
        assert self._session is not None
        self._session.group.placed -= 1
        self._session = None
        if self._leaving:
            self._end(self._leaving)
        else:
            self._give(export, over, early)

    def _session_ended(self) -> None:
        assert self._session is not None
        self._session.group.placed -= 1
        self._leave()

    # The end

    def finish(self) -> None:
        """End in order: no further request, replies to those in flight, then close."""
        self._leaving = "the server stops"
        if self._session is None:
            self._end(self._leaving)
        else:
            self._session.group.reactor.exec_msg(self._session.finish)

    def drop(self, reason: str) -> None:
        """End now: no further reply. I/O in flight runs to its end first."""
        self._leaving = reason
        if self._session is None:
            self._end(reason)
        else:
            self._session.group.reactor.exec_msg(self._session.drop, reason)

    def _end(self, reason: str) -> None:
        """End a connection that no session has."""
        if self.socket.fileno() < 0:
            return
        name = self.export.name if self.export is not None else "-"
        log.info("nbd client gone export=%s peer=%s reason=%s", name, self.peer, reason)
        self._watch.close()
        self.socket.close()
        self._leave()

    def _leave(self) -> None:
        if self.export is not None:
            self.export.connections.discard(self)
        self.server.connection_ended(self)
