"""Daemon: a vbdev process on a private socket that ends with whoever started it.

It is the only thing here that needs no core: a client's tests import it alone. pytest has it as
the fixture `vbdev_target` (vbdev.pytest_plugin).

A daemon that a test forgets holds a socket, memory and the terminal's patience for ever, so there
are two ways in which it ends. `close` stops it in order, and kills it when it does not obey. And
the daemon has inherited one end of a pipe of which the starting process has the other: when that
is gone, however it went, the kernel signals SIGKILL to the daemon's process group (fcntl(2),
F_SETOWN and F_SETSIG). No thread and no code of the daemon's is needed for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from vbdev.api.errors import METHOD_NOT_FOUND
from vbdev.client import RpcError
from vbdev.client.blocking import Client
from vbdev.vocab.address import MAX_UNIX_PATH_BYTES

__all__ = ["Daemon", "DaemonError"]

POLL_S: Final = 0.005
"""How often to look whether the daemon listens."""
SOCKET: Final = "rpc.sock"
LOG_CHARACTERS: Final = 64 << 10
"""How much of the end of a log goes into messages."""


class DaemonError(Exception):
    """A daemon does not start, does not stop, or has ended by itself; with the end of its log."""


class Daemon:
    """One vbdev process, and what is known of it.

    >>> with Daemon("-m", "0x1") as daemon:
    ...     daemon.client.spdk_get_version().fields.major
    26

    Parameters
    ----------
    words: options of the command, without its socket.
    command: the subcommand: `spdk-tgt`, or `serve`.
    config: a configuration: a file, or what such a file has in it (`{"subsystems": [...]}`).
    directory: for its socket and logs; a temporary one, removed with `close`, by default.
    env: more environment. wrapper: a command to run it under, as words.
    start_timeout_s, stop_timeout_s: seconds until it counts as hung, and is killed.

    """

    def __init__(
        self,
        *words: str | os.PathLike[str],
        command: str = "spdk-tgt",
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        directory: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        start_timeout_s: float = 30,
        stop_timeout_s: float = 30,
    ) -> None:
        if "--no-rpc-server" in words:
            raise ValueError("--no-rpc-server: it is by RPC that a Daemon knows when it serves")
        self._own_directory = directory is None
        if directory is not None and not fits(directory):
            raise ValueError(f"{directory}: too long a path for a socket; give another directory")
        self.directory = Path(directory or _make_directory()).absolute()
        self.rpc_socket = str(self.directory / SOCKET)
        self.stdout_file = self.directory / "stdout"
        self.stderr_file = self.directory / "stderr"
        self.start_timeout_s = start_timeout_s
        self.stop_timeout_s = stop_timeout_s
        self.command = [*wrapper, sys.executable, "-m", "vbdev", command, *map(str, words)]
        if isinstance(config, Mapping):
            file = self.directory / "config.json"
            file.write_text(json.dumps(config))
            config = file
        if config is not None:
            self.command += ["--config", os.fspath(config)]
        self.command += ["--rpc-socket", self.rpc_socket]
        self._env = os.environ | (env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: int | None = None
        self._client: Client | None = None
        self._ending = False

    def __enter__(self) -> Self:
        """Start it, unless it runs."""
        if not self.is_running:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Life

    def start(self) -> None:
        """Start it and wait until it serves; again after its end. DaemonError, and it is gone.

        It serves when it is initialised, with `--wait-for-rpc` when it can be.
        """
        if self.is_running:
            raise DaemonError(f"it runs already: {self}")
        self._ending = False
        try:
            self._spawn()
            self._wait_ready(time.monotonic() + self.start_timeout_s)
        except BaseException:
            self.kill()
            raise

    def _spawn(self) -> None:
        inherited, self._guard = os.pipe()
        try:
            with self.stdout_file.open("wb") as out, self.stderr_file.open("ab") as err:
                self._process = subprocess.Popen(  # noqa: S603 - the words are the caller's
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=self._env,
                    pass_fds=[inherited],
                    start_new_session=True,  # a Ctrl-C is for the tests, which then end it
                )
            fcntl.fcntl(inherited, fcntl.F_SETOWN, -self._process.pid)
            fcntl.fcntl(inherited, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(inherited, fcntl.F_GETFL)
            fcntl.fcntl(inherited, fcntl.F_SETFL, flags | os.O_ASYNC)
        finally:
            os.close(inherited)

    def _wait_ready(self, deadline: float) -> None:
        method = "framework_wait_init"
        if "--wait-for-rpc" in self.command:
            method = "spdk_get_version"
        while True:
            if not self.is_running:
                raise self._error(f"it ended with status {self.exit_status} before it served")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._error(f"it does not serve after {self.start_timeout_s:g} s")
            try:
                with Client(self.rpc_socket, left_s) as client:
                    client.call(method)
            except RpcError as error:
                if error.code != METHOD_NOT_FOUND:  # which --rpcs-allowed makes of any method
                    raise self._error(f"{method}: {error}") from error
            except TimeoutError:
                continue
            except ConnectionError:
                time.sleep(POLL_S)
                continue
            return

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it in order and wait for that; one that has ended is none the worse for it.

        DaemonError: it ended with another status than 0; or it is hung, and killed now.
        """
        self._hang_up()
        process = self._process
        if process is None or self._guard is None:
            return
        self._ending = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        try:
            process.wait(self.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._error(
                f"it ran on for {self.stop_timeout_s:g} s after {signal.Signals(number).name},"
                " and was killed"
            ) from None
        self._ended()
        if process.returncode:
            raise self._error(f"it stopped with status {process.returncode}")

    def kill(self) -> None:
        """End it at once, as a crash would, with all that a wrapper has started."""
        self._hang_up()
        process = self._process
        if process is None or self._guard is None:
            return
        self._ending = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._ended()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it ends by itself, as is expected of it, and return its status.

        DaemonError: it has not within `timeout_s` (stop_timeout_s by default), and runs on.
        """
        if self._process is None:
            raise DaemonError("it has not been started")
        timeout_s = self.stop_timeout_s if timeout_s is None else timeout_s
        self._hang_up()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._error(f"it still runs after {timeout_s:g} s") from None
        self._ending = True
        self._ended()
        return status

    def close(self) -> None:
        """End it whatever its state, and remove its own directory. Idempotent.

        DaemonError: as `stop`; or it had ended by itself, other than with status 0.
        """
        try:
            if self.exit_status and not self._ending:
                raise self._error(f"it had ended by itself, with status {self.exit_status}")
            self.stop()
        finally:
            self.kill()
            if self._own_directory:
                shutil.rmtree(self.directory, ignore_errors=True)

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ended(self) -> None:
        if self._guard is not None:
            os.close(self._guard)  # which kills what is left of its process group
            self._guard = None

    # What is known of it

    @property
    def client(self) -> Client:
        """A client of its control plane, connected when it is first asked for."""
        if self._client is None:
            self._client = Client(self.rpc_socket)
        return self._client

    @property
    def pid(self) -> int:
        """The process; where there is a wrapper, that one's. DaemonError before the start."""
        if self._process is None:
            raise DaemonError("it has not been started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The status it ended with, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return _text(self.stdout_file)

    @property
    def stderr(self) -> str:
        """What it has logged."""
        return _text(self.stderr_file)

    def _error(self, message: str) -> DaemonError:
        log = self.stderr[-LOG_CHARACTERS:].strip() or "nothing"
        return DaemonError(f"vbdev daemon: {message}; its log:\n{log}")

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "not running"
        return f"<Daemon {self.rpc_socket} {state}>"


def fits(directory: str | os.PathLike[str]) -> bool:
    """Tell whether a socket in a directory can be bound: sun_path is short."""
    return len(os.fsencode(Path(directory).absolute() / SOCKET)) <= MAX_UNIX_PATH_BYTES


def _make_directory() -> str:
    place = None if fits(Path(tempfile.gettempdir()) / "vbdev-12345678") else "/tmp"  # noqa: S108
    return tempfile.mkdtemp(prefix="vbdev-", dir=place)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""
