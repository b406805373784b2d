"""Who takes the GIL next: waits that end, waits in vain, and sections that take part."""

import re
import threading
from pathlib import Path

import pytest

import vbdev.core
from vbdev.core.base import handover
from vbdev.core.memory.dif import guard

SOURCES = Path(vbdev.core.__file__).parent
OTHERS = {
    # Worker threads wait for a job in Python's own code, where they could not say that they left;
    # so do those on which a file is opened, which is when its alignment, its file system and what
    # it can punch are asked for.
    "file/job.pyx": 3,
    # What is measured beside, on a thread of its own.
    "load/copy_limit.pyx": 2,
    # Memory that is taken up at a creation is, on a thread beside the reactor.
    "ram/disk.pyx": 1,
}
"""{file: sections without the GIL that have no part in it}."""
DATA = bytes(64)


@pytest.fixture
def crowd():
    """Count the calling thread as one of several that run reactors."""
    handover.joined()
    yield
    handover.left()
    handover.parted()


class Other:
    """Another thread, which passes a section without the GIL and then waits in Python."""

    def __init__(self, *, says_so):
        self.says_so = says_so
        self.waits = threading.Event()
        self.may_end = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        guard(0, DATA)
        if self.says_so:
            handover.left()
        self.waits.set()
        self.may_end.wait()
        handover.left()

    def __enter__(self):
        self.thread.start()
        self.waits.wait()
        return self

    def __exit__(self, *_):
        self.may_end.set()
        self.thread.join()


def waits_of(calls):
    """Return (waits, waits in vain) of so many sections."""
    waits, in_vain = handover.counts()
    for _ in range(calls):
        guard(0, DATA)
    more, more_in_vain = handover.counts()
    return more - waits, more_in_vain - in_vain


def test_one_reactor_looks_at_nothing():
    with Other(says_so=False):
        assert waits_of(100) == (0, 0)


@pytest.mark.usefixtures("crowd")
def test_nobody_waits_for_itself():
    assert waits_of(100) == (0, 0)


@pytest.mark.usefixtures("crowd")
def test_who_leaves_with_a_note_is_not_waited_for():
    with Other(says_so=True):
        assert waits_of(100) == (0, 0)


@pytest.mark.usefixtures("crowd")
def test_who_leaves_without_a_note_is_waited_for_once():
    with Other(says_so=False):
        assert waits_of(100) == (1, 1)
        # What it says when it comes back is not about whoever has taken its place.
        guard(0, DATA)
    assert waits_of(100) == (0, 0)


@pytest.mark.usefixtures("crowd")
def test_a_note_of_another_is_left_alone():
    """It clears nobody else's."""
    with Other(says_so=False):
        handover.left()
        assert waits_of(1) == (1, 1)


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("number", [2, 5])
def test_all_get_on_and_so_does_who_knows_nothing_of_it(number):
    """More threads than CPUs, and one that never leaves by itself."""
    done = [0] * number
    end = threading.Event()
    counted = 0

    def work(index):
        data = bytes(4096)
        expected = guard(0, data)
        for _ in range(2000):
            assert guard(0, data) == expected
            done[index] += 1
        handover.left()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(number)]

    def stranger():
        nonlocal counted
        while not end.is_set():
            counted += 1

    threads.append(threading.Thread(target=stranger))
    for thread in threads:
        thread.start()
    for thread in threads[:-1]:
        thread.join(60)
    end.set()
    threads[-1].join(60)
    assert done == [2000] * number
    assert counted > 0


def sections(source):
    """Yield the lines of each block that runs without the GIL."""
    lines = source.splitlines()
    for at, line in enumerate(lines):
        found = re.fullmatch(r"( *)with nogil:", line)
        if not found:
            continue
        indent = found[1] + "    "
        block = []
        for inner in lines[at + 1 :]:
            if inner.strip() and not inner.startswith(indent):
                break
            block.append(inner.strip())
        yield [inner for inner in block if inner]


def test_every_section_takes_part():
    """It is written down first that the GIL is left, and last that it is wanted; no way out."""
    left_out = {}
    seen = 0
    for path in sorted(SOURCES.rglob("*.pyx")):
        name = path.relative_to(SOURCES).as_posix()
        for block in sections(path.read_text()):
            seen += 1
            if block[0] != "gil_left()" or block[-1] != "gil_wanted()":
                left_out[name] = left_out.get(name, 0) + 1
            assert not [line for line in block if re.match(r"(return|raise|continue)\b", line)]
    assert left_out == OTHERS
    assert seen > 15
