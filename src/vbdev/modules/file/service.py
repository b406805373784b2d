"""FileService: one reactor's ring and workers, shared by all files that it does I/O on.

Made when the reactor's first channel to a file is, closed with the last. A reactor that sleeps is
woken by the ring's descriptor; one that is awake looks at it each turn anyway.
"""

from __future__ import annotations

import errno
import logging
import os
import threading

from vbdev.bdev import Bdev
from vbdev.bdev.channels import ask_drained
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.engine import Engine
from vbdev.core.file.job import FileJob
from vbdev.core.file.queue import FileEngine, FilePath, OpenFile
from vbdev.core.file.uring import Ring
from vbdev.files import access
from vbdev.files.opening import FileGeometry
from vbdev.modules.file.workers import NUM_OWN_WORKERS, NUM_WORKERS, Workers
from vbdev.reactor.blocking import call_blocking, call_unheeded
from vbdev.reactor.reactor import Reactor, Watch

__all__ = ["NO_RING_VARIABLE", "FileService"]

log = logging.getLogger(__name__)

RING_ENTRIES = 256
"""I/Os handed to the kernel in one system call."""
MAX_UNDER_WAY = 4096
"""I/Os with the kernel at once; more wait here."""
RETRY_US = 1000
"""How long to leave a kernel alone that has no memory for another I/O."""
REOPEN_US = 100_000
"""How long until a file is opened once more for its syncs, where that has failed."""
NO_RING_VARIABLE = "VBDEV_NO_IO_URING"
"""Set in the environment, this keeps io_uring unused, as if the kernel forbade it."""

_lock = threading.Lock()  # over the next two, which all reactors share
_warned: set[str] = set()
_paths: dict[OpenFile, dict[Reactor, FilePath]] = {}


def _open_ring() -> Ring | None:
    """Return a ring, or None where there is none to be had; why is said once."""
    if os.environ.get(NO_RING_VARIABLE):
        reason = f"{NO_RING_VARIABLE} is set"
    else:
        # A ring counts against RLIMIT_MEMLOCK on some kernels: a smaller one may still fit.
        for shift in (0, 3, 5):
            try:
                return Ring(max(RING_ENTRIES >> shift, 4), max(MAX_UNDER_WAY >> shift, 8))
            except OSError as error:
                reason = str(error)
                if error.errno != errno.ENOMEM:
                    break
    with _lock:
        news = reason not in _warned
        _warned.add(reason)
    if news:
        log.warning(
            "io_uring is not available: file I/O goes through up to %d threads instead reason=%s",
            NUM_WORKERS,
            reason,
        )
    return None


class FileService:
    """What a reactor does file I/O with. Belongs to its thread; get it with `of`.

    A file on a mount that may hang has one of its own, all threads, and no ring: submitting a READ
    of a FUSE file waits for its answer (the kernel asks it whether it can be polled, and takes the
    default for a promise not to wait), and the kernel's own threads, which wait for the others,
    are few and shared by all rings of a thread.
    """

    def __init__(self, reactor: Reactor, core: Engine, only: OpenFile | None = None) -> None:
        self.engine = FileEngine(core, _open_ring() if only is None else None, self)
        self.num_workers = NUM_WORKERS if only is None else NUM_OWN_WORKERS
        self._key = _key(only)
        self._reactor = reactor
        self._workers = Workers(
            reactor, self.engine.finish_job, self.num_workers, may_hang=only is not None
        )
        self._watch: Watch | None = None
        if self.engine.ring is not None:
            self._watch = reactor.watch(self.engine.ring.fd, readable=self.engine.reap)
        self._paths: dict[OpenFile, FilePath] = {}
        self._users: dict[FilePath, int] = {}
        self._bdevs: dict[OpenFile, Bdev] = {}
        self._own_sync_fds: dict[FilePath, tuple[int, FileGeometry]] = {}

    @classmethod
    def of(cls, reactor: Reactor, core: Engine, only: OpenFile | None = None) -> FileService:
        """Return the reactor's service, or its service for one file, made at the first call."""
        service = reactor.locals.get(_key(only))
        if service is None:
            service = reactor.locals[_key(only)] = cls(reactor, core, only)
        assert isinstance(service, cls)
        return service

    def attach(self, open_file: OpenFile, bdev: Bdev, geometry: FileGeometry) -> FilePath:
        """Return this reactor's path to a file; all its channels to the bdev share one.

        The file's `sync_fd` is for the sync at the end. As long as there are paths nobody else
        needs it, and one of them has it.
        """
        path = self._paths.get(open_file)
        if path is None:
            sync_fd = geometry.sync_fd
            with _lock:
                paths = _paths.setdefault(open_file, {})
                is_free = all(other.sync_fd != sync_fd for other in paths.values())
                path = FilePath(self.engine, open_file, sync_fd if is_free else -1)
                paths[self._reactor] = path
            self._paths[open_file] = path
            self._bdevs[open_file] = bdev
        self._users[path] = self._users.get(path, 0) + 1
        if path.sync_fd < 0 and self._users[path] == 1:
            # It may be over before this returns, and looks whether the path still has users.
            name = f"second opening of bdev {bdev.name}'s file"
            self._reactor.begin(self._give_sync_fd(path, geometry), name)
        return path

    async def _give_sync_fd(self, path: FilePath, geometry: FileGeometry) -> None:
        """Give a path a descriptor of its own.

        Its syncs wait for that. They come to an end all the same: a try that fails fails those
        that wait by then, and the next one follows, as long as the path has users.
        """
        what = f"opening the file of bdev {self._bdevs[path.open_file].name} again"
        said = False
        while path in self._users:
            try:
                sync_fd = await self._open_again(geometry, what)
            except OSError as error:
                if not said:
                    log.error("%s failed, no FLUSH until it does not: %s", what, error.strerror)  # noqa: TRY400 - a sentence says it
                    said = True
                path.fail_syncs(error.errno or errno.EIO)
                await self._reactor.sleep(REOPEN_US)
                continue
            self._own_sync_fds[path] = sync_fd, geometry
            if path in self._users:
                path.set_sync_fd(sync_fd)
            else:
                self._close_own(path)
            return

    async def _open_again(self, geometry: FileGeometry, what: str) -> int:
        call = access.opening_again(geometry)  # the file may be closed before a thread gets to it
        return await call_blocking(
            self._reactor,
            what,
            call.run,
            give_back=lambda fd: access.closing_copy(fd, geometry).run(),
            give_up=call.give_up,
            timeout_us=None,
        )

    def _close_own(self, path: FilePath) -> None:
        """Close the descriptor that this path had for itself; the server may have to be asked."""
        own = self._own_sync_fds.pop(path, None)
        if own is not None:
            call = access.closing_copy(*own)
            call_unheeded(self._reactor, "closing a file", call.run, call.give_up)

    def detach(self, path: FilePath) -> None:
        """Undo one `attach`. Without any left, ring and workers go too."""
        self._users[path] -= 1
        if self._users[path]:
            return
        with _lock:
            del _paths[path.open_file][self._reactor]
            if not _paths[path.open_file]:
                del _paths[path.open_file]
        path.close()
        self._close_own(path)
        del self._users[path], self._paths[path.open_file], self._bdevs[path.open_file]
        if self._users:
            return
        del self._reactor.locals[self._key]
        self._workers.close()
        if self._watch is not None:
            self._watch.close()
        if self.engine.ring is not None:
            self.engine.ring.close()

    # What the engine asks for

    def start_jobs(self, jobs: list[FileJob]) -> None:
        """Execute jobs on the workers."""
        self._workers.start(jobs)

    def sync_failed(self, open_file: OpenFile) -> None:
        """Say that what was acknowledged may be lost. Once for each file."""
        number = open_file.failed_sync_errno
        log.critical(
            "sync failed, data written since the last FLUSH may be lost; every FLUSH and FUA fails"
            " until the bdev is deleted and created again bdev=%s errno=%d (%s)",
            self._bdevs[open_file].name,
            number,
            os.strerror(number),
        )

    def stuck(self) -> None:
        """Try again soon to hand I/Os to a kernel that has no room."""
        self._reactor.call_later(RETRY_US, self._retry)

    def _retry(self) -> None:
        if self._reactor.locals.get(self._key) is self:
            self.engine.retry()

    def reset(self, path: FilePath, ios: IOBatch) -> None:
        """Complete RESETs once I/O on the file has ended, on other reactors too."""
        bdev = self._bdevs[path.open_file]
        self._reactor.spawn(self._reset(path, ios, bdev), f"reset of {bdev.name}")

    async def _reset(self, path: FilePath, ios: IOBatch, bdev: Bdev) -> None:
        # The bdev layer lets nothing new in while a RESET is under way.
        await ask_drained(bdev, self._reactor, at_most=len(ios))
        path.reset(ios)


def _key(only: OpenFile | None) -> object:
    return FileService if only is None else (FileService, only)
