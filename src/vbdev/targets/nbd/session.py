"""One NBD client in transmission: the compiled stream of requests, on the reactor it was given to.

A session has its own channel to the export's bdev, got and given back on its reactor. It ends
when its client says so, goes away or breaks the protocol, when its export is removed, or when the
server stops. Requests in flight then run to their end before the socket is closed; replies are
still sent where the client is there to take them.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from vbdev.core.channel import Channel
from vbdev.core.engine import Engine
from vbdev.core.nbd_stream import NbdStream
from vbdev.reactor import Reactor, Timer, Watch
from vbdev.targets.nbd.block_status import Extents, find_extents
from vbdev.targets.nbd.export import Export
from vbdev.vocab import nbd_error, status_errno
from vbdev.wire.nbd import (
    CommandFlag,
    Transmission,
    encode_chunk_block_status,
    encode_chunk_error,
)

__all__ = ["CONTEXT_ID", "PollGroup", "Session"]

log = logging.getLogger(__name__)

CONTEXT_ID = 1
SEND_BUFFER_BYTES = 1 << 20
"""What a unix socket may hold of replies that the client has not taken, if net.core.wmem_max allows
it: several READs, so that both sides work at once. Costs memory only while it is full. TCP finds
its own size."""
STARVED_RETRY_US = 1000
"""How soon a session that found no memory, or no BdevIO, looks again."""
STALLED_US = 10_000_000
"""How long a client may take no reply while others wait for the memory that its replies hold."""


def stream_error(status: int, number: int) -> int:
    """Return the protocol's error value for a status and its errno."""
    return int(nbd_error(status_errno(status, number)))


class PollGroup:
    """One reactor's sessions, which share its memory.

    `sessions` belongs to the reactor's thread, `placed` (how many clients were given to it and
    have not ended) to the server's.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.sessions: set[Session] = set()
        self.placed = 0

    def is_short_of_memory(self) -> bool:
        """Whether I/Os or sessions of this reactor wait for memory now."""
        engine = self.reactor.engine
        assert isinstance(engine, Engine)
        return engine.waiting > 0 or any(
            s.stream is not None and s.stream.starved for s in self.sessions
        )


class Session:
    """A client from the end of its handshake to the close of its socket.

    Made by the server; everything but `peer` and `export` then belongs to the group's reactor.
    `on_end` is called there, once the socket is closed and the channel given back; `on_refusal`
    instead, with the socket as it was, where the session can not start.
    """

    def __init__(
        self,
        group: PollGroup,
        connection: socket.socket,
        *,
        peer: str,
        export: Export,
        over: Transmission,
        on_end: Callable[[], object],
        on_refusal: Callable[[], object],
    ) -> None:
        self.group = group
        self.peer = peer
        self.export = export
        self.stream: NbdStream | None = None
        self._socket = connection
        self._over = over
        self._on_end = on_end
        self._on_refusal = on_refusal
        self._channel: Channel | None = None
        self._watch: Watch | None = None
        self._retry_timer: Timer | None = None
        self._stall_timer: Timer | None = None
        self._looking = False
        self._progress = 0

    def start(self, early: bytes) -> None:
        """Serve. early: what the client sent behind its handshake."""
        reactor, export, over = self.group.reactor, self.export, self._over
        self.group.sessions.add(self)
        try:
            if self._socket.family == socket.AF_UNIX:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            self._channel = export.descriptor.get_channel()
            self.stream = NbdStream(
                self._channel.engine,
                self._channel,
                self._socket.fileno(),
                # The size that the client was told: it has no other, whatever the bdev has by now.
                size_bytes=over.info.size_bytes,
                transmission_flags=int(over.info.flags),
                structured=over.structured_replies,
                nbd_error=stream_error,
                on_change=self._look,
                early=early,
            )
            self._watch = reactor.watch(
                self._socket.fileno(),
                readable=self.stream.on_readable,
                writable=self.stream.on_writable,
            )
        except Exception:  # another reactor may have what this one has not
            log.exception("nbd client can not be served here reactor=%s", reactor.name)
            self._let_go()
            self._on_refusal()
            return
        log.info(
            "nbd client connected export=%s peer=%s structured=%s reactor=%s",
            export.name,
            self.peer,
            over.structured_replies,
            reactor.name,
        )
        self.stream.process()
        self._look()

    def _look(self) -> None:
        """Follow the stream's state: requests for Python, what to wait for, the end."""
        stream, watch = self.stream, self._watch
        if stream is None or watch is None or self._looking:
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
        if stream.closed and self._socket.fileno() >= 0:
            watch.close()  # a hang-up would be reported again and again
            return
        if not stream.closed:
            watch.update(read=stream.wants_read, write=stream.wants_write)
        reactor = self.group.reactor
        if stream.starved and self._retry_timer is None:
            self._retry_timer = reactor.call_later(STARVED_RETRY_US, self._retry)
        if stream.wants_write and self._stall_timer is None:
            self._progress = stream.sent_bytes
            self._stall_timer = reactor.call_later(STALLED_US, self._check_stalled)

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
        if stream.sent_bytes == self._progress and self.group.is_short_of_memory():
            stream.shut(
                f"took none of its replies for {STALLED_US // 1_000_000} s while others waited"
                f" for the {stream.held_bytes} bytes they hold"
            )
        self._look()

    def _block_status(
        self, _command: int, flags: int, cookie: int, offset_bytes: int, length_bytes: int
    ) -> None:
        stream = self.stream
        assert stream is not None
        if not self._over.meta_contexts:
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
            self.export.descriptor,
            offset_bytes,
            length_bytes,
            one=bool(flags & CommandFlag.REQ_ONE),
            done=found,
        )

    # The end

    def finish(self) -> None:
        """End in order: no further request, replies to those in flight, then close."""
        if self.stream is not None:
            self.stream.finish()
            self._look()

    def drop(self, reason: str) -> None:
        """End now: no further reply. I/O in flight runs to its end first."""
        if self.stream is not None:
            self.stream.shut(reason)
            self._look()

    def _end(self, reason: str) -> None:
        if self not in self.group.sessions:
            return
        log.info("nbd client gone export=%s peer=%s reason=%s", self.export.name, self.peer, reason)
        for timer in (self._retry_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._retry_timer = self._stall_timer = None
        if self._watch is not None:
            self._watch.close()
        self._socket.close()
        if self.stream is not None:
            self.stream.shut(reason)
        self._let_go()
        self._on_end()

    def _let_go(self) -> None:
        self.group.sessions.remove(self)
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        if self._channel is not None:
            self.export.descriptor.put_channel(self._channel)
            self._channel = None
