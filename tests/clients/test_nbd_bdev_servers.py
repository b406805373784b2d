"""The nbd module against servers of others, as users run both.

Method: `vbdev bench -w verify`, which reads back what it has written, on each server, over unix
sockets and TCP, with one connection and several; servers are killed and started again in the
middle. A tap between client and server shows that what is meant to be tested does happen.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from support.clients import requires, run
from support.daemon import Daemon
from support.foreign_server import ForeignServer

pytestmark = pytest.mark.client

KINDS = ["nbdkit", "qemu-nbd", "nbd-server"]
CHUNK_MAGIC = bytes.fromhex("668e33ef")
SIMPLE_MAGIC = bytes.fromhex("67446698")
CHUNKS = {"data": bytes.fromhex("0001"), "hole": bytes.fromhex("0002")}


@pytest.fixture
def foreign(tmp_path):
    made = []

    def start(kind, **options):
        made.append(ForeignServer(kind, tmp_path, **options))
        return made[-1]

    yield start
    for server in made:
        server.kill()


def bench(uri, *words, workload="verify"):
    """Start `vbdev bench` on a URI."""
    command = [sys.executable, "-m", "vbdev", "bench", uri, "-w", workload, "--json", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def verified(process):
    """Return its result, in which nothing may have failed or differed."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, f"{out}\n{err}"
    result = json.loads(out)
    assert result["errors"] == 0
    assert result["mismatch"] is None
    return result


class Tap(threading.Thread):
    """Stands between client and server, and counts in what replies come."""

    def __init__(self, directory, server):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "tap.sock"))
        self.listener.listen()
        self.server = server
        self.uri = f"nbd+unix:///{server.export}?socket={directory}/tap.sock"
        self.connections = 0
        self.said = bytearray()
        self.ends = []
        self.start()

    def run(self):
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self.server.path))
                self.connections += 1
                self.ends += [near, far]
                for one, other, heard in ((near, far, None), (far, near, self.said)):
                    threading.Thread(target=pass_on, args=(one, other, heard), daemon=True).start()

    def count(self, kind):
        """Return how many chunks of a kind came; their headers are no data of the tests'."""
        found, at = 0, self.said.find(CHUNK_MAGIC)
        while at >= 0:
            found += self.said[at + 6 : at + 8] == CHUNKS[kind]
            at = self.said.find(CHUNK_MAGIC, at + 1)
        return found

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()
        for end in self.ends:
            end.close()


def pass_on(one, other, heard):
    with suppress(OSError):
        while data := one.recv(1 << 20):
            if heard is not None:
                heard += data
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


# Data


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_verified_load(foreign, tmp_path, kind, connections):
    server = foreign(kind)
    tap = Tap(tmp_path, server)
    uri = f"{tap.uri},connections={connections}"
    result = verified(bench(uri, "-n", "8000", "-q", "64"))
    tap.close()
    assert result["ios"] == 8000
    assert tap.connections == connections
    chunks, simple = tap.count("data") + tap.count("hole"), tap.said.count(SIMPLE_MAGIC)
    assert chunks + simple >= 8000
    assert (chunks >= 4000) is (kind != "nbd-server")  # which knows no structured replies


@pytest.mark.parametrize("size", ["512", "256KiB", "4MiB"])
@pytest.mark.parametrize("kind", ["nbdkit", "qemu-nbd"])
def test_of_all_sizes(foreign, kind, size):
    count = "400" if size == "512" else "40"
    verified(bench(foreign(kind).uri, "-n", count, "-q", "4", "-o", size))


@pytest.mark.parametrize("kind", ["nbdkit", "qemu-nbd"])
def test_over_tcp(foreign, kind):
    verified(bench(f"{foreign(kind, tcp=True).uri},connections=2", "-n", "4000", "-q", "32"))


@pytest.mark.parametrize("kind", ["qemu-nbd", "nbdkit"])
def test_sparse_reads(foreign, tmp_path, kind):
    """qemu-nbd tells of holes in the file instead of sending zeroes; nbdkit sends them."""
    requires("nbdcopy")
    server = foreign(kind)
    with server.file.open("r+b") as file:
        for at in range(0, 16 << 20, 1 << 20):
            file.seek(at + 64 * 1024)
            file.write(os.urandom(128 * 1024))
    tap = Tap(tmp_path, server)
    (tmp_path / "near").mkdir()
    near = Daemon(tmp_path / "near", tap.uri)
    near.start()
    back = tmp_path / "back"
    run("nbdcopy", "--request-size=1048576", f"nbd+unix:///?socket={near.socket}", back)
    near.stop()
    near.close()
    tap.close()
    assert back.read_bytes() == server.file.read_bytes()
    assert tap.count("data") > 0
    assert (tap.count("hole") > 0) is (kind == "qemu-nbd")


# Servers that are killed


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("kind", ["nbdkit", "qemu-nbd"])
def test_killed_in_the_middle_of_a_verified_load(foreign, kind, connections, tcp):
    """The disk is a file, so what was acknowledged is kept; what was under way is sent again."""
    server = foreign(kind, tcp=tcp)
    more = f"connections={connections},reconnect_delay=30,keeps_writes=true"
    written = server.file.stat().st_mtime_ns
    process = bench(f"{server.uri},{more}", "-t", "2.5", "-q", "64")
    for _ in range(3):
        until = time.monotonic() + 20
        while process.poll() is None and server.file.stat().st_mtime_ns == written:
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.2)
        server.kill()
        server.start()
        written = server.file.stat().st_mtime_ns
    assert verified(process)["ios"] > 0


def test_a_server_that_ends_in_order(foreign):
    """SIGTERM: nbdkit closes its half first, while its threads still write."""
    server = foreign("nbdkit")
    created = server.file.stat().st_mtime_ns
    process = bench(f"{server.uri},reconnect_delay=30,keeps_writes=true", "-t", "2", "-q", "64")
    until = time.monotonic() + 20
    while server.file.stat().st_mtime_ns == created:
        assert time.monotonic() < until
        time.sleep(0.02)
    for _ in range(3):
        time.sleep(0.4)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
        server.start()
    assert verified(process)["ios"] > 0


def test_fio_in_front_notices_nothing(foreign, tmp_path):
    """fio verifies what it has written through a daemon whose server is killed meanwhile."""
    requires("fio")
    server = foreign("qemu-nbd")
    (tmp_path / "near").mkdir()
    near = Daemon(tmp_path / "near", f"{server.uri},reconnect_delay=30,keeps_writes=true")
    near.start()
    load = subprocess.Popen(
        ["fio", "--name=v", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={near.socket}",
         "--rw=randwrite", "--bs=4k", "--size=16M", "--iodepth=32", "--verify=crc32c",
         "--verify_fatal=1", "--loops=3", "--thread"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
    )  # fmt: skip
    for _ in range(2):
        time.sleep(0.3)
        server.kill()
        server.start()
    said, _ = load.communicate(timeout=60)
    assert load.returncode == 0, said
    near.stop()
    near.close()


# Names


@pytest.mark.parametrize("name", ["a+b&c=d", "ä ö?#%", "comma,name=x", "/slash//es", "'\"$`\\"])
def test_odd_export_names(foreign, name):
    """The URI that libnbd takes for this export is the one that we take."""
    requires("nbdinfo")
    server = foreign("qemu-nbd", export=name)
    assert "export-size: 16777216" in run("nbdinfo", server.uri)
    verified(bench(server.uri, "-n", "200"))
    process = bench(server.uri.replace("?", "x?", 1))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "UNKNOWN" in err


@pytest.mark.parametrize("uri", ["nbds://127.0.0.1/", "nbds+unix:///?socket=/none"])
def test_tls_is_refused_in_so_many_words(uri):
    process = bench(uri)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "TLS is not supported" in err
    assert "Traceback" not in err
