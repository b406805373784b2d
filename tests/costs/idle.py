"""The idle load: turns of a reactor on which there may be much, and nothing to do."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from vbdev.bdev.descriptor import Descriptor
from vbdev.core.engine.engine import Engine
from vbdev.modules.null import Null
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry

IN_AN_HOUR_US = 3600 * 1_000_000


class IdleLoad:
    """Turns that find nothing, with `crowd` descriptors, timers, pollers and open bdevs each."""

    def __init__(
        self, probe: AbstractContextManager[None], *, crowd: int, queue_depth: int
    ) -> None:
        self.queue_depth = queue_depth
        self._probe = probe
        self._rest = ExitStack()
        reactor = self._reactor = Reactor()
        self._rest.callback(reactor.close)
        reactor.engine = Engine()
        self._registry = Registry(reactor)
        self._descriptors: list[Descriptor] = []
        reactor.run_until_complete(self._make_bdevs(crowd))
        with reactor.here():
            for _ in range(crowd):
                fd = os.eventfd(0, os.EFD_NONBLOCK)
                self._rest.callback(os.close, fd)
                self._rest.callback(reactor.watch(fd, readable=fail).close)
                reactor.call_later(IN_AN_HOUR_US, fail)
                reactor.register_poller(fail, IN_AN_HOUR_US)
                reactor.register_poller(fail).pause()

    async def _make_bdevs(self, crowd: int) -> None:
        for number in range(crowd):
            name = f"Null{number}"
            await self._registry.create(Null, Null.Params(name=name, num_blocks=8, block_size=512))
            descriptor = self._registry.open(
                name, write=False, on_event=lambda _event: None, holder="costs"
            )
            descriptor.get_channel()
            self._descriptors.append(descriptor)

    def run(self, rounds: int) -> None:
        """Take so many turns."""
        turn = self._reactor._loop.turn
        with self._reactor.here(), self._probe:
            for _ in range(rounds):
                turn()

    def batches(self) -> list[tuple[int, int]]:
        """Return none."""
        return []

    def close(self) -> None:
        """Take everything down."""
        self._reactor.run_until_complete(self._close())
        self._rest.close()

    async def _close(self) -> None:
        for descriptor in self._descriptors:
            await descriptor.close()
        await self._registry.close()


def fail(*_: Any) -> int:
    """Be called, which nothing here is."""
    raise AssertionError
