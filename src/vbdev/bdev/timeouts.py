"""I/O timeouts of a descriptor: who submitted hears of I/Os that take too long.

Nothing is aborted: the callback decides (SPDK: spdk_bdev_set_timeout).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vbdev.core.engine.channel import Channel
from vbdev.core.engine.requests import Request
from vbdev.reactor.poller import Poller
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import Op
from vbdev.vocab.errors import BdevError

__all__ = ["LOOK_US", "IoTimeout", "OverdueIo", "check_seconds"]

log = logging.getLogger(__name__)

LOOK_US: Final = 1_000_000
"""How often a descriptor with a timeout looks at its I/Os."""
MAX_TIMEOUT_S: Final = 1 << 33
"""So that it fits into 64 bits of ns."""


@dataclass(frozen=True, slots=True)
class OverdueIo:
    """An I/O that has been under way for longer than its descriptor's timeout.

    request: what `Descriptor.submit` returned, for an ABORT to name as its victim; None where a
    target submitted it.
    """

    op: Op
    offset_blocks: int
    num_blocks: int
    age_ns: int
    request: Request | None


def check_seconds(name: str, seconds: int) -> None:
    """BdevError EINVAL for a timeout that is none."""
    if not 0 <= seconds <= MAX_TIMEOUT_S:
        raise BdevError(
            errno.EINVAL, f"bdev {name}: a timeout of {seconds} s; {MAX_TIMEOUT_S} s at most"
        )


class IoTimeout:
    """Looks at one descriptor's I/Os, on the descriptor's reactor.

    name: of the bdev. channel_of: returns its channel there, if it has one; request_of: the
    request whose BdevIO has a number in the pool, if it is one of the descriptor's.
    """

    def __init__(
        self,
        reactor: Reactor,
        name: str,
        channel_of: Callable[[], Channel | None],
        request_of: Callable[[int], Request | None],
        *,
        seconds: int,
        callback: Callable[[OverdueIo], object],
    ) -> None:
        self._name = name
        self._channel_of = channel_of
        self._request_of = request_of
        self._seconds = seconds
        self._callback = callback
        self._poller: Poller | None = reactor.register_poller(
            self._look, LOOK_US, f"io_timeout_{name}"
        )

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._poller is not None:
            self._poller.unregister()
            self._poller = None

    def _look(self) -> int:
        found = 0
        channel = self._channel_of()
        if channel is None:
            return 0
        for op, offset_blocks, num_blocks, age_ns, index in channel.overdue(
            self._seconds * 1_000_000_000
        ):
            if self._poller is None:  # the callback before has set another one, or none
                break
            found += 1
            request = self._request_of(index)
            try:
                self._callback(OverdueIo(Op(op), offset_blocks, num_blocks, age_ns, request))
            except Exception:  # the others are overdue all the same
                log.exception("timeout callback failed bdev=%s", self._name)
        return found
