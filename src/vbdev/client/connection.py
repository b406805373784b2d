"""Connection: what a Client is besides its typed methods. One call at a time, awaited by blocking.

The command line uses it as it is, because it waits for the imports.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from vbdev.api.methods import RpcError
from vbdev.client import answers
from vbdev.vocab.address import Address, default_rpc_path, parse_address
from vbdev.wire.jsonrpc import ClientCodec, Response, encode_request
from vbdev.wire.jsontext import JsonError

__all__ = ["Connection"]

RETRY_S = 0.01
RECEIVE_BYTES = 1 << 16


class Connection:
    """A connection to a daemon, made at once. Not for several threads at a time.

    path: a unix socket's path, `tcp:host:port`, or an address as SPDK's tools take it; where this
    user's daemons listen when it is None. timeout_s: how long each call may take, in seconds, and
    the connecting; may be set anew at any time. ListenError where `path` is no address.
    ConnectionError where nobody listens there.
    """

    def __init__(self, path: str | None = None, timeout_s: float = 60) -> None:
        self.timeout_s = timeout_s
        self._address = parse_address(default_rpc_path() if path is None else path, bare_path=True)
        self._codec = ClientCodec()
        self._last_id = 0
        self._socket = _connect(self._address, timeout_s)

    @classmethod
    def connect(
        cls,
        path: str | None = None,
        timeout_s: float = 20,
        *,
        call_timeout_s: float = 60,
        initialized: bool = True,
    ) -> Self:
        """Connect to a daemon that may be starting, and wait until it is ready.

        Ready means that all it was asked for at its start is there; with `initialized=False`, that
        it answers, which is as far as one with --wait-for-rpc comes by itself. TimeoutError when
        it is not ready within `timeout_s` seconds, ConnectionError when it ends before it is.
        call_timeout_s: for each call after that.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(deadline - time.monotonic(), RETRY_S)
            try:
                client = cls(path, left_s)
            except ConnectionError as error:
                if not answers.may_come(error):
                    raise
                if time.monotonic() >= deadline:
                    raise answers.not_ready(error, timeout_s) from error
                time.sleep(RETRY_S)
                continue
            try:
                client.call("framework_wait_init" if initialized else "spdk_get_version")
            except BaseException:
                client.close()
                raise
            client.timeout_s = call_timeout_s
            return client

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
        """Hang up. Idempotent. Calls that are under way in the daemon run to their end."""
        self._socket.close()

    def call(self, method: str, /, **params: Any) -> Any:
        """Call any method and return its result as JSON has it.

        Parameters go as they are given, None as null; without any, `params` is not sent.

        RpcError: the daemon's answer is an error. TimeoutError: it has not answered in time; it may
        carry the call out all the same, and what it answers then is thrown away. ConnectionError:
        it is gone, or is no vbdev daemon; connect anew.
        """
        self._last_id += 1
        request = encode_request(method, params or None, self._last_id)
        event = self._exchange(request, method, self._last_id)
        assert isinstance(event, Response)
        result = answers.outcome(event)
        if isinstance(result, RpcError):
            raise result
        return result

    def batch(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Any]:
        """Send several calls in one message, and return their results in the same order.

        They run at the same time, as far as they have to wait. In the place of a call that failed
        is its RpcError. RpcError is raised where the batch as a whole is refused: at most 8192
        values, at most 256 KiB. TimeoutError, ConnectionError: as `call`.
        """
        first_id = self._last_id + 1
        self._last_id += len(calls)
        request = answers.render(calls, first_id)
        event = self._exchange(request, f"a batch of {len(calls)}", first_id)
        return answers.of_batch(event, first_id, len(calls))

    def _exchange(
        self, request: bytes, what: str, request_id: int
    ) -> Response | tuple[Response, ...]:
        deadline = time.monotonic() + self.timeout_s
        sent = False
        if self._socket.fileno() < 0:
            raise answers.closed(self._address)
        try:
            self._socket.settimeout(self.timeout_s)
            self._socket.sendall(request)
            sent = True
            return self._receive(request_id, deadline)
        except TimeoutError as error:
            if not sent:  # half a request may be on its way, and nothing can follow it
                self.close()
            raise answers.no_answer(self._address, what, self.timeout_s) from error
        except JsonError as error:
            self.close()
            raise answers.no_json(self._address, error) from error
        except OSError as error:
            self.close()
            raise answers.hung_up(self._address, what) from error

    def _receive(self, request_id: int, deadline: float) -> Response | tuple[Response, ...]:
        while True:
            event = self._codec.next_event()
            if event is not None:
                if _answers(event, request_id):
                    return event
                continue  # the answer to a call that has timed out
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError
            self._codec.feed(data)


def _answers(event: Response | tuple[Response, ...], request_id: int) -> bool:
    """Say whether this answers the request whose id, or first id, this is: none came after it."""
    if isinstance(event, Response):
        # An error without an id is about the only request that there is.
        return event.id in (request_id, None)
    return any(isinstance(one.id, int) and one.id >= request_id for one in event)


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
    except OSError as error:
        raise answers.no_daemon(address, error) from error
    return connection
