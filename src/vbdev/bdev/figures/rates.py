"""Rate limits of a bdev: how they are set, shown and saved (SPDK: bdev_set_qos_limit).

What one millisecond allows, and which I/Os it concerns, is in `vbdev.core.counts.rates`. All
channels of the bdev share the limits; each holds back what may not start yet, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from vbdev.bdev.channels import for_each_channel
from vbdev.bdev.contract import Bdev
from vbdev.bdev.entry import entry_of
from vbdev.core.counts.rates import RateLimits
from vbdev.core.engine.channel import Channel

__all__ = ["LIMIT_NAMES", "limits_of", "qos_config", "set_rate_limits"]

log = logging.getLogger(__name__)

LIMIT_NAMES: Final = (
    "rw_ios_per_sec",
    "rw_mbytes_per_sec",
    "r_mbytes_per_sec",
    "w_mbytes_per_sec",
)
IOS_STEP: Final = 1000
MIB: Final = 1 << 20
UINT64_MAX: Final = (1 << 64) - 1


def limits_of(bdev: Bdev) -> dict[str, int]:
    """Return the limits by their RPC names, in I/Os and MiB a second; 0 is unlimited."""
    rate_limits = entry_of(bdev).rate_limits
    per_second = rate_limits.limits if rate_limits is not None else [0, 0, 0, 0]
    return {
        name: value if name == "rw_ios_per_sec" else value // MIB
        for name, value in zip(LIMIT_NAMES, per_second, strict=True)
    }


async def set_rate_limits(bdev: Bdev, limits: Mapping[str, int]) -> None:
    """Set limits by their RPC names; those not given stay, 0 takes one away.

    I/Os a second are rounded up to whole thousands; MiB a second that would overflow are the most
    that does not. Without any limit what was held back goes on at once. BdevError EAGAIN while
    another change is under way. (SPDK: spdk_bdev_set_qos_rate_limits.)
    """
    entry = entry_of(bdev)
    with entry.changing_channels("rate limits"):
        wanted = {**limits_of(bdev), **limits}
        per_second = [_per_second(bdev, name, wanted[name]) for name in LIMIT_NAMES]
        now_ns = bdev.reactor.clock.now_ns()
        rate_limits: RateLimits | None = None
        if any(per_second):
            rate_limits = entry.rate_limits or RateLimits(now_ns)
            rate_limits.set(per_second, now_ns)

        def apply(channel: Channel) -> None:
            channel.set_qos(rate_limits)

        entry.rate_limits = rate_limits  # channels made from now on have them
        await for_each_channel(bdev, apply)


def qos_config(bdev: Bdev) -> list[dict[str, Any]]:
    """Return the RPC call that sets the same limits again; none where there are none."""
    limits = {name: value for name, value in limits_of(bdev).items() if value}
    if not limits:
        return []
    return [{"method": "bdev_set_qos_limit", "params": {"name": bdev.name, **limits}}]


def _per_second(bdev: Bdev, name: str, value: int) -> int:
    if name == "rw_ios_per_sec":
        rounded = min(-(-value // IOS_STEP) * IOS_STEP, UINT64_MAX // IOS_STEP * IOS_STEP)
        if rounded != value:
            log.warning(
                "rate limit rounded bdev=%s %s=%d: no multiple of %d; set to %d",
                bdev.name,
                name,
                value,
                IOS_STEP,
                rounded,
            )
        return rounded
    if value > UINT64_MAX // MIB:
        log.warning(
            "rate limit clamped bdev=%s %s=%d: more than %d MiB",
            bdev.name,
            name,
            value,
            UINT64_MAX // MIB,
        )
        value = UINT64_MAX // MIB
    return value * MIB
