"""RPC methods that a module has besides its create and delete, and the failure they answer with.

A module declares them (`Bdev.rpc_methods`); the control plane registers them. They stand on this
floor so that a module's one file can hold them and import nothing from above.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vbdev.api.params import BdevName, Params
from vbdev.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS

__all__ = [
    "DECODE_OBJECT_FAILED",
    "INVALID_PARAMETERS",
    "ModuleMethod",
    "NamedParams",
    "RpcError",
    "failures",
]

INVALID_PARAMETERS: Final = (INVALID_PARAMS, "Invalid parameters")
"""Code and text for parameters that do not decode, where SPDK has no text of its own."""
DECODE_OBJECT_FAILED: Final = (INTERNAL_ERROR, "spdk_json_decode_object failed")
"""What passthru, malloc, null, aio, uring and delay answer instead."""


def failures(*numbers: int) -> tuple[tuple[int, str], ...]:
    """Return how errnos (positive) look to a client: the negative as code, strerror as text."""
    return tuple((-number, os.strerror(number)) for number in numbers)


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


class NamedParams(Params, kw_only=True, frozen=True):
    """Name a bdev of the module."""

    name: BdevName
    """Name of the bdev."""


@dataclass(frozen=True, slots=True)
class ModuleMethod:
    """One method of a module. One named `bdev_<kind>_create` or `_delete` replaces the derived one.

    handler(registry, params) runs on the reactor of the control plane and returns what JSON can
    hold. It raises RpcError for a failure with a code and text of SPDK's own; BdevError and
    OSError become -errno and strerror. undecoded: as `Bdev.undecoded`, where it differs.
    result: the type of what the handler returns. The method is described by the handler's
    docstring, or by that of the parameters where the handler has none. errors: what the handler
    may answer with, as (code, text), `{words}` in a text standing for what it names.
    """

    name: str
    params: type[msgspec.Struct]
    handler: Callable[[Any, Any], Awaitable[Any]]
    undecoded: tuple[int, str] | None = None
    result: Any = bool
    errors: tuple[tuple[int, str], ...] = ()
