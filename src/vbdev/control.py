"""The control path of I/O: what concerns all channels of a bdev at once.

RESET stops every channel, COMPARE_AND_WRITE (where the module has none) and quiescing lock blocks
on every channel. The core parks such I/Os (`Channel.finish`, `Channel.run_children`) and hands
them over here; the bdev's control reactor decides, in coroutines, one bdev at a time.

An I/O stays with the thread it came from: only a `Held` goes from thread to thread, and its batch
is looked at, and let go, on the channel's own.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import suppress

from vbdev.bdev import Bdev, BdevError
from vbdev.channels import for_each_channel
from vbdev.core.batch import IOBatch
from vbdev.core.channel import Channel
from vbdev.reactor import Reactor, ReactorStoppedError
from vbdev.task import Future
from vbdev.vocab import Op, Status

__all__ = ["Control", "RangeLock"]

log = logging.getLogger(__name__)


FAILED = (int(Status.FAILED), 0, 0)
LOOK_AGAIN_US = 100
"""How often outstanding I/O in a range that is being locked is looked for (SPDK: 100 us)."""
DRAIN_LOOK_US = 10_000
"""How often, at the least, a RESET that lets I/O drain looks whether it has: at first sooner."""


def abort_coroutines(channel: Channel) -> None:
    """End what coroutines of the module have, as ABORTED. On the channel's thread."""
    if channel.coroutines is not None:
        channel.coroutines.abort_all()


class RangeLock:
    """Blocks that only whoever holds the lock may change (SPDK: struct lba_range)."""

    __slots__ = ("active", "freed", "num_blocks", "number", "offset_blocks", "quiesce")

    def __init__(self, number: int, offset_blocks: int, num_blocks: int, *, quiesce: bool) -> None:
        self.number = number
        self.offset_blocks = offset_blocks
        self.num_blocks = num_blocks
        self.quiesce = quiesce
        self.active = False
        self.freed: Future[None] = Future()

    def overlaps(self, other: RangeLock) -> bool:
        """Whether they have a block in common; a range without blocks has none."""
        return (
            self.offset_blocks < other.offset_blocks + other.num_blocks
            and other.offset_blocks < self.offset_blocks + self.num_blocks
            and self.num_blocks > 0
            and other.num_blocks > 0
        )

    def apply(self, channel: Channel) -> None:
        """Hold I/O up on a channel. On the channel's thread."""
        channel.lock_range(self.number, self.offset_blocks, self.num_blocks, self.quiesce)


class Held:
    """One I/O that the core has parked for the control path, and its channel."""

    __slots__ = ("batch", "channel", "reactor")

    def __init__(self, channel: Channel, batch: IOBatch, reactor: Reactor) -> None:
        self.channel = channel
        self.batch: IOBatch | None = batch
        self.reactor = reactor

    def finish(self, status: int, detail: int = 0, cdw0: int = 0) -> None:
        """Complete it. On the channel's thread."""
        batch, self.batch = self.batch, None
        if batch is not None:
            self.channel.finish(batch, status, detail, cdw0)

    def start(self, ended: Future[tuple[int, int, int]], home: Reactor) -> None:
        """Carry it out; `ended` resolves on `home`. On the channel's thread."""
        assert self.batch is not None

        def back(_batch: IOBatch, status: int, detail: int, cdw0: int) -> None:
            home.send_msg(ended.set_result, (status, detail, cdw0))

        self.channel.run_children(self.batch, back)


class Control:
    """The resets and the locked ranges of one bdev. Belongs to the bdev's control reactor."""

    def __init__(self, bdev: Bdev) -> None:
        self._bdev = bdev
        self._resets: list[Held] = []
        self.resetting = False
        self._frozen = False
        self._locks: tuple[RangeLock, ...] = ()  # replaced as a whole: other threads read it
        self._count = 0

    @property
    def locks(self) -> list[RangeLock]:
        """The ranges that are locked now."""
        return [lock for lock in self._locks if lock.active]

    @property
    def busy(self) -> bool:
        """Whether a RESET is under way or a range is locked."""
        return self.resetting or bool(self._locks)

    def prepare_channel(self, channel: Channel) -> None:
        """Let a channel that is made now obey what is in force already."""
        if self._frozen:
            channel.freeze()
        for lock in self.locks:
            lock.apply(channel)

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Take over RESETs, COMPARE_AND_WRITEs to emulate, and ABORTs of the latter.

        Called by the core on the channel's thread.
        """
        home = self._bdev.reactor
        here = Reactor.current() or home
        self._abort(here, channel, ios.take(Op.ABORT))
        for one in ios.take(Op.RESET).split():
            home.send_msg(self._reset_arrived, Held(channel, one, here))
        for one in ios.split():
            ((_, offset_blocks, num_blocks),) = one.extents()
            held = Held(channel, one, here)
            self._waiting_swaps(here).append(held)
            home.send_msg(self._swap_arrived, held, offset_blocks, num_blocks)

    def _waiting_swaps(self, here: Reactor) -> list[Held]:
        """Return the COMPARE_AND_WRITEs of this reactor that wait for their lock."""
        waiting: list[Held] = here.locals.setdefault(self, [])
        return waiting

    def _abort(self, here: Reactor, channel: Channel, aborts: IOBatch) -> None:
        """End those that still wait for their lock. On the channel's thread."""
        for held in list(here.locals.get(self, ())):
            assert held.batch is not None
            victims, hits = held.batch.take_victims(aborts)
            if len(victims):
                self._forget_swap(held)
                held.batch = None
                channel.finish(victims, Status.ABORTED)
                channel.finish(hits, Status.SUCCESS)
        if len(aborts):
            channel.finish(aborts, Status.FAILED, errno.ENOENT)

    def _forget_swap(self, held: Held) -> None:
        waiting = self._waiting_swaps(held.reactor)
        if held in waiting:
            waiting.remove(held)
        if not waiting:
            del held.reactor.locals[self]

    async def _sum(self, count: Callable[[Channel], int]) -> int:
        """Add up what `count` returns for each channel, on its own thread."""
        counts: list[int] = []
        await for_each_channel(self._bdev, lambda channel: counts.append(count(channel)))
        return sum(counts)

    # RESET

    def _reset_arrived(self, held: Held) -> None:
        self._resets.append(held)
        if not self.resetting:
            self.resetting = True
            self._bdev.reactor.spawn(self._reset_all(), f"reset of {self._bdev.name}")

    async def _reset_all(self) -> None:
        """Carry out RESETs; those that come while one is under way end as it does."""
        try:
            while self._resets:
                try:
                    await self._reset()
                except Exception:  # those that came meanwhile are due all the same
                    log.exception("reset failed bdev=%s", self._bdev.name)
        finally:
            self.resetting = False

    async def _reset(self) -> None:
        """Carry out the first RESET (spdk_bdev_reset)."""
        outcome = FAILED
        self._frozen = True
        try:
            outcome = await self._reset_frozen()
        except Exception:  # whoever is frozen, or waits, must not stay so for it
            log.exception("reset failed bdev=%s", self._bdev.name)
        resets, self._resets = self._resets, []
        self._frozen = False
        with suppress(BdevError):  # gone meanwhile, with its channels
            await for_each_channel(self._bdev, Channel.unfreeze)
        for held in resets:
            with suppress(ReactorStoppedError):  # and its channels with it
                await held.reactor.ask(held.finish, *outcome)

    async def _reset_frozen(self) -> tuple[int, int, int]:
        """Freeze all channels, and do the work; return status, its detail and cdw0."""
        await for_each_channel(self._bdev, Channel.freeze)
        timeout_s = self._bdev.reset_io_drain_timeout
        if timeout_s and await self._drained(timeout_s):
            return int(Status.SUCCESS), 0, 0
        return await self._carry_out(self._resets[0])

    async def _drained(self, timeout_s: int) -> bool:
        """Wait until no module has I/O; False when it still has some at the end."""
        reactor = self._bdev.reactor
        give_up_ns = reactor.clock.now_ns() + timeout_s * 1_000_000_000
        pause_us = LOOK_AGAIN_US
        while True:
            if not await self._sum(lambda channel: channel.in_module):
                return True
            if reactor.clock.now_ns() >= give_up_ns:
                return False
            await reactor.sleep(pause_us)
            pause_us = min(2 * pause_us, DRAIN_LOOK_US)

    async def _carry_out(self, held: Held) -> tuple[int, int, int]:
        await for_each_channel(self._bdev, abort_coroutines)
        ended: Future[tuple[int, int, int]] = Future()
        await held.reactor.ask(held.start, ended, self._bdev.reactor)
        return await ended

    # Locked ranges

    async def lock(
        self, offset_blocks: int, num_blocks: int, *, quiesce: bool = False
    ) -> RangeLock:
        """Lock blocks against change, with `quiesce` against reading too (bdev_lock_lba_range).

        I/O under way in the range ends first; what comes later waits until `unlock`, on every
        channel, those that are made meanwhile included. Ranges that overlap are locked one after
        the other, in the order of asking.
        """
        self._count += 1
        lock = RangeLock(self._count, offset_blocks, num_blocks, quiesce=quiesce)
        earlier = [other for other in self._locks if other.overlaps(lock)]
        self._locks += (lock,)
        for other in earlier:
            await other.freed
        lock.active = True
        try:
            await for_each_channel(self._bdev, lock.apply)
            while await self._outstanding(lock):
                await self._bdev.reactor.sleep(LOOK_AGAIN_US)
        except Exception:  # those who ask later must not wait for it
            await self.unlock(lock)
            raise
        return lock

    async def _outstanding(self, lock: RangeLock) -> bool:
        return bool(
            await self._sum(
                lambda channel: channel.outstanding_in(
                    lock.offset_blocks, lock.num_blocks, lock.quiesce
                )
            )
        )

    async def quiesce(self, offset_blocks: int, num_blocks: int) -> None:
        """Lock a range against everything; `unquiesce` finds it by its blocks."""
        await self.lock(offset_blocks, num_blocks, quiesce=True)

    async def unquiesce(self, offset_blocks: int, num_blocks: int) -> bool:
        """Give back the range that was quiesced with exactly these blocks; False without one."""
        for lock in self.locks:
            if lock.quiesce and (lock.offset_blocks, lock.num_blocks) == (
                offset_blocks,
                num_blocks,
            ):
                await self.unlock(lock)
                return True
        return False

    async def unlock(self, lock: RangeLock) -> None:
        """Give a lock back; what it held up goes on, in order."""
        self._locks = tuple(other for other in self._locks if other is not lock)
        with suppress(BdevError):  # gone meanwhile, with its channels
            await for_each_channel(self._bdev, lambda channel: channel.unlock_range(lock.number))
        lock.freed.set_result(None)

    def _swap_arrived(self, held: Held, offset_blocks: int, num_blocks: int) -> None:
        self._bdev.reactor.spawn(
            self._compare_and_write(held, offset_blocks, num_blocks),
            f"compare and write on {self._bdev.name}",
        )

    async def _compare_and_write(self, held: Held, offset_blocks: int, num_blocks: int) -> None:
        outcome = FAILED
        lock: RangeLock | None = None
        # No `finally`: one that is thrown away with its reactor can not wait for anything more.
        try:
            lock = await self.lock(offset_blocks, num_blocks)
            outcome = await self._swap(held)
        except Exception:  # whoever waits for the lock, or for this I/O, must not do so for ever
            log.exception("compare and write failed bdev=%s", self._bdev.name)
        if lock is not None:
            await self.unlock(lock)
        with suppress(ReactorStoppedError):  # and its channels with it
            await held.reactor.ask(self._finish_swap, held, outcome)

    async def _swap(self, held: Held) -> tuple[int, int, int]:
        """Compare, and write, while the blocks are locked; return status, its detail and cdw0."""
        ended: Future[tuple[int, int, int]] = Future()
        home = self._bdev.reactor

        def start() -> None:
            if held.batch is None:  # it was aborted while it waited
                home.send_msg(ended.set_result, FAILED)
                return
            self._forget_swap(held)
            held.start(ended, home)

        await held.reactor.ask(start)
        return await ended

    def _finish_swap(self, held: Held, end: tuple[int, int, int]) -> None:
        self._forget_swap(held)
        held.finish(*end)
