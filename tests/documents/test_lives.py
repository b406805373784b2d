"""The four lives of docs/design.md, and its picture of a batch's, are what happens.

Rooms in Python are told by a profiler as they are entered; compiled rooms are not seen by it, so of
them it is checked that they are there, and that one names the next.
"""

import re
import sys
from pathlib import Path

import pytest

from support.control import Control
from vbdev.modules.malloc import Malloc
from vbdev.modules.uring import Uring
from vbdev.testing import Stub, stack
from vbdev.vocab import Op

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/vbdev"
DESIGN = (ROOT / "docs/design.md").read_text()
WORDS = {
    "bdev/claim",
    "bdev/contract",
    "bdev/host",
    "bdev/iostat",
    "bdev/paths",
    "bdev/setup",
    "registry/names",
}
"""Rooms of words, and of what only fills something in."""
LOOKED_AT = ("bdev", "registry", "modules", "rpc", "wire")


def life(title):
    """Return the rooms of a life, in their order."""
    found = re.search(rf"^{title}\n((?:  .*\n)+)", DESIGN, re.MULTILINE)
    return [room.strip() for room in found[1].replace("\n", " ").split(">")]


def file_of(room):
    return next(p for suffix in (".py", ".pyx") if (p := SOURCE / f"{room}{suffix}").exists())


def in_python(rooms):
    return [room for room in rooms if file_of(room).suffix == ".py"]


def entered(do):
    """Return the rooms in Python that are entered, in the order of their first time."""
    rooms = {}

    def note(frame, event, _argument):
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("vbdev."):
            room = name.removeprefix("vbdev.").replace(".", "/")
            if room.split("/")[0] in LOOKED_AT and room not in WORDS:
                rooms[room] = None

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        do()
    finally:
        sys.setprofile(before)
    return list(rooms)


LIVES = (
    "a read through passthru over malloc",
    "the same over uring",
    "an RPC create of a passthru",
    "a hot remove with I/O outstanding",
)


@pytest.mark.parametrize("title", LIVES)
def test_its_rooms_are_there_and_each_is_passed_once(title):
    rooms = life(title)
    assert len(rooms) == len(set(rooms)) > 8
    assert [room for room in rooms if not file_of(room)] == []


def test_a_read_over_malloc():
    with stack() as made:
        made.disk(Malloc)
        made.layer()
        opened = made.open("Top")
        data = bytearray(512)
        opened.descriptor.io(Op.READ, 0, 1, data)  # makes what is made once
        made.settle()

        def read():
            future = opened.descriptor.io(Op.READ, 0, 1, data)
            made.turn_until(lambda: future.done)

        assert entered(read) == in_python(life(LIVES[0]))


def test_a_read_over_uring(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    with stack(real_clock=True) as made:
        made.create(Uring, name="Disk", filename=str(disk), block_size=512)
        made.layer()
        opened = made.open("Top")
        data = bytearray(512)
        warm = opened.descriptor.io(Op.READ, 0, 1, data)
        made.turn_until(lambda: warm.done)

        def read():
            future = opened.descriptor.io(Op.READ, 8, 1, data)
            made.turn_until(lambda: future.done)

        assert entered(read) == in_python(life(LIVES[1]))


def test_an_rpc_create():
    control = Control()
    control.stack.disk(Malloc)

    def create():
        control.call("bdev_passthru_create", name="Top", base_bdev_name="Disk")

    seen = entered(create)
    control.stack.close()
    # The socket's side of it is left out here.
    assert seen == in_python(life(LIVES[2]))[2:]


def test_a_hot_remove():
    with stack() as made:
        disk = made.disk(Stub)
        made.layer()
        opened = made.open("Top")
        opened.submit(Op.READ, 0, 1)

        def remove():
            task = made.reactor.spawn(made.registry.delete("Disk", "stub"))
            made.settle()
            assert not task.done
            disk.complete()
            made.settle()
            assert task.done

        rooms = [room for room in in_python(life(LIVES[3])) if not room.startswith("modules/")]
        seen = [room for room in entered(remove) if not room.startswith("modules/")]
        assert seen == rooms


def test_the_picture_of_a_batchs_life():
    """Who is named in it has such a function, and calls on to who stands below."""
    start = DESIGN.index("## The life of a batch")
    picture = DESIGN[start : DESIGN.index("Why completions are gathered", start)]
    named = re.findall(r"\b([A-Z]\w+)\.(\w+)", picture[picture.index("```text") :])
    assert len(named) >= 9
    sources = {path: path.read_text() for path in SOURCE.glob("core/**/*.pyx")}
    for owner, function in named:
        homes = [text for text in sources.values() if re.search(rf"cdef class {owner}\b", text)]
        assert homes, owner
        assert any(re.search(rf"\b{function}\(", text) for text in homes), f"{owner}.{function}"
    everything = "".join(sources.values())
    calls = (
        ("_scan_within", "begin(self, ios"),
        ("submit_batch", "deliver(self, engine"),
        ("run_rounds", "_unwind_run("),
        ("run_rounds", "run_completed()"),
    )
    for caller, callee in calls:
        body = everything[re.search(rf"(?:cdef|def) [^\n]*\b{caller}\(", everything).start() :][
            :6000
        ]
        assert callee in body, f"{caller} does not call {callee}"
