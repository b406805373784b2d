"""Disks of states, as files: one that is durable and follows the log, and copies of it to try.

A copy takes what the file holds, not its holes, and where the file system can share blocks none of
that (`FICLONE`). A copy that was tried becomes the next state by the sectors in which they differ,
where it is sure that nobody else has written to it: its time of change, which was set back, is
still that. File systems on which a write through a mapping does not set it are not trusted: tmpfs,
and all that are not known.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Self

from vbdev.core.file.job import file_system_type
from vbdev.crash.log import LogFile, read_at, size_of, write_at
from vbdev.crash.replay import ReplayError
from vbdev.crash.states import BASE, Cut, Version, fingerprint
from vbdev.files.stable_writes import BTRFS_MAGIC, EXT_MAGIC, XFS_MAGIC
from vbdev.vocab.text import printable

__all__ = ["DurableImage", "WorkingImage", "content"]

FICLONE: Final = 0x40049409
TELL_CHANGES: Final = frozenset({EXT_MAGIC, XFS_MAGIC, BTRFS_MAGIC})
"""f_type of file systems whose `page_mkwrite` calls `file_update_time`."""
LONG_AGO_NS: Final = 1_000_000_000


def content(log: LogFile, base: int, sector: int, version: Version) -> bytes:
    """Return what a sector holds in a version. base: the descriptor of the disk before the log."""
    unit = log.sector_bytes
    if version.number == BASE:
        return read_at(base, unit, sector * unit).ljust(unit, b"\0")
    return bytes(unit) if version.at is None else log.read(version.at, unit)


class DurableImage:
    """The disk with what is durable at a cut, in `directory`. A context manager; one thread's.

    base: the disk before the log; None: `size_bytes` of zeroes. fingerprint: stands for its
    content, as long as nobody else writes to it.
    """

    def __init__(self, log: LogFile, base: str | None, size_bytes: int, directory: str) -> None:
        self.log = log
        self.path = str(Path(directory) / "durable")
        self.fingerprint = 0
        self._held: dict[int, int] = {}
        self._told: dict[tuple[int, Version], int] = {}
        self._base = os.open(base or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = size_of(self._base) if base is not None else size_bytes
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, self.size_bytes)
        if base is not None:
            _copy(self._base, self._fd)

    def advance(self, cut: Cut) -> None:
        """Make it what is durable at a cut, the next one. ReplayError: the disk is too small."""
        unit = self.log.sector_bytes
        last = max((*cut.sectors[-1:], *(sector for sector, _ in cut.durable[-1:])), default=-1)
        if (last + 1) * unit > self.size_bytes:
            raise ReplayError(
                f"{printable(self.log.path)} is of a disk of {(last + 1) * unit} bytes or more,"
                f" and this one has {self.size_bytes}"
            )
        self._told.clear()
        for sector, version in cut.durable:
            data = content(self.log, self._base, sector, version)
            write_at(self._fd, data, sector * unit)
            self.fingerprint ^= self._held.pop(sector, self._of_base(sector))
            self._held[sector] = told = fingerprint(sector, data)
            self.fingerprint ^= told

    def _of_base(self, sector: int) -> int:
        return fingerprint(sector, content(self.log, self._base, sector, Version(BASE)))

    def read(self, sector: int) -> bytes:
        """Return what a sector holds. Any thread, while nobody calls `advance`."""
        unit = self.log.sector_bytes
        return read_at(self._fd, unit, sector * unit)

    def content(self, sector: int, version: Version) -> bytes:
        """Return what a sector holds in a version. Any thread."""
        return content(self.log, self._base, sector, version)

    def fingerprint_with(self, changes: Iterable[tuple[int, Version]]) -> int:
        """Return what stands for the disk in which sectors have other versions."""
        told = self.fingerprint
        for change in changes:
            difference = self._told.get(change)
            if difference is None:
                sector, version = change
                difference = self._held.get(sector) or self._of_base(sector)
                difference ^= fingerprint(sector, self.content(sector, version))
                self._told[change] = difference
            told ^= difference
        return told

    def write_copy(self, path: str, changes: Iterable[tuple[int, Version]]) -> None:
        """Make the file at `path`, of which nothing is kept, this disk with changes. Any thread."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.ioctl(fd, FICLONE, self._fd)
            except OSError as error:
                if error.errno not in {
                    errno.EOPNOTSUPP,
                    errno.ENOTTY,
                    errno.EINVAL,
                    errno.EXDEV,
                    errno.ENOSYS,
                }:
                    raise
                os.ftruncate(fd, self.size_bytes)
                _copy(self._fd, fd)
            for sector, version in changes:
                write_at(fd, self.content(sector, version), sector * self.log.sector_bytes)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close and remove it."""
        os.close(self._fd)
        os.close(self._base)
        Path(self.path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class WorkingImage:
    """A file at `path` for one check after the other. One thread's at a time."""

    def __init__(self, durable: DurableImage, path: str) -> None:
        self.path = path
        self._durable = durable
        self._fd = -1
        self._holds: dict[int, Version | None] = {}
        """Sectors in which it may be another disk than the durable one; None: it holds whatever."""

    def follow(self, cut: Cut) -> None:
        """Take notice of what has become durable."""
        self._holds.update((sector, None) for sector, _ in cut.durable)

    def make(self, changes: Sequence[tuple[int, Version]]) -> None:
        """Make it the durable disk with changes, whatever it was."""
        if not self._is_ours():
            self.close()
            self._durable.write_copy(self.path, changes)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        else:
            unit = self._durable.log.sector_bytes
            wanted = dict(changes)
            for sector in self._holds.keys() - wanted.keys():
                write_at(self._fd, self._durable.read(sector), sector * unit)
            for sector, version in changes:
                if self._holds.get(sector) != version:
                    data = self._durable.content(sector, version)
                    write_at(self._fd, data, sector * unit)
        self._holds = dict(changes)
        os.utime(self._fd, ns=(LONG_AGO_NS, LONG_AGO_NS))

    def _is_ours(self) -> bool:
        if self._fd < 0 or file_system_type(self._fd) not in TELL_CHANGES:
            return False
        ours = os.fstat(self._fd)
        try:
            there = Path(self.path).stat()
        except OSError:
            return False
        return (
            (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
            and ours.st_mtime_ns == LONG_AGO_NS
            and ours.st_size == self._durable.size_bytes
        )

    def close(self) -> None:
        """Close and remove it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        Path(self.path).unlink(missing_ok=True)


def _copy(source: int, to: int) -> None:
    """Copy what is no hole. Both have their size already."""
    size = size_of(source)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = os.lseek(source, at, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            end = size  # a device, say
        while at < end:
            done = os.sendfile(to, source, at, end - at) if _seek(to, at) else 0
            if not done:
                return
            at += done


def _seek(fd: int, at: int) -> bool:
    return os.lseek(fd, at, os.SEEK_SET) == at
