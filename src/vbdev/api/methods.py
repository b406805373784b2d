"""How an RPC method is declared, whoever has it: the control plane itself, or a module.

A declaration says all that is decided before a handler runs, and all that help and schema tell. A
module's (`Bdev.rpc_methods`) fit in its one file: what they are made of, and the failures that they
answer with, is here, and imports nothing from above.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from enum import Flag, auto
from functools import partial
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from vbdev.api.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_STATE,
    Refusal,
    RpcError,
)
from vbdev.api.params import BdevName, Params, ParamsError, decode_params

__all__ = [
    "BOTH",
    "DECODE_OBJECT_FAILED",
    "DECODE_OBJECT_INVALID",
    "INVALID_PARAMETERS",
    "NO_ARGUMENTS",
    "Method",
    "ModuleMethod",
    "NamedParams",
    "Refusal",
    "RpcError",
    "State",
    "failures",
]

INVALID_PARAMETERS: Final = Refusal(INVALID_PARAMS, "Invalid parameters")
"""For parameters that do not decode, where SPDK has no text of its own."""
DECODE_OBJECT_FAILED: Final = Refusal(INTERNAL_ERROR, "spdk_json_decode_object failed")
"""What most that are about bdevs answer instead, and passthru, malloc, null, aio, uring, delay."""
DECODE_OBJECT_INVALID: Final = Refusal(INVALID_PARAMS, DECODE_OBJECT_FAILED.text)
"""The same text with the code that belongs to it, which few have."""
NO_ARGUMENTS: Final = "'{name}' requires no arguments"
"""What some methods without parameters say to them; most say what is `Method.unwanted` by default.
"""


def failures(*numbers: int) -> tuple[Refusal, ...]:
    """Return how errnos (positive) look to a client: the negative as code, strerror as text."""
    return tuple(Refusal(-number, os.strerror(number)) for number in numbers)


class NamedParams(Params, kw_only=True, frozen=True):
    """Name a bdev of the module."""

    name: BdevName
    """Name of the bdev."""


class State(Flag):
    """When a method may be called (SPDK: SPDK_RPC_STARTUP, SPDK_RPC_RUNTIME)."""

    STARTUP = auto()
    RUNTIME = auto()

    @property
    def refusal(self) -> Refusal | None:
        """What a method that may be called in these states answers in another, if there is one."""
        return _NOT_NOW.get(self)


BOTH: Final = State.STARTUP | State.RUNTIME

_NOT_NOW: Final = {
    State.RUNTIME: Refusal(
        INVALID_STATE,
        "Method may only be called after framework is initialized using framework_start_init RPC.",
    ),
    State.STARTUP: Refusal(
        INVALID_STATE,
        "Method may only be called before framework is initialized. Use --wait-for-rpc command line"
        " parameter and then issue this RPC before the framework_start_init RPC.",
    ),
}

On = TypeVar("On")


@dataclass(frozen=True)
class Method(Generic[On]):
    """One RPC method.

    handler(on, params) runs on the reactor of the control plane. `on` is what its methods work on:
    the registry where a module has the method, the `Plane` where it is our own; `params` is the
    decoded Struct. It returns a `result`: a type that msgspec renders. It raises RpcError for a
    failure with a code and text of SPDK's own; BdevError and OSError become -errno and strerror.
    The method is described by the handler's docstring, or by that of the parameters where the
    handler has none.

    A module's method that is named `bdev_<kind>_create` or `_delete` replaces the derived one.
    """

    name: str
    params: type[msgspec.Struct] | None
    """What a call takes; None: nothing, and the handler gets None."""
    handler: Callable[[On, Any], Awaitable[Any]]
    undecoded: Refusal | tuple[int, str] | None = None
    """What parameters that do not decode are answered with; by default as the module says
    (`Bdev.undecoded`), or INVALID_PARAMETERS."""
    result: Any = bool
    errors: tuple[Refusal | tuple[int, str], ...] = ()
    """What the handler itself may answer with."""
    _: KW_ONLY
    states: State = State.RUNTIME
    group: str = ""
    """Heading that the method is listed under: the name's first word, or the module, by default."""
    unwanted: str | None = "{name} requires no parameters"
    """What parameters are answered with where the method has none (-32602); None: ignored."""
    params_optional: bool = True
    """Whether they may be left out altogether; else an empty object is the least."""
    tells_none: bool = False
    """Whether the handler gets None where they are left out: an empty object is something else."""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.name.partition("_")[0])

    def refusals(self) -> list[Refusal]:
        """Return every answer that a call may get instead of a result, besides internal errors."""
        own: Refusal | None = None
        if self.params is not None:
            own = self._undecoded()
        elif self.unwanted is not None:
            own = self._unwanted(self.unwanted)
        told = [own, *(Refusal(*error) for error in self.errors), self.states.refusal]
        return list(dict.fromkeys(one for one in told if one is not None))

    def _undecoded(self) -> Refusal:
        return Refusal(*(self.undecoded or INVALID_PARAMETERS))

    def _unwanted(self, text: str) -> Refusal:
        return Refusal(INVALID_PARAMS, text.format(name=self.name))

    @property
    def summary(self) -> str:
        """What the method does: the handler's docstring, else that of the parameters."""
        handler = self.handler
        while isinstance(handler, partial):
            handler = handler.func
        # Not what a class has inherited, which is about its base.
        return inspect.getdoc(handler) or inspect.cleandoc(
            getattr(self.params, "__doc__", "") or ""
        )

    def decode(self, params: Any) -> msgspec.Struct | None:
        """Return the parameters as the handler takes them, or raise the method's RpcError."""
        if self.params is None:
            if params is not None and self.unwanted is not None:
                raise RpcError(*self._unwanted(self.unwanted))
            return None
        if params is None and not self.params_optional:
            raise RpcError(*self._undecoded(), "params: missing")
        if params is None and self.tells_none:
            return None
        try:
            return decode_params(self.params, params)
        except ParamsError as error:
            raise RpcError(*self._undecoded(), str(error)) from error


ModuleMethod: TypeAlias = Method[Any]
"""A method of a module, whose handlers are given the registry."""
