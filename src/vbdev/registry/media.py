"""Media management: blocks that a medium wants moved, told to who writes it.

A module pushes events to the first descriptor that writes, and announces them; their owner hears
MEDIA_MANAGEMENT and takes them away. All of it on the first reactor (SPDK:
spdk_bdev_push_media_events, spdk_bdev_notify_media_management, spdk_bdev_get_media_events).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import NamedTuple

from vbdev.bdev import Bdev, BdevError, BdevEvent
from vbdev.bdev.descriptor import Descriptor

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


class MediaEvent(NamedTuple):
    """The blocks that are meant."""

    offset_blocks: int
    num_blocks: int


def push_media_events(bdev: Bdev, events: Iterable[MediaEvent]) -> int:
    """Keep events for the first descriptor that writes; return for how many there was room.

    BdevError ENODEV where nobody has the bdev open for writing.
    """
    descriptor = next((d for d in bdev.descriptors if d.write and not d.closed), None)
    if descriptor is None:
        raise BdevError(errno.ENODEV, f"bdev {bdev.name}: nobody writes it who could be told")
    queue = bdev.media_queues.get(descriptor)
    if queue is None:
        queue = bdev.media_queues[descriptor] = deque()
        descriptor.on_close(partial(bdev.media_queues.__delitem__, descriptor))
    taken = list(islice(events, (bdev.media_events or MEDIA_EVENTS) - len(queue)))
    queue.extend(taken)
    return len(taken)


def notify_media_management(bdev: Bdev) -> None:
    """Send MEDIA_MANAGEMENT to every descriptor that has events to take."""
    for descriptor, queue in list(bdev.media_queues.items()):
        if queue:
            descriptor.post_event(BdevEvent.MEDIA_MANAGEMENT)


def get_media_events(descriptor: Descriptor, most: int | None = None) -> list[MediaEvent]:
    """Take the oldest events of a descriptor away, all or at most so many."""
    queue = descriptor.bdev.media_queues.get(descriptor, deque())
    number = len(queue) if most is None else min(most, len(queue))
    return [queue.popleft() for _ in range(number)]
