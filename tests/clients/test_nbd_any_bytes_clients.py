"""Clients that know nothing of blocks, on a disk of 4096-byte blocks.

Method: black-box. libnbd refuses by itself what is no multiple of the minimum that a server tells,
so nbdfuse and nbdsh can only do this where it is 1; the kernel's driver never asks for it, and has
sectors of 512 bytes.
"""

import mmap
import os
import random
import socket
import subprocess
from pathlib import Path

import pytest

from support.clients import find, missing, requires, run
from support.nbd_client import NbdClient, NbdFailedError
from vbdev.wire.nbd import Command

from .test_nbd_clients_live import wait_for

pytestmark = pytest.mark.client

MIB = 1 << 20
BASE = "malloc:64MiB,block_size=4096"


@pytest.fixture
def disk(serve):
    return serve(BASE, "--layer", "passthru", "--reactors", "2")


@pytest.fixture
def mounted(disk, tmp_path):
    """Give the disk as a file."""
    requires("nbdfuse", "fusermount3")
    if not os.access("/dev/fuse", os.W_OK):
        missing("/dev/fuse is not there")
    mount = tmp_path / "mnt"
    mount.mkdir()
    fuse = subprocess.Popen([find("nbdfuse"), "-C", "2", mount / "disk", disk.uri()])
    try:
        wait_for(mount / "disk", fuse)
        yield mount / "disk"
    finally:
        run("fusermount3", "-u", mount)
        fuse.wait(20)


def test_what_fsx_does(mounted):
    """Reads, writes, and both through a mapping, at any byte, beside a twin (xfstests, fsx.c)."""
    choose = random.Random(23)
    size = 256 << 10
    twin = bytearray(size)
    with mounted.open("r+b", buffering=0) as file:
        file.write(bytes(size))
        for step in range(600):
            offset = choose.randrange(size)
            length = min(1 + choose.randrange(20_000), size - offset)
            what = choose.randrange(10)
            if what < 4:
                data = choose.randbytes(length)
                os.pwrite(file.fileno(), data, offset)
                twin[offset : offset + length] = data
            elif what < 8:
                assert os.pread(file.fileno(), length, offset) == twin[offset : offset + length]
            elif what == 8:
                start = offset // mmap.PAGESIZE * mmap.PAGESIZE
                with mmap.mmap(
                    file.fileno(), offset + length - start, mmap.MAP_PRIVATE, mmap.PROT_READ,
                    offset=start,
                ) as mapped:  # fmt: skip
                    assert mapped[offset - start :] == twin[offset : offset + length], step
            else:
                os.fsync(file.fileno())
        assert os.pread(file.fileno(), size, 0) == twin


@pytest.mark.parametrize("block_size", ["1024", "4096"])
def test_file_systems(mounted, disk, tmp_path, block_size):
    """One of smaller blocks than the disk's is whole too, for those who read it elsewhere."""
    requires("mke2fs", "e2fsck", "debugfs")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"file{number}").write_bytes(os.urandom(number * 777))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", block_size, "-d", tree, mounted)
    run("e2fsck", "-f", "-n", mounted)
    run("nbdcopy", disk.uri(), tmp_path / "image")
    run("e2fsck", "-f", "-n", tmp_path / "image")
    for number in range(20):
        name = tmp_path / f"back{number}"
        run("debugfs", "-R", f"dump /file{number} {name}", tmp_path / "image")
        assert name.read_bytes() == (tree / f"file{number}").read_bytes()


def test_qemu_io_at_odd_places(disk):
    run(
        *("qemu-io", "-f", "raw", "-c", "write -P 0x11 0 64k", "-c", "write -P 0x22 4090 20"),
        *("-c", "write -f -P 0x33 8191 1", "-c", "write -z 12289 4095", "-c", "discard 16385 8192"),
        *("-c", "read -P 0x11 0 4090", "-c", "read -P 0x22 4090 20", "-c", "read -P 0x33 8191 1"),
        *("-c", "read -P 0x11 4110 4081", "-c", "read -P 0x11 8192 4097"),
        *("-c", "read -P 0 12289 4095", "-c", "read -P 0x11 16384 1", disk.uri()),
    )


PARALLEL = """
import random
choose = random.Random(1)
size = 1 << 20
handles = [nbd.NBD() for _ in range(4)]
for each in handles:
    each.connect_uri(URI)
share = size // len(handles)
twin = bytearray(size)
for turn in range(40):
    waiting = []
    for number, each in enumerate(handles):
        offset = number * share
        while offset < (number + 1) * share:
            length = min(1 + choose.randrange(16384), (number + 1) * share - offset)
            if choose.random() < 0.2:
                data = bytearray(choose.randbytes(length))
                twin[offset:offset + length] = data
                waiting.append((each, each.aio_pwrite(nbd.Buffer.from_bytearray(data), offset)))
            offset += length
    while waiting:
        waiting = [(each, c) for each, c in waiting if not each.aio_command_completed(c)]
        for each in {id(each): each for each, _ in waiting}.values():
            each.poll(100)
for each in handles:
    assert each.pread(size, 0) == twin
    each.shutdown()
print("all well")
"""


def test_parallel_clients_of_libnbd(disk):
    """As libnbd's aio-parallel: several connections, each with many requests at any byte."""
    requires("nbdsh")
    # The system's nbdsh needs the system's Python, which an environment may hide.
    path = f"{Path(find('nbdsh')).parent}{os.pathsep}{os.environ['PATH']}"
    script = PARALLEL.replace("URI", repr(disk.uri()))
    assert "all well" in run("nbdsh", "-c", script, env=os.environ | {"PATH": path})


def oldest_client(path):
    """Negotiate with NBD_OPT_EXPORT_NAME, which can not ask for block sizes, as old clients do."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    assert connection.recv(18, socket.MSG_WAITALL)[:8] == b"NBDMAGIC"
    connection.sendall((3).to_bytes(4, "big") + b"IHAVEOPT" + (1).to_bytes(4, "big") + bytes(4))
    assert int.from_bytes(connection.recv(10, socket.MSG_WAITALL)[:8], "big") == 64 * MIB
    return connection


def test_a_client_that_can_not_ask(disk):
    connection = oldest_client(disk.socket)
    for cookie, (command, offset, data) in enumerate(
        [(1, 100, b"abc"), (0, 99, 5), (6, 101, 1), (0, 99, 5)]
    ):
        length = data if isinstance(data, int) else len(data)
        connection.sendall(
            bytes.fromhex("25609513")
            + bytes(2)
            + command.to_bytes(2, "big")
            + cookie.to_bytes(8, "big")
            + offset.to_bytes(8, "big")
            + length.to_bytes(4, "big")
            + (b"" if isinstance(data, int) else data)
        )
        reply = connection.recv(16, socket.MSG_WAITALL)
        assert reply[:8] == bytes.fromhex("6744669800000000")
        if command == 0:
            wanted = b"\0abc\0" if cookie == 1 else b"\0a\0c\0"
            assert connection.recv(5, socket.MSG_WAITALL) == wanted
    connection.close()


def test_the_strict_way(serve):
    daemon = serve(BASE, "--nbd-strict-blocks")
    with NbdClient(daemon.socket) as client:
        assert client.entered.info.block_sizes.minimum_bytes == 4096
        with pytest.raises(NbdFailedError, match="EINVAL"):
            client.write(512, bytes(512))
        with pytest.raises(NbdFailedError, match="EINVAL"):
            client._do(Command.READ, 0, 1)
    daemon.rpc.call("nbd_export_add", bdev_name="Malloc0", export_name="any", strict_blocks=False)
    with NbdClient(daemon.socket, "any") as client:
        client.write(512, b"x" * 3)
        assert client.read(511, 5) == b"\0xxx\0"
    exports = {e["export_name"]: e["strict_blocks"] for e in daemon.rpc.call("nbd_get_exports")}
    assert exports == {"Malloc0": True, "any": False}
