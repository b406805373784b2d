"""A client that never chooses an export is dropped in time; one that has chosen may idle.

Method: an App on the virtual clock and socket pairs in place of accepted connections.
"""

import socket

import pytest

from vbdev.app import App
from vbdev.clock import VirtualClock
from vbdev.reactor import Reactor
from vbdev.targets.nbd.server import HANDSHAKE_US
from vbdev.wire.nbd import NEED_DATA, ClientHandshake, Transmission


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


def test_nothing_is_kept_of_those_who_left(app):
    for _ in range(10):
        connect(app).close()
        app.reactor.poll()
        app.reactor.poll()
    assert app.nbd.connection_count == 0
    assert not app.nbd._deadlines
