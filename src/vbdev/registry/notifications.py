"""Notifications: what came, went and changed, kept for those who ask (SPDK: lib/notify).

A ring of the last `MAX_EVENTS`; each has a number that is never used twice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["MAX_EVENTS", "NOTIFICATION_TYPES", "Notification", "Notifications"]

MAX_EVENTS = 1024
"""How many are kept (SPDK_NOTIFY_MAX_EVENTS)."""
NOTIFICATION_TYPES = ("bdev_register", "bdev_unregister", "bdev_resize")


@dataclass(frozen=True, slots=True)
class Notification:
    """One thing that happened to the bdev `ctx`."""

    type: str
    ctx: str
    id: int


class Notifications:
    """The last events, oldest first."""

    def __init__(self) -> None:
        self._events: deque[Notification] = deque(maxlen=MAX_EVENTS)
        self._next = 0

    def send(self, kind: str, ctx: str) -> None:
        """Note an event (spdk_notify_send)."""
        assert kind in NOTIFICATION_TYPES, kind
        self._events.append(Notification(kind, ctx, self._next))
        self._next += 1

    def since(self, number: int = 0, most: int | None = None) -> list[Notification]:
        """Return the events from a number on, at most so many; those that are still kept."""
        found = [event for event in self._events if event.id >= number]
        return found if most is None else found[:most]
