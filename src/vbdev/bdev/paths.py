"""Paths: what each reactor has of an open bdev."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from vbdev.core.engine.channel import Channel
from vbdev.core.engine.requests import Requests

__all__ = ["Path", "State"]


class State(Enum):
    """Of a descriptor."""

    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


class Path:
    """What one reactor has of a descriptor. Touched by that reactor's thread alone."""

    __slots__ = ("attempt", "channel", "kept", "refs", "refuses", "requests")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.refs = 0
        self.kept = False  # until the descriptor is closed: it was made for `submit`
        self.refuses = False  # it is about to be closed
        self.attempt = 0  # which attempt to close the descriptor holds what comes
        self.requests: Requests | None = None

    @property
    def outstanding(self) -> int:
        """I/Os and requests that have not been delivered yet."""
        # A request may have left the channel and not been delivered yet, or be an open ZCOPY.
        in_flight = self.requests.in_flight if self.requests is not None else 0
        return max(self.channel.outstanding, in_flight)

    def await_left(self, callback: Callable[[], object]) -> int:
        """Return `outstanding`; call back when one has left the channel, or been delivered."""
        if self.outstanding:
            self.channel.call_when_left(callback)
            if self.requests is not None:
                self.requests.call_when_left(callback)
        return self.outstanding
