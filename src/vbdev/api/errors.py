"""How a failure looks to an RPC client: a code, a message, and what a human wants to know.

SPDK answers with a code (a JSON-RPC one, or a negative errno) and a fixed text, and scripts match
both. They are kept letter for letter; the detail, which names the field or the bdev, goes into
the error's `data`, which JSON-RPC 2.0 has for it and which SPDK leaves out.
"""

from __future__ import annotations

import os
from typing import Any

from vbdev.api.methods import RpcError
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
    "RpcError",
    "error_from_errno",
    "error_from_exception",
]

INVALID_STATE = -1
"""SPDK_JSONRPC_ERROR_INVALID_STATE: the method exists, and not now."""


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
