"""Power cuts at all points of a log that are worth it, and what a check says of the disks.

A disk that was checked once behind a mark is not checked again there, whatever cut it comes of. A
failure is made small: the fewest sectors that have to be lost, or kept, for the check to fail.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Self

from vbdev.crash.checks import Check, Outcome
from vbdev.crash.images import DurableImage, WorkingImage
from vbdev.crash.log import LogFile
from vbdev.crash.replay import Until
from vbdev.crash.states import Cut, State, cuts, states

__all__ = ["Explored", "Failure", "Small", "explore", "make", "minimal"]

TELL_S: Final = 1.0
"""How often progress is told."""


@dataclass(frozen=True, slots=True)
class Small:
    """A failure, made small. lost: from what: nothing lost (True), or all lost, but these sectors.

    sectors: (sector, number of the entry whose version it has; -1: the base's).
    """

    lost: bool
    sectors: list[tuple[int, int]]
    outcome: Outcome
    checks: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A state that fails the check. small: None where it was not made small."""

    position: int
    mark: bytes | None
    outcome: Outcome
    small: Small | None = None


@dataclass(slots=True)
class Explored:
    """What was done. states: that were made; checked: of these, different disks."""

    cuts: int = 0
    states: int = 0
    checked: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    """The first of each cut that has any."""


def explore(
    log: LogFile,
    check: Check,
    *,
    base: str | None,
    size_bytes: int,
    until: Until,
    most: int = 64,
    seed: int = 1,
    jobs: int | None = None,
    salvage: bool = False,
    directory: str | None = None,
    shrink: bool = True,
    explored: Explored | None = None,
    tell: Callable[[Explored], object] = lambda _explored: None,
) -> Explored:
    """Check the disks that power cuts may leave; return what was found.

    base, size_bytes: see `DurableImage`. most: states of each cut. jobs: checks beside each other;
    None: as many as there are CPUs. directory: where the disks are, while this runs. explored: what
    is filled in, for whoever wants it where this is interrupted; all that it has made is gone then.
    LogError, ReplayError, OSError.
    """
    found = explored if explored is not None else Explored()
    count = jobs or len(os.sched_getaffinity(0))
    told = time.monotonic()
    seen: set[tuple[int, bytes | None]] = set()
    with (
        tempfile.TemporaryDirectory(prefix="vbdev-crash-", dir=directory) as place,
        DurableImage(log, base, size_bytes, place) as durable,
        _Runner(durable, check, place, count) as runner,
    ):
        for cut in cuts(log, until, salvage=salvage):
            durable.advance(cut)
            runner.follow(cut)
            found.cuts += 1
            failing: list[tuple[State, Outcome]] = []

            def new(cut: Cut = cut) -> Iterator[State]:
                for state in states(cut, most, seed):
                    found.states += 1
                    disk = durable.fingerprint_with(cut.changes(state)), cut.mark
                    if disk not in seen:
                        seen.add(disk)
                        yield state

            for state, outcome in runner.run(cut, new()):
                found.checked += 1
                if outcome.failed:
                    found.failed += 1
                    failing.append((state, outcome))
                if time.monotonic() - told >= TELL_S:
                    told = time.monotonic()
                    tell(found)
            if failing:
                state, outcome = failing[0]
                small = _smallest(runner, cut, state) if shrink else None
                found.failures.append(Failure(cut.position, cut.mark, outcome, small))
    return found


class _Runner:
    """Runs checks beside each other, each on a disk of its own. A context manager."""

    def __init__(self, durable: DurableImage, check: Check, place: str, count: int) -> None:
        self._check = check
        self._images = [WorkingImage(durable, str(Path(place) / f"disk{n}")) for n in range(count)]
        self._free: SimpleQueue[WorkingImage] = SimpleQueue()
        for image in self._images:
            self._free.put(image)
        self._pool = ThreadPoolExecutor(count)

    def follow(self, cut: Cut) -> None:
        """Go on to a cut, at which the durable disk is. Nothing runs."""
        for image in self._images:
            image.follow(cut)

    def run(self, cut: Cut, wanted: Iterator[State]) -> Iterator[tuple[State, Outcome]]:
        """Check states; yield each with its outcome, in their order."""
        waiting = []
        for state in wanted:
            waiting.append((state, self._pool.submit(self.one, cut, state)))
            if len(waiting) > 2 * len(self._images):
                first, future = waiting.pop(0)
                yield first, future.result()
        for state, future in waiting:
            yield state, future.result()

    def one(self, cut: Cut, state: State) -> Outcome:
        """Check a state. Any thread."""
        image = self._free.get()
        try:
            image.make(cut.changes(state))
            return self._check.run(image.path, cut.mark)
        finally:
            self._free.put(image)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is not None:
            self._check.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for image in self._images:
            image.close()


@dataclass(slots=True)
class _Shrink:
    """States between `start`, of a cut, and one that fails: what is between them, by place."""

    runner: _Runner
    cut: Cut
    start: State
    failing: State
    known: dict[State, Outcome] = field(default_factory=dict)

    def different(self) -> list[int]:
        """Return the places in which the two differ."""
        return [n for n, which in enumerate(self.start) if which != self.failing[n]]

    def outcome(self, places: Sequence[int]) -> Outcome:
        """Check `start`, but for some places, where it is as the failing one. Each state once."""
        state = list(self.start)
        for place in places:
            state[place] = self.failing[place]
        which = tuple(state)
        if which not in self.known:
            self.known[which] = self.runner.one(self.cut, which)
        return self.known[which]

    def fails(self, places: Sequence[int]) -> bool:
        """Whether that fails."""
        return self.outcome(places).failed


def _smallest(runner: _Runner, cut: Cut, failing: State) -> Small:
    """Make a failing state small, from both ends; return what has fewer sectors."""
    found: list[Small] = []
    for lost, start in ((True, cut.newest), (False, cut.oldest)):
        shrink = _Shrink(runner, cut, start, failing)
        places = minimal(shrink.different(), shrink.fails)
        outcome = shrink.outcome(places)
        sectors = [(cut.sectors[n], cut.versions[n][failing[n]].number) for n in places]
        found.append(Small(lost, sectors, outcome, len(shrink.known)))
    by_loss, by_keeping = found
    # That a disk fails which has lost all says nothing of what it needs.
    return by_keeping if 0 < len(by_keeping.sectors) < len(by_loss.sectors) else by_loss


def minimal(elements: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return a part of `elements`, in order, that fails and of which none can be left out.

    That holds where more elements never make a failure pass; otherwise it fails still. Costs about
    log2(n) + 1 calls for each element that is returned. All of them have to fail.
    """
    needed: list[int] = []
    rest = list(elements)
    while not fails(sorted(needed)):
        low, high = 0, len(rest)  # rest[:low] is not enough; rest[:high] is
        while high - low > 1:
            middle = (low + high) // 2
            if fails(sorted([*needed, *rest[:middle]])):
                high = middle
            else:
                low = middle
        if not high:
            return list(elements)  # it does not fail always
        needed.append(rest[high - 1])
        rest = rest[: high - 1]
    for one in list(needed):  # more may make it pass: then some are too many
        without = sorted(other for other in needed if other != one)
        if len(needed) > 1 and fails(without):
            needed.remove(one)
    return sorted(needed)


def make(
    log: LogFile,
    image: str,
    *,
    base: str | None,
    size_bytes: int,
    until: Until,
    lost: bool,
    sectors: dict[int, int],
    salvage: bool = False,
) -> None:
    """Make the disk that a power cut behind `until` leaves, a new file.

    lost: nothing is lost but what `sectors` say; else all that may be. sectors: {sector: number of
    the entry whose version it has, -1 for the base's}. ValueError: a sector that has no such
    version there. LogError, ReplayError, OSError.
    """
    with (
        tempfile.TemporaryDirectory(prefix="vbdev-crash-") as place,
        DurableImage(log, base, size_bytes, place) as durable,
    ):
        for cut in cuts(log, until, salvage=salvage):
            durable.advance(cut)
            last = cut
        state = list(last.newest if lost else last.oldest)
        for sector, number in sectors.items():
            try:
                place_of = last.sectors.index(sector)
                numbers = [one.number for one in last.versions[place_of]]
                state[place_of] = numbers.index(number)
            except ValueError as error:
                raise ValueError(
                    f"sector {sector} can not have what entry {number} wrote, there"
                ) from error
        os.close(os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        durable.write_copy(image, last.changes(tuple(state)))
