"""Whose requests are started next: all clients of the control plane share the time of a turn.

A client's requests are started in the turn in which they arrive while there is time. Once a slice
was not enough, clients wait and take turns, in one slice of each turn: so however many they are and
whatever they ask, they leave time to others, and a client that asks for little is not behind all
that another one asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future

__all__ = ["ClientTurns", "long_answer"]


class _Client(Protocol):
    def pump(self) -> None:
        """Start requests until the reactor is `late`; ask for another turn where there are more."""


class ClientTurns:
    """The clients that have requests to start, in order. Belongs to the reactor's thread.

    Each that waits comes to its turn: a run starts at least one request, and is due until nobody
    waits any more.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._waiting: deque[_Client] = deque()
        self._is_due = False
        self._full_turn = -2  # the last in which requests took all the time there was

    def start(self, client: _Client) -> bool:
        """Call `client.pump()` at once, or later where there is no time; return whether at once.

        What follows a slice that was used up waits even if nobody else does: it would take the
        time of those who wait for this part of the turn, turn by turn.
        """
        reactor = self._reactor
        if self._waiting or reactor.turns <= self._full_turn + 1 or reactor.late:
            self.ask(client)
            return False
        client.pump()
        self._note_time()
        return True

    def ask(self, client: _Client) -> None:
        """Call `client.pump()` soon, behind those who asked before."""
        self._waiting.append(client)
        if not self._is_due:
            self._is_due = True
            self._reactor.send_msg(self._run)

    def _run(self) -> None:
        reactor, waiting = self._reactor, self._waiting
        for _ in range(len(waiting)):
            waiting.popleft().pump()
            if reactor.late:
                break
        self._note_time()
        self._is_due = bool(waiting)
        if waiting:
            reactor.send_msg(self._run)

    def _note_time(self) -> None:
        if self._reactor.late:
            self._full_turn = self._reactor.turns


@asynccontextmanager
async def long_answer(reactor: Reactor) -> AsyncIterator[None]:
    """Build an answer that may be long, breathing in between; one at a time, in order.

    A thousand of them half built would be a lot to keep. Whoever waits here holds nothing, and who
    builds waits for nothing but turns of reactors.
    """
    waiting: deque[Future[None]] | None = reactor.locals.get(long_answer)
    if waiting is None:
        reactor.locals[long_answer] = waiting = deque()
    mine: Future[None] = Future()
    waiting.append(mine)
    if waiting[0] is not mine:
        await mine
    try:
        yield
    finally:
        waiting.popleft()
        if waiting:
            reactor.send_msg(waiting[0].set_result, None)
        else:
            del reactor.locals[long_answer]
