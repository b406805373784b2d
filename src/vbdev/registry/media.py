"""Media management: blocks that a medium wants moved, told to who writes it.

A module pushes events to the first descriptor that writes, and announces them; their owner hears
MEDIA_MANAGEMENT and takes them away. All of it on the first reactor (SPDK:
spdk_bdev_push_media_events, spdk_bdev_notify_media_management, spdk_bdev_get_media_events).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from itertools import islice

from vbdev.bdev import Bdev, BdevError, BdevEvent
from vbdev.bdev.descriptor import Descriptor
from vbdev.bdev.entry import entry_of
from vbdev.bdev.host import MediaEvent

__all__ = [
    "MEDIA_EVENTS",
    "MediaEvent",
    "get_media_events",
    "notify_media_management",
    "push_media_events",
]

MEDIA_EVENTS = 64
"""How many events a descriptor keeps at most, unless the bdev's `media_events` says otherwise
(MEDIA_EVENT_POOL_SIZE)."""


def push_media_events(bdev: Bdev, events: Iterable[MediaEvent]) -> int:
    """Keep events for the first descriptor that writes; return for how many there was room.

    BdevError ENODEV where nobody has the bdev open for writing.
    """
    openers = entry_of(bdev).openers
    descriptor = next((one for one in openers if one.write and not one.closed), None)
    if descriptor is None:
        raise BdevError(errno.ENODEV, f"bdev {bdev.name}: nobody writes it who could be told")
    queue = descriptor.media_events
    taken = list(islice(events, (bdev.media_events or MEDIA_EVENTS) - len(queue)))
    queue.extend(taken)
    return len(taken)


def notify_media_management(bdev: Bdev) -> None:
    """Send MEDIA_MANAGEMENT to every descriptor that has events to take."""
    for opener in list(entry_of(bdev).openers):
        if opener.media_events:
            opener.post_event(BdevEvent.MEDIA_MANAGEMENT)


def get_media_events(descriptor: Descriptor, most: int | None = None) -> list[MediaEvent]:
    """Take the oldest events of a descriptor away, all or at most so many."""
    queue = descriptor.media_events
    number = len(queue) if most is None else min(most, len(queue))
    return [queue.popleft() for _ in range(number)]
