"""The NBD client as a bdev: against nbdkit, qemu-nbd and our own server, and without any.

Method: a stack in this process on the real clock, and servers as processes of their own that are
stopped, killed and started again. What a hostile server can send is in
tests/core/test_nbd_client.py.
"""

import contextlib
import errno
import os
import random
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.clients import find, requires
from vbdev.bdev import BdevError, BdevEvent
from vbdev.modules.malloc import Malloc
from vbdev.modules.nbd import lane
from vbdev.modules.nbd.disk import Nbd
from vbdev.registry import Registry
from vbdev.targets.nbd import NbdServer
from vbdev.testing import Stack
from vbdev.vocab import IoFlag, Op, Status
from vbdev.vocab.address import ListenError
from vbdev.wire.nbd import (
    NEED_DATA,
    ExportInfo,
    ExportRequest,
    ServerHandshake,
    Transmission,
    TransmissionFlag,
)

KIB, MIB = 1 << 10, 1 << 20
SIZE = 16 * MIB


class Server:
    """nbdkit or qemu-nbd with a disk of 16 MiB, which can be killed and started again."""

    def __init__(self, kind, directory):
        requires(kind)
        self.kind = kind
        self.path = directory / f"{kind}.sock"
        self.file = directory / f"{kind}.disk"
        self.size = SIZE
        self.extra = []
        self.process = None
        self.start()

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.path}"

    def start(self):
        with self.file.open("ab") as file:
            file.truncate(self.size)
        self.path.unlink(missing_ok=True)
        words = {
            "nbdkit": ["nbdkit", "-f", "-U", self.path, *self.extra, "file", self.file],
            "qemu-nbd": ["qemu-nbd", "-t", "-e", "8", "-f", "raw", "--discard=unmap", "-k",
                         self.path, *self.extra, self.file],
        }  # fmt: skip
        self.process = subprocess.Popen([find(self.kind), *map(str, words[self.kind][1:])])
        self.wait_ready()

    def wait_ready(self):
        """Wait until it listens; its socket's file is there a little earlier."""
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.path))
                return
            assert time.monotonic() < until
            assert self.process.poll() is None
            time.sleep(0.01)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number):
        self.process.send_signal(number)


@pytest.fixture
def stack(request):
    for name in {"server", "nbdkit"} & set(request.fixturenames):
        request.getfixturevalue(name)  # first, so that it is there for the last FLUSH
    fds = open_fds()
    made = Stack(real_clock=True)
    yield made
    made.close()
    assert not made.errors
    assert len(open_fds()) <= len(fds)


def open_fds():
    return {link.name for link in Path("/proc/self/fd").iterdir() if link.exists()}


@pytest.fixture(params=["nbdkit", "qemu-nbd"])
def server(request, tmp_path):
    made = Server(request.param, tmp_path)
    yield made
    made.kill()


@pytest.fixture
def nbdkit(tmp_path):
    made = Server("nbdkit", tmp_path)
    yield made
    made.kill()


def create(stack, uri, name="N0", **params):
    return stack.create(Nbd, name=name, uri=uri, **params)


def block(n, blocks=1):
    return bytearray(random.Random(n).randbytes(512 * blocks))


# Real servers


@pytest.mark.parametrize("connections", [1, 4])
def test_what_is_written_is_read(stack, server, connections):
    bdev = create(stack, server.uri, connections=connections)
    assert bdev.size_bytes == SIZE
    assert {Op.READ, Op.WRITE, Op.FLUSH, Op.UNMAP, Op.WRITE_ZEROES} <= bdev.ops
    opened = stack.open("N0")
    model = bytearray(SIZE)
    rng = random.Random(7)
    for _ in range(10):
        places = rng.sample(range(0, SIZE // 512, 256), 40)
        pending = []
        for place in places:
            blocks = rng.choice([1, 8, 64, 256])
            kind = rng.choice([Op.WRITE, Op.WRITE, Op.READ, Op.WRITE_ZEROES])
            at = slice(place * 512, (place + blocks) * 512)
            if kind == Op.WRITE:
                data = block(rng.random(), blocks)
                model[at] = data
                flags = rng.choice([0, IoFlag.FUA])
                pending.append((opened.submit(kind, place, blocks, data, flags=flags), None, None))
            elif kind == Op.READ:
                into = bytearray(blocks * 512)
                pending.append((opened.submit(kind, place, blocks, into), into, bytes(model[at])))
            else:
                model[at] = bytes(blocks * 512)
                pending.append((opened.submit(kind, place, blocks), None, None))
        stack.turn_until(lambda pending=pending: all(one.done for one, _, _ in pending))
        for request, into, expected in pending:
            assert request.status == Status.SUCCESS
            assert into == expected
        assert opened.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    whole = bytearray(SIZE)
    assert opened.io(Op.READ, 0, SIZE // 512, whole).status == Status.SUCCESS
    assert whole == model
    assert server.file.read_bytes() == model


def test_a_server_with_a_minimum_block_size(stack, nbdkit):
    nbdkit.kill()
    nbdkit.path.unlink(missing_ok=True)
    nbdkit.process = subprocess.Popen(
        [find("nbdkit"), "-f", "-U", nbdkit.path, "--filter=blocksize-policy", "memory", "16M",
         "blocksize-minimum=4096", "blocksize-preferred=8192", "blocksize-maximum=65536",
         "blocksize-error-policy=error"]
    )  # fmt: skip
    nbdkit.wait_ready()
    bdev = create(stack, nbdkit.uri)
    assert (bdev.block_size, bdev.phys_block_size, bdev.max_rw_size) == (4096, 8192, 16)
    opened = stack.open("N0")
    data = bytearray(os.urandom(1 << 20))
    into = bytearray(1 << 20)
    assert opened.io(Op.WRITE, 3, 256, data).status == Status.SUCCESS
    assert opened.io(Op.READ, 3, 256, into).status == Status.SUCCESS
    assert into == data


def test_a_read_only_export(stack, nbdkit):
    nbdkit.kill()
    nbdkit.extra = ["-r"]
    nbdkit.start()
    bdev = create(stack, nbdkit.uri)
    assert bdev.ops == {Op.READ, Op.RESET, Op.ABORT}
    opened = stack.open("N0", write=False)
    assert opened.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS


def test_readonly_by_wish(stack, nbdkit):
    assert create(stack, nbdkit.uri, readonly=True).ops == {Op.READ, Op.RESET, Op.ABORT}


@pytest.mark.parametrize("server", ["qemu-nbd"], indirect=True)  # nbdkit has it whatever its name
def test_an_export_that_is_not_there(stack, server):
    with pytest.raises(BdevError) as caught:
        create(stack, server.uri, export_name="nowhere")
    assert caught.value.errno == errno.ENOENT
    assert "nowhere" in str(caught.value)


# A server that goes and comes


def test_reads_go_on_after_a_restart(stack, server):
    create(stack, server.uri, reconnect_delay=10)
    opened = stack.open("N0")
    data = block(1)
    assert opened.io(Op.WRITE, 5, 1, data).status == Status.SUCCESS
    assert opened.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    for _ in range(3):
        server.kill()
        into = bytearray(512)
        request = opened.submit(Op.READ, 5, 1, into)
        stack.settle()
        assert not request.done
        server.start()
        stack.turn_until(lambda request=request: request.done)
        assert request.status == Status.SUCCESS
        assert into == data
    assert opened.io(Op.FLUSH, 0, 0).status == Status.SUCCESS


def test_io_under_way_survives_a_kill(stack, server):
    """Writes that were never acknowledged are sent again, and none is lost or torn."""
    create(stack, server.uri, reconnect_delay=10, connections=2)
    opened = stack.open("N0")
    for n in range(3):
        requests = [
            opened.submit(Op.WRITE, k * 8, 8, block(n * 1000 + k, 8), flags=IoFlag.FUA)
            for k in range(200)
        ]
        stack.reactors.poll()
        server.kill()
        server.start()
        stack.turn_until(lambda requests=requests: all(one.done for one in requests))
        assert all(request.status == Status.SUCCESS for request in requests)
        for k in range(200):
            into = bytearray(4096)
            assert opened.io(Op.READ, k * 8, 8, into).status == Status.SUCCESS
            assert into == block(n * 1000 + k, 8)
    assert opened.io(Op.FLUSH, 0, 0).status == Status.SUCCESS


def test_acknowledged_writes_that_a_kill_may_have_lost(server, caplog):
    stack = Stack(real_clock=True)
    create(stack, server.uri, reconnect_delay=10)
    create(stack, server.uri, name="Trusting", reconnect_delay=10, keeps_writes=True)
    for name in ("N0", "Trusting"):
        opened = stack.open(name)
        assert opened.io(Op.WRITE, 0, 1, block(1)).status == Status.SUCCESS
    server.kill()
    server.start()
    into = bytearray(512)
    for name, number in (("N0", errno.EIO), ("Trusting", 0)):
        opened = stack.open(name)
        assert opened.io(Op.READ, 0, 1, into).status == Status.SUCCESS
        for _ in range(2):
            assert opened.io(Op.FLUSH, 0, 0).errno == number
        assert opened.io(Op.WRITE, 0, 1, block(2), flags=IoFlag.FUA).errno == number
        assert stack.registry.get(name).dump_info()["nbd"]["writes_lost"] is bool(number)
    assert "every FLUSH and FUA fails" in caplog.text
    for opened in list(stack.descriptors):
        opened.close()
    stack.settle()
    with pytest.raises(BdevError, match="could not be synced at the end"):
        stack.delete("N0")
    stack.delete("Trusting")
    create(stack, server.uri)  # somebody knows what was lost, and makes it anew
    assert stack.open("N0").io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    stack.close()


def test_without_a_delay_io_fails_at_once_and_works_again_later(stack, server):
    create(stack, server.uri)
    opened = stack.open("N0")
    assert opened.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS
    server.kill()
    began = time.monotonic()
    assert opened.io(Op.READ, 0, 1, bytearray(512)).errno in (errno.EIO, errno.ESHUTDOWN)
    assert opened.io(Op.READ, 0, 1, bytearray(512)).errno == errno.ESHUTDOWN
    assert time.monotonic() - began < 1
    server.start()
    stack.turn_until(lambda: opened.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS)


def test_a_server_that_does_not_come_back_in_time(stack, nbdkit):
    create(stack, nbdkit.uri, reconnect_delay=1)
    opened = stack.open("N0")
    nbdkit.kill()
    requests = [opened.submit(Op.READ, n, 1, bytearray(512)) for n in range(20)]
    began = time.monotonic()
    stack.turn_until(lambda: all(request.done for request in requests))
    assert 0.8 < time.monotonic() - began < 3
    assert {request.errno for request in requests} == {errno.ESHUTDOWN}
    assert opened.io(Op.READ, 0, 1, bytearray(512)).errno == errno.ESHUTDOWN


@pytest.mark.parametrize("size", [2 * SIZE, SIZE // 2])
def test_another_size_after_a_restart(stack, server, size):
    bdev = create(stack, server.uri, reconnect_delay=10)
    opened = stack.open("N0")
    server.kill()
    if size < SIZE:
        os.truncate(server.file, size)
    server.size = size
    server.start()
    last = SIZE // 512 - 1
    request = opened.io(Op.READ, last, 1, bytearray(512))
    stack.settle()
    if size > SIZE:
        assert request.status == Status.SUCCESS
        assert bdev.num_blocks == size // 512
        assert opened.events == [BdevEvent.RESIZE]
        assert opened.io(Op.READ, 2 * last, 1, bytearray(512)).status == Status.SUCCESS
    else:
        assert request.errno == errno.EIO
        assert opened.events == []
        assert opened.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS


def test_it_grows_when_every_connection_knows(stack, listening):
    """A connection keeps the size that it was told: I/O beyond would fail there."""
    sizes = [SIZE, SIZE, 2 * SIZE, 2 * SIZE]
    flags = PLAIN | TransmissionFlag.CAN_MULTI_CONN

    def serve(connection):
        serve_as(sizes[len(there.connections) - 1], flags, hold)(connection)

    there = listening(serve)
    bdev = create(stack, there.uri, connections=2, reconnect_delay=10)
    (one,) = bdev._remote.lanes
    stack.turn_until(lambda: one.sizes() == [SIZE, SIZE])
    there.connections[0].shutdown(socket.SHUT_RDWR)
    stack.turn_until(lambda: sorted(one.sizes()) == [SIZE, 2 * SIZE])
    stack.settle()
    assert bdev.num_blocks == SIZE // 512
    there.connections[1].shutdown(socket.SHUT_RDWR)
    stack.turn_until(lambda: bdev.num_blocks == 2 * SIZE // 512)


def hold(_connection):
    """Leave a connection open."""


def test_read_only_after_a_restart(stack, server):
    create(stack, server.uri, reconnect_delay=10)
    opened = stack.open("N0")
    server.kill()
    server.extra = ["-r"]
    server.start()
    assert opened.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS
    assert opened.io(Op.WRITE, 0, 1, block(1)).errno == errno.EROFS


@pytest.mark.parametrize("server", ["qemu-nbd"], indirect=True)  # nbdkit asserts then
def test_a_server_that_stands_still(stack, server):
    """SIGSTOP: it neither answers nor hangs up. A timeout ends the wait; then it goes on."""
    create(stack, server.uri, timeout=1)
    opened = stack.open("N0")
    server.signal(19)
    requests = [
        opened.submit(Op.READ, 0, 1, bytearray(512)),
        opened.submit(Op.WRITE, 0, 1, block(1)),
    ]
    began = time.monotonic()
    stack.turn_until(lambda: all(request.done for request in requests))
    assert 0.9 < time.monotonic() - began < 4
    assert {request.errno for request in requests} == {errno.ETIMEDOUT}
    server.signal(18)
    stack.turn_until(lambda: opened.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS)


@pytest.mark.parametrize("server", ["qemu-nbd"], indirect=True)  # nbdkit asserts then
def test_a_write_that_timed_out_is_not_sent_again(stack, server):
    """The server may still carry the first one out; a READ can do no harm."""
    create(stack, server.uri, timeout=1, reconnect_delay=10)
    opened = stack.open("N0")
    server.signal(19)
    read, write = (
        opened.submit(Op.READ, 0, 1, bytearray(512)),
        opened.submit(Op.WRITE, 0, 1, block(1)),
    )
    stack.turn_until(lambda: write.done)
    assert write.errno == errno.ETIMEDOUT
    assert not read.done
    server.signal(18)
    stack.turn_until(lambda: read.done)
    assert read.status == Status.SUCCESS


@pytest.mark.parametrize("server", ["qemu-nbd"], indirect=True)  # nbdkit asserts then
def test_a_reset_of_a_server_that_stands_still(stack, server, monkeypatch):
    monkeypatch.setattr(lane, "RESET_WAIT_US", 300_000)
    create(stack, server.uri, timeout=0, reconnect_delay=30)
    opened = stack.open("N0")
    server.signal(19)
    requests = [opened.submit(Op.READ, n, 1, bytearray(512)) for n in range(5)]
    reset = opened.io(Op.RESET, 0, 0)
    assert reset.status == Status.SUCCESS
    assert all(request.errno == errno.ECANCELED for request in requests)
    server.signal(18)
    assert opened.io(Op.READ, 0, 1, bytearray(512)).status == Status.SUCCESS


def test_deleted_with_io_under_way(stack, nbdkit):
    create(stack, nbdkit.uri)
    opened = stack.open("N0")
    requests = [opened.submit(Op.WRITE, n, 1, block(n)) for n in range(100)]
    stack.delete("N0")
    assert all(request.status == Status.SUCCESS for request in requests)
    assert opened.events == [BdevEvent.REMOVE]


def test_deleted_while_the_server_is_away(stack, nbdkit):
    create(stack, nbdkit.uri, reconnect_delay=1)
    opened = stack.open("N0")
    nbdkit.kill()
    request = opened.submit(Op.READ, 0, 1, bytearray(512))
    began = time.monotonic()
    stack.delete("N0")
    assert request.errno == errno.ESHUTDOWN
    assert time.monotonic() - began < 5


def test_deleted_while_the_server_stands_still(stack, nbdkit):
    create(stack, nbdkit.uri, timeout=1)
    opened = stack.open("N0")
    assert opened.io(Op.WRITE, 0, 1, block(1)).status == Status.SUCCESS
    nbdkit.signal(19)
    opened.close()
    with pytest.raises(BdevError, match="could not be synced"):  # nobody answered the last FLUSH
        stack.delete("N0")
    assert stack.registry.find("N0") is None


# Servers that are none


class Listening:
    """A socket that something else than a server listens on."""

    def __init__(self, path, behave):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.connections = []
        self.uri = f"nbd+unix:///?socket={path}"
        threading.Thread(target=self._serve, args=(behave,), daemon=True).start()

    def _serve(self, behave):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            with contextlib.suppress(OSError):
                behave(connection)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def listening(tmp_path):
    made = []

    def build(behave):
        made.append(Listening(tmp_path / f"l{len(made)}.sock", behave))
        return made[-1]

    yield build
    for one in made:
        one.close()


NO_SERVERS = {
    "silence": (lambda _c: None, errno.ETIMEDOUT, "no answer"),
    "closed": (lambda c: c.close(), errno.EPROTO, "left"),
    "garbage": (lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), errno.EPROTO, "no"),
    "oldstyle": (
        lambda c: c.sendall(bytes.fromhex("4e42444d41474943 0000420281861253") + bytes(136)),
        errno.EPROTO,
        "oldstyle",
    ),
    "half a greeting": (lambda c: c.sendall(b"NBDMAGIC"), errno.ETIMEDOUT, "no answer"),
}


@pytest.mark.parametrize("what", NO_SERVERS)
def test_what_is_no_server(stack, listening, what, monkeypatch):
    monkeypatch.setattr(lane, "DIAL_US", 300_000)
    behave, number, words = NO_SERVERS[what]
    there = listening(behave)
    with pytest.raises(BdevError) as caught:
        create(stack, there.uri)
    assert caught.value.errno == number
    assert words in str(caught.value)
    assert stack.registry.find("N0") is None


def test_nobody_there(stack, tmp_path):
    with pytest.raises(BdevError) as caught:
        create(stack, f"unix:{tmp_path}/nobody.sock")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(BdevError) as caught:
        create(stack, "nbd://127.0.0.1:1/")
    assert caught.value.errno == errno.ECONNREFUSED
    with pytest.raises(BdevError) as caught:
        create(stack, "nbd://no.such.host.invalid/")
    assert caught.value.errno == errno.EHOSTUNREACH


def serve_as(size, flags, then):
    """Return how to negotiate as a server with this size and these flags, then do `then`."""

    def behave(connection):
        handshake = ServerHandshake()
        connection.sendall(handshake.data_to_send())
        while not isinstance(event := handshake.next_event(), Transmission):
            connection.sendall(handshake.data_to_send())
            if event is NEED_DATA:
                handshake.feed(connection.recv(4096))
            else:
                assert isinstance(event, ExportRequest), event
                handshake.answer_export(ExportInfo(size, flags))
        connection.sendall(handshake.data_to_send())
        then(connection)

    return behave


PLAIN = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH


def test_a_server_that_hangs_up_after_each_handshake(stack, listening):
    """It is not dialled in a frenzy, and the bdev can be deleted."""
    there = listening(serve_as(SIZE, PLAIN, lambda c: c.close()))
    create(stack, there.uri)
    opened = stack.open("N0")
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        stack.reactors.poll()
    assert len(there.connections) < 8
    assert opened.io(Op.READ, 0, 1, bytearray(512)).errno in (errno.EIO, errno.ESHUTDOWN)
    stack.delete("N0")


@pytest.mark.parametrize("size", [0, 511])
def test_an_export_without_a_block(stack, listening, size):
    there = listening(serve_as(size, PLAIN, lambda _c: None))
    with pytest.raises(BdevError, match="less than one block"):
        create(stack, there.uri)


def test_the_end_that_is_no_block_is_left_out(stack, listening, caplog):
    there = listening(serve_as(10_000, PLAIN, lambda _c: None))
    assert create(stack, there.uri, timeout=1).num_blocks == 19
    assert "left out" in caplog.text


def test_without_flush_nothing_is_promised(stack, listening):
    there = listening(serve_as(SIZE, TransmissionFlag.HAS_FLAGS, lambda _c: None))
    bdev = create(stack, there.uri)
    assert bdev.ops == {Op.READ, Op.WRITE, Op.RESET, Op.ABORT}
    assert bdev.refused_flags() == IoFlag.FUA


# Several reactors, and our own server


def own_server(stack, directory):
    registry = Registry(stack.reactor)
    stack.run(registry.create(Malloc, Malloc.Params(name="M0", num_blocks=32768, block_size=512)))
    server = NbdServer(registry, [stack.reactor])
    server.listen(f"unix:{directory}/own.sock")
    server.add_export("M0")
    return registry, server


def test_a_flush_covers_what_other_reactors_wrote(nbdkit):
    stack = Stack(real_clock=True, reactors=2)
    create(stack, nbdkit.uri, connections=2)
    here, there = stack.open("N0"), stack.open("N0", on=1)
    bdev = stack.registry.get("N0")
    for opened in (here, there):
        for n in range(10):
            assert opened.io(Op.WRITE, n, 1, block(n)).status == Status.SUCCESS
    lanes = bdev._remote.lanes
    assert len(lanes) == 2

    def dirty():
        return [s.link.dirty for one in lanes for s in one._seats].count(True)

    assert dirty() > 1
    assert here.io(Op.FLUSH, 0, 0).status == Status.SUCCESS
    assert dirty() == 0
    assert there.io(Op.RESET, 0, 0).status == Status.SUCCESS
    here.close()
    there.close()
    stack.delete("N0")
    stack.close()


def test_writes_lost_on_one_reactor_fail_flushes_on_the_other(nbdkit):
    stack = Stack(real_clock=True, reactors=2)
    create(stack, nbdkit.uri, reconnect_delay=10)
    here, there = stack.open("N0"), stack.open("N0", on=1)
    assert there.io(Op.WRITE, 0, 1, block(1)).status == Status.SUCCESS
    nbdkit.kill()
    nbdkit.start()
    assert here.io(Op.FLUSH, 0, 0).errno == errno.EIO
    for opened in (here, there):
        opened.close()
    stack.settle()
    with pytest.raises(BdevError, match="synced"):
        stack.delete("N0")
    stack.close()


def test_one_connection_is_one_reactor(listening):
    """Without CAN_MULTI_CONN connections need not see each other's writes."""
    stack = Stack(real_clock=True, reactors=2)
    there = listening(serve_as(SIZE, PLAIN, lambda _c: None))
    create(stack, there.uri, connections=4, timeout=1)
    here = stack.open("N0")
    with pytest.raises(BdevError, match="CAN_MULTI_CONN"):
        stack.open("N0", on=1)
    assert len(there.connections) == 1
    here.close()
    stack.delete("N0")
    for opened in list(stack.descriptors):
        stack.descriptors.remove(opened)
    stack.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_over_tcp(stack, host):
    registry = Registry(stack.reactor)
    stack.run(registry.create(Malloc, Malloc.Params(name="M0", num_blocks=32768, block_size=512)))
    server = NbdServer(registry, [stack.reactor])
    try:
        address = server.listen(f"tcp:{'127.0.0.1' if host == 'localhost' else host}:0")
    except ListenError as error:
        pytest.skip(str(error))
    server.add_export("M0")
    create(stack, f"nbd://{host}:{address.port}/M0", connections=2)
    opened = stack.open("N0")
    data, into = bytearray(os.urandom(MIB)), bytearray(MIB)
    assert opened.io(Op.WRITE, 1, 2048, data).status == Status.SUCCESS
    assert opened.io(Op.READ, 1, 2048, into).status == Status.SUCCESS
    assert into == data
    opened.close()
    stack.delete("N0")
    stack.run(server.close())
    stack.run(registry.close())


def test_over_our_own_target_over_nbd(stack, tmp_path):
    """A passthru over nbd over our target, exported once more, with nbd on it."""
    registry, server = own_server(stack, tmp_path)
    create(stack, f"nbd+unix:///M0?socket={tmp_path}/own.sock", connections=2)
    stack.layer(name="Top", base="N0")
    outer = NbdServer(stack.registry, [stack.reactor])
    outer.listen(f"unix:{tmp_path}/outer.sock")
    outer.add_export("Top")
    second = create(stack, f"nbd+unix:///Top?socket={tmp_path}/outer.sock", name="N1")
    opened = stack.open("N1")
    assert {Op.UNMAP, Op.WRITE_ZEROES, Op.FLUSH} <= second.ops
    data = bytearray(os.urandom(MIB))
    into = bytearray(MIB)
    assert opened.io(Op.WRITE, 8, 2048, data, flags=IoFlag.FUA).status == Status.SUCCESS
    assert opened.io(Op.READ, 8, 2048, into).status == Status.SUCCESS
    assert into == data
    assert opened.io(Op.UNMAP, 8, 8).status == Status.SUCCESS
    assert opened.io(Op.RESET, 0, 0).status == Status.SUCCESS
    opened.close()
    stack.delete("N1")
    stack.run(outer.close())
    stack.delete("Top")
    stack.delete("N0")
    stack.run(server.close())
    stack.run(registry.close())
