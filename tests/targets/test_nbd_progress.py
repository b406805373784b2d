"""Clients with whose memory nothing moves: dropped in time, sooner where others wait, and named.

Method: an App on the virtual clock, and socket pairs in place of accepted connections.
"""

import logging
import socket

import pytest

from support.nbd_client import header
from vbdev.daemon.app import App
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.targets.nbd.poll_group import HURRIED_S, HURRY_AFTER_S, PATIENCE_S
from vbdev.wire.nbd import NEED_DATA, ClientHandshake, Command, Transmission

KIB, MIB = 1 << 10, 1 << 20
READ, WRITE = Command.READ, Command.WRITE
SECOND_US = 1_000_000


class Daemon:
    """An export of 64 MiB and its clients."""

    def __init__(self, layer=None):
        self.app = App(Reactor(clock=VirtualClock()))
        self.app.create("malloc", {"name": "Disk", "num_blocks": 1 << 17, "block_size": 512})
        name = "Disk"
        if layer:
            name = "Top"
            self.app.create(layer.pop("kind"), {"name": name, "base_bdev_name": "Disk"} | layer)
        self.app.nbd.add_export(name, "Disk")
        self.clients = []

    def client(self):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.app.nbd._connected(theirs)
        handshake = ClientHandshake("Disk")
        while not isinstance(event := handshake.next_event(), Transmission):
            assert event is NEED_DATA
            if out := handshake.data_to_send():
                ours.send(out)
            self.app.reactor.poll()
            handshake.feed(ours.recv(4096))
        self.clients.append(ours)
        self.settle()
        return ours

    def settle(self):
        for _ in range(200):
            self.app.reactor.poll()

    def ask(self, client, data):
        client.send(data)
        self.settle()

    def pass_time(self, seconds):
        async def sleep():
            await self.app.reactor.sleep(seconds * SECOND_US)

        self.app.reactor.run_until_complete(sleep())
        self.settle()

    def end(self):
        app = self.app
        for client in self.clients:
            client.close()
        app.reactor.run_until_complete(app.nbd.close())
        app.reactor.run_until_complete(app.registry.close())
        assert app.engine.buffers.live_buffers == 0
        app.reactor.close()


@pytest.fixture
def daemon():
    made = Daemon()
    yield made
    made.end()


def is_open(client):
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def stall(daemon, kind, size=32 * MIB):
    client = daemon.client()
    daemon.ask(
        client,
        header(WRITE, 1, 0, size) + b"x" * 100 if kind == "write" else header(READ, 1, 0, size),
    )
    return client


KINDS = ["write", "read"]


@pytest.mark.parametrize(
    ("kind", "size"), [("write", 60 * KIB), ("write", 2 * MIB), ("read", 4 * MIB)]
)
def test_a_peer_that_stops_in_the_middle_has_a_minute(daemon, kind, size):
    client = stall(daemon, kind, size)
    idle = daemon.client()
    daemon.pass_time(PATIENCE_S - 1)
    assert daemon.app.nbd.connection_count == 2
    daemon.pass_time(2)
    assert daemon.app.nbd.connection_count == 1
    assert is_open(idle)
    assert daemon.app.engine.buffers.live_buffers == 0
    client.close()


@pytest.mark.parametrize("kind", KINDS)
def test_single_bytes_buy_no_time(daemon, kind):
    client = stall(daemon, kind)
    for _ in range(int(PATIENCE_S) + 10):
        if kind == "write" and is_open(client):
            client.send(b"x")
        elif kind == "read" and is_open(client):
            client.recv(1)
        daemon.pass_time(1)
    assert daemon.app.nbd.connection_count == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_client_lives(daemon, kind):
    client = stall(daemon, kind)
    for _ in range(int(2 * PATIENCE_S)):
        if kind == "write":
            client.send(bytes(2 * KIB))
        else:
            client.recv(2 * KIB)
        daemon.pass_time(1)
    assert daemon.app.nbd.connection_count == 1


@pytest.mark.parametrize("kind", KINDS)
def test_where_others_wait_it_is_dropped_after_seconds_and_named(daemon, kind, caplog):
    bad = [stall(daemon, kind) for _ in range(7)]
    good = daemon.client()
    daemon.ask(good, header(READ, 1, 0, 8 * MIB))
    assert daemon.app.nbd._groups[0].memory.waiting == 1
    daemon.pass_time(HURRY_AFTER_S + HURRIED_S + 1)
    assert not any(is_open(client) for client in bad) or kind == "read"
    assert daemon.app.nbd.connection_count == 1
    assert len(good.recv(1 << 16)) > 1 << 15
    told = [text for text in warnings(caplog) if "waited for memory" in text]
    assert len(told) == 1
    assert "export=Disk" in told[0]
    assert f"bytes={32 * MIB}" in told[0]


def test_who_moves_enough_for_what_he_holds_lives_while_others_wait(daemon):
    bad = [stall(daemon, "write") for _ in range(6)]
    slow = stall(daemon, "write")
    good = daemon.client()
    daemon.ask(good, header(READ, 1, 0, 8 * MIB))
    for _ in range(16):
        left = MIB
        while left:
            left -= slow.send(bytes(min(left, 64 * KIB)))
            daemon.app.reactor.poll()
        daemon.pass_time(0.5)
    assert is_open(slow)
    assert not any(is_open(client) for client in bad)


def test_who_has_it_for_io_that_does_not_end_is_named(caplog):
    """It is no peer's fault: nobody is dropped."""
    slow = 100 * SECOND_US
    latencies = {
        f"{kind}_{op}_latency": slow for kind in ("avg", "p99") for op in ("read", "write")
    }
    daemon = Daemon({"kind": "delay"} | latencies)
    for _ in range(7):
        stall(daemon, "read")
    daemon.ask(daemon.client(), header(READ, 1, 0, 8 * MIB))
    daemon.pass_time(20)
    assert daemon.app.nbd.connection_count == 8
    (told,) = [text for text in warnings(caplog) if "waited for memory" in text]
    assert "its I/O has not ended" in told
    daemon.pass_time(100)
    daemon.end()


def test_who_waits_and_leaves_is_seen_to_leave(daemon):
    for _ in range(7):
        stall(daemon, "write")
    waiting = stall(daemon, "write")
    assert daemon.app.nbd._groups[0].memory.waiting == 1
    waiting.close()
    daemon.settle()
    assert daemon.app.nbd._groups[0].memory.waiting == 0
    assert daemon.app.nbd.connection_count == 7


def test_whoever_left_with_io_below_costs_no_turns():
    """A watch that wants nothing is told once that its peer has hung up."""
    slow = 10 * SECOND_US
    latencies = {
        f"{kind}_{op}_latency": slow for kind in ("avg", "p99") for op in ("read", "write")
    }
    daemon = Daemon({"kind": "delay"} | latencies)
    reads = b"".join(header(READ, n, 0, 512) for n in range(1100))
    leaving = header(READ, 1, 0, 512) + header(Command.DISC, 0)
    for requests in (reads, leaving):
        client = daemon.client()
        daemon.ask(client, requests)
        client.close()
    daemon.settle()
    reactor = daemon.app.reactor
    assert daemon.app.nbd.connection_count == 2
    assert sum(reactor.poll() for _ in range(50)) == 0
    daemon.pass_time(20)
    assert daemon.app.nbd.connection_count == 0
    daemon.end()


def test_nothing_is_looked_at_while_nobody_waits(daemon):
    client = daemon.client()
    daemon.ask(client, header(WRITE, 1, 0, MIB) + bytes(100 * KIB))
    assert daemon.app.nbd._groups[0]._timer is not None
    left = MIB - 100 * KIB
    while left:
        left -= client.send(bytes(min(left, 64 * KIB)))
        daemon.app.reactor.poll()
    daemon.pass_time(2)
    assert daemon.app.nbd._groups[0]._timer is None
