"""`driver_specific` and `product_name` of each module: SPDK's fields, in its order, to the letter.

Method: JSON text is compared, so that the order counts.
"""

import json

import msgspec
import pytest

from support.control import Control

ZONE = {"zone_capacity": 60, "optimal_open_zones": 4}
LATENCIES = {
    "avg_read_latency": 1,
    "p99_read_latency": 2,
    "avg_write_latency": 3,
    "p99_write_latency": 4,
}
ON_DISK = {"name": "New", "base_bdev_name": "Disk"}
UUID = "5ce9b9a2-6a3a-4ad1-8a2c-0b6f5a1c7d11"
MODULES = [
    ("malloc", {"name": "New", "num_blocks": 8, "block_size": 512}, "Malloc disk", {}),
    ("null", {"name": "New", "num_blocks": 8, "block_size": 512}, "Null disk", {}),
    ("passthru", ON_DISK, "passthru", {"passthru": ON_DISK}),
    (
        "delay",
        {**ON_DISK, "uuid": UUID, **LATENCIES},
        "delay",
        {"delay": {**ON_DISK, "uuid": UUID, **LATENCIES}},
    ),
    (
        "error",
        {"base_name": "Disk", "name": "New"},  # the name is ours
        "Error Injection Disk",
        {"error_disk": {"base_bdev": "Disk"}},
    ),
    (
        "zone_block",
        {"name": "New", "base_bdev": "Disk", **ZONE},
        "zone_block",
        {"zoned_block": {"name": "New", "base_bdev": "Disk", **ZONE}},
    ),
]
FILES = [
    ("uring", {}, "URING bdev", {}),
    (
        "aio",
        {},
        "AIO disk",
        {"block_size_override": False, "readonly": False, "fallocate": False, "nowait": False},
    ),
    (
        "aio",
        {"block_size": 512, "readonly": True, "fallocate": True},
        "AIO disk",
        {"block_size_override": True, "readonly": True, "fallocate": True, "nowait": False},
    ),
    (
        "aio",
        {"block_size": 0},
        "AIO disk",
        {"block_size_override": False, "readonly": False, "fallocate": False, "nowait": False},
    ),
]


@pytest.fixture
def control():
    made = Control(real_clock=True)
    made.malloc()
    yield made
    made.stack.close()


def shown(control, name):
    (bdev,) = control.call("bdev_get_bdevs", name=name)
    bdev = msgspec.to_builtins(bdev)
    assert list(bdev)[-1] == "driver_specific"
    return bdev["product_name"], json.dumps(bdev["driver_specific"])


@pytest.mark.rule("A.21.10")
@pytest.mark.parametrize(("kind", "params", "product", "specific"), MODULES)
def test_modules(control, kind, params, product, specific):
    control.call(f"bdev_{kind}_create", params)
    assert shown(control, "New") == (product, json.dumps(specific))


@pytest.mark.parametrize(("kind", "params", "product", "specific"), FILES)
def test_files(control, tmp_path, kind, params, product, specific):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 16))
    control.call(f"bdev_{kind}_create", {"name": "New", "filename": str(path), **params})
    expected = {kind: {"filename": str(path), **specific}}
    assert shown(control, "New") == (product, json.dumps(expected))


def test_split(control):
    names = control.call("bdev_split_create", base_bdev="Disk", split_count=2)
    assert names == ["Diskp0", "Diskp1"]
    for name, offset in zip(names, (0, 512), strict=True):
        expected = {"split": {"base_bdev": "Disk", "offset_blocks": offset}}
        assert shown(control, name) == ("Split Disk", json.dumps(expected))


def test_an_updated_latency_is_shown(control):
    control.call("bdev_delay_create", {**ON_DISK, "uuid": UUID, **LATENCIES})
    update = {"delay_bdev_name": "New", "latency_type": "p99_read", "latency_us": 9}
    assert control.call("bdev_delay_update_latency", update) is True
    expected = {"delay": {**ON_DISK, "uuid": UUID, **LATENCIES, "p99_read_latency": 9}}
    assert shown(control, "New")[1] == json.dumps(expected)
