"""Queue depth of a bdev, sampled at an interval (SPDK: spdk_bdev_set_qd_sampling_period)."""

from __future__ import annotations

import errno
from typing import Final

from vbdev.bdev.channels import for_each_channel
from vbdev.bdev.contract import Bdev
from vbdev.bdev.entry import entry_of
from vbdev.bdev.host import BdevState
from vbdev.reactor.poller import Poller
from vbdev.vocab.errors import BdevError

__all__ = ["MAX_PERIOD_US", "QueueDepth", "set_sampling_period"]

MAX_PERIOD_US: Final = 24 * 3600 * 1_000_000


class QueueDepth:
    """What the samples of one bdev say. Times are us, and grow by a period with each sample.

    queue_depth: I/Os outstanding at the last sample.
    io_time_us: how long there was I/O outstanding.
    weighted_io_time_us: the same, times the queue depth.
    """

    def __init__(self, bdev: Bdev) -> None:
        self.period_us = 0
        self.queue_depth = 0
        self.io_time_us = 0
        self.weighted_io_time_us = 0
        self._bdev = bdev
        self._poller: Poller | None = None
        self._sampling = False

    def set_period(self, period_us: int) -> None:
        """Sample at this interval from now on; 0 ends it."""
        self.period_us = period_us
        if self._poller is not None:
            self._poller.unregister()
            self._poller = None
        if period_us:
            self._poller = self._bdev.reactor.register_poller(
                self._poll, period_us, f"queue_depth_{self._bdev.name}"
            )

    def _poll(self) -> int:
        if self._bdev.state is not BdevState.READY:
            self.set_period(0)
            return 0
        if self._sampling:  # a reactor is slower than the period
            return 0
        self._sampling = True
        self._bdev.reactor.spawn(self._sample(), f"queue depth of {self._bdev.name}")
        return 1

    async def _sample(self) -> None:
        depths: list[int] = []
        try:
            await for_each_channel(self._bdev, lambda channel: depths.append(channel.outstanding))
        except BdevError:  # gone meanwhile
            return
        finally:
            self._sampling = False
        self.queue_depth = sum(depths)
        if self.queue_depth:
            self.io_time_us += self.period_us
            self.weighted_io_time_us += self.queue_depth * self.period_us


def set_sampling_period(bdev: Bdev, period_us: int) -> None:
    """Sample the bdev's queue depth every `period_us`; 0 ends it. EINVAL above a day."""
    if period_us > MAX_PERIOD_US:
        raise BdevError(
            errno.EINVAL,
            f"bdev {bdev.name}: a period of {period_us} us is longer than {MAX_PERIOD_US} us",
        )
    entry = entry_of(bdev)
    if entry.queue_depth is None:
        entry.queue_depth = QueueDepth(bdev)
    entry.queue_depth.set_period(period_us)
