"""GUID partition tables: what real tools write, what hostile disks say, and back again.

Method: `build_table` makes a disk image in memory, the parsers read it, and each field of a header
and an entry is broken in turn with the CRCs made right again, so that it is the field that is
looked at. sfdisk and sgdisk are the oracles, both ways, where they are installed.
"""

import json
import random
import struct
import uuid
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.clients import find, requires, run
from vbdev.wire import gpt
from vbdev.wire.gpt import GptError, Mbr, Partition

LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
DISK = uuid.UUID("11111111-2222-3333-4444-555555555555")
BLOCKS = 4096


def partition(number, first, last, name="", attributes=0):
    unique = uuid.UUID(int=number)
    return Partition(number, LINUX, unique, first, last, name, attributes)


def image(partitions, num_blocks=BLOCKS, block_size=512):
    disk = bytearray(num_blocks * block_size)
    for lba, data in gpt.build_table(partitions, DISK, num_blocks, block_size):
        disk[lba * block_size : lba * block_size + len(data)] = data
    return disk


def read(disk, lba, num_blocks=None, block_size=512):
    """Parse one of an image's two tables."""
    num_blocks = num_blocks or len(disk) // block_size
    block = bytes(disk[lba * block_size : (lba + 1) * block_size])
    header = gpt.parse_header(block, lba, num_blocks, block_size)
    start = header.entries_lba * block_size
    return header, *gpt.parse_entries(header, bytes(disk[start : start + header.entries_bytes]))


PARTS = [
    partition(1, 34, 1000, "boot"),
    partition(2, 2048, 3000, "Größe \N{HIGH-SPEED TRAIN}", 1 << 60),
    partition(128, 3001, 4062, "x" * 36),
]


@pytest.mark.rule("E.gpt_ut.test_parse_mbr_and_primary", "E.gpt_ut.test_parse_secondary")
@pytest.mark.parametrize("lba", [1, BLOCKS - 1])
def test_what_was_built_is_read(lba):
    disk = image(PARTS)
    assert gpt.parse_mbr(bytes(disk[:512])) is Mbr.PROTECTIVE
    header, parts, refused = read(disk, lba)
    assert (parts, refused) == (PARTS, [])
    assert (header.disk_guid, header.lba, header.other_lba) == (DISK, lba, BLOCKS - lba)
    assert (header.first_usable, header.last_usable) == (34, BLOCKS - 34)


def test_large_blocks():
    disk = image([partition(1, 6, 1018)], 1024, 4096)
    assert read(disk, 1, block_size=4096)[1] == [partition(1, 6, 1018)]
    assert read(disk, 1023, block_size=4096)[1] == [partition(1, 6, 1018)]
    assert gpt.layout(1024, 4096) == (6, 1018)


def test_writing_order_is_safe():
    """Whatever of the writes is missing at the end, the rest shows a whole table or none."""
    writes = gpt.build_table(PARTS, DISK, BLOCKS, 512)
    assert [lba for lba, _ in writes] == [BLOCKS - 33, BLOCKS - 1, 2, 1, 0]
    disk = bytearray(BLOCKS * 512)
    for lba, data in writes[:3]:
        disk[lba * 512 : lba * 512 + len(data)] = data
    with pytest.raises(GptError, match="no signature"):
        read(disk, 1)
    assert read(disk, BLOCKS - 1)[1] == PARTS


@pytest.mark.rule("E.gpt_ut.test_check_mbr")
def test_mbrs():
    good = gpt.protective_mbr(BLOCKS)
    assert gpt.parse_mbr(good) is Mbr.PROTECTIVE
    assert gpt.MBR_ENTRY.unpack_from(good, 446)[4:] == (1, BLOCKS - 1)
    huge = gpt.protective_mbr(1 << 40)
    assert gpt.MBR_ENTRY.unpack_from(huge, 446)[5] == 0xFFFFFFFF
    assert gpt.parse_mbr(good[:511]) is Mbr.NONE
    assert gpt.parse_mbr(good[:510] + b"\0\0") is Mbr.NONE
    assert gpt.parse_mbr(bytes(510) + b"\x55\xaa") is Mbr.NONE
    linux = bytearray(good)
    linux[446 + 4] = 0x83
    assert gpt.parse_mbr(bytes(linux)) is Mbr.OTHER
    # A hybrid: the protective partition is another than the first.
    linux[446 + 16 : 446 + 32] = good[446:462]
    assert gpt.parse_mbr(bytes(linux)) is Mbr.HYBRID
    assert gpt.parse_mbr(bytes(linux)).protects
    elsewhere = bytearray(good)
    elsewhere[446 + 8] = 2
    assert gpt.parse_mbr(bytes(elsewhere)) is Mbr.OTHER


NAMES = (
    "signature revision size crc reserved own other first last guid entries_lba num_entries"
    " entry_size entries_crc"
)
FIELDS = {name: index for index, name in enumerate(NAMES.split())}


def broken_header(disk, lba=1, **changes):
    """Change fields of a header and make its CRC right again."""
    fields = list(gpt.HEADER.unpack_from(disk, lba * 512))
    for name, value in changes.items():
        fields[FIELDS[name]] = value
    block = bytearray(512)
    gpt.HEADER.pack_into(block, 0, *fields)
    size = fields[2] if 92 <= fields[2] <= 512 else 92
    if "crc" not in changes:
        struct.pack_into("<I", block, 16, gpt.header_crc(bytes(block[:size])))
    disk[lba * 512 : (lba + 1) * 512] = block


@pytest.mark.rule("E.gpt_ut.test_read_header", "E.gpt_ut.test_read_partitions")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"signature": b"EFI PARX"}, "no signature at LBA 1"),
        ({"signature": bytes(8)}, "no signature"),
        ({"revision": 0}, "revision"),
        ({"revision": 0x20000}, "revision"),
        ({"size": 0}, "header size 0"),
        ({"size": 91}, "header size 91"),
        ({"size": 513}, "header size 513"),
        ({"size": 0xFFFFFFFF}, "header size 4294967295"),
        ({"crc": 0}, "header CRC"),
        ({"own": 2}, "says that it is at 2"),
        ({"own": 2**64 - 1}, "says that it is at"),
        ({"first": 5000}, "usable LBAs 5000"),
        ({"last": BLOCKS}, "usable LBAs"),
        ({"last": 2**64 - 1}, "usable LBAs"),
        ({"first": 2**64 - 1, "last": 2**64 - 1}, "usable LBAs"),
        ({"entry_size": 0}, "entry size 0"),
        ({"entry_size": 127}, "entry size 127"),
        ({"entry_size": 192}, "entry size 192"),
        ({"entry_size": 1 << 31}, "at most"),
        ({"num_entries": 0}, "0 entries"),
        ({"num_entries": 0xFFFFFFFF}, "at most"),
        ({"num_entries": 8193}, "at most"),
        ({"num_entries": 129}, "do not fit"),
        ({"entries_lba": 0}, "do not fit"),
        ({"entries_lba": 1}, "do not fit"),
        ({"entries_lba": 3}, "do not fit"),
        ({"entries_lba": 100}, "do not fit"),
        ({"entries_lba": BLOCKS - 31}, "do not fit"),
        ({"entries_lba": 2**64 - 1}, "do not fit"),
        ({"entries_crc": 1}, "entries' CRC"),
    ],
)
def test_hostile_headers(change, says):
    disk = image(PARTS)
    broken_header(disk, **change)
    with pytest.raises(GptError, match=says):
        read(disk, 1)
    assert read(disk, BLOCKS - 1)[1] == PARTS


def test_a_header_of_another_length_counts_whole():
    disk = image(PARTS)
    disk[512 + 92] = 7
    broken_header(disk, size=96)
    assert read(disk, 1)[1] == PARTS
    disk[512 + 95] ^= 1
    with pytest.raises(GptError, match="header CRC"):
        read(disk, 1)


def test_short_data():
    disk = image(PARTS)
    header = read(disk, 1)[0]
    with pytest.raises(GptError, match="entries' CRC"):
        gpt.parse_entries(header, bytes(disk[1024 : 1024 + header.entries_bytes - 1]))
    with pytest.raises(GptError, match="91 bytes"):
        gpt.parse_header(bytes(91), 1, BLOCKS, 512)


def entries_of(parts, entry_bytes=128):
    """Return (header, entries) of a table that nobody would build."""
    data = bytearray(128 * entry_bytes)
    for one in parts:
        gpt.ENTRY.pack_into(
            data,
            (one.number - 1) * entry_bytes,
            one.type_guid.bytes_le,
            one.unique_guid.bytes_le,
            one.first_lba,
            one.last_lba,
            0,
            one.name.encode("utf-16-le", "surrogatepass"),
        )
    crc = zlib.crc32(data)
    return gpt.TableHeader(1, 9999, 100, 9000, DISK, 2, 128, entry_bytes, crc), bytes(data)


@pytest.mark.parametrize("entry_bytes", [128, 256, 1024])
def test_partitions_that_can_not_be(entry_bytes):
    parts = [
        partition(1, 100, 199),
        partition(2, 150, 250),  # overlaps 1
        partition(3, 99, 120),  # begins too early
        partition(4, 8000, 9001),  # ends too late
        partition(5, 700, 600),  # ends before it begins
        partition(6, 5000, 5000),
        partition(7, 1000, 2000),
        partition(8, 1200, 1300),  # inside 7
        partition(9, 1900, 2100),  # overlaps 7, not 8
        partition(10, 2101, 2101),
        partition(11, 0, 2**64 - 1),
    ]
    found, refused = gpt.parse_entries(*entries_of(parts, entry_bytes))
    assert [p.number for p in found] == [6, 10]
    assert len(refused) == 9
    for number in (1, 2, 3, 4, 5, 7, 8, 9, 11):
        assert any(f"partition {number} " in reason for reason in refused)


def test_names():
    assert gpt.decode_name("ab".encode("utf-16-le") + bytes(68)) == "ab"
    assert gpt.decode_name(b"\x00\xd8a\x00" + bytes(68)) == "\ufffda"
    assert gpt.decode_name(bytes(72)) == ""
    for bad in ("x" * 37, "\N{HIGH-SPEED TRAIN}" * 19, "a\0b", "\ud800"):
        with pytest.raises(GptError, match="name"):
            gpt.encode_name(bad)


def test_disks_without_room():
    for num_blocks in (0, 1, 34, 67):
        with pytest.raises(GptError, match="no room"):
            gpt.layout(num_blocks, 512)
    assert gpt.layout(68, 512) == (34, 34)


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_any_damage_is_a_gpt_error_or_a_table(seed, flips):
    """Bytes changed anywhere: parsed or refused, never another exception."""
    chance = random.Random(seed)
    disk = image(PARTS)
    for _ in range(flips):
        disk[chance.choice([446, 512, 1024, len(disk) - 512]) + chance.randrange(128)] ^= (
            1 << chance.randrange(8)
        )
    for lba in (1, BLOCKS - 1):
        try:
            _, found, refused = read(disk, lba)
        except GptError:
            continue
        assert all(34 <= p.first_lba <= p.last_lba <= BLOCKS - 34 for p in found)
        assert len(found) + len(refused) <= 128


@given(st.binary(min_size=92, max_size=512))
def test_any_bytes_behind_the_signature(noise):
    block = bytearray(noise.ljust(512, b"\0"))
    block[:16] = gpt.SIGNATURE + struct.pack("<II", 0x10000, 92)
    struct.pack_into("<I", block, 16, gpt.header_crc(bytes(block[:92])))
    try:
        header = gpt.parse_header(bytes(block), 1, BLOCKS, 512)
    except GptError:
        return
    assert header.entries_bytes <= gpt.MAX_ENTRIES_BYTES


# Real tools


def sfdisk_dump(path):
    requires("sfdisk")
    return json.loads(run("sfdisk", "--json", path))["partitiontable"]


@pytest.mark.client
def test_sfdisk_and_sgdisk_accept_what_was_built(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(image(PARTS))
    dump = sfdisk_dump(path)
    assert dump["label"] == "gpt"
    assert (dump["id"].lower(), dump["firstlba"], dump["lastlba"]) == (str(DISK), 34, BLOCKS - 34)
    assert [(p["start"], p["size"], p.get("name", "")) for p in dump["partitions"]] == [
        (p.first_lba, p.num_blocks, p.name) for p in PARTS
    ]
    assert [p["uuid"].lower() for p in dump["partitions"]] == [str(p.unique_guid) for p in PARTS]
    assert {p["type"].lower() for p in dump["partitions"]} == {str(LINUX)}
    if find("sgdisk"):
        assert "No problems found" in run("sgdisk", "--verify", path)


@pytest.mark.client
@pytest.mark.rule("E.gpt_ut.test_read_partitions")
def test_what_sfdisk_writes_is_read(tmp_path):
    requires("sfdisk")
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 << 20))
    script = (
        f"label: gpt\nlabel-id: {DISK}\n"
        'start=2048, size=4096, name="one", uuid=11111111-0000-4000-8000-000000000001\n'
        "size=8192, type=7c5222bd-8f5d-4087-9c00-bf9843c7b58c\n"
        'size=+, name="größer"\n'
    )
    (tmp_path / "script").write_text(script)
    run("sh", "-c", f"sfdisk --quiet {path} < {tmp_path / 'script'}")
    disk = path.read_bytes()
    told = sfdisk_dump(path)["partitions"]
    assert gpt.parse_mbr(disk[:512]) is Mbr.PROTECTIVE
    for lba in (1, len(disk) // 512 - 1):
        header, found, refused = read(disk, lba)
        assert (header.disk_guid, refused) == (DISK, [])
        assert [
            (p.first_lba, p.num_blocks, p.name, str(p.unique_guid), str(p.type_guid)) for p in found
        ] == [
            (p["start"], p["size"], p.get("name", ""), p["uuid"].lower(), p["type"].lower())
            for p in told
        ]
