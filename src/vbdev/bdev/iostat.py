"""Counters of I/O added up: what `bdev_get_iostat` shows is the sum over a bdev's channels."""

from __future__ import annotations

from vbdev.core.engine.channel import Channel

__all__ = ["IoTotals"]

NOTHING = (0, 0, 0, 0, 0)


class IoTotals:
    """Counters of I/O, added up: of channels that are closed, or of all that a bdev has.

    stats: {"read"|"write"|"unmap"|"copy": (ops, blocks, latency_ns, longest_ns, shortest_ns)}.
    errors: {status: count}.
    """

    __slots__ = ("errors", "stats")

    def __init__(self) -> None:
        self.stats: dict[str, tuple[int, int, int, int, int]] = {}
        self.errors: dict[int, int] = {}

    def add(self, other: Channel | IoTotals) -> None:
        """Add a channel's counters, or other totals, to these."""
        stats, errors = (
            (other.stats, other.errors)
            if isinstance(other, IoTotals)
            else (other.stats(), other.errors())
        )
        for name, (ops, blocks, latency, longest, shortest) in stats.items():
            if not ops and name in self.stats:
                continue
            have = self.stats.get(name, NOTHING)
            self.stats[name] = (
                have[0] + ops,
                have[1] + blocks,
                have[2] + latency,
                max(have[3], longest),
                min(filter(None, (have[4], shortest)), default=0),
            )
        for status, count in errors.items():
            self.errors[status] = self.errors.get(status, 0) + count

    def reset(self, *, counts: bool, extremes: bool, errors: bool) -> None:
        """Set counters back to nothing: sums, longest and shortest, errors."""
        for name, (ops, blocks, latency, longest, shortest) in self.stats.items():
            kept = (0, 0, 0) if counts else (ops, blocks, latency)
            self.stats[name] = (*kept, *((0, 0) if extremes else (longest, shortest)))
        if errors:
            self.errors.clear()
