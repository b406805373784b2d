"""Entries: what the framework keeps of a registered bdev, which its author never sees.

There is one for each, `Bdev.host`, from its registration on. Modules, targets and methods have
bdevs in hand; whoever keeps something of one asks `entry_of`. All of it belongs to the reactor of
the control plane, but for what says otherwise.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

from vbdev.bdev.claim import Claim
from vbdev.bdev.contract import Bdev
from vbdev.bdev.host import BdevEvent, BdevState, ControlPath, Opener, QueueDepths
from vbdev.bdev.iostat import IoTotals
from vbdev.bdev.setup import configure_channel
from vbdev.core.counts.histogram import Histogram
from vbdev.core.counts.rates import RateLimits
from vbdev.core.engine.channel import Channel
from vbdev.reactor.task import Future, wake
from vbdev.vocab.errors import BdevError

__all__ = ["Entry", "entry_of"]


class Entry:
    """What is kept of one bdev.

    on_resize: told of a new size, before the openers are. depth: layers up to this one, 1 where it
    stands on nothing.
    """

    def __init__(self, bdev: Bdev, on_resize: Callable[[Bdev], object], depth: int = 1) -> None:
        self.bdev = bdev
        self.depth = depth
        self.state = BdevState.READY
        self.claim: Claim | None = None
        self.openers: list[Opener] = []
        self.control: ControlPath | None = None
        """Its resets and locked ranges. Channels ask it on their own threads."""
        self.totals = IoTotals()
        """What channels that are closed have counted."""
        self.folds = 0
        self.rate_limits: RateLimits | None = None
        self.histogram: Histogram | None = None
        """What channels count latencies in, and the counts of those that are closed."""
        self.queue_depth: QueueDepths | None = None
        self._on_resize = on_resize
        self._changing: set[str] = set()
        self._unheld: list[Future[None]] = []

    def __repr__(self) -> str:
        return f"<entry of {self.bdev.name}>"

    # Who has it open

    def holders(self) -> list[str]:
        """Say who has the bdev open."""
        return [opener.holder for opener in self.openers]

    def drop(self, opener: Opener) -> None:
        """Take off one that is closed."""
        self.openers.remove(opener)
        if not self.openers:
            futures, self._unheld = self._unheld, []
            for future in futures:
                wake(future)

    async def unheld(self) -> None:
        """Wait until nobody has it open."""
        if self.openers:
            future: Future[None] = Future()
            self._unheld.append(future)
            await future

    # Its channels

    def channels(self) -> list[Channel]:
        """Return the channels that are open."""
        return [channel for opener in self.openers for channel in opener.channels.values()]

    @property
    def outstanding(self) -> int:
        """I/Os that have entered through any channel and not left."""
        return sum(channel.outstanding for channel in self.channels())

    def set_up(self, channel: Channel) -> None:
        """Give a new channel what follows from the geometry, and what is in force already.

        On the channel's thread.
        """
        configure_channel(self.bdev, channel, self.control)
        channel.set_qos(self.rate_limits)
        channel.set_histogram(self.histogram.like() if self.histogram is not None else None)
        if self.control is not None:
            self.control.prepare_channel(channel)

    def reconfigure(self, channel: Channel) -> None:
        """Configure a channel anew, on its own thread, unless it is closed by now."""
        if not channel.closed:
            configure_channel(self.bdev, channel, self.control)

    @contextlib.contextmanager
    def changing_channels(self, what: str) -> Iterator[None]:
        """Hold while channel after channel learns of a change; EAGAIN while another one is on."""
        if what in self._changing:
            raise BdevError(
                errno.EAGAIN, f"bdev {self.bdev.name}: a change of its {what} is under way already"
            )
        self._changing.add(what)
        try:
            yield
        finally:
            self._changing.discard(what)

    # What they count

    def iostat(self) -> IoTotals:
        """Return what all channels, open and closed, have counted."""
        total = IoTotals()
        total.add(self.totals)
        for channel in self.channels():
            total.add(channel)
        return total

    def fold(self, counted: IoTotals, latencies: Histogram | None = None) -> None:
        """Keep what a channel that is closed has counted."""
        self.totals.add(counted)
        own = self.histogram
        if own is not None and latencies is not None and latencies.same_layout(own):
            own.add(latencies)
        self.folds += 1

    # What the bdev asks: `host.Host`

    def resize(self, num_blocks: int) -> None:
        """See `Bdev.notify_blockcnt_change`."""
        bdev = self.bdev
        if num_blocks == bdev.num_blocks:
            return
        if num_blocks < bdev.num_blocks and self.openers:
            raise BdevError(
                errno.EBUSY,
                f"bdev {bdev.name}: can not shrink from {bdev.num_blocks} to {num_blocks} blocks"
                f" while it is open by {', '.join(self.holders())}",
            )
        bdev.num_blocks = num_blocks
        self._on_resize(bdev)
        for opener in list(self.openers):
            # On each reactor before the event can come there, so that the new size is there.
            for reactor, channel in opener.channels.items():
                reactor.exec_msg(self.reconfigure, channel)
            opener.post_event(BdevEvent.RESIZE)

    async def quiesce(
        self, module: type, offset_blocks: int = 0, num_blocks: int | None = None
    ) -> None:
        """See `Bdev.quiesce`."""
        bdev, control = self.bdev, self._own_control(module)
        control.refuse_own_wait("quiesced")
        if num_blocks is None:
            num_blocks = bdev.num_blocks - offset_blocks
        if not 0 <= offset_blocks <= offset_blocks + num_blocks <= bdev.num_blocks:
            raise BdevError(
                errno.EINVAL,
                f"bdev {bdev.name}: {num_blocks} blocks from {offset_blocks} can not be quiesced;"
                f" it has {bdev.num_blocks}",
            )
        await control.quiesce(offset_blocks, num_blocks)

    async def unquiesce(
        self, module: type, offset_blocks: int = 0, num_blocks: int | None = None
    ) -> None:
        """See `Bdev.unquiesce`."""
        bdev, control = self.bdev, self._own_control(module)
        if num_blocks is None:
            num_blocks = bdev.num_blocks - offset_blocks
        if not await control.unquiesce(offset_blocks, num_blocks):
            raise BdevError(
                errno.EINVAL,
                f"bdev {bdev.name}: {num_blocks} blocks from {offset_blocks} are not quiesced",
            )

    def _own_control(self, module: type) -> ControlPath:
        bdev = self.bdev
        if module is not type(bdev):
            kind = getattr(module, "kind", module.__name__)
            raise BdevError(
                errno.EINVAL,
                f"bdev {bdev.name} can be quiesced by its own module {bdev.kind} alone, not by"
                f" {kind}",
            )
        if self.control is None:
            raise BdevError(errno.ENODEV, f"bdev {bdev.name} is not registered")
        return self.control


def entry_of(bdev: Bdev) -> Entry:
    """Return what is kept of a bdev; BdevError ENODEV for one that was never registered."""
    if not isinstance(bdev.host, Entry):
        raise BdevError(errno.ENODEV, f"bdev {bdev.name} is not registered")
    return bdev.host
