"""Daemons with files on a FUSE mount whose server stops answering. Root, and /dev/fuse.

Method: a server that reads each request and answers none of a kind, so that the kernel lets nobody
go who waits for it. What is asked for each time: others are served, SIGTERM ends the process.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support.hung_mount import can_mount, hung_mount
from vbdev.api.errors import RpcError
from vbdev.client import Client

pytestmark = pytest.mark.skipif(not can_mount(), reason="mounting FUSE takes root and /dev/fuse")
WAIT_S = 60


@pytest.fixture
def mount(tmp_path):
    with hung_mount(tmp_path / "m") as made:
        yield made


@pytest.fixture
def start(tmp_path, mount):
    """start(words): a daemon; it is ended while the mount still hangs."""
    processes = []

    def begin(*words, command="serve"):
        line = [sys.executable, "-m", "vbdev", command, "--rpc-socket", "r.sock", *words]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=log)
        processes.append(process)
        wait_until(lambda: listens(tmp_path / "r.sock") or mount.held())
        return process

    yield begin
    for process in processes:
        process.kill()
    mount.close()
    for process in processes:
        process.wait(WAIT_S)


@pytest.fixture
def call(tmp_path):
    """call(method, **params): the answer; call.aside(...): nobody waits for it."""

    def ask(method, **params):
        with Client(str(tmp_path / "r.sock"), timeout_s=WAIT_S) as client:
            return client.call(method, **params)

    def aside(method, **params):
        def work():
            try:
                ends.append(ask(method, **params))
            except (RpcError, OSError) as error:
                ends.append(error)

        ends = []
        threading.Thread(target=work, daemon=True).start()
        return ends

    ask.aside = aside
    return ask


def listens(path):
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        return True
    return False


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end(process, number=signal.SIGTERM, within_s=20):
    process.send_signal(number)
    return process.wait(within_s)


def create(call, mount, **more):
    call("bdev_uring_create", name="U0", filename=mount.path, **more)
    call("bdev_wait_for_examine")


@pytest.mark.parametrize("kind", ["LOOKUP", "OPEN", "GETATTR", "READ", "STATFS"])
def test_an_open_that_hangs(start, mount, call, kind):
    process = start("malloc:1MiB")
    mount.hang(kind)
    ends = call.aside("bdev_uring_create", name="U0", filename=mount.path)
    wait_until(mount.held)
    assert [one["name"] for one in call("bdev_get_bdevs")] == ["Malloc0"]
    assert not ends
    assert end(process) == 0
    wait_until(lambda: ends)
    assert "given up" in str(ends[0]) or "hung up" in str(ends[0])


@pytest.mark.parametrize(
    "words",
    [["m/disk"], ["--json", "c.json"], ["link"], ["--json", "m/disk"], ["--module", "m/disk"]],
)
def test_it_hangs_at_the_start(start, mount, tmp_path, words):
    calls = [{"method": "bdev_aio_create", "params": {"name": "A", "filename": mount.path}}]
    config = {"subsystems": [{"subsystem": "bdev", "config": calls}]}
    (tmp_path / "c.json").write_text(json.dumps(config))
    (tmp_path / "link").symlink_to(mount.path)
    mount.hang("*")
    process = start(*words)
    wait_until(mount.held)
    assert end(process) == 0


def test_a_client_that_leaves_meanwhile(start, mount, tmp_path):
    process = start("malloc:1MiB")
    mount.hang("OPEN")
    with pytest.raises(TimeoutError), Client(str(tmp_path / "r.sock"), timeout_s=0.5) as client:
        client.call("bdev_uring_create", name="U0", filename=mount.path)
    wait_until(mount.held)
    assert end(process) == 0


def test_files_elsewhere_can_be_had(start, mount, call, tmp_path):
    """The process that opens them has nothing that hangs."""
    process = start("malloc:1MiB")
    create(call, mount)
    mount.hang("*")
    with hung_mount(tmp_path / "other") as other:
        call("bdev_uring_create", name="U1", filename=other.path)
        call("bdev_wait_for_examine")
        call("bdev_uring_rescan", name="U1")
        call("bdev_uring_delete", name="U1")
        assert process.poll() is None


@pytest.mark.parametrize("method", ["bdev_uring_rescan", "bdev_uring_delete"])
def test_an_open_file_whose_mount_hangs(start, mount, call, method):
    """Its server is told of each close, so the kernel waits for it as the process ends."""
    process = start("malloc:1MiB")
    create(call, mount, readonly=True)
    mount.hang("*")
    ends = call.aside(method, name="U0")
    wait_until(mount.held)
    assert call("bdev_get_bdevs", name="Malloc0")
    assert end(process, within_s=WAIT_S) in (0, 1)
    assert len(ends) <= 1


@pytest.mark.alone
@pytest.mark.parametrize("hard", [False, True])
def test_the_last_sync_hangs(start, mount, call, tmp_path, hard):
    process = start("malloc:1MiB", "--nbd", "unix:n.sock")
    create(call, mount)
    mount.hang("FSYNC", "FLUSH")
    process.terminate()
    wait_until(mount.held)
    wait_until(lambda: not list(tmp_path.glob("*.sock")))  # others are let go meanwhile
    if hard:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(8) == 1
    else:
        assert process.wait(WAIT_S) == 1
        assert "could not be synced at the end" in (tmp_path / "log").read_text()
    assert "does not answer: uring bdev 'U0'" in (tmp_path / "log").read_text()
    assert mount.held() >= 1
    mount.answer()  # it goes on without the daemon


def test_a_read_that_hangs_stops_nobody(start, mount, call, tmp_path):
    process = start("malloc:1MiB", "--nbd", "unix:n.sock")
    create(call, mount)
    call("nbd_export_add", bdev_name="U0")
    mount.hang("READ")
    reader = ["qemu-io", "-r", "-f", "raw", "-c", "read 4k 4k"]
    with subprocess.Popen([*reader, f"nbd+unix:///U0?socket={tmp_path}/n.sock"]) as client:
        wait_until(mount.held)
        assert call("bdev_get_bdevs", name="Malloc0")
        process.terminate()
        wait_until(lambda: not list(tmp_path.glob("*.sock")))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        state = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z")
        client.wait(WAIT_S)  # its connection is closed
    text = (tmp_path / "log").read_text()
    assert f"the kernel does not end process {process.pid}" in text
    mount.answer()
    assert process.wait(WAIT_S) == 1
