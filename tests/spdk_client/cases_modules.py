"""What the methods of the modules have to do, and those of the kernel's nbd."""

from __future__ import annotations

from spdk_client.case import (
    FILE_EXISTS,
    INTERNAL_ERROR,
    INVALID_ARGUMENT,
    INVALID_PARAMS,
    NO_SUCH_DEVICE,
    NOT_PERMITTED,
    OBJECT_FAILED,
    OBJECT_FAILED_PARAMS,
    Case,
    Refused,
)
from spdk_client.cases_bdev import DELAYS, MALLOC, MALLOC_GONE
from spdk_client.shapes import Is

U1 = "11111111-2222-4333-8444-555555555555"
SIZE = {"num_blocks": 2048, "block_size": 512}
LATENCY = dict.fromkeys(DELAYS, 10)
LATENCY_WORDS = ("-r", "10", "-t", "10", "-w", "10", "-n", "10")
PASSTHRU = ("bdev_passthru_create", {"name": "P", "base_bdev_name": "M"})
PASSTHRU_GONE = ("bdev_passthru_delete", {"name": "P"})
DELAY = ("bdev_delay_create", {"name": "D", "base_bdev_name": "M", **LATENCY})
DELAY_GONE = ("bdev_delay_delete", {"name": "D"})
ERROR = ("bdev_error_create", {"base_name": "M"})
ERROR_GONE = ("bdev_error_delete", {"name": "EE_M"})
ZONES = {"name": "Z", "base_bdev": "M", "zone_capacity": 64, "optimal_open_zones": 1}
ZONE_WORDS = ("-b", "Z", "-n", "M", "-z", "64", "-o", "1")
ZONE = ("bdev_zone_block_create", ZONES)
ZONE_GONE = ("bdev_zone_block_delete", {"name": "Z"})


def absent(**others) -> Refused:
    """Name a bdev that is not there."""
    return Refused(
        "one that is absent",
        {"name": "none", **others},
        NO_SUCH_DEVICE,
        words=("none", *map(str, others.values())),
    )


def not_ours(**others) -> Refused:
    """Name a bdev that is another module's."""
    return Refused(
        "another module's",
        {"name": "N", **others},
        NO_SUCH_DEVICE,
        before=(("bdev_null_create", {"name": "N", **SIZE}),),
        after=(("bdev_null_delete", {"name": "N"}),),
        words=("N", *map(str, others.values())),
    )


def refused_sizes() -> tuple[Refused, ...]:
    """Geometry that malloc and null refuse."""
    return tuple(
        Refused(f"{key} {value}", {"name": "X", **SIZE, key: value}, INVALID_ARGUMENT)
        for key, value in (
            ("num_blocks", 0),
            ("block_size", 100),
            ("physical_block_size", 100),
            ("dif_type", 9),
            ("dif_type", 1),  # without metadata
        )
    )


def files(kind: str) -> tuple[Case, ...]:
    """Aio and uring: the same three methods."""
    uring = kind == "uring"
    failed = (INTERNAL_ERROR, "Unable to create URING bdev.")
    create, gone = f"bdev_{kind}_create", (f"bdev_{kind}_delete", {"name": "F"})
    params = {"name": "F", "filename": "$DIR/disk", "block_size": 512, "uuid": U1}
    more = () if uring else ({"name": "F", "filename": "$DIR/disk", "nowait": False},)
    if not uring:
        params |= {"readonly": False, "fallocate": False}
    nowait = Refused(
        "nowait for what is no block device",
        {"name": "F", "filename": "$DIR/disk", "block_size": 512, "nowait": True},
        (-95, "Operation not supported"),
        words=("$DIR/disk", "F", "512", "--no-wait"),
    )
    nowait = () if uring else (nowait,)
    shown = {"block_size": 512, "num_blocks": 2048, "uuid": U1}
    told = {"filename": "$DIR/disk"}
    if uring:
        shown |= {"product_name": "URING bdev", "driver_specific": {"uring": told}}
    else:
        told |= dict.fromkeys(("readonly", "fallocate", "nowait"), False)
        told["block_size_override"] = True
        shown |= {"product_name": "AIO disk", "driver_specific": {"aio": told}}
    made = (create, {"name": "F", "filename": "$DIR/disk", "block_size": 512})
    return (
        Case(
            create,
            params,
            more=more,
            result=Is("F"),
            shows=("F", shown),
            undecoded=OBJECT_FAILED,
            after=(gone,),
            refused=(
                Refused(
                    "a file that is absent",
                    {"name": "F", "filename": "$DIR/none", "block_size": 512},
                    failed if uring else (-2, "No such file or directory"),
                    words=("$DIR/none", "F", "512"),
                ),
                Refused(
                    "a block size that is none",
                    {"name": "F", "filename": "$DIR/disk", "block_size": 100},
                    failed if uring else INVALID_ARGUMENT,
                    words=("$DIR/disk", "F", "100"),
                ),
                *nowait,
                Refused(
                    "a name that is taken",
                    {"name": "M", "filename": "$DIR/disk", "block_size": 512},
                    failed if uring else FILE_EXISTS,
                    before=(MALLOC,),
                    after=(MALLOC_GONE,),
                    words=("$DIR/disk", "M", "512"),
                ),
            ),
            words=("$DIR/disk", "F", "512"),
        ),
        Case(
            f"bdev_{kind}_rescan",
            {"name": "F"},
            undecoded=OBJECT_FAILED,
            before=(made,),
            after=(gone,),
            refused=(absent(), not_ours()),
            words=("F",),
        ),
        Case(
            f"bdev_{kind}_delete",
            {"name": "F"},
            undecoded=OBJECT_FAILED,
            before=(made,),
            refused=(absent(), not_ours()),
            words=("F",),
            printed="nothing",
        ),
    )


CASES = (
    Case(
        "bdev_malloc_create",
        {
            "name": "X",
            **SIZE,
            "uuid": U1,
            "optimal_io_boundary": 8,
            "md_size": 16,
            "md_interleave": True,
            "dif_type": 1,
            "dif_is_head_of_md": True,
            "physical_block_size": 4096,
            "dif_pi_format": 0,
            "numa_id": -1,
        },
        more=({"name": "X", **SIZE},),
        result="str",
        echoes="name",
        shows=(
            "X",
            {
                "aliases": [U1],
                "product_name": "Malloc disk",
                "block_size": 528,
                "num_blocks": 2048,
                "uuid": U1,
                "numa_id": -1,
                "md_size": 16,
                "md_interleave": True,
                "dif_type": 1,
                "dif_is_head_of_md": True,
                "enabled_dif_check_types": {"reftag": True, "apptag": False, "guard": True},
                "dif_pi_format": 0,
            },
        ),
        undecoded=OBJECT_FAILED,
        after=(("bdev_malloc_delete", {"name": "$RESULT"}),),
        refused=(
            *refused_sizes(),
            Refused("md_size 7", {"name": "X", **SIZE, "md_size": 7}, INVALID_ARGUMENT),
            Refused(
                "a node that is absent", {"name": "X", **SIZE, "numa_id": 99}, INVALID_ARGUMENT
            ),
            Refused(
                "a name that is taken",
                {"name": "M", **SIZE},
                FILE_EXISTS,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("-b", "M", "1", "512"),
            ),
        ),
        words=("-b", "X", "1", "512"),
    ),
    Case(
        "bdev_malloc_delete",
        {"name": "M"},
        undecoded=OBJECT_FAILED,
        before=(MALLOC,),
        refused=(absent(), not_ours()),
        words=("M",),
        printed="nothing",
    ),
    Case(
        "bdev_null_create",
        {
            "name": "X",
            **SIZE,
            "uuid": U1,
            "physical_block_size": 4096,
            "md_size": 16,
            "dif_type": 1,
            "dif_pi_format": 0,
            "dif_is_head_of_md": True,
            "preferred_write_granularity": 8,
            "preferred_write_alignment": 8,
            "optimal_write_size": 8,
            "preferred_unmap_granularity": 8,
            "preferred_unmap_alignment": 8,
        },
        result=Is("X"),
        shows=(
            "X",
            {
                "product_name": "Null disk",
                "block_size": 528,
                "num_blocks": 2048,
                "preferred_write_alignment": 8,
                "preferred_write_granularity": 8,
                "optimal_write_size": 8,
                "preferred_unmap_alignment": 8,
                "preferred_unmap_granularity": 8,
                "uuid": U1,
                "md_size": 16,
                "md_interleave": True,
                "dif_type": 1,
                "dif_is_head_of_md": True,
                "dif_pi_format": 0,
            },
        ),
        undecoded=OBJECT_FAILED,
        after=(("bdev_null_delete", {"name": "X"}),),
        refused=(
            *refused_sizes(),
            Refused(
                "a name that is taken",
                {"name": "M", **SIZE},
                FILE_EXISTS,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("M", "1", "512"),
            ),
        ),
        words=("X", "1", "512"),
    ),
    Case(
        "bdev_null_delete",
        {"name": "N"},
        undecoded=OBJECT_FAILED,
        before=(("bdev_null_create", {"name": "N", **SIZE}),),
        refused=(absent(),),
        words=("N",),
        printed="nothing",
    ),
    Case(
        "bdev_null_resize",
        {"name": "N", "new_size": 8},
        shows=("N", {"num_blocks": 16384}),
        undecoded=OBJECT_FAILED,
        before=(("bdev_null_create", {"name": "N", **SIZE}),),
        after=(("bdev_null_delete", {"name": "N"}),),
        refused=(
            absent(new_size=8),
            Refused(
                "another module's",
                {"name": "M", "new_size": 8},
                INVALID_ARGUMENT,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("M", "8"),
            ),
        ),
        words=("N", "8"),
    ),
    *files("aio"),
    *files("uring"),
    Case(
        "bdev_passthru_create",
        {"name": "P", "base_bdev_name": "M", "uuid": U1},
        result=Is("P"),
        shows=(
            "P",
            {
                "aliases": [U1],
                "product_name": "passthru",
                "num_blocks": 2048,
                "uuid": U1,
                "driver_specific": {"passthru": {"name": "P", "base_bdev_name": "M"}},
            },
        ),
        undecoded=OBJECT_FAILED,
        before=(MALLOC,),
        after=(PASSTHRU_GONE, MALLOC_GONE),
        refused=(
            Refused(
                "a name that is taken",
                {"name": "M", "base_bdev_name": "M"},
                FILE_EXISTS,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("-b", "M", "-p", "M"),
            ),
            Refused(
                "a name that is configured",
                {"name": "P", "base_bdev_name": "none"},
                FILE_EXISTS,
                before=(MALLOC, PASSTHRU),
                after=(PASSTHRU_GONE, MALLOC_GONE),
            ),
            Refused(
                "a base that is claimed",
                {"name": "P2", "base_bdev_name": "M"},
                NOT_PERMITTED,
                before=(MALLOC, PASSTHRU),
                after=(PASSTHRU_GONE, MALLOC_GONE),
                words=("-b", "M", "-p", "P2"),
            ),
        ),
        words=("-b", "M", "-p", "P"),
    ),
    Case(
        "bdev_passthru_delete",
        {"name": "P"},
        undecoded=OBJECT_FAILED,
        before=(MALLOC, PASSTHRU),
        after=(MALLOC_GONE,),
        refused=(absent(), not_ours()),
        words=("P",),
        printed="nothing",
    ),
    Case(
        "bdev_delay_create",
        {"name": "D", "base_bdev_name": "M", **LATENCY, "uuid": U1},
        result=Is("D"),
        shows=(
            "D",
            {
                "product_name": "delay",
                "uuid": U1,
                "driver_specific": {"delay": {"name": "D", "base_bdev_name": "M", **LATENCY}},
            },
        ),
        undecoded=OBJECT_FAILED,
        before=(MALLOC,),
        after=(DELAY_GONE, MALLOC_GONE),
        refused=(
            Refused(
                "a p99 below the average",
                {"name": "D", "base_bdev_name": "M", **LATENCY, "p99_read_latency": 9},
                INVALID_ARGUMENT,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("-b", "M", "-d", "D", "-r", "10", "-t", "9", "-w", "10", "-n", "10"),
            ),
            Refused(
                "a name that is configured",
                {"name": "D", "base_bdev_name": "none", **LATENCY},
                FILE_EXISTS,
                before=(MALLOC, DELAY),
                after=(DELAY_GONE, MALLOC_GONE),
                words=("-b", "none", "-d", "D", *LATENCY_WORDS),
            ),
            Refused(
                "a base that is claimed",
                {"name": "D2", "base_bdev_name": "M", **LATENCY},
                NOT_PERMITTED,
                before=(MALLOC, DELAY),
                after=(DELAY_GONE, MALLOC_GONE),
            ),
        ),
        words=("-b", "M", "-d", "D", *LATENCY_WORDS),
    ),
    Case(
        "bdev_delay_update_latency",
        {"delay_bdev_name": "D", "latency_type": "p99_read", "latency_us": 50},
        shows=("D", {"driver_specific": {"delay": {**LATENCY, "p99_read_latency": 50}}}),
        undecoded=OBJECT_FAILED,
        before=(MALLOC, DELAY),
        after=(DELAY_GONE, MALLOC_GONE),
        refused=(
            Refused(
                "one that is absent",
                {"delay_bdev_name": "none", "latency_type": "avg_read", "latency_us": 1},
                (INVALID_PARAMS, "The requested bdev does not exist."),
                words=("none", "avg_read", "1"),
            ),
            Refused(
                "another module's",
                {"delay_bdev_name": "M", "latency_type": "avg_read", "latency_us": 1},
                (-32600, "The requested bdev is not a delay bdev."),
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("M", "avg_read", "1"),
            ),
        ),
        words=("D", "p99_read", "50"),
    ),
    Case(
        "bdev_delay_delete",
        {"name": "D"},
        undecoded=OBJECT_FAILED,
        before=(MALLOC, DELAY),
        after=(MALLOC_GONE,),
        refused=(absent(), not_ours()),
        words=("D",),
        printed="nothing",
    ),
    Case(
        "bdev_error_create",
        {"base_name": "M", "uuid": U1},
        shows=(
            "EE_M",
            {
                "product_name": "Error Injection Disk",
                "uuid": U1,
                "driver_specific": {"error_disk": {"base_bdev": "M"}},
            },
        ),
        undecoded=OBJECT_FAILED_PARAMS,
        before=(MALLOC,),
        after=(ERROR_GONE, MALLOC_GONE),
        refused=(
            Refused(
                "a base that has one",
                {"base_name": "M"},
                FILE_EXISTS,
                before=(MALLOC, ERROR),
                after=(ERROR_GONE, MALLOC_GONE),
                words=("M",),
            ),
        ),
        words=("M",),
    ),
    Case(
        "bdev_error_delete",
        {"name": "EE_M"},
        undecoded=OBJECT_FAILED_PARAMS,
        before=(MALLOC, ERROR),
        after=(MALLOC_GONE,),
        refused=(absent(), not_ours()),
        words=("EE_M",),
        printed="nothing",
    ),
    Case(
        "bdev_error_inject_error",
        {
            "name": "EE_M",
            "io_type": "read",
            "error_type": "corrupt_data",
            "num": 1,
            "queue_depth": 8,
            "corrupt_offset": 3,
            "corrupt_value": 1,
        },
        more=(
            {
                "name": "EE_M",
                "io_type": "all",
                "error_type": "nvme_failure",
                "nvme_sct": 2,
                "nvme_sc": 5,
            },
            {"name": "EE_M", "io_type": "flush", "error_type": "failure"},
            {"name": "EE_M", "io_type": "clear", "error_type": "failure"},
        ),
        undecoded=OBJECT_FAILED_PARAMS,
        least={"name": "EE_M", "io_type": "read", "error_type": "failure"},
        before=(MALLOC, ERROR),
        after=(ERROR_GONE, MALLOC_GONE),
        refused=(
            Refused(
                "another module's",
                {"name": "M", "io_type": "read", "error_type": "failure"},
                NO_SUCH_DEVICE,
                before=(MALLOC,),
                after=(MALLOC_GONE,),
                words=("M", "read", "failure"),
            ),
            Refused(
                "corruption by nothing",
                {"name": "EE_M", "io_type": "read", "error_type": "corrupt_data"},
                INVALID_ARGUMENT,
                before=(MALLOC, ERROR),
                after=(ERROR_GONE, MALLOC_GONE),
            ),
            *(
                Refused(
                    what,
                    {"name": "EE_M", "io_type": "read", **params},
                    (-22, "nvme_sct or nvme_sc should be specified for NVMe error injection"),
                    before=(MALLOC, ERROR),
                    after=(ERROR_GONE, MALLOC_GONE),
                )
                for what, params in (
                    ("an NVMe failure without a status", {"error_type": "nvme_failure"}),
                    ("a status without an NVMe failure", {"error_type": "failure", "nvme_sc": 5}),
                )
            ),
        ),
        words=("EE_M", "read", "failure"),
        printed="nothing",
    ),
    Case(
        "bdev_error_resume_pending",
        {"name": "EE_M"},
        undecoded=OBJECT_FAILED_PARAMS,
        before=(MALLOC, ERROR),
        after=(ERROR_GONE, MALLOC_GONE),
        refused=(absent(),),
        words=("EE_M",),
        printed="nothing",
    ),
    Case(
        "bdev_split_create",
        {"base_bdev": "M", "split_count": 2, "split_size_mb": 0},
        result=Is(["Mp0", "Mp1"]),
        shows=(
            "Mp1",
            {
                "product_name": "Split Disk",
                "num_blocks": 1024,
                "driver_specific": {"split": {"base_bdev": "M", "offset_blocks": 1024}},
            },
        ),
        before=(MALLOC,),
        after=(("bdev_split_delete", {"base_bdev": "M"}), MALLOC_GONE),
        refused=(
            Refused(
                "a base that is split",
                {"base_bdev": "M", "split_count": 3},
                (INVALID_PARAMS, "Failed to create 3 split bdevs from 'M': File exists"),
                before=(MALLOC, ("bdev_split_create", {"base_bdev": "M", "split_count": 2})),
                after=(("bdev_split_delete", {"base_bdev": "M"}), MALLOC_GONE),
                words=("M", "3"),
            ),
            Refused(
                "no parts",
                {"base_bdev": "M", "split_count": 0},
                (INVALID_PARAMS, "Failed to create 0 split bdevs from 'M': Invalid argument"),
                words=("M", "0"),
            ),
        ),
        words=("M", "2"),
        printed="words",
    ),
    Case(
        "bdev_split_delete",
        {"base_bdev": "M"},
        before=(MALLOC, ("bdev_split_create", {"base_bdev": "M", "split_count": 2})),
        after=(MALLOC_GONE,),
        refused=(
            Refused(
                "one that is not split",
                {"base_bdev": "none"},
                (INVALID_PARAMS, "No such file or directory"),
                words=("none",),
            ),
        ),
        words=("M",),
        printed="nothing",
    ),
    Case(
        "bdev_zone_block_create",
        ZONES,
        result=Is("Z"),
        shows=(
            "Z",
            {
                "product_name": "zone_block",
                "zoned": True,
                "zone_size": 64,
                "max_open_zones": 0,
                "optimal_open_zones": 1,
            },
        ),
        before=(MALLOC,),
        after=(ZONE_GONE, MALLOC_GONE),
        refused=(
            Refused(
                "a name that is configured",
                ZONES,
                (INTERNAL_ERROR, "Failed to create block zoned vbdev: File exists"),
                before=(MALLOC, ZONE),
                after=(ZONE_GONE, MALLOC_GONE),
                words=ZONE_WORDS,
            ),
            *(
                Refused(
                    f"{key} 0",
                    {**ZONES, key: 0},
                    (INTERNAL_ERROR, "Failed to create block zoned vbdev: Invalid argument"),
                    before=(MALLOC,),
                    after=(MALLOC_GONE,),
                )
                for key in ("zone_capacity", "optimal_open_zones")
            ),
        ),
        words=ZONE_WORDS,
    ),
    Case(
        "bdev_zone_block_delete",
        {"name": "Z"},
        before=(MALLOC, ZONE),
        after=(MALLOC_GONE,),
        refused=(absent(), not_ours()),
        words=("Z",),
        printed="nothing",
    ),
    Case(
        "nbd_get_disks",
        result=[{"nbd_device": "str", "bdev_name": "str"}],
        undecoded=OBJECT_FAILED,
        refused=(
            Refused(
                "one that is not started",
                {"nbd_device": "/dev/nbd0"},
                NO_SUCH_DEVICE,
                words=("-n", "/dev/nbd0"),
            ),
        ),
    ),
    Case(
        "nbd_start_disk",
        {"bdev_name": "M", "nbd_device": "/dev/nbd0"},
        result="str",
        undecoded=OBJECT_FAILED,
        untried="it attaches a device of the kernel",
        words=None,
        refused=(
            Refused(
                "a device that is no nbd",
                {"bdev_name": "M", "nbd_device": "/dev/null"},
                (-19, "illegal nbd device /dev/null"),
                words=("M", "/dev/null"),
            ),
        ),
    ),
    Case(
        "nbd_stop_disk",
        {"nbd_device": "/dev/nbd0"},
        undecoded=OBJECT_FAILED,
        untried="it detaches a device of the kernel",
        words=None,
        refused=(
            Refused(
                "one that is not started",
                {"nbd_device": "/dev/nbd0"},
                NO_SUCH_DEVICE,
                words=("/dev/nbd0",),
            ),
        ),
    ),
)
