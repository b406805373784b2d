"""One NBD client: the handshake in Python, then the compiled stream of requests.

A connection ends when its client says so, goes away or breaks the protocol, when its export is
removed, or when the server stops. Requests in flight then run to their end before the socket is
closed; replies are still sent where the client is there to take them.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from vbdev.core.engine import Engine
from vbdev.core.nbd_stream import NbdStream
from vbdev.reactor import Timer
from vbdev.targets.nbd.block_status import Extents, find_extents
from vbdev.targets.nbd.export import META_CONTEXT, Export
from vbdev.vocab import nbd_error, status_errno
from vbdev.wire.nbd import (
    Closed,
    CommandFlag,
    ContextRequest,
    ExportRequest,
    ListRequest,
    NeedData,
    OptionReply,
    RemoteProtocolError,
    ServerEvent,
    ServerHandshake,
    Transmission,
    encode_chunk_block_status,
    encode_chunk_error,
)

if TYPE_CHECKING:
    from vbdev.targets.nbd.server import NbdServer

__all__ = ["NbdConnection"]

log = logging.getLogger(__name__)

CONTEXT_ID = 1
HANDSHAKE_BYTES = 1 << 16
STARVED_RETRY_US = 1000
"""How soon a connection that found no memory, or no BdevIO, looks again."""
STALLED_US = 10_000_000
"""How long a client may take no reply while others wait for the memory that its replies hold."""


def stream_error(status: int, number: int) -> int:
    """Return the protocol's error value for a status and its errno."""
    return int(nbd_error(status_errno(status, number)))


class NbdConnection:
    """A client of an `NbdServer`, from accept to close."""

    def __init__(self, server: NbdServer, connection: socket.socket) -> None:
        self.server = server
        self.socket = connection
        self.export: Export | None = None
        self.stream: NbdStream | None = None
        self._handshake: ServerHandshake | None = ServerHandshake((META_CONTEXT,))
        self._unsent = b""
        self._retry_timer: Timer | None = None
        self._stall_timer: Timer | None = None
        self._looking = False
        self._wants_context = False
        self._progress = 0
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

    # Handshake

    def _readable(self) -> None:
        if self.stream is not None:
            self.stream.receive()
            self._look()
            return
        assert self._handshake is not None
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
        if failure:
            self._end(failure)
        elif isinstance(over, Closed):
            self._end(over.reason)
        elif over is not None:
            self._transmit(over, handshake.trailing_data)

    def _answer(
        self, handshake: ServerHandshake, event: ListRequest | ExportRequest | ContextRequest
    ) -> None:
        if isinstance(event, ListRequest):
            exports = self.server.exports.values()
            handshake.answer_list([(e.name, e.info().description or "") for e in exports])
            return
        export = self.server.find_export(event.export_name)
        if export is None:
            handshake.refuse(
                OptionReply.ERR_UNKNOWN, f"there is no export named {event.export_name!r}"
            )
        elif isinstance(event, ExportRequest):
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
        if self.stream is not None:
            self.stream.send()
            self._look()
        elif self._send_handshake() and not self._unsent:
            self._talk()

    # Transmission

    def _transmit(self, over: Transmission, early: bytes) -> None:
        if self._unsent:
            # The stream sends for itself; what the handshake says comes first.
            self._watch.update(read=False, write=False)
            self._retry_timer = self.server.reactor.call_later(
                STARVED_RETRY_US, lambda: self._retry_transmit(over, early)
            )
            return
        export = self.server.find_export(over.export_name)
        if export is None:
            self._end(f"export {over.export_name!r} was removed")
            return
        self._handshake = None
        self.export = export
        export.connections.add(self)
        self.server.connection_negotiated(self)
        self._wants_context = bool(over.meta_contexts)
        engine = self.server.reactor.engine
        assert isinstance(engine, Engine)
        self.stream = NbdStream(
            engine,
            export.descriptor.get_channel(),
            self.socket.fileno(),
            transmission_flags=int(over.info.flags),
            structured=over.structured_replies,
            nbd_error=stream_error,
            on_change=self._look,
            early=early,
        )
        log.info(
            "nbd client connected export=%s peer=%s structured=%s",
            export.name,
            self.peer,
            over.structured_replies,
        )
        self.stream.process()
        self._look()

    def _retry_transmit(self, over: Transmission, early: bytes) -> None:
        self._retry_timer = None
        if self._send_handshake():
            self._transmit(over, early)

    def _look(self) -> None:
        """Follow the stream's state: requests for Python, what to wait for, the end."""
        stream = self.stream
        if stream is None or self._looking:
            return
        self._looking = True
        try:
            # An answer that is there at once makes room for the next request, and so on.
            while specials := stream.take_specials():
                for special in specials:
                    self._block_status(*special)
        finally:
            self._looking = False
        if (stream.closed or stream.disconnecting) and stream.idle:
            self._end(stream.reason or "client disconnected")
            return
        if stream.closed and self.socket.fileno() >= 0:
            self._watch.close()  # a hang-up would be reported again and again
            return
        if not stream.closed:
            self._watch.update(read=stream.wants_read, write=stream.wants_write)
        if stream.starved and self._retry_timer is None:
            self._retry_timer = self.server.reactor.call_later(STARVED_RETRY_US, self._retry)
        if stream.wants_write and self._stall_timer is None:
            self._progress = stream.sent_bytes
            self._stall_timer = self.server.reactor.call_later(STALLED_US, self._check_stalled)

    def _retry(self) -> None:
        self._retry_timer = None
        if self.stream is not None:
            self.stream.resume()
            self._look()

    def _check_stalled(self) -> None:
        """Drop a client whose unread replies hold memory that others wait for."""
        self._stall_timer = None
        stream = self.stream
        if stream is None or not stream.wants_write:
            return
        if stream.sent_bytes == self._progress and self.server.is_short_of_memory():
            stream.shut(
                f"took none of its replies for {STALLED_US // 1_000_000} s while others waited"
                f" for the {stream.held_bytes} bytes they hold"
            )
        self._look()

    def _block_status(
        self, _command: int, flags: int, cookie: int, offset_bytes: int, length_bytes: int
    ) -> None:
        stream, export = self.stream, self.export
        assert stream is not None
        assert export is not None
        if not self._wants_context:
            # "NBD_CMD_BLOCK_STATUS": without a negotiated context it is NBD_EINVAL.
            stream.reply_raw(encode_chunk_error(cookie, nbd_error(22), "no context was negotiated"))
            return

        def found(extents: Extents, number: int) -> None:
            if number:
                stream.reply_raw(encode_chunk_error(cookie, nbd_error(number), ""))
            else:
                stream.reply_raw(encode_chunk_block_status(cookie, CONTEXT_ID, extents, done=True))
            self._look()

        find_extents(
            export.descriptor,
            offset_bytes,
            length_bytes,
            one=bool(flags & CommandFlag.REQ_ONE),
            done=found,
        )

    # The end

    def finish(self) -> None:
        """End in order: no further request, replies to those in flight, then close."""
        if self.stream is None:
            self._end("the server stops")
        else:
            self.stream.finish()
            self._look()

    def drop(self, reason: str) -> None:
        """End now: no further reply. I/O in flight runs to its end first."""
        if self.stream is None:
            self._end(reason)
        else:
            self.stream.shut(reason)
            self._look()

    def _end(self, reason: str) -> None:
        if self.socket.fileno() < 0:
            return
        log.info(
            "nbd client gone export=%s peer=%s reason=%s",
            self.export.name if self.export else "-",
            self.peer,
            reason,
        )
        for timer in (self._retry_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._retry_timer = self._stall_timer = None
        self._watch.close()
        self.socket.close()
        if self.stream is not None:
            self.stream.shut(reason)
            self.stream.close()
            self.stream = None
        if self.export is not None:
            self.export.connections.discard(self)
        self.server.connection_ended(self)
