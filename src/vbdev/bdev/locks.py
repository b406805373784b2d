"""Locks of blocks: a range that only whoever holds the lock may change, or may look at.

Who has them is the control path's (`vbdev.bdev.control`); here is what they are, and how an I/O's
coroutine holds one.
"""

from __future__ import annotations

from typing import Protocol

from vbdev.core.coroutine.runner import BdevIO
from vbdev.core.engine.channel import Channel
from vbdev.reactor.event import Event
from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, wake

__all__ = ["IoLock", "RangeLock"]


class RangeLock:
    """Blocks that only whoever holds the lock may change (SPDK: struct lba_range).

    home: the control reactor. own: where the I/O is that holds it, as (offset_blocks, num_blocks):
    locks of others in there wait for its end, so that this one does not wait for them.
    """

    __slots__ = (
        "active",
        "cancelled",
        "freed",
        "held",
        "left",
        "num_blocks",
        "number",
        "offset_blocks",
        "own",
        "quiesce",
    )

    def __init__(
        self,
        home: Reactor,
        number: int,
        offset_blocks: int,
        num_blocks: int,
        *,
        quiesce: bool,
        own: tuple[int, int] = (0, 0),
    ) -> None:
        self.number = number
        self.offset_blocks = offset_blocks
        self.num_blocks = num_blocks
        self.quiesce = quiesce
        self.own = own
        self.active = False
        """Channels hold up what comes."""
        self.held = False
        """And what was under way has ended: it is whoever asked for it who has it."""
        self.cancelled = False
        self.left = Event(home)
        """Some of what was under way has ended, or it is cancelled."""
        self.freed: Future[None] = Future()

    def overlaps(self, other: RangeLock) -> bool:
        """Whether they have a block in common, or one covers the I/O that the other is for."""
        mine, theirs = (
            (self.offset_blocks, self.num_blocks),
            (other.offset_blocks, other.num_blocks),
        )
        return _meet(mine, theirs) or _meet(self.own, theirs) or _meet(mine, other.own)

    def apply(self, channel: Channel) -> None:
        """Hold I/O up on a channel. On the channel's thread."""
        channel.lock_range(self.number, self.offset_blocks, self.num_blocks, self.quiesce)


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two ranges have a block in common; a range without blocks has none."""
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1] and one[1] * other[1] > 0


class LockKeeper(Protocol):
    """Who keeps the locks of a bdev, on its control reactor."""

    @property
    def name(self) -> str:
        """Of the bdev."""

    async def take(self, lock: RangeLock) -> None:
        """Lock a range that nobody has locked yet."""

    async def unlock(self, lock: RangeLock) -> None:
        """Give a lock back."""


class IoLock:
    """What `async with io.lock(...)` enters: see `BdevIO.lock`.

    Entered and left on the I/O's own reactor; the lock is the control reactor's. Leaving waits for
    nothing, so that a coroutine which is closed leaves too.
    """

    def __init__(self, control: LockKeeper, io: BdevIO, lock: RangeLock, home: Reactor) -> None:
        here = Reactor.current()
        assert here is not None
        self._control, self._io, self._lock = control, io, lock
        self._home, self._here = home, here
        self._is_held = False  # on the control reactor

    async def __aenter__(self) -> None:
        """Wait until the blocks are locked."""
        io = self._io
        if io.has_lock:
            raise RuntimeError("the I/O has a lock already")
        granted: Future[None] = Future()
        io.has_lock = io.rests = True
        try:
            if not self._home.send_msg(self._begin, granted):
                granted.set_exception(ReactorStoppedError(self._home))
            await granted
        except BaseException:
            self._leave()
            raise
        io.rests = False

    async def __aexit__(self, *_exc: object) -> None:
        """Give the lock back."""
        self._leave()

    def _leave(self) -> None:
        self._io.has_lock = self._io.rests = False
        self._home.send_msg(self._give_back)

    # On the control reactor

    def _begin(self, granted: Future[None]) -> None:
        self._home.spawn(self._take(granted), f"lock of blocks of {self._control.name}")

    async def _take(self, granted: Future[None]) -> None:
        try:
            await self._control.take(self._lock)
        except Exception as error:  # noqa: BLE001 - it is the I/O's
            self._here.send_msg(_fail, granted, error)
            return
        self._is_held = True
        if self._lock.cancelled or not self._here.send_msg(wake, granted):
            await self._free()

    def _give_back(self) -> None:
        self._lock.cancelled = True
        self._lock.left.set()
        if self._is_held:
            self._home.spawn(self._free(), f"end of a lock of {self._control.name}")

    async def _free(self) -> None:
        if self._is_held:
            self._is_held = False
            await self._control.unlock(self._lock)


def _fail(future: Future[None], error: Exception) -> None:
    if not future.done:
        future.set_exception(error)
