"""What the compiled floor imports: its families, one way, and nothing that it must not know.

import-linter reads Python alone. This reads imports and cimports of all that is compiled, and the
stubs, so that types go one way too.
"""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "src" / "vbdev" / "core"

UP_TO_ENGINE = {"base", "memory", "counts", "engine"}
BELOW = {
    "base": set(),
    "memory": {"base"},
    "counts": {"base"},
    "engine": UP_TO_ENGINE,
    "loop": UP_TO_ENGINE,
    "coroutine": UP_TO_ENGINE,
    "load": UP_TO_ENGINE,
    "ram": UP_TO_ENGINE,
    "file": UP_TO_ENGINE,
    "nbd": UP_TO_ENGINE,
    "nbd/client": UP_TO_ENGINE | {"nbd"},
    "nbd/server": UP_TO_ENGINE | {"nbd"},
}
"""{family: those that it may import from, beside itself}."""

OF_OURS = ("vbdev.core", "vbdev.vocab")
"""Where the compiled floor may import from."""
FILES = sorted(
    path for path in CORE.rglob("*.*") if path.suffix in {".pyx", ".pxd", ".pxi", ".pyi"}
)

STRINGS = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|#[^\n]*')
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<module>[\w.]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n]+)"
    r"|c?import[ \t]+(?P<modules>[^\n(]+))$",
    re.MULTILINE,
)


def forbidden():
    """Return the modules that codecs and core must not know, as import-linter's contract says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (
        contract
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "forbidden" and "vbdev.core" in contract["source_modules"]
    )
    # Modules that import others by a name that nobody reads.
    return {*contract["forbidden_modules"], "importlib", "imp", "runpy"}


def names_in(text):
    """Return the names of an import's list, without those that they are given here."""
    names = text.strip().strip("()").replace("\\\n", " ").split(",")
    return [name.split()[0] for name in names if name.strip()]


def imports(source):
    """Return all that a file imports or cimports, at its top and below: dotted names.

    `from package import name` gives `package.name`, which may be a module or what is in one.
    """
    source = re.sub(r"\\\n", " ", STRINGS.sub("", source))
    found = set()
    for match in IMPORT.finditer(source):
        if match["module"]:
            found |= {f"{match['module']}.{name}" for name in names_in(match["names"])}
        else:
            found |= set(names_in(match["modules"]))
    return found


def place_of(path):
    """Return a file's place below `core`, without its suffix."""
    return path.relative_to(CORE).with_suffix("").as_posix()


PLACES = {place_of(path) for path in FILES} | {place_of(path) for path in CORE.rglob("*.py")}


def room_of(name):
    """Return the place of the room that a dotted name below vbdev.core leads to."""
    parts = name.split(".")[2:]
    while parts and "/".join(parts) not in PLACES:
        parts.pop()
    return "/".join(parts)


def family_of(place):
    """Return the family of a room: its folder."""
    return place.rpartition("/")[0]


def faults(place, source):
    """Return what a room of this source imports and must not."""
    wrong = []
    banned = forbidden()
    for name in sorted(imports(source)):
        if name.startswith("."):
            wrong.append(f"{name}: imports say the whole name")
        elif name.split(".")[0] in banned:
            wrong.append(f"{name}: the compiled floor does not know it")
        elif name.split(".")[0] != "vbdev":
            continue
        elif not name.startswith(tuple(f"{ours}." for ours in OF_OURS)):
            wrong.append(f"{name}: is above")
        elif name.startswith("vbdev.core."):
            room = room_of(name)
            if not room:
                wrong.append(f"{name}: there is no such room")
            elif family_of(room) not in {family_of(place), *BELOW[family_of(place)]}:
                wrong.append(f"{name}: {family_of(place)} may not import {family_of(room)}")
    if "PyImport_" in source or "__import__" in source:
        wrong.append("imports by a name that nobody reads")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CORE).as_posix())
def test_a_room_imports_from_its_family_and_those_below(path):
    assert faults(place_of(path), path.read_text()) == []


def test_each_family_has_rooms_and_goes_down_only():
    assert {family_of(place_of(path)) for path in FILES} == set(BELOW)
    order = list(BELOW)
    for family, below in BELOW.items():
        assert all(order.index(other) <= order.index(family) for other in below)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nimport threading as t, time", {"os", "threading", "time"}),
        ("cimport cython\nfrom libc.stdint cimport uint8_t", {"cython", "libc.stdint.uint8_t"}),
        ("from a.b cimport (\n    c,  # why\n    d as e,\n)", {"a.b.c", "a.b.d"}),
        ("from a import b, \\\n    c\n", {"a.b", "a.c"}),
        ("def f():\n    from a import b\n", {"a.b"}),
        ("from . cimport b", {"..b"}),
        ('"""\nfrom a import b\n"""\n# import c\n', set()),
        ('cdef extern from "time.h" nogil:\n    int clock()', set()),
    ],
)
def test_all_kinds_of_imports_are_read(source, found):
    assert imports(source) == found


@pytest.mark.parametrize(
    ("family", "source"),
    [
        ("engine", "import threading"),
        ("engine", "from time import sleep"),
        ("engine", "import importlib"),
        ("engine", "from vbdev.reactor.reactor import Reactor"),
        ("engine", "from vbdev import registry"),
        ("memory", "from vbdev.core.{engine} cimport Engine"),
        ("counts", "from vbdev.core.{memory} cimport BufferPool"),
        ("engine", "from vbdev.core.{loop} cimport Loop"),
        ("loop", "from vbdev.core.{ram} cimport RamDisk"),
        ("nbd", "from vbdev.core.{nbd/client} cimport NbdPath"),
        ("nbd/client", "from vbdev.core.{nbd/server} cimport NbdStream"),
        ("nbd/server", "from vbdev.core.{file} cimport Ring"),
        ("engine", "from vbdev.core cimport nothing_of_this_name"),
        ("engine", "from .types cimport bdev_io"),
    ],
)
def test_what_must_not_be_is_found(family, source):
    rooms = {}
    for path in FILES:
        rooms.setdefault(family_of(place_of(path)), place_of(path))
    source = re.sub(r"{(.*?)}", lambda match: rooms[match[1]].replace("/", "."), source)
    assert len(faults(rooms[family], source)) == 1, source


EXTERN = re.compile(r"^cdef extern from .*:\n((?:    .*\n|\n(?=    ))*)", re.MULTILINE)
DECLARED = re.compile(r"^    (?:[\w *]*[ *])?(\w+)(?: \"\w+\")?\(", re.MULTILINE)


def declared_functions(text):
    """Names of the C functions that a room declares for itself; what it writes in C is not one."""
    blocks = (re.sub(r'"""[\s\S]*?"""', "", block) for block in EXTERN.findall(text))
    return {name for block in blocks for name in DECLARED.findall(block)}


def test_a_c_function_is_declared_once():
    """One place says what it takes and returns, and whether it needs the GIL."""
    where = defaultdict(list)
    for path in [*CORE.rglob("*.pyx"), *CORE.rglob("*.pxd")]:
        for name in declared_functions(path.read_text()):
            where[name].append(str(path.relative_to(CORE)))
    assert {"mmap", "syscall", "PyObject_Vectorcall", "epoll_wait"} <= where.keys()
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}
