"""split, and what its parts share with those of gpt: one claim, moved offsets, one life.

Method: black-box, through the RPC methods and through opened parts over malloc, or over a stub
where what arrives below matters.
"""

import struct
import uuid

import pytest

from support.control import CLAIMED, INVALID_PARAMETERS, Control
from vbdev.bdev import BdevError, BdevEvent
from vbdev.bdev.entry import entry_of
from vbdev.bdev.part import PART_NAMESPACE
from vbdev.modules.passthru import Passthru
from vbdev.modules.split import MAX_PARTS, Split
from vbdev.testing import Stub, layer
from vbdev.vocab import IoFlag, Op, Status

BASE_UUID = "2f7a0c6e-9c1c-4d05-8a7e-0f5d6c1b9a33"


@pytest.fixture
def control():
    made = Control()
    yield made
    made.stack.close()


def disk(control, name="Disk", num_blocks=1024, **params):
    wanted = {"block_size": 512, "uuid": BASE_UUID, **params}
    given = {field: value for field, value in wanted.items() if value is not None}
    control.call("bdev_malloc_create", name=name, num_blocks=num_blocks, **given)


def split(control, base="Disk", count=4, **params):
    return control.call("bdev_split_create", base_bdev=base, split_count=count, **params)


def failure(control, count, base="Disk", **params):
    """Return the reason that a refused creation gives; nothing may be left of it."""
    before = control.names(), control.registry.config()
    code, text = control.fails("bdev_split_create", base_bdev=base, split_count=count, **params)
    start = f"Failed to create {count} split bdevs from '{base}': "
    assert code == -32602
    assert text.startswith(start)
    assert (control.names(), control.registry.config()) == before
    return text.removeprefix(start)


# Creation


@pytest.mark.rule("A.27.27", "A.26.3", "A.20.6", "A.20.11")
def test_by_count(control):
    disk(control, num_blocks=1027)
    assert split(control) == ["Diskp0", "Diskp1", "Diskp2", "Diskp3"]
    for index in range(4):
        told = control.told(f"Diskp{index}")
        assert told["num_blocks"] == 256
        assert told["product_name"] == "Split Disk"
        assert told["driver_specific"] == {
            "split": {"base_bdev": "Disk", "offset_blocks": index * 256}
        }
        name = uuid.UUID(BASE_UUID).bytes + struct.pack("<QQ", index * 256, 256)
        assert told["uuid"] == str(uuid5(PART_NAMESPACE, name))
        assert told["aliases"] == [told["uuid"]]
    base = control.told("Disk")
    assert (base["claimed"], base["claim_type"]) == (True, "exclusive_write")


def uuid5(namespace, name):
    """Return a version 5 UUID of bytes (uuid.uuid5 takes them from Python 3.12 on)."""
    import hashlib

    digest = hashlib.sha1(namespace.bytes + name).digest()
    return uuid.UUID(bytes=digest[:16], version=5)


@pytest.mark.rule("A.27.27")
def test_by_size(control):
    disk(control, num_blocks=10 * 2048)
    assert split(control, count=3, split_size_mb=2) == ["Diskp0", "Diskp1", "Diskp2"]
    assert [control.told(f"Diskp{i}")["num_blocks"] for i in range(3)] == [4096] * 3


@pytest.mark.rule("A.27.28")
def test_more_than_fit_by_size_are_left_out(control, caplog):
    disk(control, num_blocks=10 * 2048)
    assert split(control, count=9, split_size_mb=3) == ["Diskp0", "Diskp1", "Diskp2"]
    assert "asked=9 fitting=3" in caplog.text


@pytest.mark.rule("A.27.28", "A.27.29", "Dd.4", "Dd.6")
def test_what_can_not_be_split(control):
    disk(control, num_blocks=100)
    disk(control, "Odd", block_size=1536, uuid=None, num_blocks=10000)
    assert failure(control, 0) == "Invalid argument"
    assert failure(control, 0, base="Absent") == "Invalid argument"
    assert failure(control, 101) == "Invalid argument"
    assert "100 blocks" in control.detail
    assert failure(control, 2**32 - 1) == "Invalid argument"
    assert failure(control, 1, base="Odd", split_size_mb=1) == "Invalid argument"
    assert "1536" in control.detail
    for size in (1, 2**43, 2**44, 2**62):  # in bytes, 2^44 MiB is a multiple of 2^64
        assert failure(control, 4, split_size_mb=size) == "Invalid argument"
    assert split(control, count=100)[-1] == "Diskp99"


def test_parameters(control):
    for params in (
        {},
        {"base_bdev": "Disk"},
        {"base_bdev": "Disk", "split_count": -1},
        {"base_bdev": "Disk", "split_count": 2**32},
        {"base_bdev": "Disk", "split_count": 1, "name": "Part"},
        {"base_bdev": "Disk", "split_count": 1, "split_size_mb": 2**64},
    ):
        assert control.fails("bdev_split_create", **params) == INVALID_PARAMETERS
    assert control.fails("bdev_split_delete", name="Disk") == INVALID_PARAMETERS


def test_more_parts_than_a_base_may_have(control):
    """A null disk of exbibytes has room for as many parts as memory has not."""
    control.call("bdev_null_create", name="Disk", num_blocks=1 << 50, block_size=512)
    assert failure(control, MAX_PARTS + 1) == "Invalid argument"
    assert failure(control, 2**32 - 1, split_size_mb=1) == "Invalid argument"
    assert len(split(control, count=MAX_PARTS)) == MAX_PARTS


@pytest.mark.rule("Dd.5", "Dd.6")
@pytest.mark.parametrize("taken", ["Diskp0", "Diskp2", "Diskp3"])
def test_a_taken_name_leaves_no_part(control, taken):
    disk(control)
    disk(control, taken, uuid=None)
    assert failure(control, 4) == "File exists"
    assert taken in control.detail
    assert control.told("Disk")["claimed"] is False
    control.call("bdev_malloc_delete", name=taken)
    assert len(split(control)) == 4


@pytest.mark.rule("Dd.5")
def test_a_taken_uuid_leaves_no_part(control):
    disk(control)
    split(control)
    third = control.told("Diskp2")["uuid"]
    control.call("bdev_split_delete", base_bdev="Disk")
    disk(control, "Other", uuid=third)
    assert failure(control, 4) == "File exists"
    assert control.names() == ["Disk", "Other"]


@pytest.mark.rule("Dd.6", "D.3")
def test_a_claimed_base_says_so(control):
    disk(control)
    control.stack.layer(Passthru, name="Top")
    assert failure(control, 2) == CLAIMED[1]
    assert "passthru vbdev Top" in control.detail
    control.stack.delete("Top")
    split(control)
    assert failure(control, 2) == "File exists"


# One base for all


@pytest.mark.rule("A.26.1", "A.26.2", "E.part_ut.part_test", "E.part_ut.part_free_test")
def test_parts_share_one_open_and_one_claim(control):
    disk(control)
    split(control)
    base = control.registry.get("Disk")
    assert base.holders() == ["split vbdevs of Disk"]
    for index in range(3):
        control.stack.run(control.registry.unregister(control.registry.get(f"Diskp{index}")))
        assert entry_of(base).claim is not None
    control.stack.run(control.registry.unregister(control.registry.get("Diskp3")))
    assert entry_of(base).claim is None
    assert base.holders() == []


@pytest.mark.rule("A.26.1", "E.part_ut.part_get_io_channel_test")
def test_parts_channels_are_channels_of_the_one_open(control):
    disk(control)
    split(control, count=2)
    one, two = (control.stack.open(f"Diskp{index}") for index in range(2))
    (descriptor,) = entry_of(control.registry.get("Disk")).openers
    assert one.channel.base is two.channel.base
    assert one.channel.base is descriptor.get_channel()


@pytest.mark.rule("A.26.9", "A.5.4", "A.5.5", "A.5.10")
def test_parts_go_and_come_with_their_base(control):
    assert split(control) == []
    assert control.names() == []
    ids = []
    for _ in range(2):
        disk(control)
        assert control.names() == ["Disk", "Diskp0", "Diskp1", "Diskp2", "Diskp3"]
        ids.append([control.told(f"Diskp{index}")["uuid"] for index in range(4)])
        opened = control.stack.open("Diskp2")
        control.call("bdev_malloc_delete", name="Disk")
        assert control.names() == []
        assert opened.events == [BdevEvent.REMOVE]
    assert ids[0] == ids[1]
    control.call("bdev_split_delete", base_bdev="Disk")


@pytest.mark.rule("A.5.11", "A.5.12", "D.5", "D.7")
def test_a_split_that_waits_can_be_deleted_and_knows_its_base_by_uuid(control):
    assert split(control) == []
    assert control.call("bdev_split_delete", base_bdev="Disk") is True
    disk(control)
    assert control.names() == ["Disk"]
    control.call("bdev_malloc_delete", name="Disk")
    assert split(control, base=BASE_UUID, count=2) == []
    disk(control)
    assert control.names() == ["Disk", f"{BASE_UUID}p0", f"{BASE_UUID}p1"]


def test_delete(control):
    disk(control)
    split(control)
    opened = control.stack.open("Diskp1")
    assert control.fails("bdev_split_delete", base_bdev="Other") == (
        -32602,
        "No such file or directory",
    )
    assert control.call("bdev_split_delete", base_bdev="Disk") is True
    assert control.names() == ["Disk"]
    assert opened.events == [BdevEvent.REMOVE]
    assert control.told("Disk")["claimed"] is False
    assert split(control, count=2) == ["Diskp0", "Diskp1"]


@pytest.mark.rule("D.6", "A.22.6")
def test_the_wish_is_saved_and_loads(control, tmp_path):
    disk(control)
    split(control, count=3)
    split(control, base="Absent", count=2, split_size_mb=7)
    calls = [c["params"] for c in control.registry.config() if c["method"] == "bdev_split_create"]
    assert calls == [
        {"base_bdev": "Disk", "split_count": 3, "split_size_mb": 0},
        {"base_bdev": "Absent", "split_count": 2, "split_size_mb": 7},
    ]
    saved, names = control.registry.config(), control.names()
    control.reload(tmp_path / "config.json")
    assert (control.registry.config(), control.names()) == (saved, names)


@pytest.mark.rule("A.5.4")
def test_asked_for_again_after_a_hot_removal(control):
    """In SPDK the wish has ended then: scripts ask for the same again, and for something else."""
    disk(control)
    four = [f"Diskp{index}" for index in range(4)]
    assert split(control) == four
    assert failure(control, 4) == "File exists"  # twice on one base is a mistake there too
    control.call("bdev_malloc_delete", name="Disk")
    assert split(control) == []
    assert failure(control, 4) == "File exists"
    disk(control)
    assert control.names() == ["Disk", *four]
    assert failure(control, 4) == "File exists"
    control.call("bdev_malloc_delete", name="Disk")
    disk(control)
    assert split(control) == four
    assert failure(control, 4) == "File exists"
    control.call("bdev_malloc_delete", name="Disk")
    assert split(control, count=2) == []
    disk(control)
    assert control.names() == ["Disk", "Diskp0", "Diskp1"]
    control.call("bdev_malloc_delete", name="Disk")
    disk(control)
    assert failure(control, 3) == "File exists"  # two are there, and perhaps in use
    assert split(control, count=2) == ["Diskp0", "Diskp1"]


# I/O


def pattern(seed, blocks):
    return bytes((seed * 31 + n * 7 + n // 512) % 256 for n in range(blocks * 512))


@pytest.mark.rule("A.26.4", "A.26.10")
def test_data_stays_in_its_part(control):
    disk(control, num_blocks=40)
    split(control, count=4)
    parts = [control.stack.open(f"Diskp{index}") for index in range(4)]
    expected = [pattern(index, 10) for index in range(4)]
    for part, data in zip(parts, expected, strict=True):
        assert part.io(Op.WRITE, 0, 10, data).status == Status.SUCCESS
    base = control.stack.open("Disk", write=False)
    whole = bytearray(40 * 512)
    base.io(Op.READ, 0, 40, whole)
    assert whole == b"".join(expected)
    part = parts[2]
    assert part.io(Op.UNMAP, 1, 2).status == Status.SUCCESS
    assert part.io(Op.WRITE_ZEROES, 4, 1).status == Status.SUCCESS
    assert part.io(Op.COPY, 7, 2, src_offset_blocks=5).status == Status.SUCCESS
    mine = bytearray(expected[2])
    mine[512:1536] = bytes(1024)
    mine[2048:2560] = bytes(512)
    mine[7 * 512 : 9 * 512] = mine[5 * 512 : 7 * 512]
    assert part.io(Op.COMPARE, 0, 10, bytes(mine)).status == Status.SUCCESS
    base.io(Op.READ, 0, 40, whole)
    assert whole == expected[0] + expected[1] + bytes(mine) + expected[3]


@pytest.mark.rule("A.26.10")
def test_a_part_ends_where_it_ends(control):
    disk(control, num_blocks=40)
    split(control, count=4)
    part = control.stack.open("Diskp1")
    for op in (Op.READ, Op.UNMAP, Op.WRITE_ZEROES, Op.COPY):
        for offset, count in ((9, 2), (10, 1), (0, 11), (2**64 - 5, 5), (2**64 - 10, 1)):
            assert part.io(op, offset, count).status == Status.FAILED
    assert part.io(Op.COPY, 0, 2, src_offset_blocks=9).status == Status.FAILED


@pytest.mark.rule("A.26.4")
def test_seeks_answer_in_the_parts_own_blocks(control):
    disk(control, num_blocks=4096)
    split(control, count=4)
    control.stack.open("Diskp2").io(Op.WRITE, 512, 8, bytes(8 * 512))
    part = control.stack.open("Diskp1")
    part.io(Op.WRITE, 256, 1, bytes(512))
    assert part.io(Op.SEEK_DATA, 0, 0).result == 256
    assert part.io(Op.SEEK_HOLE, 256, 0).result == 264  # malloc's pages have 8 blocks
    # The next data lies in another part.
    assert part.io(Op.SEEK_DATA, 600, 0).result == 2**64 - 1
    assert part.io(Op.SEEK_HOLE, 1023, 0).result == 1023


@pytest.mark.rule("Dd.3", "D.9")
@pytest.mark.parametrize("commit", [True, False])
def test_both_phases_of_a_zcopy(control, commit):
    disk(control, num_blocks=40)
    split(control, count=4)
    part = control.stack.open("Diskp3")
    part.io(Op.WRITE, 0, 10, b"a" * 5120)
    request = part.io(Op.ZCOPY, 2, 3, flags=IoFlag.ZCOPY_POPULATE)
    (data,) = request.zcopy_data
    assert data == b"a" * 1536
    data[:] = b"z" * 1536
    del data
    part.zcopy_end(request, commit=commit)
    assert request.status == Status.SUCCESS
    base = control.stack.open("Disk", write=False)
    found = bytearray(1536)
    base.io(Op.READ, 32, 3, found)
    assert found == b"z" * 1536  # malloc lends its own memory


def test_zcopy_phases_arrive_where_the_part_lies(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=40)
    split(control, count=4)
    part = control.stack.open("Diskp3")
    request = part.submit(Op.ZCOPY, 2, 3, flags=IoFlag.ZCOPY_POPULATE)
    control.stack.settle()
    stub.complete()
    control.stack.turn_until(lambda: request.done)
    part.requests.zcopy_end(request, True, None)
    control.stack.settle()
    assert stub.arrived == [(Op.ZCOPY, 32, 3)] * 2
    assert stub.held[0].flags.tolist() == [IoFlag.ZCOPY_END | IoFlag.ZCOPY_COMMIT]
    stub.complete()
    control.stack.turn_until(lambda: request.done)


@pytest.mark.rule("A.26.5")
def test_reset_and_flush_reach_the_base(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=40)
    split(control, count=4)
    part = control.stack.open("Diskp3")
    for op in (Op.FLUSH, Op.RESET):
        request = part.submit(op, 0, 0)
        control.stack.settle()
        assert [one[0] for one in stub.arrived] == [op]
        stub.arrived.clear()
        stub.complete()
        control.stack.turn_until(lambda request=request: request.done)
        assert request.status == Status.SUCCESS


def test_an_abort_finds_its_victim_below(control):
    stub = control.stack.disk(Stub, name="Disk", num_blocks=40)
    split(control, count=4)
    part = control.stack.open("Diskp3")
    victim = part.submit(Op.READ, 1, 1, bytearray(512))
    abort = part.submit(Op.ABORT, 0, 0, victim=victim)
    control.stack.settle()
    assert [one[0] for one in stub.arrived] == [Op.READ, Op.ABORT]
    stub.complete([0], Status.ABORTED)
    stub.complete([0])
    control.stack.turn_until(lambda: abort.done and victim.done)
    assert (victim.status, abort.status) == (Status.ABORTED, Status.SUCCESS)


@pytest.mark.rule("A.26.7", "D.8")
def test_types_that_carry_their_own_address_are_not_offered(control):
    control.stack.disk(Stub, name="Disk", num_blocks=40)
    split(control, count=4)
    types = control.told("Diskp1")["supported_io_types"]
    assert not any(value for name, value in types.items() if "nvme" in name or "zone" in name)
    assert all(types[name] for name in ("read", "write", "copy", "zcopy", "compare_and_write"))


# Geometry


def build(control, first, length, uuid=None, **geometry):
    """Return a part of a base with this geometry, without RPC."""
    control.stack.disk(Stub, name="Disk", num_blocks=1024)
    base = control.registry.get("Disk")
    for name, value in geometry.items():
        setattr(base, name, value)
    place = {"offset_blocks": first, "num_blocks": length}
    params = Split.Params(name="Part", uuid=uuid, base_bdev="Disk", **place)

    async def make():
        async with control.registry.hold(base, "split", holder="test") as hold:
            await control.registry.build(Split(params), hold)

    control.stack.run(make())
    return control.registry.get("Part")


@pytest.mark.rule("A.26.3", "D.11")
def test_boundaries_hold_where_the_offset_keeps_them(control):
    geometry = {
        "optimal_io_boundary": 64,
        "split_on_optimal_io_boundary": True,
        "preferred_write_alignment": 16,
        "preferred_unmap_alignment": 32,
        "phys_block_size": 4096,
        "write_cache": True,
        "required_alignment": 9,
        "max_rw_size": 100,
        "acwu": 4,
        "numa_id": 1,
    }
    part = build(control, 128, 64, **geometry)
    for name, value in geometry.items():
        assert getattr(part, name) == value, name
    assert part.num_blocks == 64


@pytest.mark.rule("E.part_ut.part_construct_ext", "A.20.9")
def test_a_part_with_a_uuid_of_its_own(control):
    given = uuid.UUID(int=7)
    part = build(control, 128, 64, uuid=given)
    assert (part.uuid, part.aliases) == (given, [str(given)])


@pytest.mark.rule("A.12.10")
@pytest.mark.parametrize("kind", ["split", "delay", "zone_block", "passthru"])
def test_layers_need_the_alignment_that_their_base_needs(control, kind):
    control.stack.disk(Stub, name="Disk", num_blocks=1024)
    control.registry.get("Disk").required_alignment = 12
    latencies = {f"{k}_latency": 0 for k in ("avg_read", "p99_read", "avg_write", "p99_write")}
    create = {
        "split": {"base_bdev": "Disk", "split_count": 2},
        "delay": {"name": "Top", "base_bdev_name": "Disk", **latencies},
        "zone_block": {
            "name": "Top",
            "base_bdev": "Disk",
            "zone_capacity": 8,
            "optimal_open_zones": 1,
        },
        "passthru": {"name": "Top", "base_bdev_name": "Disk"},
    }
    control.call(f"bdev_{kind}_create", **create[kind])
    top = control.registry.get("Diskp1" if kind == "split" else "Top")
    assert top.required_alignment == 12


@pytest.mark.rule("A.26.3")
def test_boundaries_that_the_offset_breaks_are_not_claimed(control):
    part = build(
        control,
        16,
        64,
        optimal_io_boundary=64,
        split_on_optimal_io_boundary=True,
        preferred_write_alignment=16,
        preferred_unmap_alignment=32,
    )
    assert (part.optimal_io_boundary, part.split_on_optimal_io_boundary) == (0, False)
    assert (part.preferred_write_alignment, part.preferred_unmap_alignment) == (16, 0)


@pytest.mark.rule("A.26.10")
@pytest.mark.parametrize(
    ("first", "length", "geometry", "says"),
    [
        (0, 1025, {}, "1025 blocks at 0"),
        (1024, 1, {}, "1 blocks at 1024"),
        (0, 0, {}, "0 blocks"),
        (-1, 1, {}, "at -1"),
        (2, 8, {"write_unit_size": 4}, "write units"),
        (4, 6, {"write_unit_size": 4}, "write units"),
        (0, 512, {"zoned": True, "zone_size": 512}, "zoned"),
    ],
)
def test_parts_that_can_not_be(control, first, length, geometry, says):
    with pytest.raises(BdevError, match=says) as caught:
        build(control, first, length, **geometry)
    assert caught.value.errno == 22
    assert entry_of(control.registry.get("Disk")).claim is None


@pytest.mark.rule("Dd.3")
def test_a_base_that_grows_changes_no_part(control):
    """The parts' places are what was asked for; more room is nobody's yet."""
    control.call("bdev_null_create", name="Null0", num_blocks=2048, block_size=512)
    split(control, base="Null0", count=2)
    opened = control.stack.open("Null0p1")
    assert control.call("bdev_null_resize", name="Null0", new_size=4) is True
    control.stack.settle()
    assert control.told("Null0p1")["num_blocks"] == 1024
    assert opened.events == []
    assert control.fails("bdev_null_resize", name="Null0", new_size=1)[0] == -22
    assert opened.io(Op.READ, 1023, 1, bytearray(512)).status == Status.SUCCESS


@pytest.mark.rule("A.26.8")
def test_no_memory_holds_io_up(control):
    """A layer that needs a copy of each WRITE, no memory, and parts on top: late, not failed."""
    control.stack.close()
    control.__init__(buffer_limit_bytes=1 << 20)
    disk(control, num_blocks=40960)
    copies = layer(lambda _s, c, ios: (ios.copy_data(Op.WRITE), c.base.submit(ios)), kind="copies")
    control.stack.layer(copies, name="Mid")
    split(control, base="Mid", count=2)
    part = control.stack.open("Midp1")
    writes = [part.submit(Op.WRITE, n * 256, 256, bytes([n]) * 131072) for n in range(40)]
    control.stack.turn_until(lambda: all(write.done for write in writes))
    assert {write.status for write in writes} == {Status.SUCCESS}


def test_parts_of_parts(control):
    disk(control, num_blocks=1024)
    split(control)
    assert split(control, base="Diskp1", count=2) == ["Diskp1p0", "Diskp1p1"]
    part = control.stack.open("Diskp1p1")
    part.io(Op.WRITE, 3, 1, b"x" * 512)
    found = bytearray(512)
    control.stack.open("Disk", write=False).io(Op.READ, 256 + 128 + 3, 1, found)
    assert found == b"x" * 512
    control.call("bdev_malloc_delete", name="Disk")
    assert control.names() == []
