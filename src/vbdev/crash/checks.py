"""A user's check of a disk: a command that ends with 0 where all is well."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import Final

__all__ = ["Check", "Outcome"]

OUTPUT_BYTES: Final = 4096
"""Of what a check that fails has said, the end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended. status: of the command; -N where signal N ended it; None: out of time."""

    status: int | None
    output: str

    @property
    def failed(self) -> bool:
        """Whether the disk is not what it should be."""
        return self.status != 0

    @property
    def words(self) -> str:
        """Say it."""
        if self.status is None:
            return "did not end in time"
        return f"ended with {self.status}" if self.status >= 0 else f"killed by {-self.status}"


class Check:
    """A command, with {disk} for the disk's path and {mark} for the last mark. Any thread.

    It is run without a shell, in a session of its own, which is killed when it has ended or is out
    of time: it leaves nothing behind that has not left its session. VBDEV_DISK and VBDEV_MARK in
    its environment say the same. ValueError: words that no shell would split, or none.
    """

    def __init__(self, command: str, timeout_s: float) -> None:
        self._words = shlex.split(command)
        if not self._words:
            raise ValueError("a check needs a command")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # over the next two
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, disk: str, mark: bytes | None) -> Outcome:
        """Run it on a disk, to its end. OSError: it can not be started."""
        text = os.fsdecode(mark or b"")
        words = [word.replace("{disk}", disk).replace("{mark}", text) for word in self._words]
        environment = {**os.environ, "VBDEV_DISK": disk, "VBDEV_MARK": text}
        with self._lock:
            if self._stopped:
                return Outcome(None, "")
            process = subprocess.Popen(  # noqa: S603 - it is the user's own
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
        status: int | None
        try:
            output, _ = process.communicate(timeout=self._timeout_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1)
            output, status = b"", None
        finally:
            with self._lock:
                self._running.discard(process)
            _kill(process)
            if process.stdout is not None:
                process.stdout.close()
            process.wait()
        return Outcome(status, output[-OUTPUT_BYTES:].decode(errors="backslashreplace"))

    def stop(self) -> None:
        """Kill what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
