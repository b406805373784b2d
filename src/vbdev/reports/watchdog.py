"""Watchdog: says which module keeps I/Os for too long, and which one blocks its reactor.

A module that never completes an I/O hangs whoever waits for it, and one that blocks hangs all
that its reactor serves; neither fails by itself. So the engine looks through its pool every
`CHECK_NS` for as long as I/O is outstanding (an idle reactor is not woken for it), and measures
the calls of modules; the watchdog names the culprit in the log, once for a bdev and minute.

Nothing is aborted: how long an I/O may take is for whoever submitted it to decide
(`Descriptor.set_timeout`).
"""

from __future__ import annotations

import logging
from typing import Any, Final

from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import Engine
from vbdev.vocab import OP_NAMES, Op

__all__ = ["CHECK_NS", "HELD_TOO_LONG_NS", "REPEAT_NS", "Watchdog"]

log = logging.getLogger(__name__)

CHECK_NS: Final = 5_000_000_000
"""How often the engine looks while I/O is outstanding."""
HELD_TOO_LONG_NS: Final = 10_000_000_000
"""How long a module may keep an I/O before that is worth a warning."""
REPEAT_NS: Final = 60_000_000_000
"""How long a bdev is not named again."""


class Watchdog:
    """Watches one reactor's engine, from its making on, on the reactor's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._named_ns: dict[tuple[str, str], int] = {}
        engine.on_slow_module = self._blocked
        engine.watch_outstanding(CHECK_NS, self._check)

    def _check(self, now_ns: int) -> None:
        for channel, count, oldest in self._engine.held_longer(HELD_TOO_LONG_NS):
            if self._again("holds", channel.bdev, now_ns):
                op, offset_blocks, num_blocks, age_ns = oldest
                log.warning(
                    "module holds I/Os bdev=%s kind=%s ios=%d: oldest is %s of %d blocks at %d,"
                    " for %.1f s",
                    channel.bdev.name,
                    channel.bdev.kind,
                    count,
                    OP_NAMES[Op(op)],
                    num_blocks,
                    offset_blocks,
                    age_ns / 1e9,
                )

    def _blocked(self, channel: Channel, took_ns: int) -> None:
        if self._again("blocks", channel.bdev, self._engine.clock_ns()):
            log.warning(
                "module blocked the reactor bdev=%s kind=%s for %d ms: submit and completed must"
                " not block",
                channel.bdev.name,
                channel.bdev.kind,
                took_ns // 1_000_000,
            )

    def _again(self, what: str, bdev: Any, now_ns: int) -> bool:
        """Say whether the bdev may be named for this once more, and take it as done."""
        self._named_ns = {
            key: when for key, when in self._named_ns.items() if now_ns - when < REPEAT_NS
        }
        if (what, bdev.name) in self._named_ns:
            return False
        self._named_ns[what, bdev.name] = now_ns
        return True
