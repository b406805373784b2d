"""NBD servers on a unix socket: vbdev's own, and those of the peers that are installed.

None is left behind: each ends with the block that it is used in, and with this process however
that ends (PR_SET_PDEATHSIG; `vbdev.testing.daemon` has its own way).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from vbdev.testing.daemon import Daemon

__all__ = ["PEERS", "SIZE_BYTES", "Server", "absent", "peer", "program", "start", "vbdev"]

SIZE_BYTES = 512 << 20
START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 10
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
SERVED = Path(__file__).with_name("served")


@dataclass(frozen=True, slots=True)
class Server:
    """One that serves: what it calls its export, where, and its process."""

    socket: Path
    pid: int
    export: str = ""
    rpc_socket: str = ""
    """Of its control plane, where it has one."""

    @property
    def uri(self) -> str:
        """What clients connect to."""
        return f"nbd+unix:///{self.export}?socket={self.socket}"


def absent(*programs: str) -> str:
    """Return why something can not be measured here: the first program that is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def spawn(
    words: list[str], log: Path, *, ends_with_input: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block, with all that it starts.

    ends_with_input: how it is asked to end, instead of by a signal.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if ends_with_input else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=None if ends_with_input else die_with_parent,  # noqa: PLW1509 - no locks here
        )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        else:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server accepts connections. RuntimeError with what it has said."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.02)
    lines = log.read_text(errors="replace").strip().splitlines() or ["without a word"]
    raise RuntimeError(f"it does not serve: {lines[-1]}")


@contextlib.contextmanager
def vbdev(directory: Path, base: str, *words: str) -> Iterator[Server]:
    """Serve a stack with `vbdev serve`. base, words: its BASE and further words."""
    path = _fresh(directory, "vbdev")
    home = path.with_suffix("")
    home.mkdir()
    with Daemon(base, *words, "--nbd", f"unix:{path}", command="serve", directory=home) as daemon:
        yield Server(path, daemon.pid, rpc_socket=daemon.rpc_socket)


PEERS = {
        "nbdkit memory": ["nbdkit", "-f", "-U", "SOCKET", "memory", str(SIZE_BYTES)],
        "nbdkit python": [
            "nbdkit", "-f", "-U", "SOCKET", "python", str(SERVED / "nbdkit_disk.py"),
            f"size={SIZE_BYTES}",
        ],
        "qemu-nbd": [
            "qemu-nbd", "-t", "-e", "16", "-f", "raw", "--cache=writeback", "--discard=unmap",
            "-k", "SOCKET", "IMAGE",
        ],
        "qemu-storage-daemon null-co": [
            "qemu-storage-daemon",
            "--blockdev", f"driver=null-co,node-name=disk,size={SIZE_BYTES}",
            "--nbd-server", "addr.type=unix,addr.path=SOCKET",
            "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on",
        ],
        "nbd-server": [
        "sh", "-c", 'nbd-server -C "$0" -p "$1" && cat; kill -9 "-$(cat "$1")"',
        "CONFIG", "PIDFILE",
    ],
}  # fmt: skip
"""{name: words}, in which SOCKET, IMAGE, CONFIG and PIDFILE stand for paths.

nbd-server serves several clients only as a daemon, whose parent init is: the shell ends it when its
own input does.
"""

EXPORTS = {"qemu-storage-daemon null-co": "disk", "nbd-server": "disk"}
"""Names of exports, of servers that have no nameless one."""


def program(name: str) -> str:
    """Return the program that a peer is."""
    return name.partition(" ")[0]


@contextlib.contextmanager
def peer(directory: Path, name: str) -> Iterator[Server]:
    """Start a peer by its name in `PEERS`. RuntimeError: it does not serve."""
    path = _fresh(directory, program(name))
    image, config, log, pidfile = (
        path.with_suffix(suffix) for suffix in (".img", ".conf", ".log", ".pid")
    )
    words = PEERS[name]
    export = EXPORTS.get(name, "")
    with contextlib.ExitStack() as stack:
        if "IMAGE" in words or "CONFIG" in words:
            stack.callback(image.unlink, missing_ok=True)
            with image.open("wb") as file:
                file.truncate(SIZE_BYTES)
        config.write_text(
            f"[generic]\nunixsock = {path}\nallowlist = true\n"
            f"[{export}]\nexportname = {image}\nflush = true\nfua = true\ntrim = true\n"
        )
        places = {"SOCKET": path, "IMAGE": image, "CONFIG": config, "PIDFILE": pidfile}
        for place, there in places.items():
            words = [word.replace(place, str(there)) for word in words]
        is_daemon = str(pidfile) in words
        process = stack.enter_context(spawn(words, log, ends_with_input=is_daemon))
        wait_for(path, process, log)
        pid = int(pidfile.read_text()) if is_daemon else process.pid
        yield Server(path, pid, export)


def start(
    stack: contextlib.ExitStack, make: Callable[[], AbstractContextManager[Server]]
) -> Server | str:
    """Start a server for as long as a stack lasts, or return why it does not."""
    try:
        return stack.enter_context(make())
    except Exception as error:  # noqa: BLE001 - the others go on
        return f"does not start: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"


def _fresh(directory: Path, name: str) -> Path:
    """Return a path for a socket, short and not in use."""
    number = 0
    while (path := directory / f"{name}{number}.sock").exists() or path.with_suffix("").exists():
        number += 1
    return path
