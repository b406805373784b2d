"""Threads for system calls that block: a few, started as they are needed.

A worker executes a FileJob and hands it back by message. It never sees the engine: what the
answers mean is decided on the reactor's thread.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from collections.abc import Callable

from vbdev.core.file.job import FileJob
from vbdev.files.access import threads_in_calls
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.threads import NamedThread

__all__ = ["NUM_OWN_WORKERS", "NUM_WORKERS", "Workers"]

log = logging.getLogger(__name__)

NUM_WORKERS = 8
"""Threads at most, for each reactor: enough to keep a solid-state disk busy without a ring."""
NUM_OWN_WORKERS = 32
"""For each reactor and file that has threads of its own: its server may be far away."""


class Workers:
    """Up to `most` workers of a reactor. `finish(job)` is called there for each job that ended."""

    def __init__(
        self,
        reactor: Reactor,
        finish: Callable[[FileJob], None],
        most: int,
        *,
        may_hang: bool = False,
    ) -> None:
        self._most = most
        self._may_hang = may_hang
        self._reactor = reactor
        self._finish = finish
        self._jobs: queue.SimpleQueue[FileJob | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over the next two
        self._finished: list[FileJob] = []
        self._told = False
        self._unfinished = 0
        self._threads: list[NamedThread] = []

    def start(self, jobs: list[FileJob]) -> None:
        """Queue jobs. Never blocks, never raises: without any thread, jobs fail with EAGAIN."""
        for job in jobs:
            self._unfinished += 1
            if len(self._threads) < min(self._unfinished, self._most):
                self._add_thread()
            if self._threads:
                self._jobs.put(job)
            else:
                job.refuse(errno.EAGAIN)
                self._hand_back(job)

    def _add_thread(self) -> None:
        # A daemon: a system call that hangs must not keep the process from ending.
        thread = NamedThread(
            target=self._work, name=f"{self._reactor.name}-file-{len(self._threads)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            log.error("worker not started reactor=%s error=%s", self._reactor.name, error)  # noqa: TRY400 - a sentence says it
            return
        self._threads.append(thread)

    def _work(self) -> None:
        me = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            if self._may_hang:
                threads_in_calls.add(me)
            job.execute()
            threads_in_calls.discard(me)
            self._hand_back(job)

    def _hand_back(self, job: FileJob) -> None:
        with self._lock:
            self._finished.append(job)
            told, self._told = self._told, True
        if not told:  # many jobs share one message
            self._reactor.send_msg(self._collect)

    def _collect(self) -> None:
        with self._lock:
            finished, self._finished = self._finished, []
            self._told = False
        for job in finished:
            self._unfinished -= 1
            self._finish(job)

    def close(self) -> None:
        """Let the threads end, and wait until they have. Only without unfinished jobs."""
        assert self._unfinished == 0, self._unfinished
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
