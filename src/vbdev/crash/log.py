"""Logs of writes, on files: reading them, whoever wrote them, and writing them.

What the super counts is believed, and what stands behind that may be of an older log. A writer
that died left entries there, or has written no super at all. These can be read on request
(`salvage`): as long as they can be entries, which an older log's can too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vbdev.vocab.text import printable
from vbdev.wire.log_writes import (
    SUPER_BYTES,
    LogEntry,
    LogFormatError,
    LogSuper,
    NoLogError,
)

__all__ = ["LogError", "LogFile", "LogWriter", "PlacedEntry"]

PIECE_BYTES: Final = 1 << 20
"""Data is read in pieces: an entry may have more than there is memory."""


class LogError(Exception):
    """A log that can not be read: which, where, and why."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{printable(path)}: byte {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """An entry and where it stands. number: from 0. Places are bytes of the file."""

    number: int
    header_at: int
    entry: LogEntry
    sector_bytes: int

    @property
    def offset(self) -> int:
        """Where on the disk, in bytes."""
        return self.entry.sector * self.sector_bytes

    @property
    def length(self) -> int:
        """How much of the disk, in bytes."""
        return self.entry.num_sectors * self.sector_bytes

    @property
    def data_at(self) -> int:
        """Where its data begins."""
        return self.header_at + self.sector_bytes

    @property
    def data_bytes(self) -> int:
        """How much data it has."""
        return self.entry.num_data_sectors * self.sector_bytes

    @property
    def end_at(self) -> int:
        """Where the next header is."""
        return self.data_at + self.data_bytes


def read_at(fd: int, length: int, offset: int) -> bytes:
    """Read so many bytes; fewer at the end of the file alone."""
    parts = []
    while length:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return b"".join(parts)


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def size_of(fd: int) -> int:
    """Return the size of a file or block device, in bytes. OSError: it has none."""
    return os.lseek(fd, 0, os.SEEK_END)


class LogFile:
    """A log that is there. A context manager; LogError, OSError.

    sector_bytes: what to take where the writer died before its first super; otherwise there is
    none to be read.
    """

    def __init__(self, path: str, *, sector_bytes: int | None = None) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size_bytes = size_of(self._fd)
            self.super = self._read_super(sector_bytes)
        except BaseException:
            os.close(self._fd)
            raise

    def _read_super(self, sector_bytes: int | None) -> LogSuper:
        if stat.S_ISDIR(os.fstat(self._fd).st_mode):
            raise LogError(self.path, 0, "a directory is no log")
        first = read_at(self._fd, SUPER_BYTES, 0)
        try:
            return LogSuper.parse(first)
        except NoLogError as error:
            if not error.zeroes:
                raise LogError(self.path, 0, f"no log of dm-log-writes: {error}") from error
            if sector_bytes is None:
                raise LogError(
                    self.path,
                    0,
                    "the first unit is all zeroes: its writer died before its first super, or it is"
                    " no log. What it holds can be read where the bytes of a sector are given",
                ) from error
        except LogFormatError as error:
            raise LogError(self.path, 0, str(error)) from error
        return LogSuper(0, sector_bytes)

    @property
    def num_entries(self) -> int:
        """How many entries the super counts."""
        return self.super.num_entries

    @property
    def sector_bytes(self) -> int:
        """Bytes of a sector, and of each unit."""
        return self.super.sector_bytes

    def entries(self, *, salvage: bool = False) -> Iterator[PlacedEntry]:
        """Yield the entries in order; LogError at the first that can not be one.

        salvage: go on behind those that the super counts, as long as what is there can be one.
        """
        at = self.sector_bytes
        number = 0
        while number < self.num_entries:
            placed = self._entry(number, at)
            yield placed
            at = placed.end_at
            number += 1
        while salvage:
            try:
                placed = self._entry(number, at)
            except LogError:
                return
            yield placed
            at = placed.end_at
            number += 1

    def _entry(self, number: int, at: int) -> PlacedEntry:
        unit = read_at(self._fd, self.sector_bytes, at)
        if len(unit) < self.sector_bytes:
            raise LogError(
                self.path,
                at,
                f"entry {number}: its header has {len(unit)} of {self.sector_bytes} bytes; the"
                f" super counts {self.num_entries} entries",
            )
        try:
            entry = LogEntry.parse(unit)
        except LogFormatError as error:
            raise LogError(self.path, at, f"entry {number}: {error}") from error
        placed = PlacedEntry(number, at, entry, self.sector_bytes)
        if placed.end_at > self.size_bytes:
            raise LogError(
                self.path,
                at,
                f"entry {number}: its {placed.data_bytes} bytes of data end at byte"
                f" {placed.end_at}, and the file has {self.size_bytes}",
            )
        return placed

    def data(self, placed: PlacedEntry) -> Iterator[tuple[int, bytes]]:
        """Yield an entry's data in pieces, each with its offset on the disk, in bytes."""
        done = 0
        while done < placed.data_bytes:
            want = min(PIECE_BYTES, placed.data_bytes - done)
            piece = read_at(self._fd, want, placed.data_at + done)
            if len(piece) < want:
                raise LogError(
                    self.path,
                    placed.header_at,
                    f"entry {placed.number}: the file ends in its data: it became shorter",
                )
            yield placed.offset + done, piece
            done += want

    def read(self, at: int, length: int) -> bytes:
        """Read bytes of the file, as an entry says where they are."""
        return read_at(self._fd, length, at)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class LogWriter:
    """A new log at `path`. A context manager, which leaves no file behind where it fails.

    The super, which makes it a log, is written when all that it counts is on stable storage.
    OSError.
    """

    def __init__(self, path: str, sector_bytes: int) -> None:
        self.path = path
        self._sector_bytes = sector_bytes
        self._at = sector_bytes
        self._num_entries = 0
        LogSuper(0, sector_bytes).pack()  # ValueError before there is a file
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def append(self, entry: LogEntry) -> None:
        """Write the header of an entry; its data follows by `write`, all of it."""
        self.write(entry.pack(self._sector_bytes))
        self._num_entries += 1

    def write(self, data: bytes) -> None:
        """Write data of the entry that was appended last."""
        write_at(self._fd, data, self._at)
        self._at += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                os.fsync(self._fd)
                write_at(self._fd, LogSuper(self._num_entries, self._sector_bytes).pack(), 0)
                os.fsync(self._fd)
        except OSError as failed:
            error = failed
            raise
        finally:
            os.close(self._fd)
            if error is not None:
                with contextlib.suppress(OSError):
                    Path(self.path).unlink()
