"""Whose requests are started next: all clients of the control plane share the time of a turn.

One client's requests are started in the turn in which they arrive, as long as the turn before had
none. Where there are more, clients take turns: so however many they are and whatever they ask, all
of them together get one slice of a reactor's turn, and a client that asks for little is not behind
all that another one asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from vbdev.reactor import Reactor
from vbdev.task import Future

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
        self._last_turn = -2

    def take(self, client: _Client) -> bool:
        """Whether a client may start requests now; where not, it has its turn later, once."""
        if self._waiting or self._reactor.turns <= self._last_turn + 1:
            self.ask(client)
            return False
        self._last_turn = self._reactor.turns
        return True

    def ask(self, client: _Client) -> None:
        """Call `client.pump()` soon, behind those who asked before."""
        self._waiting.append(client)
        if not self._is_due:
            self._is_due = True
            self._reactor.send_msg(self._run)

    def _run(self) -> None:
        reactor, waiting = self._reactor, self._waiting
        self._last_turn = reactor.turns
        for _ in range(len(waiting)):
            waiting.popleft().pump()
            if reactor.late:
                break
        self._is_due = bool(waiting)
        if waiting:
            reactor.send_msg(self._run)


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
