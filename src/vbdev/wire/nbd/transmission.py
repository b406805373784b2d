"""The transmission phase as bytes: requests both ways, and the replies that a server sends.

Pure functions. Lengths and offsets are bytes. Encoders refuse with LocalProtocolError what the
specification forbids; payloads of WRITE and READ are never touched here, they travel beside
the headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from vbdev.vocab import NbdError
from vbdev.wire.nbd.constants import (
    CHUNK_HEADER,
    COMMAND_FLAGS,
    REQUEST_HEADER,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    ChunkFlag,
    ChunkType,
    Command,
)
from vbdev.wire.nbd.errors import LocalProtocolError, RemoteProtocolError
from vbdev.wire.nbd.payloads import human_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vbdev.wire.nbd.buffer import BytesLike

__all__ = [
    "ERROR_HEAD",
    "EXTENT",
    "HOLE",
    "OFFSET",
    "Request",
    "decode_request_header",
    "encode_chunk_block_status",
    "encode_chunk_error",
    "encode_chunk_none",
    "encode_chunk_offset_data_header",
    "encode_chunk_offset_hole",
    "encode_request",
    "encode_simple_reply",
]

OFFSET: Final = Struct(">Q")
HOLE: Final = Struct(">QI")
"""Offset and length of a hole."""
EXTENT: Final = Struct(">II")
"""Length of an extent and its status flags."""
ERROR_HEAD: Final = Struct(">IH")
"""Error and length of the message that follows."""

_U32_MAX: Final = (1 << 32) - 1
_NO_RANGE: Final = frozenset({Command.DISC, Command.FLUSH})


@dataclass(frozen=True, slots=True)
class Request:
    """A request header as it is on the wire; no field but the magic has been judged."""

    command: int
    flags: int
    cookie: int
    offset_bytes: int
    length_bytes: int


def decode_request_header(data: BytesLike) -> Request:
    """Return the request in a header of 28 bytes ("Request message").

    Unknown commands and flags are for whoever answers, with NBD_EINVAL. Only a wrong magic
    is an error here: the stream has lost its place.
    """
    if len(data) != REQUEST_HEADER.size:
        raise LocalProtocolError(f"request header of {len(data)} bytes, not {REQUEST_HEADER.size}")
    magic, flags, command, cookie, offset_bytes, length_bytes = REQUEST_HEADER.unpack(data)
    if magic != REQUEST_MAGIC:
        raise RemoteProtocolError(f"request magic is {magic:#x}, not {REQUEST_MAGIC:#x}")
    return Request(command, flags, cookie, offset_bytes, length_bytes)


def encode_request(
    command: Command,
    cookie: int,
    offset_bytes: int = 0,
    length_bytes: int = 0,
    flags: int = 0,
) -> bytes:
    """Return a request header of 28 bytes; WRITE is followed by `length_bytes` of data.

    Flags must suit the command ("Command flags"); DISC and FLUSH have no range
    ("Request types"). Whether the server offers the command is the caller's to know.
    """
    name = Command.label(command)
    if strange := flags & ~int(COMMAND_FLAGS[command]):
        raise LocalProtocolError(f"flags {strange:#x} do not go with {name}")
    if command in _NO_RANGE and (offset_bytes or length_bytes):
        raise LocalProtocolError(f"{name} with range {offset_bytes}+{length_bytes}, takes none")
    if not 0 <= length_bytes <= _U32_MAX or not 0 <= offset_bytes <= (1 << 63) - 1:
        raise LocalProtocolError(f"{name} with range {offset_bytes}+{length_bytes} does not fit")
    return REQUEST_HEADER.pack(
        REQUEST_MAGIC, flags, command, _checked_cookie(cookie), offset_bytes, length_bytes
    )


def encode_simple_reply(cookie: int, error: NbdError = NbdError.OK) -> bytes:
    """Return a reply of 16 bytes; after a successful READ its data follows.

    Not for READ, nor for a BLOCK_STATUS that succeeded, where structured replies are
    negotiated ("Simple reply message").
    """
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, _checked_cookie(cookie))


def encode_chunk_none(cookie: int) -> bytes:
    """Return NBD_REPLY_TYPE_NONE, which always ends a reply ("Structured reply types")."""
    return _chunk(cookie, ChunkType.NONE, b"", 0, done=True)


def encode_chunk_offset_data_header(
    cookie: int, offset_bytes: int, length_bytes: int, *, done: bool
) -> bytes:
    """Return the 28 bytes before `length_bytes` of READ's data (NBD_REPLY_TYPE_OFFSET_DATA)."""
    # Each chunk MUST describe at least one byte; its length field counts the offset as well.
    if not 1 <= length_bytes <= _U32_MAX - OFFSET.size:
        raise LocalProtocolError(f"data chunk of {length_bytes} bytes")
    head = OFFSET.pack(_checked_offset(offset_bytes))
    return _chunk(cookie, ChunkType.OFFSET_DATA, head, length_bytes, done=done)


def encode_chunk_offset_hole(
    cookie: int, offset_bytes: int, length_bytes: int, *, done: bool
) -> bytes:
    """Return NBD_REPLY_TYPE_OFFSET_HOLE: these bytes of a READ are zeroes."""
    if not 1 <= length_bytes <= _U32_MAX:
        raise LocalProtocolError(f"hole of {length_bytes} bytes")
    body = HOLE.pack(_checked_offset(offset_bytes), length_bytes)
    return _chunk(cookie, ChunkType.OFFSET_HOLE, body, 0, done=done)


def encode_chunk_block_status(
    cookie: int, context_id: int, extents: Sequence[tuple[int, int]], *, done: bool
) -> bytes:
    """Return NBD_REPLY_TYPE_BLOCK_STATUS: (length in bytes, flags) of consecutive extents."""
    if not extents or not all(
        1 <= length <= _U32_MAX and 0 <= flags <= _U32_MAX for length, flags in extents
    ):
        raise LocalProtocolError(f"block status of {len(extents)} extents {extents[:4]}")
    if not 0 <= context_id <= _U32_MAX:
        raise LocalProtocolError(f"context ID {context_id} does not fit 32 bits")
    body = context_id.to_bytes(4) + b"".join(EXTENT.pack(*extent) for extent in extents)
    return _chunk(cookie, ChunkType.BLOCK_STATUS, body, 0, done=done)


def encode_chunk_error(
    cookie: int,
    error: NbdError,
    message: str = "",
    offset_bytes: int | None = None,
    *,
    done: bool = True,
) -> bytes:
    """Return NBD_REPLY_TYPE_ERROR, or ERROR_OFFSET where `offset_bytes` tells where.

    A message longer than 4096 bytes is cut.
    """
    if error is NbdError.OK:
        raise LocalProtocolError(f"error chunk for cookie {cookie} without an error")
    text = human_message(message)
    body = ERROR_HEAD.pack(error, len(text)) + text
    if offset_bytes is None:
        return _chunk(cookie, ChunkType.ERROR, body, 0, done=done)
    body += OFFSET.pack(_checked_offset(offset_bytes))
    return _chunk(cookie, ChunkType.ERROR_OFFSET, body, 0, done=done)


def _chunk(
    cookie: int, chunk_type: ChunkType, body: bytes, data_bytes: int, *, done: bool
) -> bytes:
    """Return header and `body`; its length counts `data_bytes` that the caller sends next."""
    return (
        CHUNK_HEADER.pack(
            STRUCTURED_REPLY_MAGIC,
            ChunkFlag.DONE if done else 0,
            chunk_type,
            _checked_cookie(cookie),
            len(body) + data_bytes,
        )
        + body
    )


def _checked_cookie(cookie: int) -> int:
    if not 0 <= cookie < 1 << 64:
        raise LocalProtocolError(f"cookie {cookie} does not fit 64 bits")
    return cookie


def _checked_offset(offset_bytes: int) -> int:
    if not 0 <= offset_bytes < 1 << 63:
        raise LocalProtocolError(f"offset {offset_bytes} is not in 0..2^63 - 1")
    return offset_bytes
