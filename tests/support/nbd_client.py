"""NbdClient: a small synchronous NBD client on `vbdev.wire.nbd` that can also break the rules."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from vbdev.vocab import NbdError
from vbdev.wire.nbd import (
    NEED_DATA,
    BlockStatusChunk,
    ClientHandshake,
    Command,
    DataChunk,
    ErrorChunk,
    HoleChunk,
    Refused,
    ReplyParser,
    Request,
    SimpleReply,
    Transmission,
)
from vbdev.wire.nbd.constants import REQUEST_HEADER, REQUEST_MAGIC

RECEIVE_BYTES = 1 << 20


class NbdFailedError(Exception):
    """A request that the server answered with an error."""

    def __init__(self, error: NbdError):
        super().__init__(error.name)
        self.error = error


@dataclass
class Reply:
    """All that came for one request. `events`: the types of the messages, in order."""

    error: NbdError = NbdError.OK
    data: bytearray = field(default_factory=bytearray)
    extents: tuple = ()
    events: list = field(default_factory=list)


def header(command, cookie, offset=0, length=0, flags=0, *, magic=REQUEST_MAGIC) -> bytes:
    """Return a request header, legal or not."""
    return REQUEST_HEADER.pack(magic, flags, command, cookie, offset, length)


def connect(address, timeout_s=20) -> socket.socket:
    """Connect to a unix socket's path or to (host, port)."""
    is_path = isinstance(address, str)
    connection = socket.socket(socket.AF_UNIX if is_path else socket.AF_INET)
    try:
        connection.connect(address)  # blocking: with a timeout, a full backlog would be EAGAIN
        connection.settimeout(timeout_s)
    except BaseException:
        connection.close()
        raise
    return connection


class NbdClient:
    """A connection in transmission.

    address: path of a unix socket, or (host, port). contexts: metadata contexts to ask for.
    """

    def __init__(self, address, export="", *, structured=True, contexts=(), timeout_s=20):
        self.socket = connect(address, timeout_s)
        self._cookie = 0
        self._ended: dict[int, Reply] = {}
        self._open: dict[int, tuple[Request, Reply]] = {}
        handshake = ClientHandshake(export, structured_replies=structured, contexts=contexts)
        try:
            self.entered = self._negotiate(handshake)
        except BaseException:
            self.socket.close()
            raise
        self.parser = ReplyParser(
            structured_replies=self.entered.structured_replies,
            context_ids=[number for number, _ in self.entered.meta_contexts],
        )
        self.parser.feed(handshake.trailing_data)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()

    def _negotiate(self, handshake) -> Transmission:
        while True:
            event = handshake.next_event()
            if data := handshake.data_to_send():  # nothing is EPIPE too, once it hung up
                self.socket.sendall(data)
            if isinstance(event, Transmission):
                return event
            if isinstance(event, Refused) and not event.goes_on:
                raise ConnectionRefusedError(event.message)
            if event is NEED_DATA:
                data = self.socket.recv(RECEIVE_BYTES)
                handshake.feed(data) if data else handshake.feed_eof()

    @property
    def size(self) -> int:
        """Size of the export, in bytes."""
        return self.entered.info.size_bytes

    @property
    def flags(self):
        """Transmission flags."""
        return self.entered.info.flags

    # Requests

    def expect(self, command, offset=0, length=0, flags=0) -> int:
        """Register a request whose bytes are sent by other means; return its cookie."""
        self._cookie += 1
        request = Request(command, flags, self._cookie, offset, length)
        self.parser.expect(request)
        self._open[self._cookie] = (request, Reply())
        return self._cookie

    def message(self, command, offset=0, length=0, flags=0, data=b"") -> bytes:
        """Register a request and return its bytes; `length` is that of `data` where there is."""
        length = length or len(data)
        cookie = self.expect(command, offset, length, flags)
        return header(command, cookie, offset, length, flags) + data

    def start(self, command, offset=0, length=0, flags=0, data=b"") -> int:
        """Send a request and return its cookie."""
        self.send(self.message(command, offset, length, flags, data))
        return self._cookie

    def send(self, data) -> None:
        """Send bytes, whatever they mean."""
        self.socket.sendall(data)

    # Replies

    def wait(self, cookie) -> Reply:
        """Return the reply to a request, receiving until it has ended."""
        while cookie not in self._ended:
            if not self._take_event():
                data = self.socket.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError("the server hung up")
                self.parser.feed(data)
        return self._ended.pop(cookie)

    def _take_event(self) -> bool:
        event = self.parser.next_event()
        if event is NEED_DATA:
            return False
        request, reply = self._open[event.cookie]
        reply.events.append(type(event))
        if isinstance(event, SimpleReply | ErrorChunk):
            reply.error = event.error
        if isinstance(event, SimpleReply) and event.data:
            reply.data[:] = event.data
        elif isinstance(event, DataChunk | HoleChunk):
            reply.data = reply.data or bytearray(request.length_bytes)
            if isinstance(event, DataChunk):
                at = event.offset_bytes - request.offset_bytes
                reply.data[at : at + len(event.data)] = event.data
        elif isinstance(event, BlockStatusChunk):
            reply.extents = event.extents
        if event.done:
            del self._open[event.cookie]
            self._ended[event.cookie] = reply
        return True

    def wait_all(self) -> dict[int, Reply]:
        """Return the replies to everything that is outstanding, by cookie."""
        return {cookie: self.wait(cookie) for cookie in [*self._open, *self._ended]}

    def ask(self, command, offset=0, length=0, flags=0, data=b"") -> Reply:
        """Send a request and return its reply, which may be an error."""
        return self.wait(self.start(command, offset, length, flags, data))

    def at_end(self) -> bool:
        """Wait until the server hangs up; False where it says something instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    # One at a time, errors raised

    def _do(self, *arguments) -> Reply:
        reply = self.ask(*arguments)
        if reply.error:
            raise NbdFailedError(reply.error)
        return reply

    def read(self, offset, length) -> bytes:
        """READ."""
        return bytes(self._do(Command.READ, offset, length).data)

    def write(self, offset, data, flags=0) -> None:
        """WRITE."""
        self._do(Command.WRITE, offset, len(data), flags, data)

    def flush(self) -> None:
        """FLUSH."""
        self._do(Command.FLUSH)

    def disconnect(self) -> None:
        """Send DISC and wait until the server hangs up."""
        self.send(header(Command.DISC, 0))
        assert self.at_end()
        self.close()

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.socket.close()
