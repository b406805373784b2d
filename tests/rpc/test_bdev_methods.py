"""The `bdev_*` methods: fields and their order, numbers, error codes and texts, configuration.

Method: the dispatcher over a registry on a bare Stack; what SPDK answers is data here. Expected
values are those of SPDK's own methods unless a comment says otherwise.
"""

import json

import pytest

from support.control import Control
from support.stack import Stub
from vbdev.api.methods import DECODE_OBJECT_FAILED
from vbdev.cli.ls import lines
from vbdev.daemon.config import load_config
from vbdev.vocab import Op

U1 = "11111111-2222-4333-8444-555555555555"
U2 = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"

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
MALLOC_TYPES = {
    "read",
    "write",
    "unmap",
    "flush",
    "reset",
    "write_zeroes",
    "zcopy",
    "compare",
    "abort",
    "seek_hole",
    "seek_data",
    "copy",
}
BDEV_FIELDS = [
    ("name", str),
    ("aliases", list),
    ("product_name", str),
    ("block_size", int),
    ("num_blocks", int),
    ("preferred_write_alignment", int),
    ("preferred_write_granularity", int),
    ("optimal_write_size", int),
    ("preferred_unmap_alignment", int),
    ("preferred_unmap_granularity", int),
    ("uuid", str),
    ("numa_id", int),
    ("assigned_rate_limits", dict),
    ("claimed", bool),
    ("zoned", bool),
    ("supported_io_types", dict),
    ("memory_domains", list),
    ("driver_specific", dict),
]


@pytest.fixture
def control():
    made = Control()
    yield made
    made.stack.close()


# bdev_get_bdevs


@pytest.mark.rule("A.21.1", "A.21.2", "A.21.8", "A.21.14", "A.21.15", "A.17.12", "A.9.20")
def test_fields_of_a_bdev(control):
    control.malloc(uuid=U1, physical_block_size=4096, optimal_io_boundary=8)
    (bdev,) = control.call("bdev_get_bdevs")
    assert [(name, type(value)) for name, value in bdev.items()] == BDEV_FIELDS
    assert list(bdev["supported_io_types"]) == IO_TYPES
    types = bdev.pop("supported_io_types")
    assert {name for name, supported in types.items() if supported} == MALLOC_TYPES
    limits = {
        "rw_ios_per_sec": 0,
        "rw_mbytes_per_sec": 0,
        "r_mbytes_per_sec": 0,
        "w_mbytes_per_sec": 0,
    }
    assert bdev == {
        "name": "Disk",
        "aliases": [U1],
        "product_name": "Malloc disk",
        "block_size": 512,
        "num_blocks": 1024,
        "preferred_write_alignment": 0,
        "preferred_write_granularity": 0,
        "optimal_write_size": 0,
        "preferred_unmap_alignment": 0,
        "preferred_unmap_granularity": 0,
        "uuid": U1,
        "numa_id": -1,
        "assigned_rate_limits": limits,
        "claimed": False,
        "zoned": False,
        "memory_domains": [{"dma_device_type": 1}, {"dma_device_type": 2}],
        "driver_specific": {},
    }


@pytest.mark.rule("A.21.6", "A.21.10", "A.3.19", "A.3.20")
def test_fields_of_a_stack(control):
    control.malloc()
    control.passthru(uuid=U2)
    base, top = control.call("bdev_get_bdevs")
    at = list(base).index("claimed")
    assert list(base)[at + 1] == "claim_type"
    assert (base["claimed"], base["claim_type"]) == (True, "exclusive_write")
    assert (top["name"], top["product_name"], top["uuid"], top["aliases"]) == (
        "Top",
        "passthru",
        U2,
        [U2],
    )
    assert top["driver_specific"] == {"passthru": {"name": "Top", "base_bdev_name": "Disk"}}
    assert top["supported_io_types"] == base["supported_io_types"]
    assert (base["numa_id"], top["numa_id"]) == (-1, -1)
    control.call("bdev_null_create", name="Null0", num_blocks=8, block_size=512)
    assert "numa_id" not in control.call("bdev_get_bdevs", name="Null0")[0]


@pytest.mark.rule("A.21.13", "A.1.18")
@pytest.mark.parametrize("by", ["Disk", U1])
def test_get_one(control, by):
    control.malloc(uuid=U1)
    control.malloc(name="Other")
    assert [bdev["name"] for bdev in control.call("bdev_get_bdevs", name=by)] == ["Disk"]


@pytest.mark.rule("A.21.11", "A.21.12", "A.2.10", "A.2.11")
def test_get_one_that_is_absent(control):
    assert control.fails("bdev_get_bdevs", name="Nobody") == (-19, "No such device")
    assert "'Nobody'" in control.detail
    before_ns = control.stack.reactor.clock.now_ns()
    assert control.fails("bdev_get_bdevs", name="Nobody", timeout=250) == (
        -110,
        "Connection timed out",
    )
    assert control.stack.reactor.clock.now_ns() - before_ns == 250_000_000
    waiting = control.stack.reactor.spawn(
        control.dispatcher.call("bdev_get_bdevs", {"name": "Disk", "timeout": 1000})
    )
    control.stack.pass_time(150_000)
    control.malloc()
    control.stack.pass_time(100_000)
    assert [bdev.name for bdev in waiting.result()] == ["Disk"]


def test_one_that_is_being_removed_is_gone_for_who_asks(control):
    """It can not be opened any more. Who has it open is for the stack to say."""
    disk = control.stack.disk(Stub)
    control.malloc(name="Other")
    control.stack.open("Disk").submit(Op.READ)  # what is under way is waited for
    removal = control.stack.reactor.spawn(
        control.dispatcher.call("bdev_stub_delete", {"name": "Disk"})
    )
    control.stack.settle()
    assert not removal.done
    assert control.names() == ["Other"]
    assert control.fails("bdev_get_bdevs", name="Disk") == (-19, "No such device")
    assert control.detail == "bdev 'Disk' is being removed"
    assert control.fails("bdev_get_bdevs", name="Disk", timeout=100)[0] == -110
    assert [entry["state"] for entry in control.call("vbdev_get_stack")] == ["removing", "ready"]
    disk.complete()
    control.stack.settle()
    assert removal.result() is True


@pytest.mark.parametrize(
    "params", [{"name": 5}, {"nam": "Disk"}, {"timeout": "x"}, {"timeout": -1}, {"timeout": 2**64}]
)
def test_get_bdevs_decodes_strictly(control, params):
    assert control.fails("bdev_get_bdevs", params) == DECODE_OBJECT_FAILED


def test_wait_for_examine(control):
    assert control.call("bdev_wait_for_examine") is True
    assert control.fails("bdev_wait_for_examine", name="x") == (
        -32602,
        "bdev_wait_for_examine requires no parameters",
    )


# Create and delete


@pytest.mark.rule("A.5.1", "A.20.11")
def test_create_answers_the_name(control):
    assert control.malloc() == "Disk"
    assert control.call("bdev_malloc_create", num_blocks=8, block_size=512) == "Malloc0"
    assert control.passthru() == "Top"
    assert control.passthru(name="Waits", base="Absent") == "Waits"
    assert control.names() == ["Disk", "Malloc0", "Top"]
    assert control.call("bdev_passthru_delete", name="Top") is True
    assert control.call("bdev_passthru_delete", name="Waits") is True
    assert control.call("bdev_malloc_delete", name="Disk") is True


MALLOC = {"name": "New", "num_blocks": 8, "block_size": 512}
PASSTHRU = {"name": "New", "base_bdev_name": "Disk"}
INVALID = (-22, "Invalid argument")
NO_DEVICE = (-19, "No such device")
EXISTS = (-17, "File exists")
CLAIMED = (-1, "Operation not permitted")
UNDECODED = DECODE_OBJECT_FAILED
FAILURES = [
    ("bdev_malloc_create", {**MALLOC, "num_blocks": 0}, INVALID, "num_blocks is 0"),
    ("bdev_malloc_create", {**MALLOC, "block_size": 100}, INVALID, "block_size 100"),
    ("bdev_malloc_create", {**MALLOC, "physical_block_size": 1}, INVALID, "physical_block_size"),
    ("bdev_malloc_create", {**MALLOC, "block_size": "512"}, UNDECODED, "block_size: expected int"),
    ("bdev_malloc_create", {**MALLOC, "colour": 1}, UNDECODED, "colour: unknown parameter"),
    ("bdev_malloc_create", {"name": "New", "block_size": 512}, UNDECODED, "num_blocks: required"),
    ("bdev_malloc_create", {**MALLOC, "uuid": "nonsense"}, UNDECODED, "uuid"),
    ("bdev_malloc_create", {**MALLOC, "name": "Disk"}, EXISTS, "<malloc bdev Disk>"),
    ("bdev_malloc_create", {**MALLOC, "uuid": U1}, EXISTS, U1),
    ("bdev_null_create", {**MALLOC, "block_size": 0}, INVALID, "block_size 0"),
    ("bdev_null_create", {"name": "New"}, UNDECODED, "required"),
    ("bdev_passthru_create", {**PASSTHRU, "name": "Top"}, EXISTS, "configured"),
    ("bdev_passthru_create", {**PASSTHRU, "name": "Disk"}, EXISTS, "Disk"),
    ("bdev_passthru_create", {**PASSTHRU, "name": "Free"}, EXISTS, "Free"),
    ("bdev_passthru_create", {**PASSTHRU, "base_bdev_name": "Free", "uuid": U1}, EXISTS, U1),
    ("bdev_passthru_create", PASSTHRU, CLAIMED, "passthru vbdev Top"),
    ("bdev_passthru_create", {"name": "New"}, UNDECODED, "base_bdev_name: required"),
    ("bdev_passthru_create", {**PASSTHRU, "base_bdev_name": 1}, UNDECODED, "expected str"),
    ("bdev_malloc_delete", {"name": "Nobody"}, NO_DEVICE, "Nobody"),
    ("bdev_malloc_delete", {"name": "Top"}, NO_DEVICE, "is a passthru bdev"),
    ("bdev_passthru_delete", {"name": "Disk"}, NO_DEVICE, "is a malloc bdev"),
    ("bdev_passthru_delete", {}, UNDECODED, "name: required"),
    ("bdev_null_delete", {"name": "Disk", "force": True}, UNDECODED, "force"),
    (
        "bdev_aio_create",
        {"name": "New", "filename": "/nowhere/at/all"},
        (-2, "No such file or directory"),
        "/nowhere/at/all",
    ),
    (
        "bdev_uring_create",
        {"name": "New", "filename": "/nowhere/at/all"},
        (-32603, "Unable to create URING bdev."),
        "/nowhere/at/all",
    ),
    ("bdev_nothing_create", {}, (-32601, "Method not found"), "bdev_nothing_create"),
]


@pytest.mark.parametrize(("method", "params", "failure", "detail"), FAILURES)
def test_failures(control, method, params, failure, detail):
    """Codes and texts, a detail that helps, and nothing changed by the attempt."""
    control.malloc(uuid=U1)
    control.malloc(name="Free")
    control.passthru()
    before = control.call("bdev_get_bdevs"), control.registry.config()
    assert control.fails(method, params) == failure
    assert detail in control.detail
    assert (control.call("bdev_get_bdevs"), control.registry.config()) == before


@pytest.mark.rule("D.2")
def test_fault_02_a_taken_name_is_an_answer(control):
    """Creating a passthru under the name of an existing bdev: -17, alive, base unclaimed."""
    control.malloc()
    control.malloc(name="Other")
    for name in ("Other", "Disk"):
        assert control.fails("bdev_passthru_create", name=name, base_bdev_name="Disk") == EXISTS
    assert [bdev["claimed"] for bdev in control.call("bdev_get_bdevs")] == [False, False]
    assert control.passthru() == "Top"


@pytest.mark.rule("D.3", "D.4")
def test_fault_03_and_04_the_second_on_a_base(control):
    control.malloc()
    control.passthru()
    assert control.fails("bdev_passthru_create", name="Two", base_bdev_name="Disk") == CLAIMED
    assert control.fails("bdev_passthru_delete", name="Two") == NO_DEVICE
    control.call("bdev_passthru_delete", name="Top")
    assert control.passthru(name="Two") == "Two"


@pytest.mark.rule("D.14")
def test_fault_14_decode_errors_are_spdks(control):
    """-32603 and this text is what scripts know; the field is in the error's data."""
    assert control.fails("bdev_passthru_create", name="Top") == UNDECODED
    assert control.detail == "base_bdev_name: required, and missing"


@pytest.mark.rule("A.7.14", "A.27.5")
def test_deleting_a_base_takes_its_stack_along(control):
    control.malloc()
    for name, base in (("P1", "Disk"), ("P2", "P1"), ("P3", "P2")):
        control.passthru(name, base)
    top = control.stack.open("P3")
    top.io(Op.WRITE, 0, 1, bytes(512))
    control.call("bdev_malloc_delete", name="Disk")
    assert control.names() == []
    assert top not in control.stack.descriptors
    control.malloc()
    assert control.names() == ["Disk", "P1", "P2", "P3"]


def test_delete_twice(control):
    disk = control.stack.disk(Stub)
    control.stack.open("Disk").submit(Op.READ)
    first = control.stack.reactor.spawn(
        control.dispatcher.call("bdev_stub_delete", {"name": "Disk"})
    )
    control.stack.settle()
    assert control.fails("bdev_stub_delete", name="Disk") == (-16, "Device or resource busy")
    assert "held by test" in control.detail
    disk.complete()
    control.stack.settle()
    assert first.result() is True
    assert control.fails("bdev_stub_delete", name="Disk") == NO_DEVICE


def test_the_stack_as_a_tree(control):
    control.malloc()
    control.passthru()
    control.passthru(name="Waits", base="Absent")
    opened = control.stack.open("Top", holder="somebody")
    disk, top, waits = control.call("vbdev_get_stack")
    assert (disk["base"], disk["claim"]) == (None, "passthru vbdev Top")
    assert (top["base"], top["holders"], top["state"]) == ("Disk", ["somebody"], "ready")
    assert (waits["base"], waits["state"]) == ("Absent", "waiting for its base")
    opened.close()


def test_the_stack_tells_data_from_metadata(control):
    control.call(
        "bdev_malloc_create", name="Md", num_blocks=8, block_size=512, md_size=8, md_interleave=True
    )
    control.malloc(num_blocks=8192)
    control.call(
        "bdev_zone_block_create",
        name="Z",
        base_bdev="Disk",
        zone_capacity=1000,
        optimal_open_zones=1,
    )
    assert lines(control.call("vbdev_get_stack")) == [
        "Md  malloc  4 KiB  (8 x 512 + 8 B)",
        "Disk  malloc  4 MiB  (8192 x 512 B)  claimed by zone_block vbdev Z",
        "  Z  zone_block  4 MiB  (8192 x 512 B)  zones of 1024 blocks",
    ]


# Configuration


@pytest.mark.rule("A.22.6", "A.22.11", "A.20.1", "A.22.5")
def test_configuration_comes_back_byte_for_byte(control, tmp_path):
    control.passthru(name="P2", base=U1)  # before its base, by a UUID
    control.malloc(uuid=U1, physical_block_size=4096)
    control.call("bdev_malloc_create", num_blocks=8, block_size=4096)
    control.call("bdev_null_create", name="Null0", num_blocks=1 << 40, block_size=512)
    control.passthru(name="P1", base="Null0", uuid=U2)
    control.passthru(name="P3", base="P1")
    control.passthru(name="Waits", base="Absent")
    told = [{**bdev, "claimed": None} for bdev in control.call("bdev_get_bdevs")]

    def save(registry):
        config = [{"subsystem": "bdev", "config": registry.config()}]
        return json.dumps({"subsystems": config}, indent=2)

    saved = save(control.registry)
    path = tmp_path / "config.json"
    path.write_text(saved)
    again = Control()
    for call in load_config(str(path)):
        again.call(call.method, call.params)
    assert save(again.registry) == saved
    assert len(again.registry.creations) == 4
    by_name = {bdev["name"]: {**bdev, "claimed": None} for bdev in again.call("bdev_get_bdevs")}
    assert by_name == {bdev["name"]: bdev for bdev in told}
    again.stack.close()
