"""The table: which bdevs there are, under which names, and what is settled for all of them.

What comes and goes passes here: `enter` and `leave` keep names, wishes and notifications together.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import msgspec

from vbdev.bdev import Bdev, BdevError, BdevState, VirtualBdev
from vbdev.bdev.control import Control
from vbdev.bdev.entry import Entry, entry_of
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, wake
from vbdev.registry.creations import Creation, Creations
from vbdev.registry.names import Names, Numbers
from vbdev.registry.notifications import Notifications
from vbdev.registry.options import BdevOptions

__all__ = ["Table"]


LONGEST_WAIT_US = 100_000_000
"""What one timer is set for: somebody may ask for longer than a timer can be told."""


class Table:
    """The bdevs of one application, in the order in which they were registered."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.bdevs: dict[str, Bdev] = {}
        self.numbers = Numbers(self._is_taken)
        self.names = Names(self.numbers.freed)
        self.creations = Creations(self.numbers.freed)
        self.notifications = Notifications()
        self.options = BdevOptions()
        self.module_options: dict[str, msgspec.Struct] = {}
        """What `bdev_<kind>_set_options` was given last, by kind."""
        self.closing = False
        self.closes = 0
        """How often `close` was called."""
        self.starting: set[str] = set()
        """Names of bdevs that are being made, and not entered yet."""
        self._announced: set[Bdev] = set()
        self._arrivals: dict[Future[None], None] = {}

    def __iter__(self) -> Iterator[Bdev]:
        return iter(list(self.bdevs.values()))

    def check_here(self, number: int, what: str) -> None:
        """Refuse what is done on another thread, with this errno."""
        if not self.reactor.is_here:
            raise BdevError(
                number, f"{what} off {self.reactor.name}, which owns the bdevs: ask it to"
            )

    # Names

    def find(self, name: str) -> Bdev | None:
        """Return the bdev with this name, alias or UUID."""
        return self.names.find(name)

    def get(self, name: str, kind: str | None = None) -> Bdev:
        """Return the bdev of this name (and kind), or raise BdevError ENODEV."""
        bdev = self.find(name)
        if bdev is None:
            raise BdevError(errno.ENODEV, f"there is no bdev {name!r}")
        if kind is not None and bdev.kind != kind:
            raise BdevError(errno.ENODEV, f"bdev {name!r} is a {bdev.kind} bdev and no {kind} bdev")
        return bdev

    def check_spoken_for(self, name: str) -> None:
        """BdevError EEXIST for a name of what was asked for, or is being made."""
        if name in self.creations:
            raise BdevError(errno.EEXIST, f"a vbdev {name!r} is configured already")
        if name in self.starting:
            raise BdevError(errno.EEXIST, f"a bdev {name!r} is being made already")

    def _is_taken(self, name: str) -> bool:
        return name in self.names or name in self.creations or name in self.starting

    # Coming and going

    def enter(self, bdev: Bdev, creation: Creation | None) -> None:
        """Enter a bdev whose geometry is settled. BdevError EEXIST where a name is taken."""
        self.names.add(bdev)
        self.bdevs[bdev.name] = bdev
        if isinstance(bdev, VirtualBdev) and creation is not None:
            self.creations.enter(bdev, creation)
        bases = bdev.bases if isinstance(bdev, VirtualBdev) else ()
        depth = 1 + max((entry_of(base).depth for base in bases), default=0)
        entry = Entry(bdev, self._resized, depth)
        entry.control = Control(bdev)
        bdev.host = entry
        self._wake_arrivals()

    def announce(self, bdev: Bdev) -> None:
        """Tell that a bdev came, once. What stands on it is there by now."""
        if bdev not in self._announced and self.bdevs.get(bdev.name) is bdev:
            self._announced.add(bdev)
            self.notifications.send("bdev_register", bdev.name)

    def _resized(self, bdev: Bdev) -> None:
        if bdev in self._announced:
            self.notifications.send("bdev_resize", bdev.name)

    def leave(self, bdev: Bdev) -> None:
        """Take a bdev, and its names, out."""
        self.announce(bdev)  # one that goes before that came all the same
        self._announced.discard(bdev)
        self.notifications.send("bdev_unregister", bdev.name)
        self.names.remove(bdev)
        self.bdevs.pop(bdev.name, None)
        if not isinstance(bdev, VirtualBdev):
            return
        creation = self.creations.leave(bdev)
        if creation is None or creation.vbdevs or creation.cls.survives_base:
            return
        hot_removed = any(base.state is not BdevState.READY for base in bdev.bases)
        if hot_removed and self.creations.get(creation.key) is creation:
            del self.creations[creation.key]

    # Who waits for a name

    async def arrival(self, timeout_us: float) -> None:
        """Wait until some bdev has come, or got a name; at most for so long, or LONGEST_WAIT_US."""
        future: Future[None] = Future()
        self._arrivals[future] = None
        timer = self.reactor.call_later(min(timeout_us, LONGEST_WAIT_US), lambda: wake(future))
        try:
            await future
        finally:
            timer.cancel()
            self._arrivals.pop(future, None)

    def _wake_arrivals(self) -> None:
        for future in list(self._arrivals):
            wake(future)

    def add_alias(self, bdev: Bdev, alias: str | None) -> None:
        """Give a bdev one more name (spdk_bdev_alias_add). EINVAL for none, EEXIST if taken."""
        if alias:
            self.check_spoken_for(alias)
        self.names.add_alias(bdev, alias)
        self._wake_arrivals()

    def end_waiting(self, error: Exception) -> None:
        """Fail those who wait for a name."""
        for future in list(self._arrivals):
            if not future.done:
                future.set_exception(error)
