"""Seat: one connection of a lane, with what the reactor has of it."""

from __future__ import annotations

from vbdev.core.nbd.client.link import NbdLink
from vbdev.modules.nbd.dialing import Dialed
from vbdev.reactor.reactor import Watch
from vbdev.reactor.task import Future
from vbdev.reactor.timers import Timer

__all__ = ["Seat"]


class Seat:
    """One connection of a lane, until it is lost."""

    def __init__(self, dialed: Dialed, link: NbdLink) -> None:
        self.socket = dialed.socket
        self.link = link
        self.watch: Watch | None = None
        self.lost: Future[None] = Future()
        self.ebb_timer: Timer | None = None

    def close(self) -> None:
        """Give the socket back."""
        if self.ebb_timer is not None:
            self.ebb_timer.cancel()
        if self.watch is not None:
            self.watch.close()
        self.socket.close()
