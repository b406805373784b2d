"""What the control plane says of a bdev: `bdev_get_bdevs`, `bdev_get_iostat`, the stack.

The answers' fields are declared in `vbdev.api.results`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET

from vbdev.api.results import (
    BdevInfo,
    BdevIostat,
    ChannelIostat,
    Claim,
    DifCheckTypes,
    Holder,
    Holders,
    MemoryDomain,
    RateLimits,
    StackEntry,
    SupportedIoTypes,
)
from vbdev.bdev import Bdev, VirtualBdev
from vbdev.bdev.entry import entry_of
from vbdev.bdev.figures.rates import limits_of
from vbdev.bdev.iostat import IoTotals
from vbdev.registry import Registry
from vbdev.registry.removal import holders
from vbdev.vocab import OP_NAMES, DifCheck, DmaDeviceType, Op, Status

log = logging.getLogger(__name__)

__all__ = ["describe", "iostat", "stack", "who_holds"]

T = TypeVar("T", BdevIostat, ChannelIostat)

VERBS: Final = {"read": "read", "write": "written", "unmap": "unmapped", "copy": "copied"}
"""What is counted, and what happened to its bytes."""


def describe(bdev: Bdev) -> BdevInfo:
    """Return one element of `bdev_get_bdevs`."""
    flags = bdev.dif_check_flags
    claim = entry_of(bdev).claim
    return BdevInfo(
        name=bdev.name,
        aliases=list(bdev.aliases),
        product_name=bdev.product_name,
        block_size=bdev.block_size,
        num_blocks=bdev.num_blocks,
        preferred_write_alignment=bdev.preferred_write_alignment,
        preferred_write_granularity=bdev.preferred_write_granularity,
        optimal_write_size=bdev.optimal_write_size,
        preferred_unmap_alignment=bdev.preferred_unmap_alignment,
        preferred_unmap_granularity=bdev.preferred_unmap_granularity,
        uuid=str(bdev.uuid),
        numa_id=UNSET if bdev.numa_id is None else bdev.numa_id,
        md_size=bdev.md_len or UNSET,
        md_interleave=bdev.md_interleave if bdev.md_len else UNSET,
        dif_type=bdev.dif_type if bdev.md_len else UNSET,
        dif_is_head_of_md=bdev.dif_is_head_of_md if bdev.dif_type else UNSET,
        enabled_dif_check_types=DifCheckTypes(
            reftag=bool(flags & DifCheck.REFTAG),
            apptag=bool(flags & DifCheck.APPTAG),
            guard=bool(flags & DifCheck.GUARD),
        )
        if bdev.dif_type
        else UNSET,
        dif_pi_format=bdev.dif_pi_format if bdev.dif_type else UNSET,
        assigned_rate_limits=RateLimits(**limits_of(bdev)),
        claimed=claim is not None,
        claim_type=UNSET if claim is None else str(claim.kind),
        zoned=bdev.zoned,
        zone_size=bdev.zone_size if bdev.zoned else UNSET,
        max_open_zones=bdev.max_open_zones if bdev.zoned else UNSET,
        optimal_open_zones=bdev.optimal_open_zones if bdev.zoned else UNSET,
        supported_io_types=_io_types(frozenset(bdev.ops), bdev.can(Op.WRITE_ZEROES)),
        memory_domains=[
            MemoryDomain(dma_device_type=int(type_))
            for type_ in bdev.memory_domains
            if type_ != DmaDeviceType.MEMFD
        ]
        or UNSET,
        driver_specific=driver_specific(bdev),
    )


@functools.lru_cache(maxsize=64)
def _io_types(ops: frozenset[Op], write_zeroes: bool) -> SupportedIoTypes:
    # Of what is emulated SPDK shows WRITE_ZEROES alone. Bdevs share few sets, and the answers.
    shown = ops | ({Op.WRITE_ZEROES} if write_zeroes else set())
    return SupportedIoTypes(**{name: op in shown for op, name in OP_NAMES.items()})


def driver_specific(bdev: Bdev) -> Any:
    """Return what the module tells of its bdev; where it fails to, that, and the log says why."""
    try:
        return msgspec.to_builtins(bdev.dump_info())
    except Exception as error:
        log.exception("bdev %s (%s): dump_info failed", bdev.name, bdev.kind)
        return {"error": f"dump_info of {bdev.kind}: {error!r}"}


def iostat(make: type[T], totals: IoTotals, block_size: int, **more: Any) -> T:
    """Return the counters of one bdev or channel, and `more`. Ticks are nanoseconds."""
    none = (0, 0, 0, 0, 0)
    info: dict[str, Any] = {}
    for noun, verb in VERBS.items():
        ops, blocks, latency, longest, shortest = totals.stats.get(noun, none)
        info[f"bytes_{verb}"] = blocks * block_size
        info[f"num_{noun}_ops"] = ops
        info[f"{noun}_latency_ticks"] = latency
        info[f"max_{noun}_latency_ticks"] = longest
        info[f"min_{noun}_latency_ticks"] = shortest
    info["io_error"] = {
        Status(status).name.lower(): count
        for status, count in sorted(totals.errors.items(), reverse=True)
    }
    return make(**info, **more)


def stack(registry: Registry) -> Iterator[StackEntry]:
    """Yield every bdev with its base, its claim and who has it open; then what still waits.

    Others may run in between: what is gone by then is left out.
    """
    for bdev in registry:
        if registry.bdevs.get(bdev.name) is not bdev:
            continue
        who = who_holds(registry, bdev)
        entry = entry_of(bdev)
        yield StackEntry(
            name=bdev.name,
            kind=bdev.kind,
            block_size=bdev.data_block_size,
            md_size=bdev.md_len,
            num_blocks=bdev.num_blocks,
            zone_size=bdev.zone_size if bdev.zoned else 0,
            base=bdev.base.name if isinstance(bdev, VirtualBdev) else None,
            state=who.state,
            removing_ms=who.removing_ms,
            claim=entry.claim.holder if entry.claim else None,
            claim_type=who.claim_type,
            holders=bdev.holders(),
            busy={one.holder: one.outstanding for one in who.holders if one.outstanding},
            examined_by=who.examined_by,
            outstanding=entry.outstanding,
        )
    for key, creation in list(registry.creations.items()):
        if creation.vbdevs or registry.creations.get(key) is not creation:
            continue
        yield StackEntry(
            name=key,
            kind=creation.cls.kind,
            block_size=0,
            md_size=0,
            num_blocks=0,
            zone_size=0,
            base=creation.base_name,
            state="waiting for its base",
            removing_ms=None,
            claim=None,
            claim_type=None,
            holders=[],
            busy={},
            examined_by=[],
            outstanding=0,
        )


def who_holds(registry: Registry, bdev: Bdev) -> Holders:
    """Return one element of `vbdev_get_holders`."""
    removal = registry.removals.get(bdev)
    claim = entry_of(bdev).claim
    now_ns = registry.reactor.clock.now_ns()
    return Holders(
        name=bdev.name,
        state=bdev.state.value,
        removing_ms=None if removal is None else (now_ns - removal.since_ns) // 1_000_000,
        claim_type=str(claim.kind) if claim else None,
        claims=[
            Claim(module=hold.module, name=hold.name) for hold in (claim.holds if claim else [])
        ],
        examined_by=registry.examiner.of(bdev),
        holders=[Holder(**one) for one in holders(bdev)],
    )
