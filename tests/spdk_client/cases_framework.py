"""What the methods have to do that are not about bdevs: spdk, rpc, framework, thread, log, ..."""

from __future__ import annotations

from spdk_client.case import (
    INTERNAL_ERROR,
    INVALID_PARAMETERS,
    INVALID_PARAMS,
    OBJECT_FAILED,
    OBJECT_FAILED_PARAMS,
    Case,
    Instead,
    Refused,
)
from spdk_client.facts import ENUMS
from spdk_client.shapes import ANY, OneOf, Rest

POLLER = {
    "name": "str",
    "id": "u64",
    "state": "str",
    "run_count": "u64",
    "busy_count": "u64",
    "period_ticks?": "u64",
}
REACTOR = {
    "lcore": "u32",
    "numa_id": "i32",
    "tid": "u64",
    "busy": "u64",
    "idle": "u64",
    "in_interrupt": "bool",
    "irq": "u64",
    "sys": "u64",
    "usr": "u64",
    "core_freq?": "u32",
    "lw_threads": [{"name": "str", "id": "u64", "cpumask": "str", "elapsed": "u64"}],
}
THREAD = {
    "name": "str",
    "id": "u64",
    "cpumask": "str",
    "busy": "u64",
    "idle": "u64",
    "active_pollers_count": "u64",
    "timed_pollers_count": "u64",
    "paused_pollers_count": "u64",
}
POOL = {"cache": "u64", "main": "u64", "retry": "u64", "cache_size": "u64"}
LEVEL = OneOf(tuple(ENUMS["log_level"]))


def _first_thread_is_known(answer):
    return "" if answer["threads"] else "no threads"


CASES = (
    Case(
        "spdk_get_version",
        result={
            "version": "str",
            "fields": {
                "major": "u32",
                "minor": "u32",
                "patch": "u32",
                "suffix": "str",
                "commit?": "str",
            },
        },
        no_params="spdk_get_version method requires no parameters",
    ),
    Case(
        "spdk_kill_instance",
        {"sig_name": "SIGTERM"},
        words=("SIGTERM",),
        printed="nothing",
        once=True,
    ),
    Case(
        "rpc_get_methods",
        {"current": True, "include_aliases": False},
        result=["str"],
        words=("--current",),
    ),
    Case(
        "framework_start_init",
        no_params="framework_start_init requires no parameters",
        printed="nothing",
        once=True,
    ),
    Case("framework_wait_init", printed="nothing"),
    Case(
        "framework_monitor_context_switch",
        {"enabled": False},
        result={"enabled": "bool"},
        words=("--no-monitor",),
    ),
    Case(
        "framework_get_subsystems",
        result=[{"subsystem": "str", "depends_on": ["str"]}],
        no_params="'framework_get_subsystems' requires no arguments",
    ),
    Case(
        "framework_get_config",
        {"name": "bdev", "with_batches": False},
        result=[{"method": "str", "params?": ANY}],
        undecoded=(INVALID_PARAMS, "Invalid arguments"),
        refused=(
            Refused(
                "a subsystem that is not there",
                {"name": "none"},
                (INVALID_PARAMS, "Subsystem 'none' not found"),
                words=("none",),
            ),
        ),
        words=("bdev",),
    ),
    Case(
        "framework_get_reactors",
        result={"tick_rate": "u64", "pid": "u64", "reactors": [REACTOR]},
        no_params="`framework_get_reactors` requires no arguments",
    ),
    Case(
        "framework_get_scheduler",
        result=Rest(
            {
                "scheduler_name": "str",
                "scheduler_period": "u64",
                "isolated_core_mask": "str",
                "scheduling_core": "u32",
            }
        ),
        no_params="'rpc_get_scheduler' requires no arguments",
    ),
    Case(
        "framework_get_governor",
        result=Rest(),
        no_params="'rpc_get_governor' requires no arguments",
    ),
    Case(
        "framework_set_scheduler",
        {"name": "static", "period": 1000000},
        more=(
            {"name": "static", "load_limit": 20},
            {"name": "static", "core_limit": 80},
            {"name": "static", "core_busy": 95},
            {"name": "static", "mappings": ""},
        ),
        instead={
            "an unknown parameter besides": Instead(
                "SPDK's scheduler `static` takes any parameter; one that means nothing is refused"
                " here, as by every other method.",
                INVALID_PARAMETERS,
            )
        },
        words=("static",),
        printed="nothing",
    ),
    Case(
        "thread_get_stats",
        result={"tick_rate": "u64", "threads": [THREAD]},
        also=_first_thread_is_known,
        no_params="'thread_get_stats' requires no arguments",
    ),
    Case(
        "thread_get_pollers",
        result={
            "tick_rate": "u64",
            "threads": [
                {
                    "name": "str",
                    "id": "u64",
                    "active_pollers": [POLLER],
                    "timed_pollers": [POLLER],
                    "paused_pollers": [POLLER],
                }
            ],
        },
        also=_first_thread_is_known,
        no_params="'thread_get_pollers' requires no arguments",
    ),
    Case(
        "thread_get_io_channels",
        result={
            "tick_rate": "u64",
            "threads": [{"name": "str", "io_channels": [{"name": "str", "ref": "u32"}]}],
        },
        also=_first_thread_is_known,
        no_params="'thread_get_io_channels' requires no arguments",
    ),
    Case(
        "thread_set_cpumask",
        {"id": 1, "cpumask": "0x1"},
        undecoded=OBJECT_FAILED_PARAMS,
        refused=(
            Refused(
                "a thread that is not there",
                {"id": 12345, "cpumask": "0x1"},
                (INVALID_PARAMS, "Thread 12345 does not exist"),
                words=("-i", "12345", "-m", "0x1"),
            ),
            Refused(
                "a mask that is none",
                {"id": 1, "cpumask": "all of them"},
                (INTERNAL_ERROR, "Invalid cpumask all of them"),
            ),
        ),
        words=("-i", "1", "-m", "0x1"),
        printed="nothing",
    ),
    *(
        Case(
            f"log_set_{what}",
            {"level": "NOTICE"},
            undecoded=OBJECT_FAILED,
            words=("NOTICE",),
            printed="nothing",
        )
        for what in ("level", "print_level")
    ),
    *(
        Case(
            f"log_get_{what}",
            result=LEVEL,
            no_params=f"log_get_{what} requires no parameters",
        )
        for what in ("level", "print_level")
    ),
    *(
        Case(
            f"log_{what}_flag",
            {"flag": "bdev"},
            undecoded=OBJECT_FAILED,
            words=("bdev",),
            printed="nothing",
        )
        for what in ("set", "clear")
    ),
    Case(
        "log_get_flags",
        result=Rest({}, "bool"),
        no_params="log_get_flags requires no parameters",
    ),
    Case(
        "log_enable_timestamps",
        {"enabled": True},
        undecoded=OBJECT_FAILED_PARAMS,
        words=("--timestamps",),
        printed="nothing",
    ),
    Case("notify_get_types", result=["str"], no_params="No parameters required"),
    Case(
        "notify_get_notifications",
        {"id": 0, "max": 2},
        result=[{"type": "str", "ctx": "str", "id": "u64"}],
        undecoded=(INVALID_PARAMS, "Invalid argument"),
        before=(
            ("bdev_malloc_create", {"name": "M", "num_blocks": 8, "block_size": 512}),
            ("bdev_malloc_delete", {"name": "M"}),
        ),
        also=lambda answer: "" if answer else "no notifications",
        words=("-n", "2"),
    ),
    Case(
        "iobuf_set_options",
        {
            "small_pool_count": 8192,
            "large_pool_count": 1024,
            "small_bufsize": 8192,
            "large_bufsize": 135168,
            "enable_numa": False,
        },
        least={"small_pool_count": 8192},
        undecoded=OBJECT_FAILED_PARAMS,
        bare=False,
        refused=(
            Refused("a pool that is too small", {"small_pool_count": 1}, (-22, "Invalid argument")),
        ),
        words=("--small-pool-count", "8192"),
        printed="nothing",
    ),
    Case(
        "iobuf_get_stats",
        result=[{"module": "str", "small_pool": POOL, "large_pool": POOL}],
    ),
)
"""Their texts for parameters where there are none are SPDK's, and no two programmers agreed."""
