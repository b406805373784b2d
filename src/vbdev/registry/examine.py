"""Examination: what a new bdev carries, or is the base of (SPDK: spdk_bdev_examine).

Two phases. In the first the configured vbdevs that waited for the bdev are built, then each
module's `examine_config` is called; the registration of the bdev waits for it. In the second the
modules that have an `examine_disk` look at the data: all of them when nobody has claimed the
bdev, else those that have. Each runs as a task of its own, so that one that never ends holds up
nobody but `wait`, which says for whom it waits. What fails is logged and harms nobody.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from vbdev.bdev import Bdev, BdevError, BdevState
from vbdev.bdev.contract import Layer
from vbdev.bdev.entry import entry_of
from vbdev.reactor.task import Future, wake
from vbdev.vocab import Op

__all__ = ["Examination", "Examiner"]

log = logging.getLogger(__name__)

SAY_US = 5_000_000
"""How long `wait` waits before it says for whom, and again after each such time."""


@dataclass(eq=False, slots=True)
class Examination:
    """One that goes on."""

    bdev: Bdev
    module: str
    """Kind of the module, or "configuration" for the first phase."""
    since_ns: int

    def __str__(self) -> str:
        return f"{self.module} of bdev {self.bdev.name}"


class Examiner:
    """Calls the modules for each new bdev, in the order in which the modules were added.

    layer: what the modules may ask. build_waiting: builds what has waited for a bdev.
    """

    def __init__(self, layer: Layer, build_waiting: Callable[[Bdev], Awaitable[None]]) -> None:
        self.auto = True
        """Whether every new bdev is examined; else those that `request` names."""
        self.requested: dict[str, None] = {}
        """Names of bdevs that shall be examined although `auto` is off, in the order of asking."""
        self.modules: list[type[Bdev]] = []
        self._layer = layer
        self._build_waiting = build_waiting
        self._running: dict[Bdev, list[Examination]] = {}
        self._idle: list[Future[None]] = []
        self._say_ns = 0

    def of(self, bdev: Bdev) -> list[str]:
        """Return the kinds of the modules that examine a bdev just now."""
        return [one.module for one in self._running.get(bdev, ())]

    def wants(self, bdev: Bdev) -> bool:
        """Say whether a bdev is examined when it comes."""
        named = any(name in self.requested for name in (bdev.name, *bdev.aliases))
        return (self.auto or named) and Op.READ in bdev.ops

    async def examine(self, bdev: Bdev) -> None:
        """Examine a new bdev; return when the first phase has ended."""
        if not self.wants(bdev):
            return
        running = self._begin(bdev, "configuration")
        try:
            await self._build_waiting(bdev)
            for module in list(self.modules):
                try:
                    module.examine_config(self._layer, bdev)
                except Exception as error:  # noqa: BLE001 - logged: no fault of the bdev's
                    _report(error, module.kind, bdev)
            if bdev.state is BdevState.READY:
                self._examine_disk(bdev)
        finally:
            self._end(running)

    def _examine_disk(self, bdev: Bdev) -> None:
        tasters = [m for m in self.modules if _overrides(m)]
        claim = entry_of(bdev).claim
        if claim is not None:
            tasters = [m for m in tasters if m.kind in claim.modules]
        for module in tasters:
            running = self._begin(bdev, module.kind)
            self._layer.reactor.spawn(self._taste(module, running), f"examine: {running}")

    async def _taste(self, module: type[Bdev], running: Examination) -> None:
        try:
            if running.bdev.state is BdevState.READY:
                await module.examine_disk(self._layer, running.bdev)
        except Exception as error:  # noqa: BLE001 - logged: no fault of the bdev's
            _report(error, module.kind, running.bdev)
        finally:
            self._end(running)

    def _begin(self, bdev: Bdev, module: str) -> Examination:
        running = Examination(bdev, module, self._layer.reactor.clock.now_ns())
        self._running.setdefault(bdev, []).append(running)
        return running

    def _end(self, running: Examination) -> None:
        of_bdev = self._running[running.bdev]
        of_bdev.remove(running)
        if not of_bdev:
            del self._running[running.bdev]
        if not self._running:
            idle, self._idle = self._idle, []
            for future in idle:
                wake(future)

    async def request(self, name: str) -> None:
        """Examine a bdev although `auto` is off, now or when it comes (RPC bdev_examine).

        BdevError: EINVAL when `auto` is on, EEXIST when it was asked for before. The request ends
        when the bdev unregisters.
        """
        if self.auto:
            raise BdevError(
                errno.EINVAL, f"bdev {name!r}: every bdev is examined (bdev_auto_examine is true)"
            )
        bdev = self._layer.find(name)
        for known in (name,) if bdev is None else (name, bdev.name, *bdev.aliases):
            if known in self.requested:
                raise BdevError(errno.EEXIST, f"bdev {known!r} is on the list already")
        self.requested[name] = None
        if bdev is not None and bdev.state is BdevState.READY:
            await self.examine(bdev)

    def forget(self, bdev: Bdev) -> None:
        """Drop the requests for a bdev that unregisters."""
        for name in (bdev.name, *bdev.aliases):
            self.requested.pop(name, None)

    async def wait(self, timeout_us: float | None = None) -> list[Examination]:
        """Wait until no examination goes on; return those that do after `timeout_us`."""
        waited_us = 0.0
        while self._running and (timeout_us is None or waited_us < timeout_us):
            period_us = SAY_US if timeout_us is None else min(SAY_US, timeout_us - waited_us)
            idle: Future[None] = Future()
            self._idle.append(idle)
            timer = self._layer.reactor.call_later(period_us, partial(wake, idle))
            await idle
            timer.cancel()
            if idle in self._idle:
                self._idle.remove(idle)
            waited_us += period_us
            self._say_what_goes_on()
        return self._all_running()

    def _all_running(self) -> list[Examination]:
        return [one for of_bdev in self._running.values() for one in of_bdev]

    def _say_what_goes_on(self) -> None:
        """Say it once for all who wait."""
        now_ns = self._layer.reactor.clock.now_ns()
        if self._running and now_ns >= self._say_ns:
            self._say_ns = now_ns + SAY_US * 1000
            log.warning("examination goes on: %s", ", ".join(map(str, self._all_running())))


def _overrides(module: type[Bdev]) -> bool:
    return module.examine_disk.__func__ is not Bdev.examine_disk.__func__  # type: ignore[attr-defined]


def _report(error: Exception, module: str, bdev: Bdev) -> None:
    if isinstance(error, (BdevError, OSError)):
        # One that is deleted meanwhile is no failure, and no news.
        level = logging.WARNING if bdev.state is BdevState.READY else logging.DEBUG
        log.log(level, "examination failed bdev=%s module=%s error=%s", bdev.name, module, error)
    else:
        log.error(
            "examination failed bdev=%s module=%s error=%r",
            bdev.name,
            module,
            error,
            exc_info=error,
        )
