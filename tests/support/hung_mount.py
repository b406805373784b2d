"""A FUSE mount of one file whose server stops answering what it is told to: root and /dev/fuse.

    with hung_mount(directory) as mount:      # directory/disk is a file of SIZE bytes
        mount.hang("OPEN")                     # requests of that kind get no answer from now on
        mount.answer()                         # all that wait and all that come have one again

The server speaks the kernel's protocol (include/uapi/linux/fuse.h) itself, so that each kind of
request can be held, and reads each request before it holds it: the kernel then lets nobody go who
waits for the answer, not even for SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

SIZE = 1 << 20
NAME = "disk"
OPCODES = {
    "LOOKUP": 1,
    "FORGET": 2,
    "GETATTR": 3,
    "OPEN": 14,
    "READ": 15,
    "WRITE": 16,
    "STATFS": 17,
    "RELEASE": 18,
    "FSYNC": 20,
    "FLUSH": 25,
    "INIT": 26,
    "OPENDIR": 27,
    "RELEASEDIR": 29,
    "ACCESS": 34,
    "INTERRUPT": 36,
    "BATCH_FORGET": 42,
    "FALLOCATE": 43,
    "LSEEK": 46,
}
ASYNC_DIO = 1 << 15
MNT_DETACH = 2
ENOSYS = 38
ROOT, DISK = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def can_mount() -> bool:
    """Tell whether this user may mount FUSE file systems on this machine."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


class HungMount:
    """The mount at `directory`. `path`: of its file."""

    def __init__(self, directory: Path, *, flush: bool = True, async_dio: bool = False) -> None:
        self.directory = Path(directory)
        self.path = str(self.directory / NAME)
        self._fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._fd},rootmode=40755,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"hung", os.fsencode(directory), b"fuse", 6, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        words = [str(self._fd), str(int(flush)), str(int(async_dio))]
        self._server = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *words],
            pass_fds=[self._fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        os.close(self._fd)  # the connection ends with the server
        assert self._tell("") == "0"

    def _tell(self, words: str) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{words}\n".encode())
        self._server.stdin.flush()
        return self._server.stdout.readline().decode().strip()

    def hang(self, *names: str) -> None:
        """Answer requests of these kinds no more; "*" for all kinds."""
        self._tell(f"hang {' '.join(names)}")

    def held(self) -> int:
        """Return how many requests wait for an answer."""
        return int(self._tell("held"))

    def answer(self) -> None:
        """Answer everything again, what waits first."""
        self._tell("answer")

    def close(self) -> None:
        """End the server and the mount; who waits gets ENOTCONN."""
        self._server.kill()
        self._server.communicate()
        _libc.umount2(os.fsencode(self.directory), MNT_DETACH)


@contextlib.contextmanager
def hung_mount(directory, **options):
    """Mount on a directory that is made here; it is gone at the end."""
    Path(directory).mkdir()
    mount = HungMount(directory, **options)
    try:
        yield mount
    finally:
        mount.close()


class Server:
    """The other side of /dev/fuse, in a process of its own."""

    def __init__(self, fd: int, *, flush: bool, async_dio: bool) -> None:
        self._fd = fd
        self._flushes = flush
        self._flags = ASYNC_DIO if async_dio else 0
        self._data = bytearray(SIZE)
        self._hanging: set[int] = set()
        self._all = False
        self._held: list[bytes] = []

    def run(self) -> None:
        """Serve until the mount is gone."""
        while True:
            readable, _, _ = select.select([self._fd, 0], [], [])
            if 0 in readable:
                words = sys.stdin.buffer.readline().decode().split()
                if words:
                    self._obey(*words)
                print(len(self._held), flush=True)
            if self._fd in readable:
                try:
                    request = os.read(self._fd, SIZE + (1 << 16))
                except InterruptedError:
                    continue
                except OSError:
                    return
                self._request(request)

    def _obey(self, word: str, *names: str) -> None:
        if word == "hang":
            self._hanging = {OPCODES[name] for name in names if name != "*"}
            self._all = "*" in names
        elif word == "answer":
            self._hanging, self._all = set(), False
            held, self._held = self._held, []
            for request in held:
                self._request(request)

    def _request(self, request: bytes) -> None:
        opcode = struct.unpack_from("=I", request, 4)[0]
        silent = {OPCODES[name] for name in ("FORGET", "BATCH_FORGET", "INTERRUPT")}
        if opcode in silent:
            return
        if self._all or opcode in self._hanging:
            self._held.append(request)
            return
        names = {number: name for name, number in OPCODES.items()}
        method = getattr(self, f"_{names.get(opcode, 'unknown').lower()}", None)
        answer = -ENOSYS if method is None else method(request)
        unique, node = struct.unpack_from("=QQ", request, 8)
        del node
        error, body = (answer, b"") if isinstance(answer, int) else (0, answer)
        with contextlib.suppress(OSError):  # interrupted meanwhile
            os.write(self._fd, struct.pack("=IiQ", 16 + len(body), error, unique) + body)

    def _init(self, request: bytes):
        flags = struct.unpack_from("=I", request, 40 + 12)[0] & self._flags
        body = struct.pack("=IIIIHHIIHHI", 7, 31, 1 << 17, flags, 64, 48, 1 << 17, 1, 32, 0, 0)
        return body.ljust(64, b"\0")

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o644
        size = 0 if node == ROOT else SIZE
        return struct.pack(
            "=6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )

    def _lookup(self, request: bytes):
        if request[40:].rstrip(b"\0") != NAME.encode():
            return -2
        return struct.pack("=4Q2I", DISK, 0, 0, 0, 0, 0) + self._attributes(DISK)

    def _getattr(self, request: bytes):
        return struct.pack("=Q2I", 0, 0, 0) + self._attributes(
            struct.unpack_from("=Q", request, 16)[0]
        )

    def _open(self, _request: bytes):
        return struct.pack("=QII", 1, 0, 0)

    _opendir = _open

    def _read(self, request: bytes):
        _, offset, size = struct.unpack_from("=QQI", request, 40)
        return bytes(self._data[offset : offset + size])

    def _write(self, request: bytes):
        _, offset, size = struct.unpack_from("=QQI", request, 40)
        self._data[offset : offset + size] = request[80 : 80 + size]
        return struct.pack("=II", size, 0)

    def _statfs(self, _request: bytes):
        return struct.pack("=5Q4I", 1 << 20, 1 << 19, 1 << 19, 100, 50, 4096, 255, 4096, 0).ljust(
            80, b"\0"
        )

    def _flush(self, _request: bytes):
        return b"" if self._flushes else -ENOSYS

    def _fsync(self, _request: bytes):
        return b""

    _release = _releasedir = _access = _fsync


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Server(int(sys.argv[1]), flush=sys.argv[2] == "1", async_dio=sys.argv[3] == "1").run()
