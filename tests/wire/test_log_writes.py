"""dm-log-writes' format: what goes in comes out, and what can not be is refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdev.wire.log_writes import (
    MAX_SECTOR_BYTES,
    LogEntry,
    LogFlag,
    LogFormatError,
    LogSuper,
    NoLogError,
)

SECTORS = st.sampled_from([512, 4096, 256, 64, MAX_SECTOR_BYTES])
MAGIC = bytes.fromhex("7268737766736a00")


def header(sector=0, num_sectors=0, flags=0, mark_bytes=0, rest=b"", unit=512):
    return (struct.pack("<QQQQ", sector, num_sectors, flags, mark_bytes) + rest).ljust(unit, b"\0")


def test_the_bytes_of_a_super():
    data = LogSuper(18, 4096).pack()
    assert len(data) == 4096
    assert data[:28] == MAGIC + struct.pack("<QQI", 1, 18, 4096)
    assert not any(data[28:])
    assert LogSuper.parse(data) == LogSuper(18, 4096)


def test_the_bytes_of_entries():
    write = LogEntry(7, 2, LogFlag.FUA)
    assert write.pack(512) == header(7, 2, 2)
    mark = LogEntry(0, 0, LogFlag.MARK, b"txn 17")
    assert mark.pack(512) == header(0, 0, 8, 6, b"txn 17")
    assert (write.num_data_sectors, mark.num_data_sectors) == (2, 0)
    assert LogEntry(7, 2, LogFlag.DISCARD).num_data_sectors == 0


@given(num_entries=st.integers(0, 2**64 - 1), sector_bytes=SECTORS)
def test_supers_come_back(num_entries, sector_bytes):
    made = LogSuper(num_entries, sector_bytes)
    assert LogSuper.parse(made.pack()) == made


@given(
    sector=st.integers(0, 2**62),
    num_sectors=st.integers(1, 2**40),
    flags=st.integers(0, 31).filter(lambda flags: not flags & LogFlag.MARK),
    sector_bytes=SECTORS,
)
def test_entries_come_back(sector, num_sectors, flags, sector_bytes):
    made = LogEntry(sector, num_sectors, LogFlag(flags))
    unit = made.pack(sector_bytes)
    assert len(unit) == sector_bytes
    assert LogEntry.parse(unit) == made


@given(text=st.binary(max_size=31))
def test_marks_come_back(text):
    made = LogEntry(0, 0, LogFlag.MARK, text)
    assert LogEntry.parse(made.pack(64)) == made


def test_a_mark_has_room_for_its_end():
    for length in (31, 32):
        made = LogEntry(0, 0, LogFlag.MARK, b"m" * length)
        if length == 31:
            made.pack(64)
        else:
            with pytest.raises(ValueError, match="a mark of 32 bytes; 31 at most"):
                made.pack(64)
    assert LogEntry.parse(header(0, 0, 8, 32, b"m" * 32, unit=64)).mark == b"m" * 32


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", "0 bytes; a super has 28"),
        (b"rhswfsj", "7 bytes; a super has 28"),
        (b"QFI\xfb" + bytes(508), "the magic number is 0xfb494651, not 0x6a736677736872"),
        (MAGIC + struct.pack("<QQI", 2, 0, 512), "version 2; 1 is known"),
        (MAGIC + struct.pack("<QQI", 1, 0, 0), "sectors of 0 bytes"),
        (MAGIC + struct.pack("<QQI", 1, 0, 100), "sectors of 100 bytes"),
        (MAGIC + struct.pack("<QQI", 1, 0, 1 << 21), "sectors of 2097152 bytes"),
    ],
)
def test_what_is_no_super(data, wrong):
    with pytest.raises(LogFormatError, match=wrong) as caught:
        LogSuper.parse(data)
    assert isinstance(caught.value, NoLogError) == ("bytes;" in wrong or "magic" in wrong)


def test_a_super_that_was_never_written():
    with pytest.raises(NoLogError) as caught:
        LogSuper.parse(bytes(512))
    assert caught.value.zeroes


@pytest.mark.parametrize(
    ("unit", "wrong"),
    [
        (header(0, 1, 32), "flags 0x20; 0x1f are known"),
        (header(0, 0, 9, 1, b"m"), "flags 0x9: a mark has no other flag"),
        (header(0, 1, 8, 1, b"m"), "a mark of 1 sectors"),
        (header(0, 0, 8, 481), "a mark of 481 bytes; 480 at most"),
        (header(0, 0, 8, 2**64 - 1), "480 at most"),
        (header(0, 1, 0, 4), "4 bytes of text, and no mark"),
        (header(0, 1, 0, 0, b"x"), "byte 32 is 0x78, not 0"),
        (header(), "no flags and no sectors"),
        (header(2**63, 1, 0), "no disk has so many"),
        (header(1, 2**64 - 1, 4), "no disk has so many"),
    ],
)
def test_what_is_no_entry(unit, wrong):
    with pytest.raises(LogFormatError, match=wrong):
        LogEntry.parse(unit)


def test_what_stands_behind_byte_32_is_not_looked_at():
    """Others may have put something there, and replay-log does not look either."""
    assert LogEntry.parse(header(3, 1, 0, 0, b"\0" + b"x" * 479)) == LogEntry(3, 1, LogFlag(0))


@given(st.binary(min_size=64, max_size=64))
def test_garbage_is_an_entry_or_an_error(unit):
    try:
        entry = LogEntry.parse(unit)
    except LogFormatError:
        return
    assert LogEntry.parse(unit[:32] + bytes(32) if not entry.is_mark else unit) == entry


@given(st.binary(max_size=64))
def test_garbage_is_a_super_or_an_error(data):
    try:
        LogSuper.parse(data)
    except LogFormatError:
        return
    assert data.startswith(MAGIC)
