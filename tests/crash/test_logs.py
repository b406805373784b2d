"""Logs that the kernel's target and QEMU wrote, entry by entry and disk by disk."""

import csv
import hashlib
import os
import random
import struct
from collections import defaultdict
from pathlib import Path

import pytest

from support.sample_logs import MIB, SAMPLES, base_of, unpack
from vbdev.crash.log import LogError, LogFile, LogWriter
from vbdev.crash.replay import ReplayError, Until, replay, trim
from vbdev.wire.log_writes import LogEntry, LogFlag, LogSuper


def expected():
    rows = defaultdict(list)
    for table in ("expected.tsv", "expected-ext4.tsv"):
        with (SAMPLES / table).open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                rows[row["log"]].append(list(row.values())[1:])
    return rows


EXPECTED = expected()


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_entry_of_others_logs(name, tmp_path):
    rows = EXPECTED[name]
    counted = 0
    with LogFile(unpack(name, tmp_path), sector_bytes=512) as log:
        disk = bytearray(base_of(name))
        salvaged = len(rows) > log.num_entries
        for placed, row in zip(log.entries(salvage=salvaged), rows, strict=salvaged is False):
            number, at, sector, num_sectors, flags, mark_bytes, what, after = row
            entry = placed.entry
            assert [placed.number, placed.header_at] == [int(number), int(at)]
            assert [entry.sector, entry.num_sectors] == [int(sector), int(num_sectors)]
            assert [entry.flags, len(entry.mark)] == [int(flags), int(mark_bytes)]
            data = b"".join(piece for _, piece in log.data(placed))
            if entry.is_mark:
                assert entry.mark.decode() == what
            else:
                assert what == (digest(data)[:12] if data else "-")
            if entry.flags & LogFlag.DISCARD:
                data = bytes(placed.length)
            disk[placed.offset : placed.offset + len(data)] = data
            assert digest(disk)[:16] == after
            counted += 1
    assert counted == len(rows)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_disks_are_as_replay_log_makes_them(name, tmp_path):
    path = unpack(name, tmp_path)
    image = tmp_path / "disk"
    with LogFile(path, sector_bytes=512) as log:
        rows = EXPECTED[name]
        salvage = len(rows) > log.num_entries
        for count in random.Random(1).sample(range(1, len(rows) + 1), min(5, len(rows))):
            image.write_bytes(base_of(name))
            assert replay(log, str(image), Until(str(count)), salvage=salvage) == count
            assert digest(image.read_bytes())[:16] == rows[count - 1][-1]


def test_a_mark_is_found_and_one_that_is_not_there_is_an_error(tmp_path):
    image = tmp_path / "disk"
    with LogFile(unpack("kernel-512.log", tmp_path)) as log:
        assert replay(log, str(image), Until("fua-done"), create_bytes=MIB) == 10
        before = image.read_bytes()
        with pytest.raises(ReplayError, match=r"kernel-512\.log has no mark 'fua'"):
            replay(log, str(image), Until("fua"))
        with pytest.raises(ReplayError, match="has 18 entries, not 19"):
            replay(log, str(image), Until("19"))
        assert image.read_bytes() == before
        assert replay(log, str(image), Until("0")) == 0
        with pytest.raises(FileExistsError):
            replay(log, str(image), Until(), create_bytes=MIB)


def test_a_disk_that_is_too_small(tmp_path):
    image = tmp_path / "disk"
    image.write_bytes(bytes(32 << 10))
    with LogFile(unpack("kernel-512.log", tmp_path)) as log:
        wrong = "entry 11 of .* ends at byte 81920 of the disk, and .* has 32768"
        with pytest.raises(ReplayError, match=wrong):
            replay(log, str(image), Until())
    assert image.stat().st_size == 32 << 10


def test_a_log_cut_at_a_mark_is_a_log(tmp_path):
    path, to = unpack("kernel-4096.log", tmp_path), str(tmp_path / "cut.log")
    with LogFile(path) as log:
        assert trim(log, to, Until("m-2")) == 16
        whole = list(log.entries())[:16]
    with LogFile(to) as log:
        assert log.super == LogSuper(16, 4096)
        assert list(log.entries()) == whole
        assert log.size_bytes == whole[-1].end_at
    assert Path(to).read_bytes()[4096:] == Path(path).read_bytes()[4096 : whole[-1].end_at]


def test_what_is_salvaged_is_said_to_be(tmp_path):
    with LogFile(unpack("qemu-killed.log", tmp_path)) as log:
        assert log.num_entries == 7
        assert len(list(log.entries())) == 7
        assert len(list(log.entries(salvage=True))) == 10
    path = unpack("qemu-no-super.log", tmp_path)
    with pytest.raises(LogError, match="byte 0: the first unit is all zeroes: its writer died"):
        LogFile(path)
    with LogFile(path, sector_bytes=512) as log:
        assert list(log.entries()) == []
        (found,) = log.entries(salvage=True)
        assert (found.entry.sector, found.entry.num_sectors) == (0, 1)


@pytest.mark.parametrize("cut", [0, 27, 100, 512, 700, 1100, 2000, 10_000, 42_495])
def test_a_log_that_is_cut_off_says_where_and_what_came_before_is_read(cut, tmp_path):
    path = unpack("kernel-512.log", tmp_path)
    os.truncate(path, cut)
    seen = []
    with (
        pytest.raises(LogError, match=r"kernel-512.log: byte \d+: ") as caught,
        LogFile(path) as log,
    ):
        seen.extend(log.entries())
    assert 0 <= caught.value.offset <= max(cut, 512)
    ends = [int(row[1]) for row in EXPECTED["kernel-512.log"]]
    assert len(seen) == sum(end <= cut for end in [*ends[1:], 42_496])


@pytest.mark.parametrize("seed", range(40))
def test_a_log_with_a_wrong_byte_is_read_or_refused(seed, tmp_path):
    rng = random.Random(seed)
    path = Path(unpack("qemu-512.log", tmp_path))
    data = bytearray(path.read_bytes())
    rows = EXPECTED["qemu-512.log"]
    header_at = rng.choice([0, *(int(row[1]) for row in rows)])
    data[header_at + rng.randrange(40)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    try:
        with LogFile(str(path)) as log:
            for placed in log.entries():
                assert sum(len(piece) for _, piece in log.data(placed)) == placed.data_bytes
    except LogError as error:
        assert "qemu-512.log: byte " in str(error)  # noqa: PT017 - either may be


def test_more_entries_than_there_are(tmp_path):
    path = Path(unpack("kernel-512.log", tmp_path))
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 16, 2**64 - 1)
    path.write_bytes(data)
    with LogFile(str(path)) as log, pytest.raises(LogError) as caught:
        list(log.entries())
    assert "byte 42496: entry 18: its header has 0 of 512 bytes" in str(caught.value)


def test_an_entry_with_more_data_than_the_file(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(LogSuper(1, 512).pack() + LogEntry(0, 2**50, LogFlag(0)).pack(512))
    with LogFile(str(path)) as log, pytest.raises(LogError, match="byte 512: entry 0: its 5764"):
        list(log.entries())


def test_what_is_no_log(tmp_path):
    for content in (b"", b"QFI\xfb" + bytes(1000)):
        path = tmp_path / "no"
        path.write_bytes(content)
        with pytest.raises(LogError, match="byte 0: no log of dm-log-writes"):
            LogFile(str(path))
    with pytest.raises(LogError, match="a directory is no log"):
        LogFile(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        LogFile(str(tmp_path / "none"))


def test_a_writer_that_fails_leaves_no_log(tmp_path):
    path = tmp_path / "log"

    def fail():
        with LogWriter(str(path), 512) as writer:
            writer.append(LogEntry(0, 1, LogFlag(0)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not path.exists()
    path.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        fail()
    assert path.read_bytes() == b"somebody's"


def test_large_data_and_discards_come_in_pieces(tmp_path):
    path, image = tmp_path / "log", tmp_path / "disk"
    data = random.Random(2).randbytes(5 * MIB // 2)
    with LogWriter(str(path), 512) as writer:
        writer.append(LogEntry(2, len(data) // 512, LogFlag.FUA))
        writer.write(data)
        writer.append(LogEntry(2049, 2048, LogFlag.DISCARD))
    with LogFile(str(path)) as log:
        assert [len(piece) for _, piece in log.data(next(log.entries()))] == [MIB, MIB, MIB // 2]
        replay(log, str(image), Until(), create_bytes=4 * MIB)
    disk = bytearray(bytes(1024) + data).ljust(4 * MIB, b"\0")
    disk[2049 * 512 : 4097 * 512] = bytes(MIB)
    assert image.read_bytes() == disk
