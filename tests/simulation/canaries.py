"""Canaries: one fault put back at a time, each of which the simulation has to find.

`prepare` is called in the process of a run, before it begins. Faults of compiled code need a build
of their own (faults.py, `make canaries`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import vbdev
from simulation.disks import SimDisk
from simulation.faults import MARK, VARIABLE
from vbdev.bdev.descriptor import Descriptor
from vbdev.targets.nbd.poll_group import PollGroup
from vbdev.targets.nbd.session import Session
from vbdev.vocab import IoFlag, Op, Status

CARRY_OUT = SimDisk._carry_out


@dataclass(frozen=True)
class Canary:
    """A fault. kinds: as what it shows itself; emphasis: of the runs that look for it."""

    prepare: Callable[[], object]
    emphasis: str
    kinds: frozenset[str]
    runs: int = 20
    compiled: bool = False

    @property
    def is_here(self):
        """Whether this build can have it."""
        return not self.compiled or (Path(vbdev.__file__).parent / MARK).is_file()


def on_disk(change):
    """Return what breaks the simulated disk: `change(disk, one, op, offset)`, True to go on."""

    def carry_out(self, one):
        ((op, offset, _count),) = one.extents()
        if change(self, one, op, offset):
            CARRY_OUT(self, one)

    def prepare():
        SimDisk._carry_out = carry_out

    return prepare


def forgets_writes(_disk, one, op, offset):
    if op == Op.WRITE and offset % 7 == 3:
        one.complete(Status.SUCCESS)
        return False
    return True


def loses_flushes(_disk, one, op, _offset):
    if op == Op.FLUSH:
        one.complete(Status.SUCCESS)
    return op != Op.FLUSH


def ignores_fua(disk, one, _op, _offset):
    if int(one.flags[0]) & IoFlag.FUA:
        kept = bytes(disk.stable)
        CARRY_OUT(disk, one)
        disk.stable[:] = kept
        return False
    return True


def drops_reads(disk, one, op, offset):
    if op == Op.READ and offset % 16 == 5:
        disk.dropped = [*getattr(disk, "dropped", []), one]
        return False
    return True


def writes_late(disk, one, op, _offset):
    """A WRITE is acknowledged before it is done, and done after the next one."""
    if op != Op.WRITE:
        return True
    ((_, offset, count),) = one.extents()
    late, disk.late = getattr(disk, "late", None), (offset, count, b"".join(one.data()))
    one.complete(Status.SUCCESS)
    if late is not None:
        at, blocks, data = late
        disk.bytes[at * 512 : (at + blocks) * 512] = data
    return False


# Where Python decides


def waits_for_ever():
    """A peer that makes no progress keeps what it holds."""
    PollGroup._look_at = lambda *_arguments, **_words: None


def closes_what_it_counted_before():
    """What is submitted between the count and the close is neither waited for nor refused."""

    def count(self, reactor):
        path = self._path_of(reactor)
        return path.outstanding if path is not None else 0

    Descriptor._hold = count
    Descriptor._release = Descriptor._refuse = lambda _self, _reactor: 0
    Descriptor._count_outstanding = lambda _self, _left, _reactor: 0


# In compiled code


def compiled(name, also=lambda: None):
    def prepare():
        os.environ[VARIABLE] = name
        also()

    return prepare


def looks_again():
    """A stream that found no memory tries again each millisecond: nobody tells it."""
    look = Session._look

    def retry(session):
        if session.stream is not None:
            session.stream.resume()
            session._look()

    def look_and_retry(session):
        look(session)
        if session.stream is not None and session.stream.starved:
            session.group.reactor.call_later(1000, lambda: retry(session))

    Session._look = look_and_retry


CANARIES = {
    "forget a write": Canary(on_disk(forgets_writes), "quiet", frozenset({"data"})),
    "lose a flush": Canary(on_disk(loses_flushes), "quiet", frozenset({"data"})),
    "ignore FUA": Canary(on_disk(ignores_fua), "quiet", frozenset({"data"})),
    "drop an I/O": Canary(on_disk(drops_reads), "quiet", frozenset({"answer", "calm"})),
    "write late": Canary(on_disk(writes_late), "quiet", frozenset({"data"})),
    "wait for ever": Canary(waits_for_ever, "stallers", frozenset({"answer", "calm"})),
    "count, then close": Canary(
        closes_what_it_counted_before, "guests", frozenset({"close", "log", "left"})
    ),
    "believe modules": Canary(
        compiled("believe modules"), "lies", frozenset({"data", "turn"}), compiled=True
    ),
    "let exits through": Canary(
        compiled("let exits through"),
        "exits",
        frozenset({"answer", "calm", "left", "memory", "crash", "guest", "data"}),
        compiled=True,
    ),
    "hold and wait": Canary(
        compiled("hold and wait", looks_again),
        "crowds",
        frozenset({"answer", "calm"}),
        compiled=True,
    ),
    "report hang-ups": Canary(
        compiled("report hang-ups"), "leavers", frozenset({"spin"}), compiled=True
    ),
    "endless turns": Canary(
        compiled("endless turns"), "floods", frozenset({"turn"}), compiled=True
    ),
    "abort another's": Canary(
        compiled("abort another's"), "aborts", frozenset({"abort"}), compiled=True
    ),
}
