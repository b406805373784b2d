"""One NBD client in transmission: the compiled stream of requests, on the reactor it was given to.

A session has its own channel to the export's bdev, got and given back on its reactor. It ends
when its client says so, goes away or breaks the protocol, when its export is removed, or when the
server stops. Requests in flight then run to their end before the socket is closed; replies are
still sent where the client is there to take them.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import sys
import termios
from collections.abc import Callable

from vbdev.core.engine.channel import Channel
from vbdev.core.nbd.server.stream import NbdStream
from vbdev.reactor.reactor import Watch
from vbdev.targets.nbd.block_status import Extents, find_extents
from vbdev.targets.nbd.export import Export
from vbdev.targets.nbd.poll_group import PollGroup
from vbdev.vocab import nbd_error, status_errno
from vbdev.wire.nbd import (
    CommandFlag,
    Transmission,
    encode_chunk_block_status,
    encode_chunk_error,
)

__all__ = ["CONTEXT_ID", "Session"]

log = logging.getLogger(__name__)

CONTEXT_ID = 1
SEND_BUFFER_BYTES = 1 << 20
"""What a unix socket may hold of replies that the client has not taken, if net.core.wmem_max allows
it: several READs, so that both sides work at once. Costs memory only while it is full. TCP finds
its own size."""


def stream_error(status: int, number: int) -> int:
    """Return the protocol's error value for a status and its errno."""
    return int(nbd_error(status_errno(status, number)))


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
        self._sharers = group
        self._channel: Channel | None = None
        self._watch: Watch | None = None
        self._looking = False
        self._over_with = False

    def start(self, early: bytes) -> None:
        """Serve. early: what the client sent behind its handshake."""
        reactor, export, over = self.group.reactor, self.export, self._over
        try:
            if self._socket.family == socket.AF_UNIX:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            self._channel = export.descriptor.get_channel()
            self._sharers = self.group.sharers_of(export)
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
                memory=self._sharers.memory,
                any_bytes=not export.strict_blocks,
                remote=export.bdev.remote,
            )
            self._sharers.streams[self.stream] = self
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

    def untaken_bytes(self) -> int:
        """Return what the socket holds of replies that the peer has not taken (tcp(7), SIOCOUTQ).

        In the kernel's measure, which counts its own part of each packet on unix sockets.
        """
        try:
            queued = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(queued, sys.byteorder)

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

        assert self._channel is not None
        find_extents(
            self._channel.engine,
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
        if self._over_with:
            return
        self._over_with = True
        log.info("nbd client gone export=%s peer=%s reason=%s", self.export.name, self.peer, reason)
        if self._watch is not None:
            self._watch.close()
        self._socket.close()
        if self.stream is not None:
            self.stream.shut(reason)
        self._let_go()
        self._on_end()

    def _let_go(self) -> None:
        if self.stream is not None:
            self._sharers.forget(self.stream)
            self.stream.close()
            self.stream = None
        if self._channel is not None:
            self.export.descriptor.put_channel(self._channel)
            self._channel = None
