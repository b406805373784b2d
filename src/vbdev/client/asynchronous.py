"""AsyncClient: one connection, any number of calls in flight, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from vbdev.api.methods import RpcError
from vbdev.client import answers
from vbdev.client.generated.async_methods import AsyncMethods
from vbdev.vocab.address import default_rpc_path, parse_address
from vbdev.wire.jsonrpc import ClientCodec, Response, encode_request
from vbdev.wire.jsontext import JsonError

__all__ = ["AsyncClient"]

T = TypeVar("T")

RETRY_S = 0.01
RECEIVE_BYTES = 1 << 16

Event = Response | tuple[Response, ...]


class AsyncClient(AsyncMethods):
    """A connection to a daemon, made by `async with`, or by `await AsyncClient.connect(...)`.

    For the tasks of one event loop, as many as like at a time; the daemon answers in the order in
    which it gets done. Parameters and failures are Client's. A call that is cancelled, or times
    out, goes on in the daemon, and its answer is thrown away.
    """

    def __init__(self, path: str | None = None, timeout_s: float = 60) -> None:
        self.timeout_s = timeout_s
        self._address = parse_address(default_rpc_path() if path is None else path, bare_path=True)
        self._codec = ClientCodec()
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[Event]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        path: str | None = None,
        timeout_s: float = 20,
        *,
        call_timeout_s: float = 60,
        initialized: bool = True,
    ) -> Self:
        """Connect to a daemon that may be starting, and wait until it is ready; as Client's."""
        deadline = time.monotonic() + timeout_s
        while True:
            client = cls(path, max(deadline - time.monotonic(), RETRY_S))
            try:
                await client.open()
            except ConnectionError as error:
                if not answers.may_come(error):
                    raise
                if time.monotonic() >= deadline:
                    raise answers.not_ready(error, timeout_s) from error
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await client.call("framework_wait_init" if initialized else "spdk_get_version")
            except BaseException:
                await client.close()
                raise
            client.timeout_s = call_timeout_s
            return client

    async def open(self) -> None:
        """Connect. ConnectionError where nobody listens. Idempotent."""
        if self._writer is not None:
            return
        address = self._address
        opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        if address.is_unix:
            opening = asyncio.open_unix_connection(address.path)
        else:
            opening = asyncio.open_connection(address.host, address.port)
        try:
            reader, self._writer = await asyncio.wait_for(opening, self.timeout_s)
        except OSError as error:
            raise answers.no_daemon(address, error) from error
        self._reading = asyncio.create_task(self._read(reader))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; calls that wait end with ConnectionError. Idempotent."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def call(self, method: str, /, **params: Any) -> Any:
        """Call any method and return its result as JSON has it; as `Client.call`."""
        self._last_id += 1
        request = encode_request(method, params or None, self._last_id)
        event = await self._exchange(request, method, self._last_id, 1)
        assert isinstance(event, Response)
        result = answers.outcome(event)
        if isinstance(result, RpcError):
            raise result
        return result

    async def batch(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Any]:
        """Send several calls in one message; as `Client.batch`."""
        first_id = self._last_id + 1
        self._last_id += len(calls)
        request = answers.render(calls, first_id)
        event = await self._exchange(request, f"a batch of {len(calls)}", first_id, len(calls))
        return answers.of_batch(event, first_id, len(calls))

    async def _typed(self, method: Callable[..., Awaitable[T]], params: Mapping[str, Any]) -> T:
        result = await self.call(method.__name__, **answers.given(params))
        declared: T = answers.typed(method, result)
        return declared

    async def _exchange(self, request: bytes, what: str, first_id: int, count: int) -> Event:
        """Send a request, and wait for the answer to any of its ids: a batch has one for all."""
        writer, reading = self._writer, self._reading
        if writer is None or reading is None or reading.done() or writer.is_closing():
            raise answers.closed(self._address)
        waiting: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        ids = range(first_id, first_id + count)
        self._waiting |= dict.fromkeys(ids, waiting)
        try:
            async with asyncio.timeout(self.timeout_s):
                writer.write(request)
                await writer.drain()
                return await waiting
        except TimeoutError as error:
            raise answers.no_answer(self._address, what, self.timeout_s) from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise answers.hung_up(self._address, what) from error
        finally:
            for number in ids:
                self._waiting.pop(number, None)
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # told already: sending has failed as well

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand answers to those who wait for them, until the connection ends; then tell them."""
        failure: Exception = ConnectionResetError()
        try:
            while data := await reader.read(RECEIVE_BYTES):
                self._codec.feed(data)
                while (event := self._codec.next_event()) is not None:
                    self._answered(event)
        except JsonError as error:
            failure = answers.no_json(self._address, error)
        except OSError:
            pass  # as if it had ended
        finally:
            if self._writer is not None:
                self._writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(failure)

    def _answered(self, event: Event) -> None:
        for response in event if isinstance(event, tuple) else (event,):
            if response.id is None and isinstance(event, Response) and len(self._waiting) == 1:
                (waiting,) = self._waiting.values()  # an error about the only request there is
            elif isinstance(response.id, int) and response.id in self._waiting:
                waiting = self._waiting[response.id]
            else:
                continue  # of a call that nobody waits for any more
            if not waiting.done():
                waiting.set_result(event)
            return
