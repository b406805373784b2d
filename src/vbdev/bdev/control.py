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
from contextlib import suppress
from itertools import count

from vbdev.bdev.channels import drained, for_each_channel
from vbdev.bdev.contract import Bdev
from vbdev.bdev.locks import IoLock, RangeLock
from vbdev.core.coroutine.runner import BdevIO
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine
from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, wake
from vbdev.vocab import Op, Status
from vbdev.vocab.errors import BdevError

__all__ = ["Control"]

log = logging.getLogger(__name__)


FAILED = (int(Status.FAILED), 0, 0)
SLOW_LOCK_US = 10_000_000
"""After this long it is said what a lock waits for."""


def abort_coroutines(channel: Channel) -> None:
    """End what coroutines of the module have, as ABORTED. On the channel's thread."""
    if channel.coroutines is not None:
        channel.coroutines.abort_all()


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
        self._numbers = count(1)  # of locks; any thread
        self._idle: list[Future[None]] = []

    @property
    def name(self) -> str:
        """Of the bdev."""
        return self._bdev.name

    @property
    def locks(self) -> list[RangeLock]:
        """The ranges that are locked now."""
        return [lock for lock in self._locks if lock.active]

    @property
    def busy(self) -> bool:
        """Whether a RESET is under way or a range is locked."""
        return self.resetting or bool(self._locks)

    async def idle(self) -> None:
        """Wait until there is neither."""
        while self.busy:
            future: Future[None] = Future()
            self._idle.append(future)
            await future

    def _may_be_idle(self) -> None:
        if not self.busy:
            idle, self._idle = self._idle, []
            for future in idle:
                wake(future)

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
            self._may_be_idle()

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
        if timeout_s and await drained(self._bdev, timeout_us=timeout_s * 1_000_000):
            return int(Status.SUCCESS), 0, 0
        return await self._carry_out(self._resets[0])

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
        lock = self._new_lock(offset_blocks, num_blocks, quiesce=quiesce)
        await self.take(lock)
        return lock

    def io_lock(self, io: BdevIO, offset_blocks: int, num_blocks: int, reads: bool) -> IoLock:
        """Return the lock that `BdevIO.lock` asks for, not yet taken. On the I/O's thread.

        BdevError EINVAL: a range that is not inside the bdev.
        """
        bdev = self._bdev
        if not 0 <= offset_blocks <= offset_blocks + num_blocks <= bdev.num_blocks:
            raise BdevError(
                errno.EINVAL,
                f"bdev {bdev.name}: {num_blocks} blocks from {offset_blocks} can not be locked;"
                f" it has {bdev.num_blocks}",
            )
        own = (io.offset_blocks, io.num_blocks)
        lock = self._new_lock(offset_blocks, num_blocks, quiesce=reads, own=own)
        return IoLock(self, io, lock, bdev.reactor)

    def refuse_own_wait(self, what: str) -> None:
        """BdevError EDEADLK where the module's own I/O code asks: it would wait for itself."""
        here = Reactor.current()
        engine = here.engine if here is not None else None
        if isinstance(engine, Engine) and engine.is_calling(self._bdev):
            raise BdevError(
                errno.EDEADLK,
                f"bdev {self._bdev.name} can not be {what} by its own handle, submit or completed:"
                " that waits for the I/O in their hands. In handle: async with io.lock(...)",
            )

    def _new_lock(
        self,
        offset_blocks: int,
        num_blocks: int,
        *,
        quiesce: bool,
        own: tuple[int, int] = (0, 0),
    ) -> RangeLock:
        home, number = self._bdev.reactor, next(self._numbers)
        return RangeLock(home, number, offset_blocks, num_blocks, quiesce=quiesce, own=own)

    async def take(self, lock: RangeLock) -> None:
        """Lock a range that nobody has locked yet; it is in force even where it was cancelled."""
        earlier = [other for other in self._locks if other.overlaps(lock)]
        self._locks += (lock,)
        for other in earlier:
            await other.freed
        lock.active = True
        clock = self._bdev.reactor.clock
        slow_ns = clock.now_ns() + SLOW_LOCK_US * 1000
        try:
            await for_each_channel(self._bdev, lock.apply)
            while not lock.cancelled and (under_way := await self._outstanding(lock)):
                await lock.left.wait(max(slow_ns - clock.now_ns(), 0) / 1000)
                if clock.now_ns() >= slow_ns:
                    slow_ns = clock.now_ns() + 6 * SLOW_LOCK_US * 1000
                    log.warning(
                        "a lock of blocks waits for I/O under way bdev=%s offset_blocks=%d"
                        " num_blocks=%d ios=%d",
                        self._bdev.name,
                        lock.offset_blocks,
                        lock.num_blocks,
                        under_way,
                    )
        except Exception:  # those who ask later must not wait for it
            await self.unlock(lock)
            raise
        lock.held = True

    async def _outstanding(self, lock: RangeLock) -> int:
        counts: list[int] = []

        def count(channel: Channel) -> None:
            where = lock.offset_blocks, lock.num_blocks, lock.quiesce
            counts.append(channel.outstanding_in(*where, lock.left.set))

        await for_each_channel(self._bdev, count)
        return sum(counts)

    async def quiesce(self, offset_blocks: int, num_blocks: int) -> None:
        """Lock a range against everything; `unquiesce` finds it by its blocks."""
        await self.lock(offset_blocks, num_blocks, quiesce=True)

    async def unquiesce(self, offset_blocks: int, num_blocks: int) -> bool:
        """Give back the range that was quiesced with exactly these blocks; False without one.

        One that still waits for what is under way is not quiesced yet, and stays (SPDK:
        bdev_unquiesce_range_unlocked).
        """
        for lock in self.locks:
            found = lock.offset_blocks, lock.num_blocks
            if lock.held and lock.quiesce and found == (offset_blocks, num_blocks):
                await self.unlock(lock)
                return True
        return False

    async def unlock(self, lock: RangeLock) -> None:
        """Give a lock back; what it held up goes on, in order."""
        self._locks = tuple(other for other in self._locks if other is not lock)
        with suppress(BdevError):  # gone meanwhile, with its channels
            await for_each_channel(self._bdev, lambda channel: channel.unlock_range(lock.number))
        lock.freed.set_result(None)
        self._may_be_idle()

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
