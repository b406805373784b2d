"""What a bdev may ask of those who keep it, and what they say of it: words, no code.

The contract knows nobody who keeps a bdev. What an author may ask for is here, as Protocols;
`entry` and `descriptor` are what stands behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

from vbdev.core.coroutine.runner import BdevIO
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.reactor.reactor import Reactor

__all__ = [
    "BdevEvent",
    "BdevState",
    "ControlPath",
    "Host",
    "MediaEvent",
    "Opener",
    "QueueDepths",
]


class BdevEvent(IntEnum):
    """What a descriptor's owner is told (SPDK: enum spdk_bdev_event_type)."""

    REMOVE = 0
    RESIZE = 1
    MEDIA_MANAGEMENT = 2


class BdevState(Enum):
    """Where a bdev is in its life."""

    READY = "ready"
    REMOVING = "removing"
    REMOVED = "stopping"
    """Nobody has it open; it gives back what it acquired."""


class MediaEvent(NamedTuple):
    """Blocks that a medium wants moved."""

    offset_blocks: int
    num_blocks: int


class Host(Protocol):
    """What keeps a registered bdev. On the control plane's reactor."""

    openers: list[Opener]
    """Who has the bdev open."""

    @property
    def state(self) -> BdevState:
        """Where the bdev is in its life."""

    def channels(self) -> list[Channel]:
        """Return the channels that are open."""

    def reconfigure(self, channel: Channel) -> None:
        """Configure a channel anew, on its own thread."""

    def holders(self) -> list[str]:
        """Say who has the bdev open."""

    def resize(self, num_blocks: int) -> None:
        """See `Bdev.notify_blockcnt_change`."""

    async def quiesce(self, module: type, offset_blocks: int, num_blocks: int | None) -> None:
        """See `Bdev.quiesce`."""

    async def unquiesce(self, module: type, offset_blocks: int, num_blocks: int | None) -> None:
        """See `Bdev.unquiesce`."""


class Opener(Protocol):
    """An open of a bdev, as those see it who keep the bdev and who stand on it."""

    holder: str
    """Who has it, in words."""
    write: bool
    hide_metadata: bool
    media_events: deque[MediaEvent]
    """What its owner has not taken yet."""

    @property
    def reactor(self) -> Reactor:
        """Where its events come, and where it is closed."""

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be."""

    @property
    def channels(self) -> dict[Reactor, Channel]:
        """The channels there are at this moment, by reactor, in the order of their ids."""

    def post_event(self, event: BdevEvent) -> None:
        """Tell the owner by message."""

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call back, on the control plane's reactor, when it is closed."""

    def get_channel(self) -> Channel:
        """Return the calling reactor's channel."""

    def put_channel(self, channel: Channel) -> None:
        """Give a channel back on the reactor that got it."""

    def channel_refs(self) -> int:
        """Return how many hold the calling reactor's channel; 0 where there is none."""


class ControlPath(Protocol):
    """What concerns all channels of a bdev at once: resets and locked blocks."""

    @property
    def busy(self) -> bool:
        """Whether a RESET is under way or a range is locked."""

    async def idle(self) -> None:
        """Wait until it is not busy."""

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Take over what the core has parked for it."""

    def prepare_channel(self, channel: Channel) -> None:
        """Let a channel that is made now obey what is in force already."""

    def io_lock(
        self, io: BdevIO, offset_blocks: int, num_blocks: int, reads: bool
    ) -> AbstractAsyncContextManager[None]:
        """Return the lock that `BdevIO.lock` asks for, not yet taken."""

    def refuse_own_wait(self, what: str) -> None:
        """EDEADLK where the module's own I/O code asks."""

    async def quiesce(self, offset_blocks: int, num_blocks: int) -> None:
        """Lock a range against everything."""

    async def unquiesce(self, offset_blocks: int, num_blocks: int) -> bool:
        """Give back a range that was quiesced with exactly these blocks; False without one."""


class QueueDepths(Protocol):
    """Samples of how many I/Os are outstanding."""

    period_us: int
    queue_depth: int
    io_time_us: int
    weighted_io_time_us: int

    def set_period(self, period_us: int) -> None:
        """Sample at this interval from now on; 0 ends it."""
