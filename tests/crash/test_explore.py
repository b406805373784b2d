"""The explorer: it makes no disk that can not be, all that can, and failures small.

Method: random logs; each disk that it makes is held against the independent checker, and all of
them against the rule of test_legal.py. Checks are small shell commands.
"""

import hashlib
import itertools
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crash.test_legal import SECTORS, STEPS, UNIT, Step, content, legal_contents, write_log
from support.sample_logs import base_of, unpack
from vbdev.crash.checks import Check
from vbdev.crash.explore import Explored, explore, make, minimal
from vbdev.crash.images import DurableImage, WorkingImage
from vbdev.crash.legal import illegal_sectors
from vbdev.crash.log import LogFile, LogWriter
from vbdev.crash.replay import ReplayError, Until
from vbdev.crash.states import cuts, states
from vbdev.wire.log_writes import LogEntry, LogFlag


def disks_of(log, size_bytes, directory, *, base=None, most=10_000, seed=1):
    """Yield (position of the cut, path of a disk)."""
    path = str(Path(directory) / "made")
    with DurableImage(log, base, size_bytes, str(directory)) as durable:
        for cut in cuts(log, Until()):
            durable.advance(cut)
            for state in states(cut, most, seed):
                durable.write_copy(path, cut.changes(state))
                yield cut.position, path


@settings(deadline=None, max_examples=100)
@given(steps=STEPS)
def test_all_legal_disks_and_no_others(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("explore")
    path = directory / "log"
    write_log(path, steps)
    made, legal = {}, {}
    with LogFile(str(path)) as log:
        for position, disk in disks_of(log, SECTORS * UNIT, directory):
            made.setdefault(position, set()).add(Path(disk).read_bytes())
            assert not list(
                illegal_sectors(log, disk, until=Until(str(position)), in_order=True, zeroing=True)
            )
    for position in made:
        before = steps[:position]
        held = (legal_contents(before, sector, zeroing=True) for sector in range(SECTORS))
        legal[position] = {b"".join(disk) for disk in itertools.product(*held)}
    assert made == legal


@pytest.mark.parametrize("name", ["kernel-512.log", "ext4-kernel.log", "qemu-4096.log"])
def test_disks_of_others_logs_are_legal(name, tmp_path):
    base = tmp_path / "base"
    base.write_bytes(base_of(name))
    count = 0
    with LogFile(unpack(name, tmp_path)) as log:
        for position, disk in disks_of(log, 0, tmp_path, base=str(base), most=4):
            if count % 7 == 0:
                found = illegal_sectors(log, disk, base=str(base), until=Until(str(position)))
                assert not list(found)
            count += 1
    assert count > 10


FROM_SEED_1 = "62d3f92dfbbb01a6"


def many(path, number=300):
    """A log of many volatile sectors, some with several versions."""
    rng = random.Random(7)
    with LogWriter(str(path), 512) as writer:
        for n in range(number):
            writer.append(LogEntry(rng.randrange(number), 1, LogFlag(0)))
            writer.write(n.to_bytes(2, "little") * 256)
    return LogFile(str(path))


def test_states_are_the_seeds_alone_and_each_comes_once(tmp_path):
    with many(tmp_path / "log") as log:
        (cut,) = cuts(log, Until())
        assert cut.num_states > 10**9
        one, again, other = (list(states(cut, 200, seed)) for seed in (1, 1, 2))
        assert one == again != other
        assert len(set(one)) == len(one) == 200
        assert {cut.newest, cut.oldest} <= set(one)
        # The same on each version of Python: this is what seed 1 has always made.
        assert hashlib.sha256(repr(one).encode()).hexdigest().startswith(FROM_SEED_1)


def test_the_fingerprint_stands_for_the_disk(tmp_path):
    steps = [
        Step("write", 0, 2),
        Step("write", 0, 1),
        Step("flush", 0, 0),
        Step("mark", 0, 0),  # the same disk as before the flush, with nothing lost
        Step("discard", 0, 2),
        Step("fua", 1, 1),
    ]
    write_log(tmp_path / "log", steps)
    told = {}
    with (
        LogFile(str(tmp_path / "log")) as log,
        DurableImage(log, None, SECTORS * UNIT, str(tmp_path)) as durable,
    ):
        for cut in cuts(log, Until()):
            durable.advance(cut)
            for state in states(cut, 100, 1):
                changes = cut.changes(state)
                durable.write_copy(str(tmp_path / "made"), changes)
                disk = (tmp_path / "made").read_bytes()
                assert told.setdefault(disk, durable.fingerprint_with(changes)) == (
                    durable.fingerprint_with(changes)
                )
    assert len(set(told.values())) == len(told) > 3


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_a_disk_that_is_made_of_the_one_before_is_as_if_made_anew(tmp_path_factory, steps, seed):
    directory = tmp_path_factory.mktemp("working")
    write_log(directory / "log", steps)
    rng = random.Random(seed)
    with (
        LogFile(str(directory / "log")) as log,
        DurableImage(log, None, SECTORS * UNIT, str(directory)) as durable,
    ):
        working = WorkingImage(durable, str(directory / "working"))
        for cut in cuts(log, Until()):
            durable.advance(cut)
            working.follow(cut)
            some = list(states(cut, 100, 1))
            for state in rng.sample(some, rng.randint(0, min(4, len(some)))):
                working.make(cut.changes(state))
                durable.write_copy(str(directory / "anew"), cut.changes(state))
                made = Path(working.path).read_bytes()
                assert made == (directory / "anew").read_bytes()
        working.close()


# Failures


def acked(path, *, flush):
    """A program that says that it has stored a record, which it has where it flushed."""
    with LogWriter(str(path), 512) as writer:
        writer.append(LogEntry(0, 1, LogFlag(0)))
        writer.write(b"header".ljust(512, b"\0"))
        writer.append(LogEntry(0, 0, LogFlag.FLUSH))
        for n in range(1, 6):
            writer.append(LogEntry(n, 1, LogFlag(0)))
            writer.write(f"record {n}".encode().ljust(512, b"\0"))
        if flush:
            writer.append(LogEntry(0, 0, LogFlag.FLUSH))
        writer.append(LogEntry(0, 0, LogFlag.MARK, b"acked"))
    return LogFile(str(path))


RECORD_3 = """sh -c 'test "$VBDEV_MARK" != acked || grep -qa "record 3" {disk}'"""


@pytest.mark.parametrize("flush", [False, True])
def test_a_flush_that_is_missing_is_found_and_made_small(tmp_path, flush):
    with acked(tmp_path / "log", flush=flush) as log:
        found = explore(
            log, Check(RECORD_3, 10), base=None, size_bytes=8192, until=Until(), directory=tmp_path
        )
        if flush:
            assert (found.failed, found.failures) == (0, [])
            return
        assert found.failed > 1
        (failure,) = found.failures
        assert (failure.position, failure.mark) == (8, b"acked")
        assert failure.small.lost
        assert failure.small.sectors == [(3, -1)]
        image = tmp_path / "again"
        make(
            log,
            str(image),
            base=None,
            size_bytes=8192,
            until=Until("8"),
            lost=True,
            sectors=dict(failure.small.sectors),
        )
        assert Check(RECORD_3, 10).run(str(image), b"acked").failed
        assert not list(illegal_sectors(log, str(image), until=Until("8")))
        assert image.read_bytes().count(b"record") == 4
    assert sorted(one.name for one in tmp_path.iterdir()) == ["again", "log"]


def test_what_is_checked_may_be_written_to(tmp_path):
    """As a file system's recovery does: the next disk knows nothing of it."""
    with acked(tmp_path / "log", flush=True) as log:
        check = Check(
            "sh -c '! grep -qa DIRT {disk} && printf DIRT | dd of={disk} conv=notrunc'", 10
        )
        found = explore(log, check, base=None, size_bytes=8192, until=Until(), directory=tmp_path)
        assert found.failed == 0 < found.checked


def test_equal_disks_are_checked_once_for_each_mark(tmp_path):
    ran = tmp_path / "ran"
    with LogWriter(str(tmp_path / "log"), 512) as writer:
        for n in range(4):
            writer.append(LogEntry(0, 1, LogFlag(0)))
            writer.write(bytes([n // 2]) * 512)
    with LogFile(str(tmp_path / "log")) as log:
        check = Check(f"sh -c 'echo >> {ran}'", 10)
        found = explore(log, check, base=None, size_bytes=512, until=Until(), directory=tmp_path)
    assert (found.states, found.checked) == (5, 2)
    assert len(ran.read_text()) == 2


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", "ended with 1"),
        ("sh -c 'kill -9 $$'", "killed by 9"),
        ("sleep 60", "did not end in time"),
        ("sh -c 'sleep 60 & sleep 60'", "did not end in time"),
    ],
)
def test_checks_that_fail_in_their_ways(tmp_path, command, words):
    before = time.monotonic()
    outcome = Check(command, 0.5).run(str(tmp_path / "disk"), None)
    assert (outcome.failed, outcome.words) == (True, words)
    assert time.monotonic() - before < 30


def test_a_check_leaves_nothing_running(tmp_path):
    pid = tmp_path / "pid"
    assert not Check(f"sh -c 'sleep 60 & echo $! > {pid}'", 0.5).run("disk", None).status
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid.read_text().strip()}").exists():
        state = Path(f"/proc/{pid.read_text().strip()}/stat").read_text().rpartition(")")[2]
        if state.split()[0] == "Z":
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_check_that_can_not_be_started(tmp_path):
    with acked(tmp_path / "log", flush=True) as log, pytest.raises(FileNotFoundError):
        explore(
            log,
            Check("/no/such/check {disk}", 10),
            base=None,
            size_bytes=8192,
            until=Until(),
            directory=tmp_path,
        )
    assert [one.name for one in tmp_path.iterdir()] == ["log"]
    for wrong in ("", "'half"):
        with pytest.raises(ValueError, match=r"a check needs a command|No closing quotation"):
            Check(wrong, 10)


def test_a_disk_that_is_too_small(tmp_path):
    with acked(tmp_path / "log", flush=True) as log, pytest.raises(ReplayError, match="3072 bytes"):
        explore(log, Check("true", 10), base=None, size_bytes=1024, until=Until())


def test_an_interruption_leaves_what_was_found_and_nothing_else(tmp_path):
    found = Explored()

    def interrupt(_found):
        raise KeyboardInterrupt

    with many(tmp_path / "log") as log, pytest.raises(KeyboardInterrupt):
        explore(
            log,
            Check("sleep 0.3", 10),
            base=None,
            size_bytes=300 * 512,
            until=Until(),
            directory=tmp_path,
            explored=found,
            tell=interrupt,
        )
    assert found.checked
    assert [one.name for one in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("causes", [0, 1, 2, 8])
def test_what_is_made_small_is_minimal_and_costs_little(causes):
    rng = random.Random(causes)
    for _ in range(20):
        wanted = set(rng.sample(range(1000), causes))
        asked = []

        def fails(elements, wanted=wanted, asked=asked):
            asked.append(elements)
            return wanted <= set(elements)

        assert minimal(range(1000), fails) == sorted(wanted)
        assert len(asked) <= 120


def test_what_does_not_fail_always_ends_too():
    rng = random.Random(3)
    for _ in range(50):
        found = minimal(range(50), lambda _elements: rng.random() < 0.3)
        assert set(found) <= set(range(50))


def test_a_state_that_there_is_not(tmp_path):
    with acked(tmp_path / "log", flush=False) as log:
        for sector, number in ((0, -1), (3, 5), (900, -1)):
            with pytest.raises(ValueError, match=f"sector {sector} can not have what"):
                make(
                    log,
                    str(tmp_path / "no"),
                    base=None,
                    size_bytes=8192,
                    until=Until("8"),
                    lost=True,
                    sectors={sector: number},
                )
    assert not (tmp_path / "no").exists()


def test_contents_are_told_apart():
    assert content(0, 1) != content(1, 0)
