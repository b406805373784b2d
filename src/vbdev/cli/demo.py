"""`vbdev demo`: a daemon, a passthru disk on a memory disk, and a client that is not ours.

Each step is a command that could be typed, and is printed before it runs. The exit status is 0
only when what was read back equals what was written.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from vbdev.api.methods import RpcError
from vbdev.cli.nbd_client import NbdClient
from vbdev.cli.talk import complain
from vbdev.client.connection import Connection

SIZE_MIB = 64
START_TIMEOUT_S = 20.0
CHUNK = 1 << 20

Step = Callable[[Path, Path, Path], None]


class DemoError(Exception):
    """A step failed; the message says which."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vbdev demo`."""
    parser.add_argument(
        "--client",
        choices=("nbdcopy", "qemu-img", "own"),
        help="default: the first of these that is installed; own is this project's",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo in a directory of its own, which is gone afterwards."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # as an interrupt: what was begun is put away
        signal.signal(number, leave)
    with tempfile.TemporaryDirectory(prefix="vbdev-demo-") as name:
        try:
            return show(Path(name), arguments.client)
        except (DemoError, RpcError, subprocess.SubprocessError, OSError) as error:
            complain("vbdev demo", error)
            return 1


def leave(number: int, _frame: FrameType | None) -> None:
    """End with the status that a shell has for a signal."""
    raise SystemExit(128 + number)


def show(directory: Path, client: str | None) -> int:
    """Start the daemon, make the disks, let a client use them, show the figures, stop."""
    rpc, nbd = directory / "rpc.sock", directory / "nbd.sock"
    daemon = start([sys.executable, "-m", "vbdev", "serve", "--rpc-socket", str(rpc)], rpc)
    try:
        blocks = SIZE_MIB * 1024 * 1024 // 512
        for words in (
            ["bdev_malloc_create", "name=Malloc0", f"num_blocks={blocks}", "block_size=512"],
            ["bdev_passthru_create", "base_bdev_name=Malloc0", "name=Passthru0"],
            ["nbd_server_start", f"address=unix:{nbd}"],
            ["nbd_export_add", "bdev_name=Passthru0"],
        ):
            vbdev(rpc, "rpc", *words)
        copy(directory, nbd, client or installed_client())
        vbdev(rpc, "ls")
        show_iostat(rpc)
    finally:
        status = stop(daemon)
    print(f"the daemon has stopped, exit status {status}")
    return status


def start(command: list[str], rpc: Path) -> subprocess.Popen[bytes]:
    """Start the daemon and wait for its control plane."""
    print("$ " + shlex.join(["vbdev", *command[3:]]) + " &", flush=True)
    began = time.monotonic()
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(daemon, rpc, began)
    except BaseException:
        daemon.kill()
        daemon.wait()
        raise
    return daemon


def wait_for(daemon: subprocess.Popen[bytes], rpc: Path, began: float) -> None:
    """Wait for a daemon's first answer."""
    while time.monotonic() - began < START_TIMEOUT_S:
        try:
            with Connection(str(rpc)) as client:
                version = client.call("spdk_get_version")["version"]
        except ConnectionError:
            if daemon.poll() is not None:
                break
            time.sleep(0.01)
            continue
        print(f"{version} answered after {time.monotonic() - began:.2f} s\n", flush=True)
        return
    raise DemoError(f"the daemon did not answer within {START_TIMEOUT_S:g} s")


def stop(daemon: subprocess.Popen[bytes]) -> int:
    """Stop the daemon as a service manager would, and return its exit status."""
    print(f"$ kill -TERM {daemon.pid}", flush=True)
    daemon.terminate()
    try:
        return daemon.wait(START_TIMEOUT_S)
    finally:  # after an interrupt, or in vain
        daemon.kill()


def vbdev(rpc: Path, command: str, *words: str) -> None:
    """Run a vbdev command against the daemon, and show it."""
    shown = ["vbdev", command, "-s", str(rpc), *words]
    print("$ " + shlex.join(shown), flush=True)
    subprocess.run([sys.executable, "-m", *shown], check=True)
    print(flush=True)


def installed_client() -> str:
    """Return the first client that is there; ours when there is no other."""
    for name in ("nbdcopy", "qemu-img"):
        if shutil.which(name):
            return name
    print("no nbdcopy and no qemu-img here: using this project's own client\n")
    return "own"


def copy(directory: Path, nbd: Path, client: str) -> None:
    """Write 64 MiB of random data through the client, read it back, compare."""
    written, read = directory / "written", directory / "read"
    written.write_bytes(os.urandom(SIZE_MIB << 20))
    put, get = CLIENTS[client]
    for verb, step in (("written", put), ("read back", get)):
        began = time.monotonic()
        step(nbd, written, read)
        seconds = time.monotonic() - began
        print(
            f"{SIZE_MIB} MiB {verb} in {seconds:.2f} s, {SIZE_MIB / seconds:.0f} MiB/s\n",
            flush=True,
        )
    if not filecmp.cmp(written, read, shallow=False):
        raise DemoError("what was read back is not what was written")
    print(f"what was read back equals what was written, all {SIZE_MIB} MiB\n", flush=True)


def external(*template: str) -> Step:
    """Return a step that runs a command, with URI, WRITTEN and READ filled in."""

    def step(nbd: Path, written: Path, read: Path) -> None:
        values = {"URI": f"nbd+unix:///?socket={nbd}", "WRITTEN": str(written), "READ": str(read)}
        command = [values.get(word, word) for word in template]
        print("$ " + shlex.join(command), flush=True)
        subprocess.run(command, check=True)

    return step


def own_put(nbd: Path, written: Path, _read: Path) -> None:
    """Write a file to the default export."""
    with NbdClient(str(nbd)) as client, written.open("rb") as file:
        for offset in range(0, client.size_bytes, CHUNK):
            client.write(offset, file.read(CHUNK))
        client.flush()


def own_get(nbd: Path, _written: Path, read: Path) -> None:
    """Read the default export into a file."""
    with NbdClient(str(nbd)) as client, read.open("wb") as file:
        for offset in range(0, client.size_bytes, CHUNK):
            file.write(client.read(offset, min(CHUNK, client.size_bytes - offset)))


CLIENTS: dict[str, tuple[Step, Step]] = {
    "nbdcopy": (external("nbdcopy", "WRITTEN", "URI"), external("nbdcopy", "URI", "READ")),
    "qemu-img": (
        external("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "WRITTEN", "URI"),
        external("qemu-img", "convert", "-f", "raw", "-O", "raw", "URI", "READ"),
    ),
    "own": (own_put, own_get),
}


def show_iostat(rpc: Path) -> None:
    """Print what each layer has counted."""
    command = shlex.join(["vbdev", "rpc", "-s", str(rpc), "bdev_get_iostat"])
    print(f"$ {command}  # as a table", flush=True)
    with Connection(str(rpc)) as client:
        bdevs = client.call("bdev_get_iostat")["bdevs"]
    print(f"{'bdev':<12}{'reads':>8}{'MiB read':>10}{'writes':>8}{'MiB written':>13}")
    for bdev in bdevs:
        print(
            f"{bdev['name']:<12}{bdev['num_read_ops']:>8}{bdev['bytes_read'] / 2**20:>10.1f}"
            f"{bdev['num_write_ops']:>8}{bdev['bytes_written'] / 2**20:>13.1f}"
        )
    print(flush=True)
