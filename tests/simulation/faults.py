"""Faults in compiled code, put back in a build of their own: `make canaries`.

A fault is a few changes of the source, in which `FAULT` stands for "this fault is wanted". All are
put into one copy of the source, and the environment variable VBDEV_FAULT says which of them a
process has. The source itself knows nothing of them; a test holds that each change still finds its
place.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

__all__ = ["FAULTS", "MARK", "VARIABLE"]

ROOT = Path(__file__).parents[2]
VARIABLE = "VBDEV_FAULT"
MARK = "faults.txt"
"""In the package of such a build: the names of its faults."""
COPIED = ("src", "meson.build", "pyproject.toml", "README.md", "LICENSE")
FAULT_PXD = """from libc.stdlib cimport getenv
from libc.string cimport strcmp


cdef inline bint fault(const char *name) noexcept nogil:
    cdef const char *wanted = getenv("VBDEV_FAULT")
    return wanted != NULL and strcmp(wanted, name) == 0
"""

STREAM = "core/nbd/server/stream.pyx"
FAULTS: dict[str, list[tuple[str, str, str]]] = {
    # Half a WRITE holds its memory, and waits for a chunk to receive the other half into.
    "hold and wait": [
        (
            STREAM,
            "        self._make_room()\n        if self.partial != NULL:",
            """        self._make_room()
        if FAULT and self.rx == NULL and not self._new_chunk():
            self._starve()
            return 0
        if self.partial != NULL:""",
        ),
        (
            "core/nbd/server/memory.pyx",
            "        if (client.chunks == CHUNKS_OF_CLIENT\n",
            """        if (client.chunks == CHUNKS_OF_CLIENT or (
                FAULT and self.used_bytes + self.chunk_bytes + CHUNK_BYTES > self.limit_bytes)
""",
        ),
    ],
    # A watch with nothing wanted reports hang-ups again and again.
    "report hang-ups": [
        (
            "core/loop/loop.pyx",
            "(EPOLLOUT if write else 0) or EPOLLONESHOT",
            "(EPOLLOUT if write else 0) or (0 if FAULT else EPOLLONESHOT)",
        ),
        (
            STREAM,
            "            if hung_up(self.fd):",
            "            if not FAULT and hung_up(self.fd):",
        ),
    ],
    # A READ that its module calls done is taken for done, with or without data.
    "believe modules": [
        (
            "core/engine/engine.pyx",
            "    if io.iovcnt == 1:\n        return io.iovs[0].iov_len == length\n",
            """    if FAULT:
        return True
    if io.iovcnt == 1:
        return io.iovs[0].iov_len == length
""",
        ),
        (
            STREAM,
            "        elif tag & KIND_READ and (\n",
            "        elif not FAULT and tag & KIND_READ and (\n",
        ),
    ],
    # SystemExit of a module passes through, and leaves a list that is gone through once more.
    "let exits through": [
        (
            "core/engine/delivery.pyx",
            """            self.engine.report(self, error, failed)

    cdef void _was_slow""",
            """            if FAULT and not isinstance(error, Exception):
                raise
            self.engine.report(self, error, failed)

    cdef void _was_slow""",
        ),
        (
            "core/engine/delivery.pyx",
            "cdef void _module_failed(self, bdev_io **copy, Py_ssize_t n) noexcept:",
            "cdef void _module_failed(self, bdev_io **copy, Py_ssize_t n) except *:",
        ),
        (
            "core/engine/delivery.pxd",
            "cdef void _module_failed(self, bdev_io **copy, Py_ssize_t n) noexcept\n",
            "cdef void _module_failed(self, bdev_io **copy, Py_ssize_t n) except *\n",
        ),
        (
            "core/engine/delivery.pyx",
            "IOBatch ios, bdev_io **copy) noexcept:",
            "IOBatch ios, bdev_io **copy) except *:",
        ),
        (
            "core/engine/children.pyx",
            "            self.o.ready.n -= taken\n",
            """            taken = 0 if FAULT and taken < n else taken
            self.o.ready.n -= taken
""",
        ),
    ],
    # A turn is bounded by nothing.
    "endless turns": [
        (
            "core/engine/turn.pxd",
            "    if self.over:\n        return True\n",
            "    if FAULT:\n        return False\n    if self.over:\n        return True\n",
        )
    ],
    # An ABORT ends whatever waits anywhere, through whatever channel it comes.
    "abort another's": [
        (
            "core/engine/admission.pyx",
            "        if d == victim.depth:\n",
            "        if d == victim.depth and not FAULT:\n",
        )
    ],
}


def changed_text(text, name, old, new, file):
    """Return a source with one fault in it."""
    if text.count(old) != 1:
        raise ValueError(f"{file}: {text.count(old)} places for the fault {name!r}: {old!r}")
    return text.replace(old, new.replace("FAULT", f'fault(b"{name}")'))


def changed_sources():
    """Return {file: its text with all faults in it}."""
    sources = {}
    for name, changes in FAULTS.items():
        for file, old, new in changes:
            text = sources.get(file) or (ROOT / "src/vbdev" / file).read_text()
            sources[file] = changed_text(text, name, old, new, file)
    return sources


def with_import(text):
    """Return a source that knows `fault`."""
    lines = text.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.startswith(("from ", "cimport ")))
    return "".join([*lines[:first], "from vbdev.core.fault cimport fault\n", *lines[first:]])


def write_copy(folder):
    """Write a copy of the source with all faults in it."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("*.pyc", "__pycache__")
            shutil.copytree(source, folder / name, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy2(source, folder / name)
    package = folder / "src/vbdev"
    (package / "core/fault.pxd").write_text(FAULT_PXD)
    (package / MARK).write_text("".join(f"{name}\n" for name in FAULTS))
    for file, text in changed_sources().items():
        (package / file).write_text(with_import(text))


if __name__ == "__main__":
    write_copy(Path(sys.argv[1]))
