"""Daemons to ask, and the three ways to ask them: the socket, SPDK's class, spdk-rpc."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

from spdk_client.case import Call
from support.clients import find
from support.daemon import Daemon

TIMEOUT_S = 20


class Problem(Exception):  # noqa: N818
    """What was asked or answered is not as it has to be."""


class Refusal(Exception):  # noqa: N818
    """The daemon answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.answer = (code, message)


class Target:
    """One daemon that is asked.

    how: "runtime", "startup" (it waits to be told to begin), or "unexamined" (no bdev is examined
    unless asked for).
    """

    def __init__(self, directory: Path, how: str) -> None:
        directory.mkdir(parents=True)
        for name in ("disk", "disk2"):
            (directory / name).write_bytes(bytes(1 << 20))
        self.directory = directory
        words = [] if how == "runtime" else ["--wait-for-rpc"]
        self.daemon = Daemon(directory, *words, nbd=[])
        self._socket: socket.socket | None = None
        self._spdk: Any = None
        self._requests = 0
        self.daemon.start()
        if how == "unexamined":
            self.must(("bdev_set_options", {"bdev_auto_examine": False}))
            self.must(("framework_start_init", {}))

    @property
    def address(self) -> str:
        """Its RPC socket."""
        return self.daemon.rpc_socket

    def close(self, *, ended: bool = False) -> None:
        """Hang up and end the daemon; `ended`: it ends by itself."""
        self._hang_up()
        if self._spdk is not None:
            self._spdk.close()
        if ended:
            status = self.daemon.wait(TIMEOUT_S)
            assert status == 0, f"status {status}"
        self.daemon.close()

    def fill(self, value: Any, result: Any = None) -> Any:
        """Put in what only a running daemon has: `$DIR`, `$RESULT`."""
        if isinstance(value, dict):
            return {key: self.fill(one, result) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.fill(one, result) for one in value)
        if isinstance(value, str):
            value = value.replace("$DIR", str(self.directory))
            return value.replace("$RESULT", str(result))
        return value

    # The socket

    def ask(self, method: str, params: str | None) -> Any:
        """Ask with parameters as JSON text; return the result, or raise Refusal."""
        self._requests += 1
        given = "" if params is None else f', "params": {self.fill(params)}'
        answer = self._exchange(
            f'{{"jsonrpc": "2.0", "id": {self._requests}, "method": "{method}"{given}}}'
        )
        kind = "error" if "error" in answer else "result"
        if list(answer) != ["jsonrpc", "id", kind]:
            raise Problem(f"the answer's fields are {list(answer)}")
        if (answer["jsonrpc"], answer["id"]) != ("2.0", self._requests):
            self._hang_up()
            raise Problem(f"the answer is to another question: {answer}")
        if kind == "error":
            raise _refusal(answer["error"])
        return answer["result"]

    def must(self, call: Call, result: Any = None) -> None:
        """Make a call that is there for another's sake."""
        method, params = call
        try:
            self.ask(method, json.dumps(self.fill(params, result)) if params else None)
        except Refusal as error:
            raise Problem(f"{method} {params}: {error.answer}") from error

    def _exchange(self, request: str) -> dict[str, Any]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(TIMEOUT_S)
            self._socket.connect(self.address)
        answer = b""
        try:
            self._socket.sendall(request.encode())
            while not answer.endswith(b"\n"):
                more = self._socket.recv(1 << 16)
                if not more:
                    break
                answer += more
        except OSError as error:
            self._hang_up()
            raise Problem(f"{error!r} after {request[:200]}") from error
        if not answer.endswith(b"\n"):
            self._hang_up()
            raise Problem(f"it hung up after {answer!r}, asked {request[:200]}")
        return json.loads(answer)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # SPDK's class

    def call(self, method: str, params: dict[str, Any], *, by_name: bool = False) -> Any:
        """Ask through JSONRPCClient: its `call`, or the attribute that has the method's name."""
        from spdk.rpc.client import JSONRPCClient, JSONRPCException

        if self._spdk is None:
            self._spdk = JSONRPCClient(self.address, timeout=TIMEOUT_S)
        try:
            if by_name:
                return getattr(self._spdk, method)(**params)
            return self._spdk.call(method, dict(params))
        except JSONRPCException as error:
            if "Got JSON-RPC error response" not in error.message:
                self._spdk = None
                raise Problem(error.message) from error
            raise _told(error.message) from error


class SpdkRpc:
    """spdk-rpc: a process for each command, or one that reads commands (`--server`)."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(self, target: Target, *words: str) -> str:
        """Run it once; return what it printed."""
        done = subprocess.run(
            [find("spdk-rpc"), "-s", target.address, *target.fill(words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout
        if done.returncode == 1 and "Got JSON-RPC error response" in done.stdout:
            raise _told(done.stdout)
        raise Problem(f"status {done.returncode}: {done.stdout}")

    def tell(self, target: Target, *words: str) -> str:
        """Give a command to the one that reads them; return what it printed."""
        if self._server is None:
            self._server = subprocess.Popen(
                [find("spdk-rpc"), "--server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        # `--names=all` and the like are one word each: quotes as shlex takes them.
        line = " ".join(json.dumps(word) for word in ("-s", target.address, *target.fill(words)))
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        said = []
        while not (line := self._server.stdout.readline()).startswith("**STATUS="):
            if not line:
                raise Problem(f"spdk-rpc --server ended: {said}")
            said.append(line)
        printed = "".join(said)
        if line.strip() == "**STATUS=0":
            return printed
        if "Got JSON-RPC error response" in printed:
            raise _told(printed)
        raise Problem(printed)

    def close(self) -> None:
        """End the one that reads."""
        if self._server is not None:
            self._server.stdin.close()
            self._server.stdout.close()
            self._server.wait(TIMEOUT_S)


def _refusal(error: dict[str, Any]) -> Exception:
    # `data`, which JSON-RPC has for the detail, is vbdev's; code and message are SPDK's.
    if list(error) not in (["code", "message"], ["code", "message", "data"]):
        return Problem(f"the error's fields are {list(error)}")
    return Refusal(error["code"], error["message"])


def _told(printed: str) -> Exception:
    """Return the error that SPDK's client shows in what it prints."""
    _, _, shown = printed.partition("Got JSON-RPC error response\nresponse:\n")
    try:
        error, _ = json.JSONDecoder().raw_decode(shown)
    except ValueError:
        return Problem(f"no error to be read in {printed}")
    return _refusal(error)
