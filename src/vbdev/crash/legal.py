"""Whether a disk holds what a log allows it to hold after a power cut: sector by sector.

A write may be lost until a flush that began after its completion has completed, or if it carried
FUA, until it completed itself. So at a cut each sector holds, independently of all others, the last
version that was made durable, or any newer one. This is the whole rule, and a log says enough to
decide it: what stands before a FLUSH entry had completed before that flush began.

Where a log says less, what may be legal is accepted, so that nothing that is legal is refused:

- The kernel's target writes a FUA down when it completes, ahead of older writes that wait for the
  next flush. Which of two in one epoch came last is not known then (`in_order` says that it is).
- A disk may ignore a discard (NVMe: Deallocate is advice), which then brings back what was there;
  `zeroing` says that discarded blocks read as zeroes.
- QEMU puts a write that completes during a flush in front of it, which no reader can see: disks
  that lost it are refused.

Writes that had not completed at the cut are in no log of this format; a disk that kept one is
refused.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vbdev.crash.log import LogFile, read_at, size_of
from vbdev.crash.replay import Until
from vbdev.vocab.text import printable
from vbdev.wire.log_writes import LogFlag

__all__ = ["IllegalSector", "WrongDiskError", "illegal_sectors"]

BASE: Final = -1
"""In place of an entry's number: what the disk held before the log began."""
PIECE_BYTES: Final = 1 << 20


class WrongDiskError(Exception):
    """The disk can not be the one that the log is of."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a sector may hold: the data at `at` in the log, or zeroes; of BASE, the base's."""

    number: int
    at: int | None
    epoch: int
    fua: bool = False


@dataclass(frozen=True, slots=True)
class IllegalSector:
    """A sector that holds what it can not.

    holds: the number of the entry whose version it has, though a later one is durable; -1: what
    was there before the log; None: nothing that was ever there. allowed: numbers of the entries
    any of which it may have.
    """

    sector: int
    offset: int
    holds: int | None
    allowed: list[int]


@dataclass(slots=True)
class Sector:
    """All versions of a sector since the log began, and the first of them that it may have."""

    versions: list[Version]
    floor: int = 0


class Sectors:
    """What each sector that a log names may hold after its entries up to a point."""

    def __init__(self, *, in_order: bool, zeroing: bool) -> None:
        self.sectors: dict[int, Sector] = defaultdict(lambda: Sector([Version(BASE, None, -1)]))
        self._in_order = in_order
        self._zeroing = zeroing
        self._volatile: set[int] = set()
        self._epoch = 0

    def add(self, log: LogFile, until: Until, *, salvage: bool) -> None:
        """Follow the log."""
        for placed in until.cut(log, salvage=salvage):
            entry = placed.entry
            if entry.flags & LogFlag.FLUSH:
                self._flush()
            discards = bool(entry.flags & LogFlag.DISCARD)
            for n in range(entry.num_sectors):
                sector = self.sectors[entry.sector + n]
                at = None if discards else placed.data_at + n * placed.sector_bytes
                fua = bool(entry.flags & LogFlag.FUA) and (self._zeroing or not discards)
                sector.versions.append(Version(placed.number, at, self._epoch, fua))
                if fua:
                    sector.floor = len(sector.versions) - 1
                self._volatile.add(entry.sector + n)

    def _flush(self) -> None:
        for number in self._volatile:
            sector = self.sectors[number]
            last = len(sector.versions) - 1
            if not self._zeroing:
                # A discard that may be ignored does not keep what came before it from being there.
                while last > sector.floor and sector.versions[last].at is None:
                    last -= 1
            floor = sector.versions[sector.floor]
            if self._in_order or not floor.fua or floor.epoch != self._epoch:
                sector.floor = last
        self._volatile.clear()
        self._epoch += 1


def illegal_sectors(
    log: LogFile,
    image: str,
    *,
    base: str | None = None,
    until: Until | None = None,
    in_order: bool = False,
    zeroing: bool = False,
    salvage: bool = False,
) -> Iterator[IllegalSector]:
    """Yield the sectors of a disk that hold what they can not after the log; in order.

    base: the disk as it was before the log began; without, zeroes. until: the cut; else the log's
    end. WrongDiskError: sizes that do not fit. LogError, ReplayError, OSError.
    """
    known = Sectors(in_order=in_order, zeroing=zeroing)
    known.add(log, until or Until(), salvage=salvage)
    unit = log.sector_bytes
    fds: list[int] = []
    try:
        for path in [image] if base is None else [image, base]:
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        size = size_of(fds[0])
        if base is not None and size_of(fds[1]) != size:
            raise WrongDiskError(
                f"{printable(image)} has {size} bytes, and {printable(base)} {size_of(fds[1])}"
            )
        if size % unit:
            raise WrongDiskError(f"{printable(image)} has {size} bytes, no multiple of {unit}")
        end = max(known.sectors, default=-1) + 1
        if end * unit > size:
            raise WrongDiskError(
                f"{printable(log.path)} is of a disk of {end * unit} bytes or more, and"
                f" {printable(image)} has {size}"
            )
        for at in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - at)
            piece = read_at(fds[0], length, at)
            before = read_at(fds[1], length, at) if base is not None else bytes(length)
            if len(piece) < length or len(before) < length:
                raise WrongDiskError(f"{printable(image)} or its base became shorter")
            for n in range(0, length, unit):
                held, old = piece[n : n + unit], before[n : n + unit]
                sector = known.sectors.get((at + n) // unit)
                if sector is None and held == old:
                    continue
                wrong = _look(log, sector or Sector([Version(BASE, None, -1)]), held, old)
                if wrong is not None:
                    yield IllegalSector((at + n) // unit, at + n, *wrong)
    finally:
        for fd in fds:
            os.close(fd)


def _look(
    log: LogFile, sector: Sector, held: bytes, base: bytes
) -> tuple[int | None, list[int]] | None:
    """Return what a sector holds instead of what it may hold; None: it holds what it may."""
    found: int | None = None
    for n in reversed(range(len(sector.versions))):
        version = sector.versions[n]
        if version.number == BASE:
            data = base
        elif version.at is None:
            data = bytes(len(held))
        else:
            data = log.read(version.at, len(held))
        if data == held:
            if n >= sector.floor:
                return None
            found = version.number if found is None else found
    return found, [version.number for version in sector.versions[sector.floor :]]
