"""gpt: partitions found on a disk, and tables written to one.

Method: black-box, on the real clock where a file is behind it. Tables come from sfdisk and nbdkit
where they are installed, from `vbdev.wire.gpt` otherwise; what was written is shown to sfdisk,
sgdisk and blkid. How bytes become tables is tested in tests/wire/test_gpt.py.
"""

import json
import uuid

import pytest

from support.clients import requires, run
from support.control import CLAIMED, EXISTS, INVALID, INVALID_PARAMETERS, NO_DEVICE, Control
from vbdev.api.methods import RpcError
from vbdev.bdev import BdevEvent
from vbdev.modules.gpt import module
from vbdev.modules.passthru import Passthru
from vbdev.reactor.task import Future
from vbdev.testing import Stub
from vbdev.vocab import Op, Status
from vbdev.wire import gpt

SPDK = uuid.UUID("6527994e-2c5a-4eec-9613-8f5944074e8b")
SPDK_OLD = uuid.UUID("7c5222bd-8f5d-4087-9c00-bf9843c7b58c")
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
DISK = uuid.UUID("11111111-2222-3333-4444-555555555555")
BLOCKS = 32768
NO_ENTRY = (-2, "No such file or directory")


@pytest.fixture
def control():
    made = Control(examine=True, real_clock=True)
    yield made
    made.stack.close()


def guid(number):
    return uuid.UUID(f"aaaaaaaa-0000-4000-8000-{number:012d}")


def partition(number, first, last, type_guid=SPDK, name=""):
    return gpt.Partition(number, type_guid, guid(number), first, last, name)


PARTS = [
    partition(1, 2048, 4095, name="one"),
    partition(2, 4096, 8191, LINUX, "not ours"),
    partition(5, 8192, 8192, SPDK_OLD, "größe"),
]


def image(path, partitions=PARTS, num_blocks=BLOCKS):
    """Write a disk image with a table."""
    disk = bytearray(num_blocks * 512)
    for lba, data in gpt.build_table(partitions, DISK, num_blocks, 512):
        disk[lba * 512 : lba * 512 + len(data)] = data
    path.write_bytes(disk)
    return path


def attach(control, path, name="Disk"):
    """Make a bdev of an image, and wait until it has been looked at; return the bdevs' names."""
    control.call("bdev_aio_create", name=name, filename=str(path), block_size=512)
    control.settle_examination()
    return control.names()


def damage(path, *lbas):
    """Change a byte in each of these blocks."""
    with path.open("r+b") as file:
        for lba in lbas:
            file.seek(lba * 512 + 24)
            byte = file.read(1)[0]
            file.seek(lba * 512 + 24)
            file.write(bytes([byte ^ 0xFF]))


# Finding


@pytest.mark.rule("A.5.9", "A.20.8", "A.20.11", "A.4.5", "E.gpt_ut.test_parse_mbr_and_primary")
def test_partitions_of_spdks_types_become_bdevs(control, tmp_path):
    assert attach(control, image(tmp_path / "disk")) == ["Disk", "Diskp1", "Diskp5"]
    told = control.told("Diskp5")
    assert (told["product_name"], told["num_blocks"]) == ("GPT Disk", 1)
    assert (told["uuid"], told["aliases"]) == (str(guid(5)), [str(guid(5))])
    assert told["driver_specific"] == {
        "gpt": {
            "base_bdev": "Disk",
            "offset_blocks": 8192,
            "partition_table_guid": str(DISK),
            "partition_type_guid": str(SPDK_OLD),
            "unique_partition_guid": str(guid(5)),
            "partition_name": "größe",
        }
    }
    base = control.registry.get("Disk")
    assert base.holders() == ["gpt partitions of Disk"]
    assert control.told("Disk")["claim_type"] == "exclusive_write"


def test_data_of_a_partition(control, tmp_path):
    path = image(tmp_path / "disk")
    attach(control, path)
    part = control.stack.open("Diskp1")
    assert part.io(Op.WRITE, 1, 1, b"x" * 512).status == Status.SUCCESS
    assert part.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    assert path.read_bytes()[2049 * 512 : 2050 * 512] == b"x" * 512


@pytest.mark.rule("A.26.9", "A.5.9", "A.5.10")
def test_they_go_and_come_with_their_disk(control, tmp_path):
    path = image(tmp_path / "disk")
    for _ in range(2):
        assert attach(control, path) == ["Disk", "Diskp1", "Diskp5"]
        opened = control.stack.open("Diskp1")
        control.call("bdev_aio_delete", name="Disk")
        assert control.names() == []
        assert opened.events == [BdevEvent.REMOVE]
    assert control.registry.config() == []


@pytest.mark.rule("E.gpt_ut.test_parse_secondary")
@pytest.mark.parametrize("lba", [1, 2])
def test_a_damaged_primary_table(control, tmp_path, caplog, lba):
    path = image(tmp_path / "disk")
    damage(path, lba)
    assert attach(control, path) == ["Disk", "Diskp1", "Diskp5"]
    assert "damaged table bdev=Disk" in caplog.text
    assert "primary table" in caplog.text


def test_a_damaged_secondary_table_is_told(control, tmp_path, caplog):
    path = image(tmp_path / "disk")
    damage(path, BLOCKS - 1)
    assert attach(control, path) == ["Disk", "Diskp1", "Diskp5"]
    assert "secondary table: header CRC" in caplog.text


@pytest.mark.rule("E.gpt_ut.test_check_mbr", "E.gpt_ut.test_read_header")
def test_no_table(control, tmp_path, caplog):
    path = image(tmp_path / "disk")
    damage(path, 1, BLOCKS - 1)
    assert attach(control, path) == ["Disk"]
    assert "no table bdev=Disk" in caplog.text
    assert control.told("Disk")["claimed"] is False
    caplog.clear()
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(64 * 512))
    assert attach(control, empty, "Empty") == ["Disk", "Empty"]
    assert caplog.text == ""


@pytest.mark.rule("E.gpt_ut.test_check_mbr")
def test_left_overs_on_a_disk_partitioned_the_old_way(control, tmp_path):
    path = image(tmp_path / "disk")
    with path.open("r+b") as file:
        file.seek(446 + 4)
        file.write(b"\x83")
    assert attach(control, path) == ["Disk"]


@pytest.mark.rule("E.gpt_ut.test_read_partitions")
def test_partitions_that_can_not_be_are_left_out(control, tmp_path, caplog):
    bad = [*PARTS, partition(6, 2050, 2060), partition(7, 32760, 32767), partition(8, 9000, 9001)]
    path = image(tmp_path / "disk", bad)
    assert attach(control, path) == ["Disk", "Diskp5", "Diskp8"]
    assert "partition 1 overlaps partition 6" in caplog.text
    assert "partition 7 has LBAs 32760 to 32767" in caplog.text


def test_a_taken_name_leaves_the_other_partitions(control, tmp_path, caplog):
    control.call("bdev_null_create", name="Diskp1", num_blocks=8, block_size=512)
    assert attach(control, image(tmp_path / "disk")) == ["Diskp1", "Disk", "Diskp5"]
    assert "no bdev for a partition name=Diskp1" in caplog.text
    # A copy of a disk has the UUIDs of its original.
    copy = image(tmp_path / "copy")
    assert attach(control, copy, "Copy")[-1] == "Copyp1"


@pytest.mark.rule("A.4.6")
def test_a_claimed_disk_is_left_alone(control, tmp_path):
    waiting = {"name": "Top", "base_bdev_name": "Disk"}
    control.call("bdev_passthru_create", **waiting)
    assert attach(control, image(tmp_path / "disk")) == ["Disk", "Top", "Topp1", "Topp5"]


def test_a_disk_that_goes_while_it_is_looked_at(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=1024)
    control.stack.settle()
    assert stub.arrived == [(Op.READ, 0, 1)]
    removal = control.stack.reactor.spawn(control.registry.delete("Disk", "stub"))
    control.stack.settle()
    assert not removal.done
    while not removal.done:
        stub.complete(None, Status.FAILED)
        control.stack.settle()
    assert control.names() == []


def test_a_disk_that_can_not_be_read(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=1024)
    control.stack.settle()
    stub.complete(None, Status.AIO_ERROR, 5)
    control.settle_examination()
    assert control.registry.get("Disk").holders() == []
    stub.ops -= {Op.READ}


def test_small_and_strange_disks(control):
    for name, params in (
        ("Tiny", {"num_blocks": 8, "block_size": 512}),
        ("Large", {"num_blocks": 64, "block_size": 4096}),
        ("Odd", {"num_blocks": 5000, "block_size": 1536}),
    ):
        control.call("bdev_malloc_create", name=name, **params)
    control.settle_examination()
    assert control.names() == ["Tiny", "Large", "Odd"]
    assert control.call("bdev_gpt_create", base_bdev="Large", partitions=[{}]) == ["Largep1"]
    assert control.told("Largep1")["num_blocks"] == 53
    assert control.fails("bdev_gpt_create", base_bdev="Tiny", partitions=[{}]) == INVALID
    assert "8 blocks" in control.detail
    assert control.call("bdev_gpt_create", base_bdev="Odd", partitions=[{"size_mb": 3}]) == [
        "Oddp1"
    ]
    assert control.told("Oddp1")["num_blocks"] == 2048


# Other types


def test_other_types_on_request(control, tmp_path):
    path = image(tmp_path / "disk")
    assert control.call("bdev_gpt_set_options", partition_types=[str(LINUX)]) is True
    assert attach(control, path) == ["Disk", "Diskp2"]
    control.call("bdev_aio_delete", name="Disk")
    assert control.call("bdev_gpt_set_options", any_type=True) is True
    assert attach(control, path) == ["Disk", "Diskp1", "Diskp2", "Diskp5"]


def test_options_look_at_unclaimed_disks_anew(control, tmp_path):
    path = image(tmp_path / "disk", [partition(1, 2048, 4095, LINUX)])
    assert attach(control, path) == ["Disk"]
    control.call("bdev_gpt_set_options", any_type=True)
    assert control.names() == ["Disk", "Diskp1"]
    assert control.fails("bdev_gpt_set_options", any_type=1) == INVALID_PARAMETERS
    assert control.fails("bdev_gpt_set_options", partition_types=["linux"]) == INVALID_PARAMETERS


@pytest.mark.rule("A.22.6")
def test_options_are_saved_and_load(control, tmp_path):
    path = image(tmp_path / "disk", [partition(1, 2048, 4095, LINUX)])
    control.call("bdev_gpt_set_options", any_type=True)
    attach(control, path)
    saved = control.registry.config()
    assert [call["method"] for call in saved] == ["bdev_gpt_set_options", "bdev_aio_create"]
    control.reload(tmp_path / "config.json")
    control.settle_examination()
    assert (control.registry.config(), control.names()) == (saved, ["Disk", "Diskp1"])


# Writing


def malloc(control, num_blocks=BLOCKS, **params):
    control.call(
        "bdev_malloc_create", name="Disk", num_blocks=num_blocks, **{"block_size": 512, **params}
    )
    control.settle_examination()


def test_create_and_delete(control):
    malloc(control)
    names = control.call(
        "bdev_gpt_create",
        base_bdev="Disk",
        disk_guid=str(DISK),
        partitions=[
            {"name": "boot", "size_mb": 2, "unique_guid": str(guid(1))},
            {"name": "other", "num_blocks": 100, "type_guid": str(LINUX)},
            {"name": "rest"},
        ],
    )
    assert names == ["Diskp1", "Diskp3"]
    boot, rest = control.told("Diskp1"), control.told("Diskp3")
    assert (boot["uuid"], boot["num_blocks"]) == (str(guid(1)), 4096)
    assert boot["driver_specific"]["gpt"]["offset_blocks"] == 2048
    assert rest["driver_specific"]["gpt"]["offset_blocks"] == 8192
    assert rest["driver_specific"]["gpt"]["partition_table_guid"] == str(DISK)
    assert rest["num_blocks"] == BLOCKS - 33 - 8192
    opened = control.stack.open("Diskp3")
    assert control.call("bdev_gpt_delete", base_bdev="Disk") is True
    assert opened.events == [BdevEvent.REMOVE]
    assert control.names() == ["Disk"]
    assert control.told("Disk")["claimed"] is False
    assert control.fails("bdev_gpt_delete", base_bdev="Disk") == NO_ENTRY
    reader = control.stack.open("Disk", write=False)
    for lba in (0, 1, BLOCKS - 1):
        block = bytearray(b"?" * 512)
        reader.io(Op.READ, lba, 1, block)
        assert block == bytes(512)


def test_an_empty_table(control):
    malloc(control)
    assert control.call("bdev_gpt_create", base_bdev="Disk", partitions=[]) == []
    assert control.told("Disk")["claimed"] is False
    assert control.call("bdev_gpt_delete", base_bdev="Disk") is True


def test_a_table_is_not_lost_by_mistake(control):
    malloc(control)
    create = {"base_bdev": "Disk", "partitions": [{"type_guid": str(LINUX)}]}
    control.call("bdev_gpt_create", **create)
    assert control.fails("bdev_gpt_create", **create) == EXISTS
    assert "overwrite" in control.detail
    new = {"base_bdev": "Disk", "partitions": [{"size_mb": 1}], "overwrite": True}
    assert control.call("bdev_gpt_create", **new) == ["Diskp1"]
    assert control.fails("bdev_gpt_create", **new) == CLAIMED
    assert control.names() == ["Disk", "Diskp1"]


@pytest.mark.parametrize(
    ("partitions", "says"),
    [
        ([{"size_mb": 16}], "does not fit"),
        ([{"num_blocks": 2**62}], "does not fit"),
        ([{}, {}], "has no size"),
        ([{"size_mb": 1, "num_blocks": 1}], "both"),
        ([{"name": "x" * 37}], "longer than 36"),
        ([{"size_mb": 8}, {"size_mb": 8}], "partition 2"),
        ([{"num_blocks": 1}] * 17, "does not fit"),
    ],
)
def test_tables_that_can_not_be(control, partitions, says):
    malloc(control)
    assert control.fails("bdev_gpt_create", base_bdev="Disk", partitions=partitions) == INVALID
    assert says in control.detail
    assert control.told("Disk")["claimed"] is False
    block = bytearray(512)
    control.stack.open("Disk", write=False).io(Op.READ, 1, 1, block)
    assert block == bytes(512)


def test_more_partitions_than_a_table_has(control):
    malloc(control, num_blocks=300 * 2048)
    partitions = [{"num_blocks": 1}] * 128
    created = control.call("bdev_gpt_create", base_bdev="Disk", partitions=partitions)
    assert len(created) == 128
    control.call("bdev_gpt_delete", base_bdev="Disk")
    wrong = {"base_bdev": "Disk", "partitions": [{"num_blocks": 1}] * 129}
    assert control.fails("bdev_gpt_create", **wrong) == INVALID
    assert "128" in control.detail


def test_failures(control):
    assert control.fails("bdev_gpt_create", base_bdev="No", partitions=[]) == NO_DEVICE
    assert control.fails("bdev_gpt_delete", base_bdev="No") == NO_DEVICE
    malloc(control)
    for params in (
        {"base_bdev": "Disk"},
        {"base_bdev": "Disk", "partitions": [{"size_mb": 0}]},
        {"base_bdev": "Disk", "partitions": [{"type_guid": "linux"}]},
        {"base_bdev": "Disk", "partitions": [{"colour": "red"}]},
    ):
        assert control.fails("bdev_gpt_create", **params) == INVALID_PARAMETERS
    control.stack.layer(Passthru, name="Top")
    assert control.fails("bdev_gpt_create", base_bdev="Disk", partitions=[]) == CLAIMED
    control.registry.get("Top").write_unit_size = 8
    assert control.fails("bdev_gpt_create", base_bdev="Top", partitions=[]) == INVALID
    control.registry.get("Top").zoned = True
    assert control.fails("bdev_gpt_create", base_bdev="Top", partitions=[]) == INVALID


# Real tools


@pytest.mark.client
def test_what_was_created_is_what_tools_see(control, tmp_path):
    requires("sfdisk", "sgdisk", "blkid")
    path = tmp_path / "disk"
    path.write_bytes(bytes(32 << 20))
    attach(control, path)
    control.call(
        "bdev_gpt_create",
        base_bdev="Disk",
        disk_guid=str(DISK),
        partitions=[{"name": "größe", "size_mb": 4}, {"type_guid": str(LINUX)}],
    )
    control.call("bdev_aio_delete", name="Disk")
    assert "No problems found" in run("sgdisk", "--verify", path)
    table = json.loads(run("sfdisk", "--json", path))["partitiontable"]
    assert (table["label"], table["id"].lower()) == ("gpt", str(DISK))
    assert [(p["start"], p["size"], p["type"].lower()) for p in table["partitions"]] == [
        (2048, 8192, str(SPDK)),
        (10240, 65536 - 33 - 10240, str(LINUX)),
    ]
    assert table["partitions"][0]["name"] == "größe"
    assert 'PTTYPE="gpt"' in run("blkid", "--probe", path)


@pytest.mark.client
def test_what_sfdisk_made_is_found(control, tmp_path):
    requires("sfdisk")
    path, script = tmp_path / "disk", tmp_path / "script"
    path.write_bytes(bytes(32 << 20))
    script.write_text(
        f"label: gpt\nsize=4MiB, type={SPDK}, uuid={guid(1)}, name=one\n"
        f"size=4MiB\nsize=8MiB, type={SPDK_OLD}, uuid={guid(3)}\n"
    )
    run("sh", "-c", f"sfdisk --quiet {path} < {script}")
    assert attach(control, path) == ["Disk", "Diskp1", "Diskp3"]
    assert control.told("Diskp3")["uuid"] == str(guid(3))
    assert control.told("Diskp1")["num_blocks"] == 8192
    control.call("bdev_gpt_set_options", any_type=True)
    assert control.names() == ["Disk", "Diskp1", "Diskp3"]  # claimed disks keep what they have


@pytest.mark.client
def test_what_nbdkit_makes_is_found(control, tmp_path):
    requires("nbdkit", "nbdcopy")
    parts = []
    for number in (1, 2):
        part = tmp_path / f"part{number}"
        part.write_bytes(bytes([number]) * (2 << 20))
        parts += [f"type-guid={SPDK}", f"file={part}"]
    path = tmp_path / "disk"
    path.touch()
    run(
        *("nbdkit", "--exit-with-parent", "-U", "-", "partitioning", "partition-type=gpt"),
        *parts,
        *("--run", f'nbdcopy "$uri" {path}'),
    )
    assert attach(control, path) == ["Disk", "Diskp1", "Diskp2"]
    data = bytearray(2 << 20)
    part = control.stack.open("Diskp2", write=False)
    for piece in range(0, 4096, 128):
        view = memoryview(data)[piece * 512 : (piece + 128) * 512]
        assert part.io(Op.READ, piece, 128, view).status == Status.SUCCESS
    assert data == b"\2" * (2 << 20)


def test_a_table_that_is_erased_while_somebody_looks_at_it_makes_no_bdevs(control, monkeypatch):
    """What was seen before nobody else could write any more does not count."""
    control.malloc(num_blocks=BLOCKS)
    control.call("bdev_gpt_create", base_bdev="Disk", partitions=[{}])
    control.stack.run(control.registry.unregister(control.registry.get("Diskp1")))
    over, real = Future(), module.look

    async def slow(descriptor):
        table = await real(descriptor)
        await over
        return table

    monkeypatch.setattr(module, "look", slow)
    looking = control.stack.reactor.spawn(
        control.dispatcher.call("bdev_gpt_set_options", {"any_type": True})
    )
    control.stack.settle()
    assert control.call("bdev_gpt_delete", base_bdev="Disk") is True
    with control.stack.reactor.here():
        over.set_result(None)
    control.stack.settle()
    assert looking.result() is True
    assert control.names() == ["Disk"]
    assert control.registry.get("Disk").holders() == []


def test_two_who_delete_a_table_do_not_trip_over_its_parts(control):
    """The second one waits for the removals that the first one has begun."""
    control.malloc(num_blocks=BLOCKS)
    control.call("bdev_gpt_create", base_bdev="Disk", partitions=[{"size_mb": 1}, {}])
    opened = control.stack.open("Diskp2")
    read = opened.submit(Op.READ, 0, 1, bytearray(512))
    deleting = [
        control.stack.reactor.spawn(
            control.dispatcher.call("bdev_gpt_delete", {"base_bdev": "Disk"})
        )
        for _ in range(2)
    ]
    for one in deleting:
        one.add_done_callback(lambda _task: None)
    control.stack.turn_until(lambda: all(one.done for one in deleting))
    assert read.done
    assert control.names() == ["Disk"]
    assert deleting[0].result() is True
    with pytest.raises(RpcError) as caught:
        deleting[1].result()
    assert (caught.value.code, caught.value.message) in (NO_ENTRY, CLAIMED)
