"""The checker against the rule written down a second time, for all disks there can be.

Method: random logs of a disk of two sectors, and each disk that holds any version in each sector,
or what was never there. Which of these are legal is decided here by the definition, from events in
the order of their completion: for each write, whether a flush that began later has ended.
"""

import itertools
import random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.sample_logs import MIB, base_of, unpack
from vbdev.crash.legal import WrongDiskError, illegal_sectors
from vbdev.crash.log import LogFile, LogWriter
from vbdev.crash.replay import Until, replay
from vbdev.wire.log_writes import LogEntry, LogFlag

UNIT = 64
SECTORS = 2


class Step(NamedTuple):
    """kind: see FLAGS. first, count: sectors."""

    kind: str
    first: int
    count: int


STEPS = st.lists(
    st.one_of(
        st.builds(
            Step,
            st.sampled_from(["write", "write", "fua", "discard", "fua discard"]),
            st.integers(0, SECTORS - 1),
            st.integers(1, SECTORS),
        ).filter(lambda step: step.first + step.count <= SECTORS),
        st.just(Step("flush", 0, 0)),
        st.just(Step("flush and write", 0, 1)),
        st.just(Step("mark", 0, 0)),
    ),
    max_size=8,
)
FLAGS = {
    "write": 0,
    "fua": 2,
    "discard": 4,
    "fua discard": 6,
    "flush": 1,
    "flush and write": 1,
    "mark": 8,
}


def content(number, sector):
    return bytes([number + 1, sector + 1]) * (UNIT // 2)


def write_log(path, steps):
    with LogWriter(str(path), UNIT) as writer:
        for number, step in enumerate(steps):
            writer.append(LogEntry(step.first, step.count, LogFlag(FLAGS[step.kind])))
            if "discard" not in step.kind:
                for sector in range(step.first, step.first + step.count):
                    writer.write(content(number, sector))


def legal_contents(steps, sector, *, zeroing):
    """What a sector may hold, by the definition; each step has completed before the next began."""
    zeroes = bytes(UNIT)
    history = [(zeroes, True, True)]  # (content, is it durable, does it end what came before it)
    for number, step in enumerate(steps):
        if step.kind.startswith("flush"):
            history = [(held, True, ends) for held, _, ends in history]
        if step.first <= sector < step.first + step.count:
            discard = "discard" in step.kind
            held = zeroes if discard else content(number, sector)
            history.append((held, step.kind.startswith("fua"), zeroing or not discard))
    last_durable = max(n for n, (_, durable, ends) in enumerate(history) if durable and ends)
    return {held for held, _, _ in history[last_durable:]}


def every_content(steps, sector):
    held = {bytes(UNIT), b"\xee" * UNIT}
    for number, step in enumerate(steps):
        if step.first <= sector < step.first + step.count and "discard" not in step.kind:
            held.add(content(number, sector))
    return held


@settings(deadline=None, max_examples=150)
@given(steps=STEPS, zeroing=st.booleans())
def test_all_disks_and_no_others(tmp_path_factory, steps, zeroing):
    directory = tmp_path_factory.mktemp("legal")
    path, image = directory / "log", directory / "disk"
    write_log(path, steps)
    legal = [legal_contents(steps, sector, zeroing=zeroing) for sector in range(SECTORS)]
    disks = itertools.product(*(sorted(every_content(steps, n)) for n in range(SECTORS)))
    with LogFile(str(path)) as log:
        for disk in disks:
            image.write_bytes(b"".join(disk))
            found = illegal_sectors(log, str(image), in_order=True, zeroing=zeroing)
            wrong = [n for n in range(SECTORS) if disk[n] not in legal[n]]
            assert [one.sector for one in found] == wrong


def test_a_sector_says_what_it_holds_and_what_it_may(tmp_path):
    steps = [
        Step("write", 0, 2),
        Step("flush", 0, 0),
        Step("write", 0, 1),
        Step("flush", 0, 0),
        Step("write", 0, 1),
    ]
    path, image = tmp_path / "log", tmp_path / "disk"
    write_log(path, steps)
    with LogFile(str(path)) as log:
        image.write_bytes(content(0, 0) + bytes(UNIT))
        first, second = illegal_sectors(log, str(image))
        assert (first.sector, first.offset, first.holds, first.allowed) == (0, 0, 0, [2, 4])
        assert (second.sector, second.offset, second.holds, second.allowed) == (1, UNIT, -1, [0])
        image.write_bytes(content(4, 0) + content(0, 0))
        (second,) = illegal_sectors(log, str(image))
        assert (second.sector, second.holds) == (1, None)
        image.write_bytes(content(0, 0) + content(0, 1))
        assert list(illegal_sectors(log, str(image), until=Until("3"))) == []
        assert len(list(illegal_sectors(log, str(image), until=Until("4")))) == 1


@pytest.mark.parametrize("name", ["kernel-512.log", "kernel-4096.log", "ext4-kernel.log"])
def test_what_the_kernel_logged(name, tmp_path):
    """At any cut the whole log up to there is legal, and so is what the last flush left."""
    base, image = tmp_path / "base", tmp_path / "disk"
    base.write_bytes(base_of(name))
    with LogFile(unpack(name, tmp_path)) as log:
        entries = list(log.entries())
        flushes = [one.number + 1 for one in entries if one.entry.flags & LogFlag.FLUSH]
        for cut in random.Random(4).sample(range(1, len(entries) + 1), 12):
            for upto in {cut, max((n for n in flushes if n <= cut), default=0)}:
                image.write_bytes(base.read_bytes())
                replay(log, str(image), Until(str(upto)))
                fua_behind = any(
                    one.entry.flags & LogFlag.FUA and one.entry.num_sectors
                    for one in entries[upto:cut]
                )
                found = list(
                    illegal_sectors(log, str(image), base=str(base), until=Until(str(cut)))
                )
                assert (found == []) or (upto < cut and fua_behind)
        last = next(one for one in reversed(entries) if one.entry.num_data_sectors)
        held = bytearray(image.read_bytes())
        held[last.offset : last.offset + 8] = b"nowhere!"
        image.write_bytes(held)
        found = list(illegal_sectors(log, str(image), base=str(base)))
        assert last.entry.sector in [one.sector for one in found]


def test_a_write_that_the_kernel_logs_behind_a_later_fua(tmp_path):
    """The real disk had the FUA write's data, the replayed log the other's: both are accepted."""
    image = tmp_path / "disk"
    with LogFile(unpack("kernel-512.log", tmp_path)) as log:
        replay(log, str(image), Until(), create_bytes=MIB)
        assert list(illegal_sectors(log, str(image))) == []
        (fua,) = (one for one in log.entries() if one.entry.flags & LogFlag.FUA)
        ((offset, data),) = log.data(fua)
        held = bytearray(image.read_bytes())
        held[offset : offset + len(data)] = data
        image.write_bytes(held)
        assert list(illegal_sectors(log, str(image))) == []
        assert len(list(illegal_sectors(log, str(image), in_order=True))) == 8


def test_a_fua_of_an_earlier_epoch_is_older_than_what_is_written_later(tmp_path):
    steps = [
        Step("fua", 0, 1),
        Step("flush", 0, 0),
        Step("write", 0, 1),
        Step("flush", 0, 0),
    ]
    path, image = tmp_path / "log", tmp_path / "disk"
    write_log(path, steps)
    image.write_bytes(content(0, 0))
    with LogFile(str(path)) as log:
        (found,) = illegal_sectors(log, str(image))
        assert (found.holds, found.allowed) == (0, [2])
        assert list(illegal_sectors(log, str(image), until=Until("3"))) == []


def test_disks_that_are_not_the_logs(tmp_path):
    image, base = tmp_path / "disk", tmp_path / "base"
    with LogFile(unpack("kernel-512.log", tmp_path)) as log:
        for size, wrong in [
            (4096, "is of a disk of 204800 bytes or more, and .* has 4096"),
            (MIB + 1, "has 1048577 bytes, no multiple of 512"),
        ]:
            image.write_bytes(bytes(size))
            with pytest.raises(WrongDiskError, match=wrong):
                list(illegal_sectors(log, str(image)))
        image.write_bytes(bytes(MIB))
        base.write_bytes(bytes(2 * MIB))
        with pytest.raises(WrongDiskError, match=r"has 1048576 bytes, and .* 2097152"):
            list(illegal_sectors(log, str(image), base=str(base)))
        with pytest.raises(FileNotFoundError):
            list(illegal_sectors(log, str(tmp_path / "none")))
