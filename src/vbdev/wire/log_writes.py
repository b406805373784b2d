"""The log of the kernel's dm-log-writes target: bytes to entries and back, without I/O.

As drivers/md/dm-log-writes.c of Linux writes it and xfstests' replay-log reads it:

    unit 0       super: magic, version, how many entries there are, how long a unit is
    unit 1       header of the first entry
    unit 2..     its data, where it has any
    ...          the next header, and so on

All numbers are little-endian. A unit is as long as a block of the disk that was recorded, which is
what its sectors are counted in. Nothing marks the end but the super's count: what stands behind it
may be of an older log. Entries have no checksum.

A log comes from whoever wrote the file: each number is checked before it is used, and what is wrong
is told in a `LogFormatError`, which knows no place; whoever reads the file adds that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

__all__ = [
    "MAX_SECTOR_BYTES",
    "MIN_SECTOR_BYTES",
    "SUPER_BYTES",
    "LogEntry",
    "LogFlag",
    "LogFormatError",
    "LogSuper",
    "NoLogError",
]

MAGIC: Final = 0x006A736677736872
VERSION: Final = 1
SUPER: Final = struct.Struct("<QQQI")
"""Magic, version, number of entries, bytes of a sector."""
SUPER_BYTES: Final = SUPER.size
HEADER: Final = struct.Struct("<QQQQ")
"""Sector, number of sectors, flags, bytes of a mark's text."""
MIN_SECTOR_BYTES: Final = 64
"""A header with room for what replay-log looks at behind it. The kernel has 512 at the least."""
MAX_SECTOR_BYTES: Final = 1 << 20
MAX_SECTOR: Final = 1 << 63


class LogFlag(IntFlag):
    """What an entry was (LOG_FLUSH_FLAG and so on). 0: a write, volatile until a FLUSH.

    FLUSH: all before it had completed before it began. In the kernel's logs it may have a sector,
    and FUA, of the write that follows in an entry of its own. FUA: the write was stable when it
    completed. DISCARD: no data. MARK: text of whoever ran the disk. METADATA: a file system's hint.
    """

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


ALL_FLAGS: Final = 31


class LogFormatError(ValueError):
    """Bytes that are no such log, or none that can be trusted: why."""


class NoLogError(LogFormatError):
    """They do not begin as a log does. `zeroes`: there is nothing but zeroes."""

    def __init__(self, reason: str, *, zeroes: bool = False) -> None:
        super().__init__(reason)
        self.zeroes = zeroes


def _check_sector_bytes(sector_bytes: int) -> None:
    if not MIN_SECTOR_BYTES <= sector_bytes <= MAX_SECTOR_BYTES or sector_bytes % MIN_SECTOR_BYTES:
        raise LogFormatError(
            f"sectors of {sector_bytes} bytes; a multiple of {MIN_SECTOR_BYTES},"
            f" {MAX_SECTOR_BYTES} at most"
        )


@dataclass(frozen=True, slots=True)
class LogSuper:
    """The first unit of a log. sector_bytes: of the disk's block, and so of each unit."""

    num_entries: int
    sector_bytes: int

    @classmethod
    def parse(cls, data: bytes) -> LogSuper:
        """Parse the first `SUPER_BYTES` bytes of a log, or more. LogFormatError, NoLogError."""
        if len(data) < SUPER_BYTES:
            raise NoLogError(f"{len(data)} bytes; a super has {SUPER_BYTES}")
        magic, version, num_entries, sector_bytes = SUPER.unpack_from(data)
        if magic != MAGIC:
            zeroes = not any(data[:SUPER_BYTES])
            raise NoLogError(f"the magic number is {magic:#x}, not {MAGIC:#x}", zeroes=zeroes)
        if version != VERSION:
            raise LogFormatError(f"version {version}; {VERSION} is known")
        _check_sector_bytes(sector_bytes)
        return cls(num_entries, sector_bytes)

    def pack(self) -> bytes:
        """Return the unit."""
        _check_sector_bytes(self.sector_bytes)
        data = SUPER.pack(MAGIC, VERSION, self.num_entries, self.sector_bytes)
        return data.ljust(self.sector_bytes, b"\0")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry: where on the disk, in sectors, and what it was. mark: the text of a MARK."""

    sector: int
    num_sectors: int
    flags: LogFlag
    mark: bytes = b""

    @property
    def num_data_sectors(self) -> int:
        """How many units of data follow the header."""
        return 0 if self.flags & LogFlag.DISCARD else self.num_sectors

    @property
    def is_mark(self) -> bool:
        """Whether it is of whoever ran the disk, and not of the disk."""
        return bool(self.flags & LogFlag.MARK)

    @classmethod
    def parse(cls, unit: bytes) -> LogEntry:
        """Parse a header, one whole unit. LogFormatError: replay-log would refuse it too."""
        sector, num_sectors, flags, mark_bytes = HEADER.unpack_from(unit)
        if flags & ~ALL_FLAGS:
            raise LogFormatError(f"flags {flags:#x}; {ALL_FLAGS:#x} are known")
        if flags & LogFlag.MARK:
            if flags != LogFlag.MARK:
                raise LogFormatError(f"flags {flags:#x}: a mark has no other flag")
            if num_sectors:
                raise LogFormatError(f"a mark of {num_sectors} sectors")
            longest = len(unit) - HEADER.size
            if mark_bytes > longest:
                raise LogFormatError(f"a mark of {mark_bytes} bytes; {longest} at most")
            text = bytes(unit[HEADER.size : HEADER.size + mark_bytes])
            return cls(sector, 0, LogFlag.MARK, text)
        if mark_bytes:
            raise LogFormatError(f"{mark_bytes} bytes of text, and no mark")
        if unit[HEADER.size]:
            raise LogFormatError(f"byte {HEADER.size} is {unit[HEADER.size]:#x}, not 0")
        if not flags and not num_sectors:
            raise LogFormatError("no flags and no sectors")
        if sector + num_sectors > MAX_SECTOR:
            raise LogFormatError(f"{num_sectors} sectors from {sector}; no disk has so many")
        return cls(sector, num_sectors, LogFlag(flags))

    def pack(self, sector_bytes: int) -> bytes:
        """Return the header's unit. ValueError: a mark that does not fit in it."""
        if len(self.mark) > sector_bytes - HEADER.size - 1:
            raise ValueError(
                f"a mark of {len(self.mark)} bytes; {sector_bytes - HEADER.size - 1} at most"
            )
        fields = HEADER.pack(self.sector, self.num_sectors, self.flags, len(self.mark))
        return (fields + self.mark).ljust(sector_bytes, b"\0")
