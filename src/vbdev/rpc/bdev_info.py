"""What the control plane says of a bdev: `bdev_get_bdevs`, `bdev_get_iostat`, the stack.

Field names, types and order are SPDK's.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from vbdev.bdev import Bdev, VirtualBdev
from vbdev.iostat import IoTotals
from vbdev.qos import limits_of
from vbdev.registry import Registry
from vbdev.registry.removal import holders
from vbdev.vocab import OP_NAMES, DifCheck, Op, Status

log = logging.getLogger(__name__)

__all__ = ["describe", "iostat", "stack", "who_holds"]


def describe(bdev: Bdev) -> dict[str, Any]:
    """Return one element of `bdev_get_bdevs`."""
    info: dict[str, Any] = {
        "name": bdev.name,
        "aliases": list(bdev.aliases),
        "product_name": bdev.product_name,
        "block_size": bdev.block_size,
        "num_blocks": bdev.num_blocks,
        "preferred_write_alignment": bdev.preferred_write_alignment,
        "preferred_write_granularity": bdev.preferred_write_granularity,
        "optimal_write_size": bdev.optimal_write_size,
        "preferred_unmap_alignment": bdev.preferred_unmap_alignment,
        "preferred_unmap_granularity": bdev.preferred_unmap_granularity,
        "uuid": str(bdev.uuid),
    }
    if bdev.numa_id is not None:
        info["numa_id"] = bdev.numa_id
    if bdev.md_len:
        info["md_size"] = bdev.md_len
        info["md_interleave"] = bdev.md_interleave
        info["dif_type"] = bdev.dif_type
    if bdev.dif_type:
        info["dif_is_head_of_md"] = bdev.dif_is_head_of_md
        info["enabled_dif_check_types"] = {
            "reftag": bool(bdev.dif_check_flags & DifCheck.REFTAG),
            "apptag": bool(bdev.dif_check_flags & DifCheck.APPTAG),
            "guard": bool(bdev.dif_check_flags & DifCheck.GUARD),
        }
        info["dif_pi_format"] = bdev.dif_pi_format
    info["assigned_rate_limits"] = limits_of(bdev)
    info["claimed"] = bdev.claim is not None
    if bdev.claim is not None:
        info["claim_type"] = str(bdev.claim.kind)
    info["zoned"] = bdev.zoned
    if bdev.zoned:
        info["zone_size"] = bdev.zone_size
        info["max_open_zones"] = bdev.max_open_zones
        info["optimal_open_zones"] = bdev.optimal_open_zones
    # Of what is emulated SPDK shows WRITE_ZEROES alone.
    shown = bdev.ops | ({Op.WRITE_ZEROES} if bdev.can(Op.WRITE_ZEROES) else set())
    info["supported_io_types"] = {name: op in shown for op, name in OP_NAMES.items()}
    if bdev.memory_domains:
        info["memory_domains"] = [{"dma_device_type": int(type_)} for type_ in bdev.memory_domains]
    info["driver_specific"] = driver_specific(bdev)
    return info


def driver_specific(bdev: Bdev) -> Any:
    """Return what the module tells of its bdev; where it fails to, that, and the log says why."""
    try:
        return msgspec.to_builtins(bdev.dump_info())
    except Exception as error:
        log.exception("bdev %s (%s): dump_info failed", bdev.name, bdev.kind)
        return {"error": f"dump_info of {bdev.kind}: {error!r}"}


def iostat(totals: IoTotals, block_size: int) -> dict[str, Any]:
    """Return the counters of one bdev or channel. Ticks are nanoseconds."""
    none = (0, 0, 0, 0, 0)
    read, write, unmap, copy = (
        totals.stats.get(name, none) for name in ("read", "write", "unmap", "copy")
    )
    info: dict[str, Any] = {}
    for verb, (ops, blocks, *_) in (
        ("read", read),
        ("written", write),
        ("unmapped", unmap),
        ("copied", copy),
    ):
        noun = {"written": "write", "unmapped": "unmap", "copied": "copy"}.get(verb, verb)
        info[f"bytes_{verb}"] = blocks * block_size
        info[f"num_{noun}_ops"] = ops
    for noun, (_, _, latency, longest, shortest) in (
        ("read", read),
        ("write", write),
        ("unmap", unmap),
        ("copy", copy),
    ):
        info[f"{noun}_latency_ticks"] = latency
        info[f"max_{noun}_latency_ticks"] = longest
        info[f"min_{noun}_latency_ticks"] = shortest
    if totals.errors:
        info["io_error"] = {
            Status(status).name.lower(): count for status, count in sorted(totals.errors.items())
        }
    return info


def stack(registry: Registry) -> list[dict[str, Any]]:
    """Return every bdev with its base, its claim and who has it open; then what still waits."""
    entries: list[dict[str, Any]] = []
    for bdev in registry:
        who = who_holds(registry, bdev)
        entries.append(
            {
                "name": bdev.name,
                "kind": bdev.kind,
                "block_size": bdev.data_block_size,
                "md_size": bdev.md_len,
                "num_blocks": bdev.num_blocks,
                "zone_size": bdev.zone_size if bdev.zoned else 0,
                "base": bdev.base.name if isinstance(bdev, VirtualBdev) else None,
                "state": who["state"],
                "removing_ms": who["removing_ms"],
                "claim": bdev.claim.holder if bdev.claim else None,
                "claim_type": who["claim_type"],
                "holders": bdev.holders(),
                "busy": {
                    one["holder"]: one["outstanding"]
                    for one in who["holders"]
                    if one["outstanding"]
                },
                "examined_by": who["examined_by"],
                "outstanding": bdev.outstanding,
            }
        )
    entries += [
        {
            "name": key,
            "kind": creation.cls.kind,
            "block_size": 0,
            "md_size": 0,
            "num_blocks": 0,
            "zone_size": 0,
            "base": creation.base_name,
            "state": "waiting for its base",
            "removing_ms": None,
            "claim": None,
            "claim_type": None,
            "holders": [],
            "busy": {},
            "examined_by": [],
            "outstanding": 0,
        }
        for key, creation in registry.creations.items()
        if not creation.vbdevs
    ]
    return entries


def who_holds(registry: Registry, bdev: Bdev) -> dict[str, Any]:
    """Return one element of `vbdev_get_holders`."""
    removal = registry.removals.get(bdev)
    now_ns = registry.reactor.clock.now_ns()
    return {
        "name": bdev.name,
        "state": bdev.state.value,
        "removing_ms": None if removal is None else (now_ns - removal.since_ns) // 1_000_000,
        "claim_type": str(bdev.claim.kind) if bdev.claim else None,
        "claims": [
            {"module": hold.module, "name": hold.name}
            for hold in (bdev.claim.holds if bdev.claim else [])
        ],
        "examined_by": registry.examiner.of(bdev),
        "holders": holders(bdev),
    }
