"""The NBD client's load: an `nbd` bdev, and a server in this process that takes turns with it.

The client turns until nothing is left for it to do; then the server answers all that has come, in
the order in which it was asked (or, to show what that is worth, backwards). Only the client's turns
are counted.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vbdev.core.engine.engine import Engine
from vbdev.core.load.loadgen import LoadGenerator
from vbdev.modules.nbd.disk import Nbd
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.wire.nbd import (
    NEED_DATA,
    Command,
    ExportInfo,
    ExportRequest,
    Request,
    ServerHandshake,
    Transmission,
    TransmissionFlag,
    decode_request_header,
    encode_chunk_offset_data_header,
    encode_simple_reply,
)

__all__ = ["ClientLoad"]

IO_SIZE = 4096
SIZE_BYTES = 16 << 20
SOCKET_BYTES = 1 << 20
REQUEST_BYTES = 28


class ClientLoad:
    """The load generator on an `nbd` bdev with one connection."""

    def __init__(
        self,
        probe: AbstractContextManager[None],
        *,
        queue_depth: int,
        workload: str = "read",
        backwards: bool = False,
    ) -> None:
        self.queue_depth = queue_depth
        self._probe = probe
        self._backwards = backwards
        self._data = bytes(IO_SIZE)
        self._asked = bytearray()
        self._unsent = memoryview(b"")
        self._directory = tempfile.TemporaryDirectory(prefix="vbdev-costs-")
        path = str(Path(self._directory.name) / "s")
        self._reactor = Reactor()
        self._engine = self._reactor.engine = Engine()
        self._registry = Registry(self._reactor)
        self._socket = self._negotiated(path)
        self._ended: list[bool] = []
        with self._reactor.here():
            self._descriptor = self._registry.open(
                "Top", write=True, on_event=lambda _event: None, holder="costs"
            )
            self._generator = LoadGenerator(
                self._engine,
                self._descriptor.get_channel(),
                workload=f"rand{workload}",
                io_size=IO_SIZE,
                queue_depth=queue_depth,
                on_end=lambda: self._ended.append(True),
            )

    def _negotiated(self, path: str) -> socket.socket:
        """Create the bdev; return the server's end of its connection."""
        found: list[socket.socket] = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            thread = threading.Thread(target=lambda: found.append(negotiate(listener)))
            thread.start()
            params = Nbd.Params(name="Top", uri=f"unix:{path}", timeout=0)
            self._reactor.run_until_complete(self._registry.create(Nbd, params))
            thread.join()
        (connection,) = found
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        connection.setblocking(False)
        return connection

    def run(self, rounds: int) -> None:
        """Run so many rounds."""
        self._ended.clear()
        with self._reactor.here():
            with self._probe:
                self._generator.start(rounds * self.queue_depth)
            while not self._ended:
                self._answer()
                self._turn()

    def _turn(self) -> None:
        """Let the client turn until it has nothing more to do; that turn is the last one."""
        turn = self._reactor._loop.turn
        with self._probe:
            while turn():
                pass

    def _answer(self) -> None:
        """Answer what has come whole, as far as the socket has room."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._asked += self._socket.recv(SOCKET_BYTES)
        requests = []
        at = 0
        while len(self._asked) - at >= REQUEST_BYTES:
            request = decode_request_header(bytes(self._asked[at : at + REQUEST_BYTES]))
            length = request.length_bytes if request.command == Command.WRITE else 0
            if len(self._asked) - at < REQUEST_BYTES + length:
                break
            requests.append(request)
            at += REQUEST_BYTES + length
        del self._asked[:at]
        if self._backwards:
            requests.reverse()
        self._unsent = memoryview(bytes(self._unsent) + b"".join(map(self._reply, requests)))
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _reply(self, request: Request) -> bytes:
        """Answer as servers do: READs with a chunk, all else with a simple reply."""
        if request.command != Command.READ:
            return encode_simple_reply(request.cookie)
        head = encode_chunk_offset_data_header(
            request.cookie, request.offset_bytes, request.length_bytes, done=True
        )
        return head + self._data

    def batches(self) -> list[tuple[int, int]]:
        """Return (batches, I/Os in them) of the bdev, since the start."""
        return [(batches, ios) for _bdev, batches, ios in self._generator.layers()]

    def close(self) -> None:
        """Take everything down; nothing may be left, and no I/O may have failed."""
        assert not self._generator.failures
        with self._reactor.here():
            self._generator.close()
            serving = threading.Thread(target=self._serve_the_end)
            serving.start()
            self._reactor.run_until_complete(self._close())
            serving.join()
        assert self._engine.ios_in_use == 0
        self._reactor.close()
        self._directory.cleanup()

    async def _close(self) -> None:
        await self._descriptor.close()
        await self._registry.close()

    def _serve_the_end(self) -> None:
        """Answer the last FLUSH, until the client hangs up."""
        self._socket.setblocking(True)
        with self._socket:
            while data := self._socket.recv(REQUEST_BYTES, socket.MSG_WAITALL):
                request = decode_request_header(data)
                if request.command == Command.FLUSH:
                    self._socket.sendall(encode_simple_reply(request.cookie))


def negotiate(listener: socket.socket) -> socket.socket:
    """Accept a connection, and negotiate as a server with structured replies."""
    connection, _ = listener.accept()
    handshake = ServerHandshake()
    event: Any = None
    while not isinstance(event, Transmission):
        event = handshake.next_event()
        connection.sendall(handshake.data_to_send())
        if event is NEED_DATA:
            handshake.feed(connection.recv(4096))
        elif isinstance(event, ExportRequest):
            flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH
            handshake.answer_export(ExportInfo(SIZE_BYTES, flags))
            connection.sendall(handshake.data_to_send())
    assert event.structured_replies
    return connection
