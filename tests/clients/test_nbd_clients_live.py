"""Clients while the stack under them changes: RPC from SPDK's own tool, hot removal, FUSE, nbdsh.

Method: as `test_nbd_clients.py`. What a client sees when its disk goes away is a disconnection, or
an error from the protocol's table, never garbage and never a hang; and the daemon lives.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.clients import find, missing, requires, run
from support.nbd_client import NbdClient, NbdFailedError, header
from vbdev.api.errors import RpcError
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command

pytestmark = pytest.mark.client

MIB = 1 << 20


def spdk_rpc(daemon, *words, ok=0):
    return run("spdk-rpc", "-s", daemon.rpc_socket, *words, ok=ok).strip()


def test_spdk_rpc_makes_and_deletes_while_serving(daemon):
    with NbdClient(daemon.socket) as client:
        client.write(0, b"\x42" * 4096)
        assert spdk_rpc(daemon, "bdev_malloc_create", "-b", "M1", "8", "512") == "M1"
        assert spdk_rpc(daemon, "bdev_passthru_create", "-b", "M1", "-p", "P1") == "P1"
        assert '"name": "P1"' in spdk_rpc(daemon, "bdev_get_bdevs", "-b", "P1")
        daemon.rpc.call("nbd_export_add", bdev_name="P1")
        run("nbdinfo", "--size", daemon.uri("P1"))
        spdk_rpc(daemon, "bdev_passthru_delete", "P1")
        spdk_rpc(daemon, "bdev_malloc_delete", "M1")
        assert "No such device" in spdk_rpc(daemon, "bdev_get_bdevs", "-b", "P1", ok=1)
        assert client.read(0, 4096) == b"\x42" * 4096
    assert [e["export_name"] for e in daemon.rpc.call("nbd_get_exports")] == ["Passthru0"]


def test_hot_removal_under_a_client(serve):
    """Replies until the end, then a clean disconnection; P0 is back as soon as its base is."""
    daemon = serve("malloc:16MiB,name=M0", "--layer", "passthru,name=P0")
    answered = []
    client = NbdClient(daemon.socket)

    def load():
        try:
            while True:
                offsets = range(0, 64 * 4096, 4096)
                batch = [client.message(Command.WRITE, at, data=bytes(4096)) for at in offsets]
                client.send(b"".join(batch))
                answered.extend(reply.error for reply in client.wait_all().values())
        except (ConnectionError, BrokenPipeError):
            pass

    thread = threading.Thread(target=load)
    thread.start()
    while len(answered) < 1000:
        time.sleep(0.001)
    daemon.rpc.call("bdev_malloc_delete", name="M0")
    thread.join(10)
    assert not thread.is_alive()
    client.close()
    assert set(answered) <= {NbdError.OK, NbdError.ESHUTDOWN}
    assert daemon.rpc.call("bdev_get_bdevs") == []
    assert daemon.rpc.call("nbd_get_exports") == []
    daemon.rpc.call("bdev_malloc_create", name="M0", num_blocks=32768, block_size=512)
    assert {b["name"] for b in daemon.rpc.call("bdev_get_bdevs")} == {"M0", "P0"}
    daemon.rpc.call("nbd_export_add", bdev_name="P0")
    with NbdClient(daemon.socket, "P0") as again:
        assert again.read(0, 4096) == bytes(4096)


def test_hot_removal_under_fio(daemon, tmp_path):
    """A real client in the middle of its work ends with an error, in time."""
    requires("fio")
    words = ["--name=x", "--ioengine=nbd", f"--uri={daemon.uri()}", "--rw=randrw", "--bs=4k"]
    words += ["--iodepth=32", "--size=32m", "--time_based", "--runtime=30"]
    with (tmp_path / "fio.log").open("wb") as log:
        fio = subprocess.Popen([find("fio"), *words], cwd=tmp_path, stdout=log, stderr=log)
    try:
        while written_bytes(daemon) < 4 * MIB:
            time.sleep(0.01)
        base = daemon.rpc.call("vbdev_get_stack")[0]
        daemon.rpc.call(f"bdev_{base['kind']}_delete", name=base["name"])
        assert fio.wait(10) != 0
    finally:
        fio.kill()
        fio.wait()
    assert daemon.rpc.call("bdev_get_bdevs") == []


def written_bytes(daemon):
    return daemon.rpc.call("bdev_get_iostat", names=["Passthru0"])["bdevs"][0]["bytes_written"]


def test_export_removed_under_a_client_that_waits(daemon):
    """An idle client is disconnected at once, one that takes no replies after a while."""
    with NbdClient(daemon.socket) as idle:
        began = time.monotonic()
        daemon.rpc.call("nbd_export_remove", export_name="Passthru0")
        assert idle.at_end()
        assert time.monotonic() - began < 2
    with pytest.raises(ConnectionRefusedError, match="Passthru0"):
        NbdClient(daemon.socket, "Passthru0")


def test_stop_with_a_client_that_takes_no_replies(serve):
    """The orderly stop waits for it, but not for ever."""
    daemon = serve("malloc:64MiB")
    with NbdClient(daemon.socket) as client:
        client.send(b"".join(header(Command.READ, n, 0, MIB) for n in range(50)))
        time.sleep(0.2)
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < 10


def test_claimed_base_is_not_exported_for_writing(daemon):
    base = daemon.rpc.call("bdev_get_bdevs")[0]["name"]
    with pytest.raises(RpcError, match=f"bdev {base} can not be opened for writing"):
        daemon.rpc.call("nbd_export_add", bdev_name=base)
    daemon.rpc.call("nbd_export_add", bdev_name=base, read_only=True)
    with NbdClient(daemon.socket, base) as client, NbdClient(daemon.socket) as top:
        top.write(0, b"\x66" * 4096)
        assert client.read(0, 4096) == b"\x66" * 4096
        with pytest.raises(NbdFailedError, match="EPERM"):
            client.write(0, bytes(4096))


def test_file_system_through_fuse(daemon, tmp_path):
    """mke2fs and e2fsck on the disk as a file; then the files in it, back through the protocol."""
    requires("nbdfuse", "mke2fs", "e2fsck", "fusermount3")
    if not os.access("/dev/fuse", os.W_OK):
        missing("/dev/fuse is not there")
    tree, mount = tmp_path / "tree", tmp_path / "mnt"
    tree.mkdir()
    mount.mkdir()
    for number in range(50):
        (tree / f"file{number}").write_bytes(os.urandom(20_000))
    fuse = subprocess.Popen([find("nbdfuse"), mount / "disk", daemon.uri()])
    try:
        wait_for(mount / "disk", fuse)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, mount / "disk")
        run("e2fsck", "-f", "-n", mount / "disk")
    finally:
        run("fusermount3", "-u", mount)
        fuse.wait(20)
    run("nbdcopy", daemon.uri(), tmp_path / "image")
    run("e2fsck", "-f", "-n", tmp_path / "image")
    listing = run("debugfs", "-R", "ls -p /", tmp_path / "image")
    assert listing.count("/file") == 50


def wait_for(path: Path, process):
    for _ in range(2000):
        if path.exists():
            return
        assert process.poll() is None, "it ended at once"
        time.sleep(0.005)
    raise AssertionError(f"{path} does not come")


NBDSH = """
h.set_strict_mode(0)
import errno
assert h.get_structured_replies_negotiated()
h.pwrite(b"\\x21" * 8192, 0, nbd.CMD_FLAG_FUA)
assert h.pread(512, 1) == b"\\x21" * 512
chunks = []
def chunk(data, offset, status, error):
    chunks.append((len(data), offset, status))
assert h.pread_structured(8192, 0, chunk) == b"\\x21" * 8192
assert chunks == [(8192, 0, nbd.READ_DATA)], chunks
for call, wanted in (
    (lambda: h.pread(512, h.get_size()), errno.EINVAL),
    (lambda: h.pwrite(bytes(512), h.get_size()), errno.ENOSPC),
    (lambda: h.trim(512, h.get_size()), errno.EINVAL),
    (lambda: h.flush(1 << 9), errno.EINVAL),
):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == wanted, (error, wanted)
    else:
        raise AssertionError("not refused")
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE)
h.cache(4096, 0)
assert h.pread(8192, 0) == bytes(4096) + b"\\x21" * 4096
h.shutdown()
print("all well")
"""


def test_nbdsh(daemon):
    """libnbd from its Python shell, its own checks turned off."""
    requires("nbdsh")
    # The system's nbdsh needs the system's Python, which an environment may hide.
    path = f"{Path(find('nbdsh')).parent}{os.pathsep}{os.environ['PATH']}"
    words = ("nbdsh", "-u", daemon.uri(), "-c", NBDSH)
    assert "all well" in run(*words, env=os.environ | {"PATH": path})
