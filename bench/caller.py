"""A client of the control plane that is a socket and prepared bytes: it costs next to nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

__all__ = ["Caller", "Pace", "request"]

TIMEOUT_S = 30


def request(method: str, **params: Any) -> bytes:
    """Render a call with the id 1."""
    call = {"jsonrpc": "2.0", "id": 1, "method": method}
    return json.dumps(call | ({"params": params} if params else {})).encode()


class Caller:
    """One connection; answers are counted by their newlines. pid: of the daemon."""

    def __init__(self, path: str, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def cpu_s(self) -> float:
        """Return the CPU time that the daemon has had, in seconds."""
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def call(self, call: bytes) -> bytes:
        """Make one call, and return its answer. RuntimeError: it was refused."""
        self._socket.sendall(call)
        answer = self._socket.recv(1 << 16)
        while not answer.endswith(b"\n"):
            piece = self._socket.recv(1 << 16)
            if not piece:
                raise RuntimeError("the daemon closed the connection")
            answer += piece
        if b'"error"' in answer:
            raise RuntimeError(answer.decode())
        return answer

    def pipeline(self, call: bytes, count: int) -> None:
        """Send all calls, and read all answers meanwhile."""
        self._socket.setblocking(False)
        unsent, answered = memoryview(call * count), 0
        deadline = time.monotonic() + TIMEOUT_S
        while answered < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{count - answered} calls are not answered")
            if unsent:
                with contextlib.suppress(BlockingIOError):
                    unsent = unsent[self._socket.send(unsent[: 1 << 16]) :]
            try:
                answered += self._socket.recv(1 << 16).count(b"\n")
            except BlockingIOError:
                if not unsent:
                    time.sleep(0.0002)
        self._socket.settimeout(TIMEOUT_S)


class Pace:
    """Calls at a steady rate, on a thread. `calls_per_s`: what came of it."""

    def __init__(self, path: str, pid: int, wanted_per_s: int) -> None:
        self._place = path, pid
        self._wanted_per_s = wanted_per_s
        self._stop = threading.Event()
        self._failed: Exception | None = None
        self.calls_per_s = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Call until the end of the block. RuntimeError there: a call has failed."""
        thread = threading.Thread(target=self._run, name="pace")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        if self._failed is not None:
            raise RuntimeError(f"calls failed: {self._failed}") from self._failed

    def _run(self) -> None:
        calls = [request("spdk_get_version"), request("bdev_get_iostat")]
        done, start = 0, time.perf_counter()
        try:
            with Caller(*self._place) as caller:
                while not self._stop.is_set():
                    caller.call(calls[done % len(calls)])
                    done += 1
                    ahead_s = done / self._wanted_per_s - (time.perf_counter() - start)
                    if ahead_s > 0:
                        time.sleep(ahead_s)
        except Exception as error:  # noqa: BLE001 - raised by `running`
            self._failed = error
        self.calls_per_s = done / (time.perf_counter() - start)
