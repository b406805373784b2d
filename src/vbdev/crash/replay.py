"""A log up to some point: where that is, the disk it makes, and the log cut there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from vbdev.crash.log import LogError, LogFile, LogWriter, PlacedEntry, size_of, write_at
from vbdev.vocab.text import printable
from vbdev.wire.log_writes import LogFlag

__all__ = ["ReplayError", "Until", "replay", "trim"]

ZEROES: Final = bytes(1 << 20)


class ReplayError(Exception):
    """A disk that a log does not fit, or a point that it does not have."""


class Until:
    """Where to stop: behind so many entries, or behind a mark; all: behind the last.

    Written N, or mark:TEXT, or TEXT where that is no number.
    """

    def __init__(self, text: str | None = None) -> None:
        self.number: int | None = None
        self.mark: bytes | None = None
        if text is None:
            return
        if text.isdecimal():
            self.number = int(text)
        else:
            self.mark = os.fsencode(text.removeprefix("mark:"))

    def cut(self, log: LogFile, *, salvage: bool = False) -> Iterator[PlacedEntry]:
        """Yield a log's entries up to there. ReplayError, at the end, where it is not reached."""
        if self.number == 0:
            return
        found = False
        count = 0
        for placed in log.entries(salvage=salvage):
            yield placed
            count += 1
            entry = placed.entry
            found = count == self.number or (entry.is_mark and entry.mark == self.mark)
            if found:
                break
        if self.number is not None and not found:
            raise ReplayError(f"{printable(log.path)} has {count} entries, not {self.number}")
        if self.mark is not None and not found:
            mark = printable(os.fsdecode(self.mark))
            raise ReplayError(f"{printable(log.path)} has no mark {mark!r}")


def replay(
    log: LogFile,
    image: str,
    until: Until,
    *,
    create_bytes: int | None = None,
    salvage: bool = False,
) -> int:
    """Write what a log says to a disk, in its order, and sync that; return how many entries.

    A discard writes zeroes, as dm-log-writes' own tool does on files. create_bytes: make the disk,
    a file that is not there yet. Nothing is written where the log does not have the point.
    ReplayError: an entry lies behind the disk's end. OSError.
    """
    for _ in until.cut(log, salvage=salvage):
        pass
    flags = os.O_RDWR | os.O_CLOEXEC
    if create_bytes is not None:
        flags |= os.O_CREAT | os.O_EXCL
    fd = os.open(image, flags, 0o644)
    try:
        if create_bytes is not None:
            os.ftruncate(fd, create_bytes)
        size = size_of(fd)
        count = 0
        for placed in until.cut(log, salvage=salvage):
            if placed.offset + placed.length > size:
                raise ReplayError(
                    f"entry {placed.number} of {printable(log.path)} ends at byte"
                    f" {placed.offset + placed.length} of the disk, and {printable(image)} has"
                    f" {size}"
                )
            _apply(log, placed, fd)
            count += 1
        os.fsync(fd)
    finally:
        os.close(fd)
    return count


def _apply(log: LogFile, placed: PlacedEntry, fd: int) -> None:
    if placed.entry.flags & LogFlag.DISCARD:
        done = 0
        while done < placed.length:
            piece = ZEROES[: min(len(ZEROES), placed.length - done)]
            write_at(fd, piece, placed.offset + done)
            done += len(piece)
    else:
        for offset, piece in log.data(placed):
            write_at(fd, piece, offset)


def trim(log: LogFile, to: str, until: Until, *, salvage: bool = False) -> int:
    """Write a log's entries up to a point as a log of its own; return how many. OSError."""
    count = 0
    with LogWriter(to, log.sector_bytes) as writer:
        for placed in until.cut(log, salvage=salvage):
            try:
                writer.append(placed.entry)
            except ValueError as error:  # a mark that fills its unit, which the kernel cuts
                raise LogError(log.path, placed.header_at, str(error)) from error
            for _, piece in log.data(placed):
                writer.write(piece)
            count += 1
    return count
