"""A small blocking client: the CLI's and the tests' way to a daemon.

It imports nothing heavy, because a command line waits for it.
"""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Any, Self

from vbdev.address import Address, parse_address
from vbdev.rpc.errors import RpcError
from vbdev.wire.jsonrpc import ClientCodec, Response, encode_request
from vbdev.wire.jsontext import JsonError

__all__ = ["RpcClient"]


class RpcClient:
    """One connection to a daemon, made at once; one call at a time.

    `path` is a unix socket's path, or `tcp:host:port`. `timeout_s` bounds each call, in seconds.
    Raises ConnectionError when no daemon listens there, ListenError when it is no address.
    """

    def __init__(self, path: str, timeout_s: float = 60) -> None:
        self._address = parse_address(path, bare_path=True)
        self._timeout_s = timeout_s
        self._codec = ClientCodec()
        self._request_id = 0
        self._socket = _connect(self._address, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._socket.close()

    def call(self, method: str, /, **params: Any) -> Any:
        """Call a method and return its result; without parameters, `params` is not sent.

        RpcError: the daemon's answer is an error. TimeoutError: it has not answered in time.
        ConnectionError: it is gone, or is no vbdev daemon. After the last two, connect anew.
        """
        deadline = time.monotonic() + self._timeout_s
        self._request_id += 1
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(encode_request(method, params or None, self._request_id))
            response = self._receive(method, deadline)
        except TimeoutError as error:
            raise TimeoutError(
                f"{_shown(self._address)}: no answer to {method} within {self._timeout_s:g} s"
            ) from error
        except JsonError as error:
            raise ConnectionError(
                f"{_shown(self._address)} does not speak JSON-RPC: {error}"
            ) from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._hung_up(method) from error
        if response.code:
            raise RpcError(response.code, response.message, response.data)
        return response.result

    def _receive(self, method: str, deadline: float) -> Response:
        while True:
            event = self._codec.next_event()
            # An error without an id is about the only request that there is.
            if isinstance(event, Response) and event.id in (self._request_id, None):
                return event
            if event is not None:
                continue  # the answer to a call that has timed out
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(1 << 16)
            if not data:
                raise self._hung_up(method)
            self._codec.feed(data)

    def _hung_up(self, method: str) -> ConnectionError:
        return ConnectionError(
            f"the vbdev daemon on {_shown(self._address)} hung up before it answered {method}"
        )


def _connect(address: Address, timeout_s: float) -> socket.socket:
    try:
        if not address.is_unix:
            return socket.create_connection((address.host, address.port), timeout_s)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(address.path)
        except BaseException:
            connection.close()
            raise
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ConnectionError(f"no vbdev daemon listens on {_shown(address)}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConnectionError(f"{_shown(address)}: can not connect: {reason}") from error
    return connection


def _shown(address: Address) -> str:
    return address.path or str(address)
