"""StreamRig: the compiled NbdStream on a socket pair, step by step, without threads or a reactor.

The rig is the peer: it feeds bytes in whatever pieces, turns the engine, and collects what the
stream answers. Deterministic, and fast enough for Hypothesis.
"""

from __future__ import annotations

import socket

from vbdev.core.engine.engine import Engine
from vbdev.core.nbd.server.stream import NbdStream
from vbdev.daemon.app import App
from vbdev.targets.nbd.session import stream_error
from vbdev.wire.nbd import (
    NEED_DATA,
    ReplyParser,
    TransmissionFlag,
    decode_request_header,
    encode_chunk_block_status,
)

SOCKET_BYTES = 1 << 20
RECEIVE_BYTES = 1 << 20
ALL_FLAGS = (
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_FUA
    | TransmissionFlag.SEND_TRIM
    | TransmissionFlag.SEND_WRITE_ZEROES
    | TransmissionFlag.SEND_DF
    | TransmissionFlag.SEND_CACHE
    | TransmissionFlag.SEND_FAST_ZERO
)
REQUEST_BYTES = 28
CONTEXT_ID = 1


class StreamRig:
    """A malloc bdev `Disk` and a stream of it. `connect` makes a new stream on the same bdev."""

    def __init__(
        self, num_blocks=2048, block_size=512, kind="malloc", module=None, **engine_options
    ):
        self.app = App()
        # On a virtual clock guesses decide how much fits into a turn, and not the machine.
        self.app.engine = self.app.reactor.engine = Engine(virtual=True, **engine_options)
        self.engine = self.app.engine
        if module is not None:
            self.app.add_module(module)
            kind = module.kind
        self.app.create(kind, {"name": "Disk", "num_blocks": num_blocks, "block_size": block_size})
        self.descriptor = self.app.registry.open(
            "Disk", write=True, on_event=lambda _event: None, holder="test"
        )
        self.channel = self.descriptor.get_channel()
        self.stream = None

    def connect(self, *, flags=ALL_FLAGS, structured=False, early=b""):
        """Begin a new connection; the one before has to be over, and to hold nothing."""
        self.disconnect()
        self.near, self.far = socket.socketpair()
        for end in (self.near, self.far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self.parser = ReplyParser(structured_replies=structured, context_ids=[CONTEXT_ID])
        self.output = bytearray()
        self.stream = NbdStream(
            self.engine,
            self.channel,
            self.far.fileno(),
            transmission_flags=int(flags),
            structured=structured,
            nbd_error=stream_error,
            on_change=lambda: None,
            early=early,
        )
        if early:
            self.stream.process()
            self.pump()

    def disconnect(self):
        """End the connection, if there is one, and look whether anything is left of it."""
        if self.stream is None:
            return
        self.stream.shut("test")
        while self.engine.drain():
            pass
        assert self.stream.idle
        assert self.stream.held_bytes == 0
        self.stream.close()
        self.stream = None
        self.near.close()
        self.far.close()
        assert self.engine.ios_in_use == 0
        assert self.engine.buffers.live_buffers == 0

    def pump(self, *, reading=True):
        """Turn until nothing moves. With `reading` false the peer takes no reply."""
        while True:
            moved = self.stream.requests + self.stream.receives + self.stream.sent_bytes
            if self.stream.wants_read:
                self.stream.receive()
            self.engine.drain()
            for _command, _flags, cookie, _offset, length in self.stream.take_specials():
                extents = [(length, 0)]
                self.stream.reply_raw(
                    encode_chunk_block_status(cookie, CONTEXT_ID, extents, done=True)
                )
            if reading:
                self._take_output()
                if self.stream.wants_write:
                    self.stream.send()
            idle = not self.stream.wants_write or not reading
            if (
                idle
                and not self.engine.pending
                and moved
                in (
                    # An attempt to receive that found nothing counts as one receive.
                    self.stream.requests + self.stream.receives + self.stream.sent_bytes,
                    self.stream.requests + self.stream.receives + self.stream.sent_bytes - 1,
                )
            ):
                return

    def _take_output(self):
        while True:
            try:
                data = self.near.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            if not data:
                return
            self.output += data

    def feed(self, data, *, reading=True):
        """Send bytes and let the stream work on them; return what did not fit."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.near.send(view) :]
            except BlockingIOError:
                if not self.stream.wants_read and not self.stream.wants_write:
                    return view
                if not reading:
                    return view
            except BrokenPipeError:
                return view
            self.pump(reading=reading)
        return view

    def expect(self, message):
        """Register the request that a message begins with, for `replies`."""
        self.parser.expect(decode_request_header(message[:REQUEST_BYTES]))

    def replies(self):
        """Return the events in what the stream has answered so far, and forget them."""
        self.parser.feed(bytes(self.output))
        self.output.clear()
        events = []
        while (event := self.parser.next_event()) is not NEED_DATA:
            events.append(event)
        return events

    def close(self):
        """End everything."""
        self.disconnect()
        self.descriptor.close()
        self.app.reactor.run_until_complete(self.app.stop())
        self.app.reactor.close()
