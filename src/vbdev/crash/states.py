"""What a disk may be at a cut: the log up to there, and for each volatile sector its versions.

The safe reading, which makes no disk that could not be: what stands before a FLUSH entry, or
carried FUA, is there; of all others each sector has any version since. Versions are in the log's
order. Where the kernel logs a write behind a later FUA one, that order is taken for the real one.
Discards are writes of zeroes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final

from vbdev.crash.log import LogFile, PlacedEntry
from vbdev.crash.replay import Until
from vbdev.wire.log_writes import LogFlag

__all__ = ["BASE", "Cut", "State", "Version", "cuts", "states"]

BASE: Final = -1
"""In place of an entry's number: what stood there before the log began."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a sector may hold: the data of an entry, at byte `at` of the log; None: zeroes.

    number: the entry's; BASE: the base's data.
    """

    number: int
    at: int | None = None


State = tuple[int, ...]
"""For each volatile sector of a cut, in order, which of its versions it has: 0 is the oldest."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut behind so many entries of a log.

    sectors: those that are volatile, in order. versions: of each, oldest first. durable: what has
    become durable since the cut before this one, for whoever follows them: sector and version.
    mark: the last one before the cut; None: there was none.
    """

    position: int
    sectors: list[int]
    versions: list[list[Version]]
    durable: list[tuple[int, Version]]
    mark: bytes | None

    @property
    def newest(self) -> State:
        """The state in which nothing is lost."""
        return tuple(len(versions) - 1 for versions in self.versions)

    @property
    def oldest(self) -> State:
        """The state in which all is lost that may be."""
        return (0,) * len(self.sectors)

    def changes(self, state: State) -> list[tuple[int, Version]]:
        """Return the sectors in which a state is not the oldest, with their versions."""
        return [
            (sector, versions[which])
            for sector, versions, which in zip(self.sectors, self.versions, state, strict=True)
            if which
        ]

    @property
    def num_states(self) -> int:
        """How many there are; some may be the same disk."""
        return prod(len(versions) for versions in self.versions)


def cuts(log: LogFile, until: Until, *, salvage: bool = False) -> Iterator[Cut]:
    """Yield the cuts that are worth it, in order: before each FLUSH, behind each FUA and mark.

    And at the end. Between two of these a disk can be nothing that it can not be at one of them,
    but for sectors whose newest version is older.
    """
    volatile: dict[int, list[Version]] = {}
    floors: dict[int, Version] = {}
    durable: dict[int, Version] = {}
    mark: bytes | None = None
    position = last = 0

    def cut() -> Cut:
        nonlocal last, durable
        last = position
        news, durable = durable, {}
        sectors = sorted(volatile)
        versions = [[floors.get(n, Version(BASE)), *volatile[n]] for n in sectors]
        return Cut(position, sectors, versions, sorted(news.items()), mark)

    def settle(sector: int) -> None:
        floors[sector] = durable[sector] = volatile.pop(sector)[-1]

    for placed in until.cut(log, salvage=salvage):
        entry = placed.entry
        if entry.flags & LogFlag.FLUSH:
            if volatile and position > last:
                yield cut()
            for sector in list(volatile):
                settle(sector)
        for sector, version in _written(placed):
            volatile.setdefault(sector, []).append(version)
            if entry.flags & LogFlag.FUA:
                settle(sector)
        if entry.is_mark:
            mark = entry.mark
        position = placed.number + 1
        if entry.is_mark or (entry.flags & LogFlag.FUA and entry.num_sectors):
            yield cut()
    if position > last or not position:
        yield cut()


def _written(placed: PlacedEntry) -> Iterator[tuple[int, Version]]:
    discards = placed.entry.flags & LogFlag.DISCARD
    for n in range(placed.entry.num_sectors):
        at = None if discards else placed.data_at + n * placed.sector_bytes
        yield placed.entry.sector + n, Version(placed.number, at)


def states(cut: Cut, most: int, seed: int) -> Iterator[State]:
    """Yield states of a cut, each once: all, where there are no more than `most`.

    Otherwise nothing lost, all lost, the entries up to one in the middle, one sector lost, one
    kept, and the rest by chance. The same for the same seed, whatever came before.
    """
    if cut.num_states <= most:
        yield from product(*(range(len(versions)) for versions in cut.versions))
        return
    seen: set[State] = set()
    for state in _worth_it(cut, most, seed):
        if state not in seen:
            seen.add(state)
            yield state
        if len(seen) == most:
            return


def _worth_it(cut: Cut, most: int, seed: int) -> Iterator[State]:
    newest, oldest = cut.newest, cut.oldest
    yield newest
    yield oldest
    rng = random.Random(f"{seed}/{cut.position}")  # noqa: S311 - repeatable is what it has to be
    numbers = sorted({one.number for versions in cut.versions for one in versions[1:]})
    for number in _some(numbers, most // 4):
        yield tuple(
            max(n for n, one in enumerate(versions) if not n or one.number <= number)
            for versions in cut.versions
        )
    places = range(len(cut.sectors))
    for n in _some(places, most // 4):
        lost = rng.getrandbits(16) % newest[n] if newest[n] > 1 else 0
        yield (*newest[:n], lost, *newest[n + 1 :])
        yield (*oldest[:n], newest[n], *oldest[n + 1 :])
    for _ in range(4 * most):  # many may be the same
        share = (16, 128, 240)[rng.getrandbits(16) % 3]  # of 256 sectors, how many are kept
        yield tuple(
            best if rng.getrandbits(8) < share else rng.getrandbits(16) % (best + 1)
            for best in newest
        )


def _some(of: range | list[int], most: int) -> list[int]:
    """Return so many, evenly spread."""
    if len(of) <= most:
        return list(of)
    return [of[n * len(of) // most] for n in range(most)]


def fingerprint(sector: int, data: bytes) -> int:
    """Return a number for a sector with its content. XORed, these stand for a disk."""
    told = hashlib.blake2b(data, digest_size=16, salt=sector.to_bytes(8, "little")).digest()
    return int.from_bytes(told, "little")
