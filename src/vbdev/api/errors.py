"""How a failure looks to an RPC client: a code, a message, and what a human wants to know.

SPDK answers with a code (a JSON-RPC one, or a negative errno) and a fixed text, and scripts match
both. They are kept letter for letter; the detail, which names the field or the bdev, goes into
the error's `data`, which JSON-RPC 2.0 has for it and which SPDK leaves out.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from vbdev.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
)

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "INVALID_STATE",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "Refusal",
    "RpcError",
    "error_from_errno",
    "error_from_exception",
]

INVALID_STATE = -1
"""SPDK_JSONRPC_ERROR_INVALID_STATE: the method exists, and not now."""


class RpcError(Exception):
    """A failure with the code and message that the client gets, or got."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        detail = f": {self.data}" if self.data is not None else ""
        return f"{self.message} ({self.code}){detail}"


class Refusal(NamedTuple):
    """One answer that a call may get instead of a result, as a method declares it.

    text: what SPDK says letter for letter, `{words}` standing for what each call names.
    """

    code: int
    text: str

    def error(self, detail: Any = None, **words: object) -> RpcError:
        """Return it with its words filled in; `detail` is for a human (`RpcError.data`)."""
        return RpcError(self.code, self.text.format(**words), detail)


def error_from_errno(number: int, data: Any = None) -> RpcError:
    """Return SPDK's form of an errno (positive): its negative as code, strerror as message."""
    return RpcError(-number, os.strerror(number), data)


def error_from_exception(error: Exception) -> RpcError | None:
    """Return what a client is told of a failure, or None when it is a bug and not a failure.

    An exception with a positive integer `errno`, OSError included, is a failure.
    """
    if isinstance(error, RpcError):
        return error
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return error_from_errno(int(number), str(error))
    return None
