"""Exports that come and go while somebody waits: each ends once, and nobody is given another one.

Method: an App on the virtual clock and socket pairs in place of accepted connections.
"""

import contextlib
import errno
import socket

import pytest

from vbdev.daemon.app import App
from vbdev.reactor.clock import VirtualClock
from vbdev.reactor.listen import ListenError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.targets.nbd import nbd_server as server_module
from vbdev.wire.nbd import Option
from vbdev.wire.nbd.constants import CLIENT_FLAGS
from vbdev.wire.nbd.payloads import encode_option


@pytest.fixture
def app():
    app = App(Reactor(clock=VirtualClock()))
    for name in ("Disk", "Other"):
        app.create("malloc", {"name": name, "num_blocks": 64, "block_size": 512})
    app.nbd.add_export("Disk")
    app.nbd.add_export("Other")
    yield app
    app.reactor.run_until_complete(app.nbd.close())
    app.reactor.run_until_complete(app.registry.close())
    app.reactor.close()


def run(app, coroutine):
    return app.reactor.run_until_complete(coroutine)


def settle(app):
    while app.reactor.poll():
        pass


def stalled_end(app, monkeypatch, name):
    """Let the clients of one export take their time to go; return what they wait for."""
    over, real = Future(), app.nbd._drain

    async def drain(export):
        if export is not None and export.name == name:
            await over
        await real(export)

    monkeypatch.setattr(app.nbd, "_drain", drain)
    return over


@pytest.mark.parametrize("again", ["removed", "its bdev goes"])
def test_an_export_that_several_take_away_ends_once(app, monkeypatch, caplog, again):
    over = stalled_end(app, monkeypatch, "Disk")
    export = app.nbd.exports["Disk"]
    first = app.reactor.spawn(app.nbd.remove_export("Disk"))
    removal = app.reactor.spawn(app.registry.delete("Disk", "malloc"))
    settle(app)
    if again == "removed":
        with app.reactor.here():
            app.nbd._retire(export)
    app.nbd.add_export("Other", "Disk")  # the name is free
    settle(app)
    assert not first.done
    with app.reactor.here():
        over.set_result(None)
    settle(app)
    first.result()
    assert removal.done
    assert app.nbd.exports["Disk"].bdev.name == "Other"
    assert caplog.messages == []


def test_exports_whose_bdevs_go_while_the_server_stops(app, monkeypatch, caplog):
    """It goes on from one to the next, and the next has begun to end by then."""
    over = stalled_end(app, monkeypatch, "Disk")
    closing = app.reactor.spawn(app.nbd.close())
    settle(app)
    assert list(app.nbd.exports) == ["Other"]
    removal = app.reactor.spawn(app.registry.delete("Other", "malloc"))
    settle(app)
    assert app.nbd.exports == {}
    with app.reactor.here():
        over.set_result(None)
    settle(app)
    closing.result()
    removal.result()
    assert caplog.messages == []


def test_a_client_is_not_given_another_export_of_the_name(app):
    """Size and flags are those of the one that it was told of."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    app.nbd._connected(theirs)
    (connection,) = app.nbd._connections
    with contextlib.suppress(BlockingIOError):
        while True:  # it has no room for the answer
            connection.socket.send(bytes(1024))
    payload = len(b"Disk").to_bytes(4, "big") + b"Disk" + bytes(2)
    ours.send(CLIENT_FLAGS.pack(1) + encode_option(Option.GO, payload))
    app.reactor.poll()
    assert connection._told is app.nbd.exports["Disk"]
    run(app, app.nbd.remove_export("Disk"))
    app.nbd.add_export("Other", "Disk", read_only=True)
    for _ in range(10_000):
        with contextlib.suppress(BlockingIOError):
            if not ours.recv(1024):
                break
        app.reactor.poll()
    assert connection.stream is None
    assert app.nbd.connection_count == 0
    assert app.nbd.exports["Disk"].connections == set()
    ours.close()


def test_a_socket_that_opens_while_the_server_stops_is_closed(app, monkeypatch, tmp_path):
    opened = Future()
    path = tmp_path / "nbd.sock"

    async def beside(_reactor, _what, function, **_more):
        await opened
        return function()

    monkeypatch.setattr(server_module, "call_blocking", beside)
    listening = app.reactor.spawn(app.nbd.listen_beside(f"unix:{path}"))
    listening.add_done_callback(lambda _task: None)
    settle(app)
    run(app, app.nbd.close())
    with app.reactor.here():
        opened.set_result(None)
    settle(app)
    with pytest.raises(ListenError) as caught:
        listening.result()
    assert caught.value.errno == errno.ESHUTDOWN
    assert app.nbd.addresses == []
    assert not path.exists()
