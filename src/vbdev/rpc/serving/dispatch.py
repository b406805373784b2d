"""The dispatcher: a name and undecoded parameters in, a result or an RpcError out.

What a method takes and how it refuses is declared (`vbdev.api.methods`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from vbdev.api.errors import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    RpcError,
    error_from_exception,
)
from vbdev.api.methods import Method, State

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)

On = TypeVar("On")


class _Offered(NamedTuple):
    """A method, and what its handler is given to work on."""

    method: Method[Any]
    on: Any


class Dispatcher:
    """The methods by name, and the state that decides which may be called."""

    def __init__(self, state: State = State.RUNTIME) -> None:
        self.state = state
        self._offered: dict[str, _Offered] = {}
        self._substitutes: dict[str, _Offered] = {}
        self._allowed: frozenset[str] | None = None

    def register(self, method: Method[On], on: On) -> None:
        """Add a method, whose handler is given `on`. Its name must be free: ValueError."""
        self.require_free([method.name])
        self._offered[method.name] = _Offered(method, on)

    def register_substitute(self, method: Method[On], on: On) -> None:
        """Add a method that any other of its name takes the place of, as long as that is there."""
        self._substitutes[method.name] = _Offered(method, on)

    def require_free(self, names: Iterable[str]) -> None:
        """Raise ValueError where a method has one of these names."""
        for name in names:
            if name in self._offered:
                raise ValueError(f"RPC method {name} is registered already")

    def unregister(self, name: str) -> None:
        """Take a method away, as when the module that owns it is unloaded. KeyError if none.

        A substitute goes when nothing has its place.
        """
        del (self._offered if name in self._offered else self._substitutes)[name]

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

    def methods(self) -> list[Method[Any]]:
        """Return the methods in the order of registration, substitutes last."""
        offered = {**self._offered, **(self._substitutes | self._offered)}
        return [one.method for one in offered.values()]

    def get(self, name: str) -> Method[Any] | None:
        """Return a method, or None."""
        offered = self._get(name)
        return None if offered is None else offered.method

    def _get(self, name: str) -> _Offered | None:
        if not self._has(name):
            return None
        return self._offered.get(name) or self._substitutes.get(name)

    async def call(self, name: str, params: Any = None) -> Any:
        """Call a method with undecoded parameters. Raises RpcError and nothing else."""
        offered = self._get(name)
        if offered is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found", name)
        method, on = offered
        refusal = method.states.refusal
        if self.state not in method.states and refusal is not None:
            raise refusal.error(name)
        decoded = method.decode(params)
        try:
            return await method.handler(on, decoded)
        except Exception as error:
            told = error_from_exception(error)
            if told is error:
                raise
            if told is None:
                log.exception("rpc method failed method=%s", name)
                told = RpcError(INTERNAL_ERROR, "Internal error", f"{name}: see the log")
            raise told from error
