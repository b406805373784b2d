"""Each module's methods against SPDK's: what is refused, with which code and text, and what is not.

Method: one row is a method, its parameters, and the code and message that SPDK gives; the attempt
changes nothing. The names and types of all parameters are held against SPDK's own declaration
where a row can not show them. Expected values are SPDK's unless a comment says otherwise.
"""

import errno
import os
import re

import pytest

from support.control import Control
from vbdev.bdev import BdevEvent
from vbdev.modules.null import Null

U1 = "11111111-2222-4333-8444-555555555555"
UNDECODED = (-32603, "spdk_json_decode_object failed")
ERROR_UNDECODED = (-32602, "spdk_json_decode_object failed")
INVALID_PARAMETERS = (-32602, "Invalid parameters")
INVALID = (-22, "Invalid argument")
EXISTS = (-17, "File exists")
CLAIMED = (-1, "Operation not permitted")
NO_DEVICE = (-19, "No such device")
NO_MEMORY = (-12, "Cannot allocate memory")
NO_FILE = (-2, "No such file or directory")
NO_URING = (-32603, "Unable to create URING bdev.")
NVME_STATUS = (-22, "nvme_sct or nvme_sc should be specified for NVMe error injection")

MALLOC = {"name": "New", "num_blocks": 8, "block_size": 512}
PASSTHRU = {"name": "New", "base_bdev_name": "Free"}
DELAY = {
    **PASSTHRU,
    "avg_read_latency": 1,
    "p99_read_latency": 1,
    "avg_write_latency": 1,
    "p99_write_latency": 1,
}
INJECT = {"name": "EE_Disk", "io_type": "read", "error_type": "failure"}
ZONE = {"name": "New", "base_bdev": "Free", "zone_capacity": 64, "optimal_open_zones": 1}
LATENCY = {"delay_bdev_name": "Nobody", "latency_type": "avg_read", "latency_us": 1}
FILE = {"name": "New", "filename": "/nowhere/at/all"}
FULL = {"name": "New", "filename": "/dev/full"}


def zone_block(reason):
    return (-32603, f"Failed to create block zoned vbdev: {reason}")


def split(count, base, reason):
    return (-32602, f"Failed to create {count} split bdevs from '{base}': {reason}")


REFUSED = [
    # A size that is none, and what can not be laid out.
    *(
        (f"bdev_{kind}_create", {**MALLOC, **wrong}, failure)
        for kind in ("malloc", "null")
        for wrong, failure in (
            ({"num_blocks": 0}, INVALID),
            ({"num_blocks": -1}, UNDECODED),
            ({"num_blocks": 1 << 64}, UNDECODED),
            ({"num_blocks": "8"}, UNDECODED),
            ({"num_blocks": True}, UNDECODED),
            ({"num_blocks": 8.5}, UNDECODED),
            ({"num_blocks": None}, UNDECODED),
            ({"block_size": 1000}, INVALID),
            ({"block_size": 1 << 32}, UNDECODED),
            ({"physical_block_size": 1000}, INVALID),
            ({"physical_block_size": 1 << 32}, UNDECODED),
            ({"md_size": 9}, INVALID),
            ({"md_size": -8}, UNDECODED),
            ({"dif_type": 4, "md_size": 8}, INVALID),
            ({"dif_type": -1, "md_size": 8}, INVALID),
            ({"dif_type": 1 << 31, "md_size": 8}, UNDECODED),
            ({"dif_type": 1}, INVALID),
            ({"dif_type": 1, "md_size": 8, "dif_pi_format": 3}, INVALID),
            ({"dif_type": 1, "md_size": 8, "dif_pi_format": 1}, INVALID),
            ({"dif_is_head_of_md": 1}, UNDECODED),
            ({"name": "Disk"}, EXISTS),
            ({"uuid": U1}, EXISTS),
            ({"uuid": "1"}, UNDECODED),
            ({"uuid": U1.replace("-", "")}, UNDECODED),
            ({"uuid": 1}, UNDECODED),
            ({"colour": "red"}, UNDECODED),
        )
    ),
    ("bdev_malloc_create", {**MALLOC, "num_blocks": 1 << 60}, NO_MEMORY),
    ("bdev_malloc_create", {**MALLOC, "num_blocks": 1 << 50}, NO_MEMORY),
    ("bdev_malloc_create", {**MALLOC, "numa_id": 9999}, INVALID),
    ("bdev_malloc_create", {**MALLOC, "numa_id": -2}, INVALID),
    ("bdev_malloc_create", {**MALLOC, "numa_id": 1 << 31}, UNDECODED),
    ("bdev_malloc_create", {**MALLOC, "optimal_io_boundary": 1 << 32}, UNDECODED),
    ("bdev_malloc_create", {**MALLOC, "md_interleave": "yes"}, UNDECODED),
    ("bdev_malloc_create", {**MALLOC, "preferred_write_alignment": 1}, UNDECODED),
    ("bdev_null_create", {"num_blocks": 8, "block_size": 512}, UNDECODED),
    ("bdev_null_create", {**MALLOC, "md_interleave": True}, UNDECODED),
    ("bdev_null_create", {**MALLOC, "numa_id": 0}, UNDECODED),
    ("bdev_null_create", {**MALLOC, "preferred_unmap_granularity": 1 << 32}, UNDECODED),
    ("bdev_null_resize", {"name": "Nobody", "new_size": 1}, NO_DEVICE),
    ("bdev_null_resize", {"name": "Disk", "new_size": 1}, INVALID),  # a malloc
    ("bdev_null_resize", {"name": "Null0"}, UNDECODED),
    ("bdev_null_resize", {"name": "Null0", "new_size": "1"}, UNDECODED),
    # Files
    *(
        (method, {**base, **wrong}, failure)
        for method, base, wrong, failure in (
            ("bdev_aio_create", FILE, {}, NO_FILE),
            ("bdev_aio_create", FILE, {"filename": "/"}, (-21, "Is a directory")),
            ("bdev_aio_create", FULL, {}, INVALID),
            ("bdev_aio_create", FILE, {"name": "Disk"}, EXISTS),
            ("bdev_aio_create", FILE, {"block_size": 1 << 32}, UNDECODED),
            ("bdev_aio_create", FILE, {"readonly": 1}, UNDECODED),
            ("bdev_aio_create", FILE, {"fallocate": "true"}, UNDECODED),
            ("bdev_aio_create", FILE, {"nowait": 0}, UNDECODED),
            ("bdev_aio_create", {"name": "New"}, {}, UNDECODED),
            ("bdev_uring_create", FILE, {}, NO_URING),
            ("bdev_uring_create", FULL, {}, NO_URING),
            ("bdev_uring_create", FILE, {"name": "Disk"}, NO_URING),
            ("bdev_uring_create", FILE, {"block_size": -1}, UNDECODED),
            ("bdev_uring_create", FILE, {"fallocate": True}, UNDECODED),
            ("bdev_aio_rescan", {"name": "Disk"}, {}, NO_DEVICE),
            ("bdev_uring_rescan", {"name": "Disk"}, {}, NO_DEVICE),
        )
    ),
    # Vbdevs on a base
    ("bdev_passthru_create", {**PASSTHRU, "name": "Top"}, EXISTS),
    ("bdev_passthru_create", {**PASSTHRU, "name": "Free"}, EXISTS),
    ("bdev_passthru_create", {**PASSTHRU, "uuid": U1}, EXISTS),
    ("bdev_passthru_create", {**PASSTHRU, "base_bdev_name": "Claimed"}, CLAIMED),
    ("bdev_passthru_create", {"name": "New"}, UNDECODED),
    ("bdev_passthru_create", {**PASSTHRU, "base_bdev": "Free"}, UNDECODED),
    ("bdev_delay_create", {**DELAY, "avg_read_latency": 2}, INVALID),
    ("bdev_delay_create", {**DELAY, "avg_write_latency": 2}, INVALID),
    ("bdev_delay_create", {**DELAY, "avg_write_latency": 2, "name": "Top"}, INVALID),
    ("bdev_delay_create", {**DELAY, "name": "Top"}, EXISTS),
    ("bdev_delay_create", {**DELAY, "base_bdev_name": "Claimed"}, CLAIMED),
    ("bdev_delay_create", {**DELAY, "avg_read_latency": -1}, UNDECODED),
    ("bdev_delay_create", PASSTHRU, UNDECODED),
    (
        "bdev_delay_update_latency",
        LATENCY,
        (-32602, "The requested bdev does not exist."),
    ),
    (
        "bdev_delay_update_latency",
        {**LATENCY, "delay_bdev_name": "Disk"},
        (-32600, "The requested bdev is not a delay bdev."),
    ),
    ("bdev_delay_update_latency", {**LATENCY, "latency_type": "p99"}, UNDECODED),
    ("bdev_delay_update_latency", {**LATENCY, "latency_us": 1 << 64}, UNDECODED),
    ("bdev_error_create", {"base_name": "Disk"}, EXISTS),
    ("bdev_error_create", {"base_name": "Claimed"}, CLAIMED),
    ("bdev_error_create", {}, ERROR_UNDECODED),
    ("bdev_error_create", {"base_bdev_name": "Free"}, ERROR_UNDECODED),
    ("bdev_error_delete", {"name": "EE_Nobody"}, NO_DEVICE),
    ("bdev_error_delete", {}, ERROR_UNDECODED),
    ("bdev_error_inject_error", {**INJECT, "name": "Nobody"}, NO_DEVICE),
    ("bdev_error_inject_error", {**INJECT, "name": "Top"}, NO_DEVICE),
    ("bdev_error_inject_error", {**INJECT, "error_type": "corrupt_data"}, INVALID),
    (
        "bdev_error_inject_error",
        {**INJECT, "name": "Nobody", "error_type": "corrupt_data"},
        INVALID,
    ),
    ("bdev_error_inject_error", {**INJECT, "error_type": "nvme_failure"}, NVME_STATUS),
    ("bdev_error_inject_error", {**INJECT, "nvme_sc": 1}, NVME_STATUS),
    ("bdev_error_inject_error", {**INJECT, "name": "Nobody", "nvme_sct": 1}, NVME_STATUS),
    ("bdev_error_inject_error", {**INJECT, "io_type": "reset"}, ERROR_UNDECODED),
    ("bdev_error_inject_error", {**INJECT, "error_type": "broken"}, ERROR_UNDECODED),
    ("bdev_error_inject_error", {**INJECT, "corrupt_value": 256}, ERROR_UNDECODED),
    ("bdev_error_inject_error", {**INJECT, "num": 1 << 32}, ERROR_UNDECODED),
    ("bdev_error_inject_error", {**INJECT, "queue_depth": -1}, ERROR_UNDECODED),
    ("bdev_error_inject_error", {"name": "EE_Disk", "io_type": "read"}, ERROR_UNDECODED),
    ("bdev_error_resume_pending", {"name": "Nobody"}, NO_DEVICE),
    ("bdev_error_resume_pending", {"name": "Top"}, NO_DEVICE),
    ("bdev_error_resume_pending", {}, ERROR_UNDECODED),
    ("bdev_split_create", {"base_bdev": "Free"}, INVALID_PARAMETERS),
    ("bdev_split_create", {"base_bdev": "Free", "split_count": 1 << 32}, INVALID_PARAMETERS),
    (
        "bdev_split_create",
        {"base_bdev": "Free", "split_count": 0},
        split(0, "Free", "Invalid argument"),
    ),
    (
        "bdev_split_create",
        {"base_bdev": "Nobody", "split_count": 0},
        split(0, "Nobody", "Invalid argument"),
    ),
    (
        "bdev_split_create",
        {"base_bdev": "Parted", "split_count": 2},
        split(2, "Parted", "File exists"),
    ),
    # SPDK says "Cannot allocate memory" to the next one.
    (
        "bdev_split_create",
        {"base_bdev": "Claimed", "split_count": 2},
        split(2, "Claimed", "Operation not permitted"),
    ),
    (
        "bdev_split_create",
        {"base_bdev": "Odd", "split_count": 1, "split_size_mb": 1},
        split(1, "Odd", "Invalid argument"),
    ),
    ("bdev_split_delete", {"base_bdev": "Free"}, (-32602, "No such file or directory")),
    ("bdev_split_delete", {"name": "Free"}, INVALID_PARAMETERS),
    ("bdev_zone_block_create", {**ZONE, "zone_capacity": 0}, zone_block("Invalid argument")),
    ("bdev_zone_block_create", {**ZONE, "optimal_open_zones": 0}, zone_block("Invalid argument")),
    ("bdev_zone_block_create", {**ZONE, "name": "Top"}, zone_block("File exists")),
    ("bdev_zone_block_create", {**ZONE, "base_bdev": "Zoned"}, zone_block("File exists")),
    (
        "bdev_zone_block_create",
        {**ZONE, "base_bdev": "Claimed"},
        zone_block("Operation not permitted"),
    ),
    # SPDK makes a bdev without blocks of the next one.
    ("bdev_zone_block_create", {**ZONE, "zone_capacity": 1 << 63}, zone_block("Invalid argument")),
    ("bdev_zone_block_create", PASSTHRU, INVALID_PARAMETERS),
    ("bdev_zone_block_create", {**ZONE, "uuid": U1, "size": 1}, INVALID_PARAMETERS),
    ("bdev_zone_block_delete", {}, INVALID_PARAMETERS),
    # Deleting what is not there, and what is another module's.
    *(
        (f"bdev_{kind}_delete", params, failure)
        for kind, undecoded in (
            ("malloc", UNDECODED),
            ("null", UNDECODED),
            ("aio", UNDECODED),
            ("uring", UNDECODED),
            ("passthru", UNDECODED),
            ("delay", UNDECODED),
            ("error", ERROR_UNDECODED),
            ("zone_block", INVALID_PARAMETERS),
        )
        for params, failure in (
            ({"name": "Nobody"}, NO_DEVICE),
            ({"name": "Parted" if kind != "malloc" else "Top"}, NO_DEVICE),
            ({"name": 1}, undecoded),
            ({}, undecoded),
            ({"name": "Parted", "force": True}, undecoded),
        )
    ),
]


@pytest.fixture(scope="module")
def control():
    made = Control()
    for name, uuid in (("Disk", U1), ("Free", None), ("Claimed", None), ("Parted", None)):
        made.malloc(name=name, **({"uuid": uuid} if uuid else {}))
    made.malloc(name="Odd", block_size=1536)
    made.malloc(name="Below")
    made.call("bdev_null_create", {**MALLOC, "name": "Null0"})
    made.call("bdev_passthru_create", {"name": "Top", "base_bdev_name": "Claimed"})
    made.call("bdev_error_create", {"base_name": "Disk"})
    made.call("bdev_split_create", {"base_bdev": "Parted", "split_count": 2})
    made.call("bdev_zone_block_create", {**ZONE, "name": "Zoned", "base_bdev": "Below"})
    yield made
    made.stack.close()


def is_declared(failure, declared):
    """Whether a failure is one that its method declares; `{words}` stand for anything."""
    pattern = re.sub(r"\\{.*?\\}", ".*", re.escape(declared[1]))
    return failure[0] == declared[0] and re.fullmatch(pattern, failure[1]) is not None


@pytest.mark.parametrize(("method", "params", "failure"), REFUSED)
def test_refusals(control, method, params, failure):
    before = control.call("bdev_get_bdevs"), control.registry.config()
    assert control.fails(method, params) == failure
    assert control.detail, "what is wrong is told in the error's data"
    declared = control.dispatcher.get(method).refusals()
    assert any(is_declared(failure, one) for one in declared), declared
    assert (control.call("bdev_get_bdevs"), control.registry.config()) == before


FREE = {"name": "New"}
ACCEPTED = [
    ("bdev_malloc_create", {**MALLOC, "physical_block_size": 0, "optimal_io_boundary": 0}, "New"),
    ("bdev_malloc_create", {**MALLOC, "uuid": "0" * 8 + "-0000-0000-0000-" + "0" * 12}, "New"),
    ("bdev_malloc_create", {**MALLOC, "md_size": 8, "dif_type": 1, "numa_id": -1}, "New"),
    ("bdev_null_create", {**MALLOC, "preferred_write_alignment": (1 << 32) - 1}, "New"),
    ("bdev_null_create", {**MALLOC, "md_size": 128, "dif_type": 3, "dif_pi_format": 2}, "New"),
    ("bdev_passthru_create", {**PASSTHRU, "base_bdev_name": "Nobody"}, "New"),
    ("bdev_delay_create", {**DELAY, "p99_write_latency": (1 << 64) - 1}, "New"),
    ("bdev_zone_block_create", {**ZONE, "base_bdev": "Nobody"}, "New"),
    ("bdev_split_create", {"base_bdev": "Nobody", "split_count": (1 << 32) - 1}, []),
    ("bdev_split_create", {"base_bdev": "Free", "split_count": 2}, ["Freep0", "Freep1"]),
    ("bdev_error_create", {"base_name": "Nobody"}, True),
]


@pytest.mark.parametrize(("method", "params", "result"), ACCEPTED)
def test_what_stands_at_the_edge_is_taken(control, method, params, result):
    assert control.call(method, params) == result
    kind = method.removeprefix("bdev_").removesuffix("_create")
    if kind == "split":
        named = {"base_bdev": params["base_bdev"]}
    else:
        named = {"name": params.get("name", "EE_Nobody")}
    assert control.call(f"bdev_{kind}_delete", named) is True


def test_a_malloc_always_shows_its_node(control):
    control.call("bdev_malloc_create", MALLOC)
    (shown,) = control.call("bdev_get_bdevs", name="New")
    assert shown["numa_id"] == -1
    assert list(shown)[10:13] == ["uuid", "numa_id", "assigned_rate_limits"]
    control.call("bdev_malloc_delete", name="New")


async def pause(reactor):
    await reactor.sleep(1000)


@pytest.mark.parametrize("kind", ["aio", "uring"])
def test_a_file_that_is_gone_takes_its_bdev_along(kind, tmp_path, caplog):
    control = Control(real_clock=True)
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    create = {"name": "File", "filename": str(path), "block_size": 512}
    control.call(f"bdev_{kind}_create", create)
    opened = control.stack.open("File")
    os.truncate(path, 0)

    async def twice():  # before the removal has begun, which the first one asks for
        rescan = f"bdev_{kind}_rescan"
        return [await control.dispatcher.call(rescan, {"name": "File"}) for _ in range(2)]

    assert control.stack.run(twice()) == [True, True]
    control.stack.settle()
    assert opened.events == [BdevEvent.REMOVE]
    while control.registry.find("File") is not None:  # its last sync has a thread
        control.stack.run(pause(control.stack.reactor))
    assert control.fails(f"bdev_{kind}_rescan", name="File") == NO_DEVICE
    assert "task failed" not in caplog.text
    control.stack.close()


def test_a_regular_file_has_no_nowait(tmp_path):
    control = Control(real_clock=True)
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    wanted = {"name": "File", "filename": str(path), "nowait": True}
    assert control.fails("bdev_aio_create", wanted) == (
        -errno.EOPNOTSUPP,
        "Operation not supported",
    )
    control.stack.close()


@pytest.mark.parametrize(
    ("block_size", "size", "failure"),
    [(1000, 1 << 20, INVALID), (256, 1 << 20, INVALID), (4096, 4095, INVALID), (512, 0, INVALID)],
)
def test_sizes_that_make_no_file_bdev(tmp_path, block_size, size, failure):
    control = Control(real_clock=True)
    path = tmp_path / "disk"
    path.write_bytes(bytes(size))
    wanted = {"name": "File", "filename": str(path), "block_size": block_size}
    assert control.fails("bdev_aio_create", wanted) == failure
    assert control.fails("bdev_uring_create", wanted) == NO_URING
    control.stack.close()


def test_a_null_bdev_grows_by_name_alias_and_uuid(control):
    bdev = control.registry.get("Null0")
    assert isinstance(bdev, Null)
    assert control.call("bdev_null_resize", name=str(bdev.uuid), new_size=1) is True
    assert bdev.num_blocks == 2048
