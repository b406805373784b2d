"""What the NBD sessions of one reactor share: its memory, and who sees to it that it comes back.

A session that waits for its peer with memory in its hands (half a WRITE, replies that nobody takes)
is *behind* by the time that passes, less what the bytes that move are worth at the least rate
that is taken for progress. So single bytes buy little. Whoever is too far behind is dropped: after
a minute where nobody is in need, after a few seconds where others wait for memory; and he who
holds much has to be faster then.

Time is counted in looks, each in a turn of its own: what a reactor was too busy to look at is
nobody's delay. Looks are taken while somebody waits, and no others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from vbdev.core.engine.engine import Engine
from vbdev.core.nbd.server.memory import NbdMemory
from vbdev.core.nbd.server.stream import NbdStream
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.timers import Timer

if TYPE_CHECKING:
    from vbdev.targets.nbd.export import Export
    from vbdev.targets.nbd.session import Session

__all__ = ["HURRIED_S", "LOOK_US", "PATIENCE_S", "PollGroup"]

log = logging.getLogger(__name__)

LOOK_US: Final = 500_000
LOOK_S: Final = LOOK_US / 1e6
PATIENCE_S: Final = 60.0
"""How far behind a peer may be while nobody waits for the memory that is held for it."""
LEAST_RATE: Final = 1 << 10
"""Bytes a second that are taken for progress then."""
HURRIED_S: Final = 3.0
"""How far behind a peer may be while others wait."""
HURRIED_RATE: Final = 4 << 10
HURRIED_HOLD_S: Final = 30.0
"""In which time all that is held has to move then, if that is the higher rate."""
REMOTE_PART: Final = 4
"""What an export whose I/O waits for a server has of memory is the limit of all others by this."""
HURRY_AFTER_S: Final = 1.0
"""For how long somebody has to have waited for memory, so that there is hurry."""
WARN_AFTER_S: Final = 3.0
"""For how long somebody has to have waited for memory, so that the log says so."""


class PollGroup:
    """One reactor's sessions, which share its memory.

    Those of an export whose I/O waits for a server share memory of their own, in a group beside
    this one: the server may be a client here, or of somebody who is, and then needs memory that
    is not theirs.

    `streams` belongs to the reactor's thread, `placed` (how many clients were given to it and have
    not ended) to the server's.
    """

    def __init__(self, reactor: Reactor, apart: Export | None = None) -> None:
        self.reactor = reactor
        self._apart = apart
        self._others: dict[Export, PollGroup] = {}
        self.streams: dict[NbdStream, Session] = {}
        self.placed = 0
        self._memory: NbdMemory | None = None
        self._engine: Engine | None = None
        self._timer: Timer | None = None
        self._behind: dict[NbdStream, tuple[float, int, int, int]] = {}
        """Of those who wait: seconds behind, bytes moved, bytes not taken, requests begun."""
        self._warned = False
        self._refused_s = 0.0
        self._refused_gets = 0

    @property
    def memory(self) -> NbdMemory:
        """What the streams of the reactor's engine share."""
        engine = self.reactor.engine
        assert isinstance(engine, Engine)
        if self._memory is None or engine is not self._engine:
            self._engine = engine
            limit_bytes = 0
            if self._apart is not None:
                limit_bytes = engine.buffers.limit_bytes // REMOTE_PART
            self._memory = NbdMemory(engine, limit_bytes)
            self._memory.on_due = lambda: self.reactor.send_msg(self.memory.serve)
            self._memory.on_suspect = self._watch
        return self._memory

    def sharers_of(self, export: Export) -> PollGroup:
        """Return the sessions that share memory with those of an export: these, or its own."""
        if not export.bdev.remote:
            return self
        for other in [other for other, group in self._others.items() if not group.streams]:
            del self._others[other]
        return self._others.setdefault(export, PollGroup(self.reactor, export))

    def forget(self, stream: NbdStream) -> None:
        """Let a session go that is over. With the last one there is nobody left to look after."""
        self.streams.pop(stream, None)
        self._behind.pop(stream, None)
        if not self.streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.memory.take_suspects()  # so that the next one is told of again

    # Progress

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self.reactor.call_later(LOOK_US, self._look)

    def _look(self) -> None:
        """Drop who makes no progress; look again while anybody waits."""
        self._timer = None
        for stream in self.memory.take_suspects():
            assert isinstance(stream, NbdStream)
            self._behind.setdefault(stream, (0.0, stream.moved_bytes, 0, stream.requests))
        need_s = self._need_s()
        if need_s < HURRY_AFTER_S:
            self._warned = False
        elif need_s >= WARN_AFTER_S and not self._warned:
            self._warned = True
            self._warn(need_s)
        for stream in list(self._behind):
            self._look_at(stream, hurried=need_s >= HURRY_AFTER_S)
        if self._behind:
            self._watch()

    def _need_s(self) -> float:
        """Return for how long somebody has waited for memory, or a BdevIO, and waits now."""
        assert self._engine is not None
        now_ns = self._engine.clock_ns()
        since = [stream.waits_since_ns for stream in self._behind if stream.starved]
        # I/Os that are no client's wait in their channels, and ask in vain again and again.
        refused, self._refused_gets = self._refused_gets, self._engine.buffers.failed_gets
        self._refused_s = self._refused_s + LOOK_S if self._refused_gets != refused else 0.0
        return max(self._refused_s, (now_ns - min(since, default=now_ns)) / 1e9)

    def _look_at(self, stream: NbdStream, *, hurried: bool) -> None:
        awaited = stream.awaited
        if stream not in self.streams or not (awaited or stream.starved):
            del self._behind[stream]
            return
        behind, moved_before, untaken_before, requests_before = self._behind[stream]
        moved, requests = stream.moved_bytes, stream.requests
        untaken = self.streams[stream].untaken_bytes()
        if not awaited or requests != requests_before:
            behind = 0.0  # it is no wait, or another one than before
        else:
            rate: float = LEAST_RATE
            if hurried:
                rate = max(HURRIED_RATE, stream.memory_bytes / HURRIED_HOLD_S)
            # A socket takes more only when much of what it has is taken: look at that as well.
            progress = moved - moved_before + max(0, untaken_before - untaken)
            behind = max(0.0, behind + LOOK_S - progress / rate)
        self._behind[stream] = behind, moved, untaken, requests
        if behind > (HURRIED_S if hurried else PATIENCE_S):
            del self._behind[stream]
            why = " while others waited for memory" if hurried else ""
            self.streams[stream].drop(
                f"{awaited}: {behind:.0f} s behind{why}, with {stream.memory_bytes} bytes held"
            )

    def _warn(self, need_s: float) -> None:
        assert self._engine is not None
        holder = max(self.streams, key=lambda stream: stream.memory_bytes, default=None)
        if holder is None or holder.memory_bytes == 0:
            log.warning(
                "nbd clients or I/Os have waited for memory for %.0f s, which no nbd client has"
                " reactor=%s",
                need_s,
                self.reactor.name,
            )
            return
        session = self.streams[holder]
        since = holder.holds_since_ns or self._engine.clock_ns()
        log.warning(
            "nbd clients or I/Os have waited for memory for %.0f s reactor=%s clients_waiting=%d;"
            " who has most of it: export=%s peer=%s bytes=%d for=%.0fs because=%s in_flight=%d",
            need_s,
            self.reactor.name,
            self.memory.waiting,
            session.export.name,
            session.peer,
            holder.memory_bytes,
            (self._engine.clock_ns() - since) / 1e9,
            holder.awaited or ("its I/O has not ended" if holder.in_flight else "it is at work"),
            holder.in_flight,
        )
