"""The method table: a name and undecoded parameters in, a result or an RpcError out.

A method's parameters are one `Params`; decoding, error texts and help come from it. SPDK's methods
differ in how they report parameters that do not decode, so that is a property of the method.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from functools import partial
from typing import Any, Final

import msgspec

from vbdev.api import methods as module_methods
from vbdev.api.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_STATE,
    METHOD_NOT_FOUND,
    RpcError,
    error_from_exception,
)
from vbdev.api.params import ParamsError, decode_params

__all__ = ["DECODE_OBJECT_FAILED", "NO_ARGUMENTS", "Dispatcher", "Method", "State"]

log = logging.getLogger(__name__)

DECODE_OBJECT_FAILED: Final = module_methods.DECODE_OBJECT_FAILED[1]
"""What bdev_get_bdevs and some modules say, with code -32603."""
NO_ARGUMENTS: Final = "'{name}' requires no arguments"
"""What some methods without parameters say to them; most say what is `Method.unwanted` by default.
"""

_AFTER_INIT: Final = (
    "Method may only be called after framework is initialized using framework_start_init RPC."
)
_BEFORE_INIT: Final = (
    "Method may only be called before framework is initialized. Use --wait-for-rpc command line"
    " parameter and then issue this RPC before the framework_start_init RPC."
)


class State(Flag):
    """When a method may be called (SPDK: SPDK_RPC_STARTUP, SPDK_RPC_RUNTIME)."""

    STARTUP = auto()
    RUNTIME = auto()


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC method.

    `handler` is called with the decoded Struct, or with None where `params` is None; it runs on
    the control plane's reactor and returns a `result`, a type that msgspec renders. errors: what
    the handler itself may answer with, as (code, text), `{words}` in a text standing for what it
    names. group: heading that the method is listed under; the name's first word by default.
    """

    name: str
    handler: Callable[[Any], Awaitable[Any]]
    params: type[msgspec.Struct] | None = None
    decode_error_code: int = INVALID_PARAMS
    decode_error_text: str = "Invalid parameters"
    states: State = State.RUNTIME
    result: Any = bool
    errors: tuple[tuple[int, str], ...] = ()
    group: str = ""
    unwanted: str | None = "{name} requires no parameters"
    """What parameters are answered with where the method has none (-32602); None: ignored."""
    params_optional: bool = True
    """Whether they may be left out altogether; else an empty object is the least."""
    tells_none: bool = False
    """Whether the handler gets None where they are left out: an empty object is something else."""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.name.partition("_")[0])

    def failures(self) -> list[tuple[int, str]]:
        """Return every (code, text) that a call may be answered with, besides internal errors."""
        own: list[tuple[int, str]] = []
        if self.params is not None:
            own.append((self.decode_error_code, self.decode_error_text))
        elif self.unwanted is not None:
            own.append((INVALID_PARAMS, self.unwanted.format(name=self.name)))
        state = {State.STARTUP: _BEFORE_INIT, State.RUNTIME: _AFTER_INIT}.get(self.states)
        return list(
            dict.fromkeys([*own, *self.errors, *([(INVALID_STATE, state)] if state else [])])
        )

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
                raise RpcError(INVALID_PARAMS, self.unwanted.format(name=self.name))
            return None
        if params is None and not self.params_optional:
            raise RpcError(self.decode_error_code, self.decode_error_text, "params: missing")
        if params is None and self.tells_none:
            return None
        try:
            return decode_params(self.params, params)
        except ParamsError as error:
            raise RpcError(self.decode_error_code, self.decode_error_text, str(error)) from error


class Dispatcher:
    """The methods by name, and the state that decides which may be called."""

    def __init__(self, state: State = State.RUNTIME) -> None:
        self.state = state
        self._methods: dict[str, Method] = {}
        self._substitutes: dict[str, Method] = {}
        self._allowed: frozenset[str] | None = None

    def register(self, method: Method) -> None:
        """Add a method. Its name must be free: ValueError."""
        self.require_free([method.name])
        self._methods[method.name] = method

    def register_substitute(self, method: Method) -> None:
        """Add a method that any other of its name takes the place of, as long as that is there."""
        self._substitutes[method.name] = method

    def require_free(self, names: Iterable[str]) -> None:
        """Raise ValueError where a method has one of these names."""
        for name in names:
            if name in self._methods:
                raise ValueError(f"RPC method {name} is registered already")

    def unregister(self, name: str) -> None:
        """Take a method away, as when the module that owns it is unloaded. KeyError if none.

        A substitute goes when nothing has its place.
        """
        del (self._methods if name in self._methods else self._substitutes)[name]

    def allow(self, names: Iterable[str]) -> None:
        """From here on there are no other methods than these (SPDK: spdk_rpc_set_allowlist)."""
        self._allowed = frozenset(names)

    def _has(self, name: str) -> bool:
        return self._allowed is None or name in self._allowed

    def names(self, *, current: bool = False) -> list[str]:
        """Return the names in the order of registration; `current`: callable in this state."""
        return [
            method.name
            for method in self.methods()
            if self._has(method.name) and (not current or self.state in method.states)
        ]

    def methods(self) -> list[Method]:
        """Return the methods in the order of registration, substitutes last."""
        return list({**self._methods, **(self._substitutes | self._methods)}.values())

    def get(self, name: str) -> Method | None:
        """Return a method, or None."""
        if not self._has(name):
            return None
        return self._methods.get(name) or self._substitutes.get(name)

    async def call(self, name: str, params: Any = None) -> Any:
        """Call a method with undecoded parameters. Raises RpcError and nothing else."""
        method = self.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found", name)
        if self.state not in method.states:
            late = State.RUNTIME in method.states
            raise RpcError(INVALID_STATE, _AFTER_INIT if late else _BEFORE_INIT, name)
        decoded = method.decode(params)
        try:
            return await method.handler(decoded)
        except Exception as error:
            told = error_from_exception(error)
            if told is error:
                raise
            if told is None:
                log.exception("rpc method failed method=%s", name)
                told = RpcError(INTERNAL_ERROR, "Internal error", f"{name}: see the log")
            raise told from error
