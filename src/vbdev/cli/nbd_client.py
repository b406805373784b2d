"""A small blocking NBD client on the codec of `vbdev.wire.nbd`: what the demo falls back to."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType
from typing import Self

from vbdev.wire.nbd import (
    NEED_DATA,
    ClientHandshake,
    Closed,
    Command,
    DataChunk,
    ErrorChunk,
    Refused,
    ReplyParser,
    Request,
    SimpleReply,
    Transmission,
    encode_request,
)

__all__ = ["NbdClient", "NbdClientError"]

RECEIVE_BYTES = 1 << 20


class NbdClientError(Exception):
    """The server refused, failed a request, or went away."""


class NbdClient:
    """One connection to an export over a unix socket; one request at a time."""

    def __init__(self, path: str, export_name: str = "", timeout_s: float = 30) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._cookie = 0
        try:
            self._socket.connect(path)
            entered, early = self._shake_hands(ClientHandshake(export_name))
        except BaseException:
            self._socket.close()
            raise
        self.size_bytes = entered.info.size_bytes
        self._replies = ReplyParser(structured_replies=entered.structured_replies)
        if early:
            self._replies.feed(early)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _shake_hands(self, handshake: ClientHandshake) -> tuple[Transmission, bytes]:
        refusal = ""
        while True:
            while (event := handshake.next_event()) is not NEED_DATA:
                if isinstance(event, Transmission):
                    return event, handshake.trailing_data
                if isinstance(event, Refused) and not event.goes_on:
                    refusal = f": {event.message}"
                if isinstance(event, Closed):
                    raise NbdClientError(event.reason + refusal)
            if out := handshake.data_to_send():
                self._socket.sendall(out)
            data = self._socket.recv(RECEIVE_BYTES)
            if data:
                handshake.feed(data)
            else:
                handshake.feed_eof()

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Return `length_bytes` at `offset_bytes`."""
        data = bytearray(length_bytes)
        self._request(Command.READ, offset_bytes, length_bytes, b"", data)
        return bytes(data)

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Write `data` at `offset_bytes`."""
        self._request(Command.WRITE, offset_bytes, len(data), data, None)

    def flush(self) -> None:
        """Wait until everything written is on stable storage."""
        self._request(Command.FLUSH, 0, 0, b"", None)

    def close(self) -> None:
        """Say good-bye and hang up. Idempotent."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):  # the server may have hung up first
                self._socket.sendall(encode_request(Command.DISC, self._cookie + 1))
            self._socket.close()

    def _request(
        self,
        command: Command,
        offset_bytes: int,
        length_bytes: int,
        payload: bytes,
        into: bytearray | None,
    ) -> None:
        self._cookie += 1
        self._replies.expect(Request(command, 0, self._cookie, offset_bytes, length_bytes))
        header = encode_request(command, self._cookie, offset_bytes, length_bytes)
        self._socket.sendall(header + payload)
        while True:
            while (event := self._replies.next_event()) is NEED_DATA:
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    raise NbdClientError(f"the server hung up before it answered {command.name}")
                self._replies.feed(data)
            if isinstance(event, SimpleReply | ErrorChunk) and event.error:
                raise NbdClientError(f"{command.name} at {offset_bytes}: {event.error.name}")
            if into is not None and isinstance(event, DataChunk):
                at = event.offset_bytes - offset_bytes
                into[at : at + len(event.data)] = event.data
            elif into is not None and isinstance(event, SimpleReply):
                into[:] = event.data
            if isinstance(event, SimpleReply) or event.done:
                return
