"""Client: a Connection with a method for each RPC method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vbdev.client import answers
from vbdev.client.connection import Connection
from vbdev.client.generated.methods import Methods

__all__ = ["Client"]

T = TypeVar("T")


class Client(Connection, Methods):
    """A connection to a daemon, made at once. Not for several threads at a time.

    path: a unix socket's path, `tcp:host:port`, or an address as SPDK's tools take it; where this
    user's daemons listen when it is None. timeout_s: how long each call may take, in seconds, and
    the connecting; may be set anew at any time. ListenError where `path` is no address.
    ConnectionError where nobody listens there.
    """

    def _typed(self, method: Callable[..., T], params: Mapping[str, Any]) -> T:
        result: T = answers.typed(method, self.call(method.__name__, **answers.given(params)))
        return result
