"""What the generic methods about bdevs have to do, and the fields of bdev_get_bdevs."""

from __future__ import annotations

import base64

from spdk_client.case import (
    FILE_EXISTS,
    INTERNAL_ERROR,
    INVALID_ARGUMENT,
    INVALID_PARAMS,
    NO_SUCH_DEVICE,
    OBJECT_FAILED,
    OBJECT_FAILED_PARAMS,
    Case,
    Instead,
    Refused,
)
from spdk_client.shapes import OneOf, Rest, mismatch

MALLOC = ("bdev_malloc_create", {"name": "M", "num_blocks": 2048, "block_size": 512})
MALLOC_GONE = ("bdev_malloc_delete", {"name": "M"})
WITH_MALLOC = {"before": (MALLOC,), "after": (MALLOC_GONE,)}

IO_TYPES = [
    "read",
    "write",
    "unmap",
    "flush",
    "reset",
    "nvme_admin",
    "nvme_io",
    "nvme_io_md",
    "write_zeroes",
    "zcopy",
    "get_zone_info",
    "zone_management",
    "zone_append",
    "compare",
    "compare_and_write",
    "abort",
    "seek_hole",
    "seek_data",
    "copy",
    "nvme_iov_md",
    "nvme_nssr",
    "write_uncorrectable",
]
LIMITS = ("rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec")
BDEV = {
    "name": "str",
    "aliases": ["str"],
    "product_name": "str",
    "block_size": "u32",
    "num_blocks": "u64",
    "preferred_write_alignment": "u32",
    "preferred_write_granularity": "u32",
    "optimal_write_size": "u32",
    "preferred_unmap_alignment": "u32",
    "preferred_unmap_granularity": "u32",
    "uuid": "uuid",
    "numa_id?": "i32",
    "md_size?": "u32",
    "md_interleave?": "bool",
    "dif_type?": "u32",
    "dif_is_head_of_md?": "bool",
    "enabled_dif_check_types?": {"reftag": "bool", "apptag": "bool", "guard": "bool"},
    "dif_pi_format?": "u32",
    "assigned_rate_limits": dict.fromkeys(LIMITS, "u64"),
    "claimed": "bool",
    "claim_type?": OneOf(
        (
            "exclusive_write",
            "read_many_write_one",
            "read_many_write_none",
            "read_many_write_shared",
        )
    ),
    "zoned": "bool",
    "zone_size?": "u64",
    "max_open_zones?": "u64",
    "optimal_open_zones?": "u64",
    "supported_io_types": dict.fromkeys(IO_TYPES, "bool"),
    "memory_domains?": [{"dma_device_type": "i32"}],
    "driver_specific": Rest(),
}
PART = {"base_bdev": "str", "offset_blocks": "u64"}
DELAYS = ("avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency")
FILE = {"filename": "str"}
DRIVER_SPECIFIC = {
    "Malloc disk": {},
    "Null disk": {},
    "AIO disk": {
        "aio": {
            **FILE,
            "block_size_override": "bool",
            "readonly": "bool",
            "fallocate": "bool",
            "nowait": "bool",
        }
    },
    "URING bdev": {"uring": FILE},
    "passthru": {"passthru": {"name": "str", "base_bdev_name": "str"}},
    "delay": {
        "delay": {
            "name": "str",
            "base_bdev_name": "str",
            "uuid": "uuid",
            **dict.fromkeys(DELAYS, "i64"),
        },
    },
    "Error Injection Disk": {"error_disk": {"base_bdev": "str"}},
    "Split Disk": {"split": PART},
    "zone_block": {
        "zoned_block": {
            "name": "str",
            "base_bdev": "str",
            "zone_capacity": "u64",
            "optimal_open_zones": "u64",
        }
    },
}
ONE_OF_EACH = (
    (
        "bdev_malloc_create",
        {
            "name": "OneMd",
            "num_blocks": 2048,
            "block_size": 512,
            "md_size": 16,
            "md_interleave": True,
            "dif_type": 1,
        },
    ),
    *(
        ("bdev_malloc_create", {"name": f"One{n}", "num_blocks": 2048, "block_size": 512})
        for n in range(5)
    ),
    ("bdev_null_create", {"name": "OneNull", "num_blocks": 2048, "block_size": 512}),
    ("bdev_aio_create", {"name": "OneAio", "filename": "$DIR/disk", "block_size": 512}),
    ("bdev_uring_create", {"name": "OneUring", "filename": "$DIR/disk2", "block_size": 512}),
    ("bdev_passthru_create", {"name": "OnePass", "base_bdev_name": "One0"}),
    (
        "bdev_delay_create",
        {"name": "OneDelay", "base_bdev_name": "One1", **dict.fromkeys(DELAYS, 1)},
    ),
    ("bdev_error_create", {"base_name": "One2"}),
    ("bdev_split_create", {"base_bdev": "One3", "split_count": 2}),
    (
        "bdev_zone_block_create",
        {"name": "OneZone", "base_bdev": "One4", "zone_capacity": 64, "optimal_open_zones": 1},
    ),
)
ALL_GONE = (
    ("bdev_zone_block_delete", {"name": "OneZone"}),
    ("bdev_split_delete", {"base_bdev": "One3"}),
    ("bdev_error_delete", {"name": "EE_One2"}),
    ("bdev_delay_delete", {"name": "OneDelay"}),
    ("bdev_passthru_delete", {"name": "OnePass"}),
    ("bdev_uring_delete", {"name": "OneUring"}),
    ("bdev_aio_delete", {"name": "OneAio"}),
    ("bdev_null_delete", {"name": "OneNull"}),
    *(("bdev_malloc_delete", {"name": f"One{n}"}) for n in (*range(5), "Md")),
)


def _together(bdev, flag, fields):
    """Fields come where the flag says so, and all of them."""
    there = {name for name in fields if name in bdev}
    wanted = set(fields) if flag else set()
    return "" if there == wanted else f"{bdev['name']}: has {there}, not {wanted}"


def bdevs_hold_together(answer):
    """What the shape can not say: fields that depend on others, and what each module tells."""
    for bdev in answer:
        problem = (
            _together(bdev, bdev["claimed"], ["claim_type"])
            or _together(bdev, bdev["zoned"], ["zone_size", "max_open_zones", "optimal_open_zones"])
            or _together(bdev, "md_size" in bdev, ["md_size", "md_interleave", "dif_type"])
            or _together(
                bdev,
                bdev.get("dif_type"),
                ["dif_is_head_of_md", "enabled_dif_check_types", "dif_pi_format"],
            )
            or ("an empty list" if bdev.get("memory_domains") == [] else "")
        )
        if problem:
            return problem
        kind = bdev["product_name"]
        if kind not in DRIVER_SPECIFIC:
            return f"{bdev['name']}: product_name {kind!r} is none of SPDK's"
        problem = mismatch(
            bdev["driver_specific"], DRIVER_SPECIFIC[kind], f"{bdev['name']}.driver_specific"
        )
        if problem:
            return problem
    return ""


_KINDS = (
    ("read", "num_read_ops", "bytes_read"),
    ("write", "num_write_ops", "bytes_written"),
    ("unmap", "num_unmap_ops", "bytes_unmapped"),
    ("copy", "num_copy_ops", "bytes_copied"),
)
STAT = (
    {name: "u64" for _, ops, amount in _KINDS for name in (amount, ops)}
    | {
        f"{extreme}{kind}_latency_ticks": "u64"
        for kind, _, _ in _KINDS
        for extreme in ("", "max_", "min_")
    }
    | {"io_error?": Rest({}, "u64")}
)
SAMPLED = ("queue_depth_polling_period", "queue_depth", "io_time", "weighted_io_time")
IOSTAT = {
    "tick_rate": "u64",
    "ticks": "u64",
    "bdevs": [
        {
            "name": "str",
            **STAT,
            **{f"{name}?": "u64" for name in SAMPLED},
            "driver_specific?": Rest(),
        }
    ],
}
HISTOGRAM = {
    "histogram": "str",
    "granularity": "i64",
    "min_range": "u32",
    "max_range": "u32",
    "tsc_rate": "i64",
}


def _sampling_holds_together(answer):
    for bdev in answer["bdevs"]:
        there = [name for name in SAMPLED if name in bdev]
        if there and (len(there) < len(SAMPLED) or not bdev["queue_depth_polling_period"]):
            return f"{bdev['name']}: has {there}; all or none, and none while the period is 0"
    return ""


def _histogram_is_whole(answer):
    # One counter of 64 bits for each bucket: 2**granularity to a range.
    buckets = (answer["max_range"] - answer["min_range"] + 1) << answer["granularity"]
    has = len(base64.b64decode(answer["histogram"], validate=True))
    return "" if has == buckets * 8 else f"{has} bytes of histogram, not {buckets * 8}"


ENABLED = ("bdev_enable_histogram", {"name": "M", "enable": True})
NOT_ENABLED = (INTERNAL_ERROR, "Bad address")

CASES = (
    Case(
        "bdev_set_options",
        {
            "bdev_io_pool_size": 65535,
            "bdev_io_cache_size": 256,
            "bdev_auto_examine": True,
            "iobuf_small_cache_size": 128,
            "iobuf_large_cache_size": 16,
        },
        refused=(
            Refused(
                "a pool smaller than a cache",
                {"bdev_io_pool_size": 100, "bdev_io_cache_size": 256},
                (INVALID_PARAMS, "Pool size 100 too small for cache size 256"),
                words=("-p", "100", "-c", "256"),
            ),
        ),
        words=("-p", "65535", "-c", "256", "--auto-examine"),
        printed="nothing",
    ),
    Case(
        "bdev_get_bdevs",
        {"name": "OneNull", "timeout": 10},
        more=({"name": "OneMd"}, {"timeout": 0}, {}),
        result=[BDEV],
        also=bdevs_hold_together,
        undecoded=OBJECT_FAILED,
        before=ONE_OF_EACH,
        after=ALL_GONE,
        refused=(
            Refused("one that is absent", {"name": "none"}, NO_SUCH_DEVICE, words=("-b", "none")),
            Refused(
                "one that stays absent",
                {"name": "none", "timeout": 20},
                (-110, "Connection timed out"),
                words=("-b", "none", "-t", "20"),
            ),
        ),
    ),
    Case(
        "bdev_examine",
        {"name": "M"},
        undecoded=OBJECT_FAILED_PARAMS,
        **WITH_MALLOC,
        refused=(
            Refused(
                "one that is listed",
                {"name": "M"},
                FILE_EXISTS,
                before=(MALLOC, ("bdev_examine", {"name": "M"})),
                after=(MALLOC_GONE,),
                words=("-b", "M"),
            ),
        ),
        words=("-b", "M"),
        printed="nothing",
        daemon="unexamined",
    ),
    Case(
        "bdev_wait_for_examine",
        no_params="bdev_wait_for_examine requires no parameters",
        printed="nothing",
    ),
    Case(
        "bdev_get_iostat",
        {"names": ["M"], "per_channel": False, "reset_mode": "none"},
        more=({}, {"names": []}, {"reset_mode": "all"}, {"reset_mode": "maxmin"}),
        result=IOSTAT,
        also=_sampling_holds_together,
        undecoded=OBJECT_FAILED,
        **WITH_MALLOC,
        refused=(
            Refused(
                "one that is absent", {"names": ["none"]}, NO_SUCH_DEVICE, words=("--names", "none")
            ),
            Refused(
                "channels of all", {"per_channel": True}, INVALID_ARGUMENT, words=("--per-channel",)
            ),
            Refused(
                "channels of two",
                {"per_channel": True, "names": ["M", "M"]},
                INVALID_ARGUMENT,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
            ),
        ),
        words=("--names", "M"),
    ),
    Case(
        "bdev_reset_iostat",
        {"name": "M", "mode": "all"},
        more=({}, {"mode": "none"}, {"name": "M"}),
        undecoded=OBJECT_FAILED,
        **WITH_MALLOC,
        refused=(
            Refused("one that is absent", {"name": "none"}, NO_SUCH_DEVICE, words=("-b", "none")),
        ),
        words=("-b", "M"),
        printed="nothing",
    ),
    Case(
        "bdev_enable_histogram",
        {
            "name": "M",
            "enable": True,
            "opc": "read",
            "granularity": 7,
            "min_nsec": 1000,
            "max_nsec": 1000000,
        },
        more=({"name": "M", "enable": False},),
        undecoded=OBJECT_FAILED,
        before=(MALLOC,),
        after=(("bdev_enable_histogram", {"name": "M", "enable": False}), MALLOC_GONE),
        refused=(
            Refused(
                "one that is absent",
                {"name": "none", "enable": True},
                NO_SUCH_DEVICE,
                words=("--histogram", "none"),
            ),
            Refused(
                "an I/O type that is none",
                {"name": "M", "enable": True, "opc": "none"},
                (INTERNAL_ERROR, "Invalid Io type"),
                before=(MALLOC,),
                after=(MALLOC_GONE,),
            ),
            Refused(
                "a range turned around",
                {"name": "M", "enable": True, "min_nsec": 5000, "max_nsec": 4000},
                INVALID_ARGUMENT,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
            ),
        ),
        words=("--histogram", "M"),
        printed="nothing",
    ),
    Case(
        "bdev_get_histogram",
        {"name": "M"},
        result=HISTOGRAM,
        also=_histogram_is_whole,
        undecoded=OBJECT_FAILED,
        before=(MALLOC, ENABLED),
        after=(MALLOC_GONE,),
        refused=(
            Refused("one that is absent", {"name": "none"}, NO_SUCH_DEVICE, words=("none",)),
            Refused(
                "one without a histogram",
                {"name": "M"},
                NOT_ENABLED,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("M",),
            ),
        ),
        words=("M",),
    ),
    Case(
        "bdev_get_histogram_borders",
        {"name": "M", "borders": [1, 10, 100]},
        more=({"name": "M", "borders": []},),
        result={"borders_count": ["u64"]},
        instead={
            '{"name": "M", "borders": []}': Instead(
                "SPDK answers no borders with the whole histogram, in another form; here the answer"
                " has the form that it always has.",
                result={"borders_count": ["u64"]},
            )
        },
        undecoded=OBJECT_FAILED,
        before=(MALLOC, ENABLED),
        after=(MALLOC_GONE,),
        refused=(
            Refused(
                "one that is absent",
                {"name": "none", "borders": [1]},
                NO_SUCH_DEVICE,
                words=("none", "--borders", "1"),
            ),
            Refused(
                "one without a histogram",
                {"name": "M", "borders": [1]},
                NOT_ENABLED,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
            ),
        ),
        words=("M", "--borders", "1,10,100"),
    ),
    Case(
        "bdev_set_qos_limit",
        {
            "name": "M",
            "rw_ios_per_sec": 20000,
            "rw_mbytes_per_sec": 100,
            "r_mbytes_per_sec": 50,
            "w_mbytes_per_sec": 50,
        },
        more=({"name": "M", "rw_ios_per_sec": 0},),
        undecoded=OBJECT_FAILED,
        least={"name": "M", "rw_ios_per_sec": 20000},
        shows=(
            "M",
            {
                "assigned_rate_limits": {
                    "rw_ios_per_sec": 20000,
                    "rw_mbytes_per_sec": 100,
                    "r_mbytes_per_sec": 50,
                    "w_mbytes_per_sec": 50,
                }
            },
        ),
        **WITH_MALLOC,
        refused=(
            Refused(
                "one that is absent",
                {"name": "none", "rw_ios_per_sec": 1000},
                NO_SUCH_DEVICE,
                words=("none", "--rw-ios-per-sec", "1000"),
            ),
            Refused(
                "no limit at all",
                {"name": "M"},
                (-22, "No rate limits specified"),
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("M",),
            ),
        ),
        words=("M", "--rw-ios-per-sec", "20000"),
        printed="nothing",
    ),
    Case(
        "bdev_set_qd_sampling_period",
        {"name": "M", "period": 1000},
        undecoded=OBJECT_FAILED,
        **WITH_MALLOC,
        refused=(
            Refused(
                "one that is absent",
                {"name": "none", "period": 0},
                NO_SUCH_DEVICE,
                words=("none", "0"),
            ),
        ),
        words=("M", "1000"),
        printed="nothing",
    ),
)
