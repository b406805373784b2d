"""JSON-RPC 2.0 over a stream, both roles, as SPDK's server understands it.

`ServerCodec` turns bytes into requests (or into refusals, which are answers that need no method),
`ClientCodec` turns bytes into responses; the `encode_*` functions render what goes the other way.
Every message that is rendered ends with a newline, which SPDK's clients rely on to print it.

How strict: `jsonrpc` may be missing, and is "2.0" if it is there; `id` is a string, a number or
null; `params` is an object, an array or null (no method takes an array, but that is for the
method's decoder to say, because the error code is the method's); any other member is refused.
A request without an id, or with the id null, wants no result; an error it gets nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from vbdev.wire.jsontext import DuplicateKey, HugeNumber, JsonError, TextSplitter, decode

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "LIST_PIECE",
    "MAX_REQUEST_BYTES",
    "MAX_REQUEST_VALUES",
    "MAX_RESPONSE_BYTES",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "Batch",
    "ClientCodec",
    "Id",
    "Malformed",
    "Request",
    "Response",
    "ServerCodec",
    "batch_pieces",
    "encode_batch",
    "encode_error",
    "encode_request",
    "encode_result",
    "has_long_list",
    "result_pieces",
]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

MAX_REQUEST_BYTES: Final = 256 << 10
"""Longest request, or batch of them (SPDK: its receive buffer)."""
MAX_REQUEST_VALUES: Final = 8192
"""Most JSON values in a request or batch (SPDK: SPDK_JSONRPC_MAX_VALUES)."""
LIST_PIECE: Final = 64
"""Elements of a list that are rendered in one go, some 100 us."""
MAX_RESPONSE_BYTES: Final = 32 << 20
"""Longest response that a client takes (SPDK: SPDK_JSONRPC_SEND_BUF_SIZE_MAX)."""
Id: TypeAlias = str | int | float | HugeNumber | None
"""Of any length that a request has room for, as SPDK takes it."""

_MEMBERS: Final = frozenset({"jsonrpc", "method", "params", "id"})
_RESPONSE_MEMBERS: Final = frozenset({"jsonrpc", "id", "result", "error"})


@dataclass(frozen=True, slots=True)
class Request:
    """A call. `params` is what the client gave, undecoded; None where it gave none."""

    id: Id
    method: str
    params: Any = None

    @property
    def is_notification(self) -> bool:
        """Whether the client wants no result."""
        return self.id is None


@dataclass(frozen=True, slots=True)
class Malformed:
    """What is no request, and the error to answer it with.

    close: nothing can follow: answer, then hang up.
    """

    id: Id
    code: int
    message: str
    data: str
    close: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls that came in one array and are answered in one. Never empty."""

    requests: tuple[Request | Malformed, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: a result, or the error's code, message and data when `code` is not 0."""

    id: Id
    result: Any = None
    code: int = 0
    message: str = ""
    data: Any = None


class ServerCodec:
    """The server's role: bytes in, requests and refusals out."""

    def __init__(self) -> None:
        self._splitter = TextSplitter(MAX_REQUEST_BYTES, MAX_REQUEST_VALUES)
        self._closed = False
        self.event_bytes = 0
        """Length of the text that the last event came from."""

    @property
    def buffered_bytes(self) -> int:
        """What an unfinished request and those behind it hold in memory, in bytes."""
        return self._splitter.buffered_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived. After a refusal that closes it is thrown away."""
        if not self._closed:
            self._splitter.feed(data)

    def next_event(self) -> Request | Batch | Malformed | None:
        """Return the next event, or None until more is fed."""
        if self._closed:
            return None
        try:
            text = self._splitter.next_text()
            if text is None:
                return None
            self.event_bytes = len(text)
            value = decode(text)
        except JsonError as error:
            # A text that is whole but malformed says as little about where the next one begins
            # as one that is not: both end the stream.
            self._closed = True
            return Malformed(None, PARSE_ERROR, "Parse error", str(error), close=True)
        if isinstance(value, list):
            if not value:
                return _invalid(None, "empty batch")
            return Batch(tuple(_request(item) for item in value))
        return _request(value)


def _invalid(request_id: Id, reason: str) -> Malformed:
    return Malformed(request_id, INVALID_REQUEST, "Invalid request", reason)


def _request(value: Any) -> Request | Malformed:
    if not isinstance(value, dict):
        shown = repr(value) if isinstance(value, DuplicateKey) else "a request is an object"
        return _invalid(None, shown)
    request_id = value.get("id")
    if not _is_id(request_id):
        return _invalid(None, "id: a string, a number or null")
    unknown = value.keys() - _MEMBERS
    if unknown:
        return _invalid(request_id, f"unknown member {min(unknown)}")
    if value.get("jsonrpc", "2.0") != "2.0":
        return _invalid(request_id, 'jsonrpc: must be "2.0"')
    method = value.get("method")
    if not isinstance(method, str):
        return _invalid(request_id, "method: must be there, and a string")
    params = value.get("params")
    if not isinstance(params, dict | list | DuplicateKey | None):
        return _invalid(request_id, "params: must be an object")
    return Request(request_id, method, params)


def _is_id(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return value is None or isinstance(value, str | int | float | HugeNumber)


def _as_written(request_id: Id) -> Any:
    """Return what renders as the id that came: a number beyond all limits digit by digit."""
    if isinstance(request_id, HugeNumber):
        return msgspec.Raw(request_id.text.encode())
    return request_id


class ClientCodec:
    """The client's role: bytes in, responses out. JsonError: the server speaks no JSON-RPC."""

    def __init__(self) -> None:
        self._splitter = TextSplitter(MAX_RESPONSE_BYTES, MAX_RESPONSE_BYTES)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived."""
        self._splitter.feed(data)

    def next_event(self) -> Response | tuple[Response, ...] | None:
        """Return the next response (a tuple of them for a batch), or None until more is fed."""
        text = self._splitter.next_text()
        if text is None:
            return None
        value = decode(text)
        if isinstance(value, list):
            return tuple(_response(item) for item in value)
        return _response(value)


def _response(value: Any) -> Response:
    if not isinstance(value, dict) or value.keys() - _RESPONSE_MEMBERS:
        raise JsonError("not a JSON-RPC response")
    if ("result" in value) == ("error" in value) or not _is_id(value.get("id")):
        raise JsonError("a response has an id, and either a result or an error")
    if "result" in value:
        return Response(value.get("id"), value["result"])
    error = value["error"]
    if not isinstance(error, dict):
        raise JsonError("a response's error is an object")
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, int) or not code or not isinstance(message, str):
        raise JsonError("a response's error has a code and a message")
    return Response(value.get("id"), None, code, message, error.get("data"))


def encode_request(method: str, params: Any = None, request_id: Id = None) -> bytes:
    """Render a call. Without an id it is a notification; params that are None are left out."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        message["id"] = _as_written(request_id)
    if params is not None:
        message["params"] = params
    return msgspec.json.encode(message) + b"\n"


def encode_result(request_id: Id, result: Any) -> bytes:
    """Render a result: whatever msgspec renders, else TypeError (or ValueError) from it."""
    return _render({"jsonrpc": "2.0", "id": _as_written(request_id), "result": result})


def result_pieces(request_id: Id, result: Any) -> Iterator[bytes]:
    """Yield what `encode_result` returns, in pieces of LIST_PIECE where there are long lists.

    So whoever puts them together can let others run in between.
    """
    frame = msgspec.json.encode({"jsonrpc": "2.0", "id": _as_written(request_id)})
    yield frame[:-1] + b',"result":'
    yield from _value_pieces(result)
    yield b"}\n"


def _value_pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, list) and len(value) > LIST_PIECE:
        for at in range(0, len(value), LIST_PIECE):
            yield b"," if at else b"["
            yield msgspec.json.encode(value[at : at + LIST_PIECE])[1:-1]
        yield b"]"
    elif isinstance(value, msgspec.Struct) and has_long_list(value):
        before = b"{"
        for field in msgspec.structs.fields(value):
            one = getattr(value, field.name)
            if one is not msgspec.UNSET:
                yield before + msgspec.json.encode(field.encode_name) + b":"
                yield from _value_pieces(one)
                before = b","
        yield b"}"
    else:
        yield msgspec.json.encode(value)


def has_long_list(result: Any) -> bool:
    """Whether a result, or a field of it, is a list that takes more than one piece."""
    if isinstance(result, msgspec.Struct):
        return any(
            isinstance(one, list) and len(one) > LIST_PIECE
            for one in (getattr(result, name) for name in result.__struct_fields__)
        )
    return isinstance(result, list) and len(result) > LIST_PIECE


def encode_error(request_id: Id, code: int, message: str, data: Any = None) -> bytes:
    """Render an error. `data` is left out when it is None, as SPDK always does."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _render({"jsonrpc": "2.0", "id": _as_written(request_id), "error": error})


def _render(answer: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(answer) + b"\n"
    except UnicodeEncodeError:
        # Bytes of a file's name that are no UTF-8, say. One such name is not to take the whole
        # answer away.
        plain = {key: msgspec.to_builtins(one) for key, one in answer.items() if key != "id"}
        return msgspec.json.encode({**_utf8_only(plain), "id": answer["id"]}) + b"\n"


def _utf8_only(value: Any) -> Any:
    """Return what JSON has, with halves of surrogate pairs escaped as in Python's literals."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_utf8_only(key): _utf8_only(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_utf8_only(one) for one in value]
    return value


def encode_batch(responses: Iterable[bytes]) -> bytes:
    """Join rendered responses to one array; nothing at all where none is due."""
    return b"".join(batch_pieces(list(responses)))


def batch_pieces(responses: list[bytes]) -> Iterator[bytes]:
    """Yield the array piece by piece, taking the responses out of the list as they go.

    So whoever puts the pieces together holds a response once, as long as there are many.
    """
    before = b"["
    for place, response in enumerate(responses):
        if response:
            responses[place] = b""
            yield before
            yield response.removesuffix(b"\n")
            before = b","
    if before == b",":
        yield b"]\n"
