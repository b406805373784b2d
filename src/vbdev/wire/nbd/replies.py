"""A client's view of the transmission phase: the server's replies as events, without I/O.

A simple reply does not say how long it is, so the parser has to know each request before its
reply arrives: `expect` registers it. That also lets it hold the server to its word. A reply must
belong to a request that is outstanding; its chunks must suit the command, lie within the
request, not overlap, and cover all of a READ that succeeds ("Structured reply types").

Memory is bounded by the requests outstanding: a payload is kept only where it is no longer than
what its request can bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from vbdev.vocab import NbdError
from vbdev.wire.nbd.buffer import ReceiveBuffer
from vbdev.wire.nbd.constants import (
    CHUNK_HEADER,
    ERROR_CHUNK_BIT,
    MAX_STATUS_EXTENTS,
    MAX_STRING_BYTES,
    NEED_DATA,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    ChunkFlag,
    ChunkType,
    Command,
    NeedData,
)
from vbdev.wire.nbd.errors import LocalProtocolError, RemoteProtocolError
from vbdev.wire.nbd.pending import PendingRequest
from vbdev.wire.nbd.transmission import ERROR_HEAD, EXTENT, HOLE, OFFSET, Request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vbdev.wire.nbd.buffer import BytesLike

__all__ = [
    "BlockStatusChunk",
    "DataChunk",
    "ErrorChunk",
    "HoleChunk",
    "NoneChunk",
    "ReplyEvent",
    "ReplyParser",
    "SimpleReply",
]

_MAGIC_BYTES: Final = 4
_CONTEXT_ID_BYTES: Final = 4
_MAX_ERROR_BYTES: Final = ERROR_HEAD.size + MAX_STRING_BYTES + OFFSET.size


@dataclass(frozen=True, slots=True)
class SimpleReply:
    """The whole answer to a request; `data` is a READ's."""

    cookie: int
    error: NbdError
    data: bytes
    done: bool = True


@dataclass(frozen=True, slots=True)
class NoneChunk:
    """The end of a structured reply that brings nothing else."""

    cookie: int
    done: bool = True


@dataclass(frozen=True, slots=True)
class DataChunk:
    """A part of what a READ asked for."""

    cookie: int
    offset_bytes: int
    data: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class HoleChunk:
    """A part of what a READ asked for, all zeroes."""

    cookie: int
    offset_bytes: int
    length_bytes: int
    done: bool


@dataclass(frozen=True, slots=True)
class BlockStatusChunk:
    """(length in bytes, flags) of consecutive extents in one metadata context."""

    cookie: int
    context_id: int
    extents: tuple[tuple[int, int], ...]
    done: bool


@dataclass(frozen=True, slots=True)
class ErrorChunk:
    """An error, at an offset where the server told one."""

    cookie: int
    error: NbdError
    message: str
    offset_bytes: int | None
    done: bool


ReplyEvent: TypeAlias = (
    SimpleReply | NoneChunk | DataChunk | HoleChunk | BlockStatusChunk | ErrorChunk
)


class ReplyParser:
    """Splits what a server sends into replies.

    `context_ids` are those that the handshake brought: every successful BLOCK_STATUS must
    tell about each of them, and about no other. An event with `done` ends its request.

    >>> parser = ReplyParser(structured_replies=False)
    >>> parser.expect(Request(Command.READ, 0, cookie=7, offset_bytes=0, length_bytes=2))
    >>> parser.feed(bytes.fromhex("67446698 00000000 0000000000000007") + b"hi")
    >>> parser.next_event()
    SimpleReply(cookie=7, error=<NbdError.OK: 0>, data=b'hi', done=True)
    """

    def __init__(self, *, structured_replies: bool, context_ids: Iterable[int] = ()) -> None:
        self._structured = structured_replies
        self._context_ids = frozenset(context_ids)
        self._inbox = ReceiveBuffer()
        self._pending: dict[int, PendingRequest] = {}
        self._magic = 0
        self._header: tuple[int, ...] | None = None
        self._payload_bytes = 0
        self._failure = ""

    @property
    def outstanding_count(self) -> int:
        """Requests whose replies have not ended."""
        return len(self._pending)

    def expect(self, request: Request) -> None:
        """Register a request before its bytes are sent. Its cookie must be free."""
        if request.command == Command.DISC:
            raise LocalProtocolError("NBD_CMD_DISC has no reply")
        if request.cookie in self._pending:
            raise LocalProtocolError(f"cookie {request.cookie} is still outstanding")
        self._pending[request.cookie] = PendingRequest(request)

    def feed(self, data: BytesLike) -> None:
        """Take bytes from the server. Take events until NEED_DATA before feeding more."""
        self._raise_failure()
        self._inbox.feed(data)

    def next_event(self) -> ReplyEvent | NeedData:
        """Return the next reply or chunk, or NEED_DATA. Raises RemoteProtocolError."""
        self._raise_failure()
        if not self._magic and not self._read_magic():
            return NEED_DATA
        simple = self._magic == SIMPLE_REPLY_MAGIC
        if self._header is None:
            form = SIMPLE_REPLY if simple else CHUNK_HEADER
            data = self._inbox.take(form.size - _MAGIC_BYTES)
            if data is None:
                return NEED_DATA
            self._header = form.unpack(self._magic.to_bytes(_MAGIC_BYTES) + data)
            check = self._check_simple if simple else self._check_chunk
            self._payload_bytes = check(*self._header)
        payload = self._inbox.take(self._payload_bytes)
        if payload is None:
            return NEED_DATA
        finish = self._finish_simple if simple else self._finish_chunk
        event = finish(payload, *self._header)
        self._magic, self._header = 0, None
        return event

    def _read_magic(self) -> bool:
        data = self._inbox.take(_MAGIC_BYTES)
        if data is None:
            return False
        magic = int.from_bytes(data)
        # "Structured reply chunk message": the server MUST NOT send this reply type unless the
        # client has negotiated it.
        if magic != SIMPLE_REPLY_MAGIC and (
            magic != STRUCTURED_REPLY_MAGIC or not self._structured
        ):
            raise self._fail(f"reply magic {magic:#x}, structured replies: {self._structured}")
        self._magic = magic
        return True

    def _check_simple(self, _magic: int, error: int, cookie: int) -> int:
        """Return how much data follows a simple reply."""
        request = self._find(cookie).request
        # "Simple reply message": not for READ once structured replies are negotiated, and
        # only where the reply has no data payload.
        is_read = request.command == Command.READ
        needs_chunk = is_read or (request.command == Command.BLOCK_STATUS and not error)
        if self._structured and needs_chunk:
            name = Command.label(request.command)
            raise self._fail(f"simple reply to {name} of cookie {cookie}, needs a structured one")
        return request.length_bytes if is_read and not error else 0

    def _finish_simple(self, data: bytes, _magic: int, error: int, cookie: int) -> SimpleReply:
        del self._pending[cookie]
        return SimpleReply(cookie, _error(error), data)

    def _check_chunk(
        self, _magic: int, flags: int, chunk_type: int, cookie: int, length_bytes: int
    ) -> int:
        """Return the length of a chunk's payload, once it suits the chunk's type and request."""
        request = self._find(cookie).request
        command: int | None = None
        match chunk_type:
            case ChunkType.NONE:
                sound = length_bytes == 0 and bool(flags & ChunkFlag.DONE)
            case ChunkType.OFFSET_DATA:
                command = Command.READ
                sound = OFFSET.size < length_bytes <= OFFSET.size + request.length_bytes
            case ChunkType.OFFSET_HOLE:
                command = Command.READ
                sound = length_bytes == HOLE.size
            case ChunkType.BLOCK_STATUS:
                command = Command.BLOCK_STATUS
                count, rest = divmod(length_bytes - _CONTEXT_ID_BYTES, EXTENT.size)
                sound = not rest and 1 <= count <= MAX_STATUS_EXTENTS
            case ChunkType.ERROR_OFFSET:
                sound = ERROR_HEAD.size + OFFSET.size <= length_bytes <= _MAX_ERROR_BYTES
            case _:
                # Unknown errors are errors; anything else unknown MUST end the session.
                error = bool(chunk_type & ERROR_CHUNK_BIT)
                sound = error and ERROR_HEAD.size <= length_bytes <= _MAX_ERROR_BYTES
        if not sound or command not in (None, request.command):
            raise self._fail(
                f"chunk of type {chunk_type:#x}, flags {flags:#x} and {length_bytes} bytes does"
                f" not suit {Command.label(request.command)} of {request.length_bytes} bytes"
            )
        return length_bytes

    def _finish_chunk(
        self, data: bytes, _magic: int, flags: int, chunk_type: int, cookie: int, _length: int
    ) -> ReplyEvent:
        pending = self._pending[cookie]
        done = bool(flags & ChunkFlag.DONE)
        event: ReplyEvent
        fault: str | None = None
        match chunk_type:
            case ChunkType.NONE:
                event = NoneChunk(cookie)
            case ChunkType.OFFSET_DATA:
                (offset,) = OFFSET.unpack_from(data)
                event = DataChunk(cookie, offset, data[OFFSET.size :], done)
                fault = pending.add_piece(offset, offset + len(event.data))
            case ChunkType.OFFSET_HOLE:
                offset, length = HOLE.unpack(data)
                event = HoleChunk(cookie, offset, length, done)
                fault = pending.add_piece(offset, offset + length)
            case ChunkType.BLOCK_STATUS:
                context_id = int.from_bytes(data[:_CONTEXT_ID_BYTES])
                extents = tuple(EXTENT.iter_unpack(data[_CONTEXT_ID_BYTES:]))
                event = BlockStatusChunk(cookie, context_id, extents, done)
                if context_id in self._context_ids:
                    fault = pending.add_status(context_id, extents)
                else:
                    fault = f"is of context {context_id}, which was not negotiated"
            case _:
                event = self._error_chunk(pending, chunk_type, data, done=done)
        if fault is None and done:
            fault = self._fault_at_end(pending)
        if fault:
            raise self._fail(f"{type(event).__name__} for cookie {cookie} {fault}")
        if done:
            del self._pending[cookie]
        return event

    def _error_chunk(
        self, pending: PendingRequest, chunk_type: int, data: bytes, *, done: bool
    ) -> ErrorChunk:
        cookie = pending.request.cookie
        error, message_bytes = ERROR_HEAD.unpack_from(data)
        message, rest = data[ERROR_HEAD.size :][:message_bytes], data[ERROR_HEAD.size :]
        rest = rest[message_bytes:]
        if not error or len(message) < message_bytes:
            raise self._fail(f"error chunk for cookie {cookie}: no error, or message cut short")
        pending.failed = True
        offset: int | None = None
        if chunk_type == ChunkType.ERROR_OFFSET:
            if len(rest) != OFFSET.size:
                raise self._fail(f"error chunk for cookie {cookie}: {len(rest)} bytes of offset")
            (offset,) = OFFSET.unpack(rest)
            if not pending.within(offset, offset):
                raise self._fail(f"error chunk for cookie {cookie}: offset {offset} is outside")
        text = message.decode(errors="replace")
        return ErrorChunk(cookie, _error(error), text, offset, done)

    def _fault_at_end(self, pending: PendingRequest) -> str | None:
        """Return what is missing from a reply that ends without an error, or None."""
        if pending.failed:
            return None
        if pending.request.command == Command.READ and not pending.covered:
            return "ends a successful read that has holes in it"
        # A successful block status MUST have one chunk per negotiated context.
        missing = self._context_ids - pending.contexts
        if pending.request.command == Command.BLOCK_STATUS and (missing or not pending.contexts):
            return f"ends a block status without contexts {sorted(missing)}"
        return None

    def _find(self, cookie: int) -> PendingRequest:
        pending = self._pending.get(cookie)
        if pending is None:
            raise self._fail(f"reply to cookie {cookie}, which is not outstanding")
        return pending

    def _fail(self, message: str) -> RemoteProtocolError:
        self._failure = message
        return RemoteProtocolError(message)

    def _raise_failure(self) -> None:
        if self._failure:
            raise RemoteProtocolError(self._failure)


def _error(number: int) -> NbdError:
    """Return an error by its number; "Error values": one that is not defined means EINVAL."""
    return NbdError(number) if number in _ERRORS else NbdError.EINVAL


_ERRORS: Final = frozenset(NbdError)
