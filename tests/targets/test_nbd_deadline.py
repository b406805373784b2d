"""A client that never chooses an export is dropped in time; one that has chosen may idle.

Method: an App on the virtual clock and socket pairs in place of accepted connections.
"""

import contextlib
import socket

import pytest

from vbdev.daemon.app import App
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.reactor import Reactor
from vbdev.targets.nbd.nbd_server import HANDSHAKE_US
from vbdev.wire.nbd import NEED_DATA, ClientHandshake, Option, Transmission
from vbdev.wire.nbd.constants import CLIENT_FLAGS
from vbdev.wire.nbd.payloads import encode_option


@pytest.fixture
def app():
    app = App(Reactor(clock=VirtualClock()))
    app.create("malloc", {"name": "Disk", "num_blocks": 64, "block_size": 512})
    app.nbd.add_export("Disk")
    yield app
    app.reactor.run_until_complete(app.nbd.close())
    app.reactor.run_until_complete(app.registry.close())
    app.reactor.close()


def connect(app):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    app.nbd._connected(theirs)
    return ours


def pass_time(app, microseconds):
    app.reactor.run_until_complete(sleep(app, microseconds))


async def sleep(app, microseconds):
    await app.reactor.sleep(microseconds)


def negotiate(app, client):
    handshake = ClientHandshake("Disk")
    while not isinstance(event := handshake.next_event(), Transmission):
        assert event is NEED_DATA
        if out := handshake.data_to_send():
            client.send(out)
        app.reactor.poll()
        handshake.feed(client.recv(4096))


def test_a_silent_client_is_dropped_in_time(app):
    with connect(app) as client:
        pass_time(app, HANDSHAKE_US - 1)
        assert app.nbd.connection_count == 1
        pass_time(app, 2)
        assert app.nbd.connection_count == 0
        assert client.recv(64)  # the greeting
        assert client.recv(64) == b""


def test_each_has_its_own_deadline(app):
    with connect(app):
        pass_time(app, HANDSHAKE_US // 2)
        with connect(app):
            pass_time(app, HANDSHAKE_US // 2 + 1)
            assert app.nbd.connection_count == 1
            pass_time(app, HANDSHAKE_US // 2 + 1)
            assert app.nbd.connection_count == 0


def test_one_that_has_chosen_may_idle(app):
    with connect(app) as client:
        negotiate(app, client)
        pass_time(app, 10 * HANDSHAKE_US)
        assert app.nbd.connection_count == 1


@pytest.fixture
def stuck(app):
    """Return a client that has chosen, and has no room for the answer, and its connection."""
    client = connect(app)
    (connection,) = app.nbd._connections
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.socket.send(bytes(1024))
    client.send(CLIENT_FLAGS.pack(1) + encode_option(Option.GO, bytes(4) + bytes(2)))
    app.reactor.poll()
    assert connection.stream is None
    yield client, connection
    client.close()


@pytest.mark.usefixtures("stuck")
def test_one_that_does_not_take_what_it_is_told_last_is_dropped_in_time(app):
    """And nobody looks at it meanwhile."""
    assert [app.reactor.poll() for _ in range(3)] == [0, 0, 0]
    pass_time(app, HANDSHAKE_US - 1)
    assert app.nbd.connection_count == 1
    pass_time(app, 2)
    assert app.nbd.connection_count == 0


def test_one_that_takes_what_it_is_told_last_is_served(app, stuck):
    client, connection = stuck
    for _ in range(10_000):
        with contextlib.suppress(BlockingIOError):
            client.recv(1024)
        app.reactor.poll()
        if connection.stream is not None:
            return
    raise AssertionError(app.nbd.connection_count)


def test_one_that_leaves_without_it_is_gone(app, stuck):
    client, _ = stuck
    client.close()
    app.reactor.poll()
    assert app.nbd.connection_count == 0


def test_no_more_clients_than_are_allowed(app, caplog):
    """The log says so once for each crowd; who leaves makes room."""
    app.nbd.max_connections = 2
    first, second = connect(app), connect(app)
    for _ in range(3):
        with connect(app) as third:
            assert third.recv(64) == b""
    assert app.nbd.connection_count == 2
    assert [r.getMessage() for r in caplog.records if "turning" in r.getMessage()] == [
        "turning nbd clients away: there are 2, and max_connections is 2"
    ]
    second.close()
    for _ in range(3):
        app.reactor.poll()
    with connect(app) as third:
        assert third.recv(64)
    first.close()


def test_nothing_is_kept_of_those_who_left(app):
    for _ in range(10):
        connect(app).close()
        app.reactor.poll()
        app.reactor.poll()
    assert app.nbd.connection_count == 0
    assert not app.nbd._deadlines
