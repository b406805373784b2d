"""The data of options and of the replies to them: values to bytes and back, for both sides.

What a decoder rejects raises MalformedError, which a server turns into an error reply and a
client into RemoteProtocolError. What an encoder rejects is the caller's mistake.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from vbdev.wire.nbd.constants import (
    MAX_STRING_BYTES,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_REPLY_HEADER,
    OPTION_REPLY_MAGIC,
    InfoType,
    OptionReply,
    TransmissionFlag,
)
from vbdev.wire.nbd.errors import LocalProtocolError
from vbdev.wire.nbd.events import BlockSizes

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MalformedError",
    "decode_block_sizes",
    "decode_context",
    "decode_context_request",
    "decode_export",
    "decode_info_request",
    "decode_server",
    "decode_string",
    "encode_context",
    "encode_context_request",
    "encode_info",
    "encode_info_request",
    "encode_option",
    "encode_option_reply",
    "encode_server",
    "encode_string",
    "human_message",
]

_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_EXPORT: Final = Struct(">QH")
_BLOCK_SIZES: Final = Struct(">III")


class MalformedError(Exception):
    """Data that does not follow its layout; `reply` is the error that a server sends for it."""

    def __init__(self, message: str, reply: OptionReply = OptionReply.ERR_INVALID) -> None:
        super().__init__(message)
        self.reply = reply


def encode_option(option: int, data: bytes = b"") -> bytes:
    """Return an option as a client sends it ("Newstyle negotiation")."""
    return OPTION_HEADER.pack(OPTION_MAGIC, option, len(data)) + data


def encode_option_reply(option: int, reply: int, data: bytes = b"") -> bytes:
    """Return one reply as a server sends it ("Fixed newstyle negotiation")."""
    return OPTION_REPLY_HEADER.pack(OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def encode_string(text: str, what: str) -> bytes:
    """Return `text` in UTF-8, at most 4096 bytes and without NUL ("Protocol phases", strings)."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"{what} {text!r} can't be encoded in UTF-8") from error
    if len(data) > MAX_STRING_BYTES:
        raise LocalProtocolError(f"{what} is {len(data)} bytes long, more than {MAX_STRING_BYTES}")
    if b"\0" in data:
        raise LocalProtocolError(f"{what} {text!r} contains a NUL")
    return data


def decode_string(data: bytes, what: str) -> str:
    """Return the text of a string field; the rules are those of `encode_string`."""
    if len(data) > MAX_STRING_BYTES:
        raise MalformedError(
            f"{what} is {len(data)} bytes long, more than {MAX_STRING_BYTES}",
            OptionReply.ERR_TOO_BIG,
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what} is not UTF-8 at byte {error.start}") from error
    if "\0" in text:
        raise MalformedError(f"{what} contains a NUL")
    return text


def human_message(text: str) -> bytes:
    """Return a message for a human, cut to what a string may hold rather than refused."""
    data = text.replace("\0", "").encode(errors="replace")
    return data[:MAX_STRING_BYTES].decode(errors="ignore").encode()


class _Cursor:
    """Reads fields one after the other and says which one is missing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left_bytes(self) -> int:
        return len(self._data) - self._at

    def bytes(self, length_bytes: int, what: str) -> bytes:
        if length_bytes > self.left_bytes:
            raise MalformedError(
                f"{what} needs {length_bytes} bytes and {self.left_bytes} are left"
            )
        self._at += length_bytes
        return self._data[self._at - length_bytes : self._at]

    def u16(self, what: str) -> int:
        return int.from_bytes(self.bytes(2, what))

    def u32(self, what: str) -> int:
        return int.from_bytes(self.bytes(4, what))

    def string(self, what: str) -> str:
        """Read a 32-bit length and as many bytes of text."""
        length_bytes = self.u32(f"length of {what}")
        return decode_string(self.bytes(length_bytes, what), what)

    def end(self) -> None:
        if self.left_bytes:
            raise MalformedError(f"{self.left_bytes} bytes beyond the last field")


def encode_info_request(export_name: str, info_types: Iterable[int]) -> bytes:
    """Return the data of NBD_OPT_INFO and NBD_OPT_GO."""
    name = encode_string(export_name, "export name")
    wanted = sorted(set(info_types))
    fields = [_U32.pack(len(name)), name, _U16.pack(len(wanted))]
    return b"".join(fields + [_U16.pack(info_type) for info_type in wanted])


def decode_info_request(data: bytes) -> tuple[str, frozenset[int]]:
    """Return export name and information requests, those that nobody knows included."""
    cursor = _Cursor(data)
    name = cursor.string("export name")
    count = cursor.u16("number of information requests")
    wanted = [cursor.u16("information request") for _ in range(count)]
    cursor.end()
    # "NBD_OPT_INFO": the client MUST NOT include any information request more than once.
    if len(set(wanted)) < count:
        raise MalformedError("an information request comes twice")
    return name, frozenset(wanted)


def encode_context_request(export_name: str, queries: Iterable[str]) -> bytes:
    """Return the data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""
    name = encode_string(export_name, "export name")
    texts = [encode_string(query, "query") for query in queries]
    fields = [_U32.pack(len(name)), name, _U32.pack(len(texts))]
    return b"".join(fields + [_U32.pack(len(text)) + text for text in texts])


def decode_context_request(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Return export name and queries. A count that is too high ends with the data."""
    cursor = _Cursor(data)
    name = cursor.string("export name")
    count = cursor.u32("number of queries")
    queries = tuple(cursor.string("query") for _ in range(count))
    cursor.end()
    return name, queries


def encode_server(name: str, description: str) -> bytes:
    """Return the data of NBD_REP_SERVER."""
    text = encode_string(name, "export name")
    return _U32.pack(len(text)) + text + encode_string(description, "description")


def decode_server(data: bytes) -> tuple[str, str]:
    """Return name and description of a listed export."""
    cursor = _Cursor(data)
    name = cursor.string("export name")
    description = cursor.bytes(cursor.left_bytes, "description")
    return name, decode_string(description, "description")


def encode_info(info: InfoType, value: tuple[int, TransmissionFlag] | BlockSizes | str) -> bytes:
    """Return the data of NBD_REP_INFO: (size, flags), block sizes or a text, as `info` says."""
    match value:
        case BlockSizes():
            body = _BLOCK_SIZES.pack(
                value.minimum_bytes, value.preferred_bytes, value.maximum_bytes
            )
        case str():
            body = encode_string(value, info.name.lower())
        case _:
            body = _EXPORT.pack(*value)
    return _U16.pack(info) + body


def decode_export(body: bytes) -> tuple[int, TransmissionFlag]:
    """Return size in bytes and flags from NBD_INFO_EXPORT, whose 2 type bytes are gone."""
    if len(body) != _EXPORT.size:
        raise MalformedError(f"NBD_INFO_EXPORT is {len(body) + 2} bytes long, not 12")
    size_bytes, flags = _EXPORT.unpack(body)
    return size_bytes, TransmissionFlag(flags)


def decode_block_sizes(body: bytes) -> BlockSizes:
    """Return the sizes from NBD_INFO_BLOCK_SIZE, whose 2 type bytes are gone."""
    if len(body) != _BLOCK_SIZES.size:
        raise MalformedError(f"NBD_INFO_BLOCK_SIZE is {len(body) + 2} bytes long, not 14")
    return BlockSizes(*_BLOCK_SIZES.unpack(body))


def encode_context(context_id: int, name: str) -> bytes:
    """Return the data of NBD_REP_META_CONTEXT."""
    if not 0 <= context_id < 1 << 32:
        raise LocalProtocolError(f"context ID {context_id} does not fit 32 bits")
    return _U32.pack(context_id) + encode_string(name, "context name")


def decode_context(data: bytes) -> tuple[int, str]:
    """Return context ID and name."""
    if len(data) < _U32.size:
        raise MalformedError(f"NBD_REP_META_CONTEXT is {len(data)} bytes long, fewer than 4")
    return int.from_bytes(data[:4]), decode_string(data[4:], "context name")
