"""Handshakes that break the rules, stop half way or never end: one client, and nobody else.

Method: an App in this process; raw sockets that send what they please. The codec's own answers
are in `tests/wire`; this is about connections, memory and whoever else is connected.
"""

import time

import pytest

from support.nbd_client import connect, header
from vbdev.wire.nbd import Command, Option, OptionReply
from vbdev.wire.nbd.constants import CLIENT_FLAGS, OPTION_HEADER, OPTION_MAGIC, OPTION_REPLY_HEADER
from vbdev.wire.nbd.payloads import encode_info_request, encode_option

GREETING_BYTES = 18
FIXED_NEWSTYLE = CLIENT_FLAGS.pack(1)


@pytest.fixture
def greeted(local_app):
    """Return a function that gives a raw connection which has the server's greeting."""
    local_app.serve()
    sockets = []

    def begin():
        client = connect(local_app.socket)
        sockets.append(client)
        greeting = receive(client, GREETING_BYTES)
        assert greeting.startswith(b"NBDMAGICIHAVEOPT")
        return client

    yield begin
    for client in sockets:
        client.close()


def receive(client, count):
    """Receive exactly this much; less means that the server has hung up."""
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def option_reply(client):
    """Return (option, reply type, data) of the next reply."""
    _, option, kind, length = OPTION_REPLY_HEADER.unpack(receive(client, 20))
    return option, kind, receive(client, length)


def hung_up(client):
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 64,
        bytes(64),
        b"\xff" * 4096,
        FIXED_NEWSTYLE + b"IHAVEOPX" + bytes(8),
        CLIENT_FLAGS.pack(1 << 31) + encode_option(Option.LIST, b""),
    ],
    ids=["http", "tls", "zeroes", "ones", "option magic", "client flags"],
)
def test_garbage_is_hung_up_on(greeted, local_app, garbage):
    client = greeted()
    client.sendall(garbage)
    assert hung_up(client)
    assert local_app.client().read(0, 512) == bytes(512)


@pytest.mark.parametrize("sent", range(0, 60, 7))
def test_half_a_handshake_then_gone(greeted, local_app, sent):
    client = greeted()
    message = FIXED_NEWSTYLE + encode_option(Option.GO, encode_info_request("", ()))
    client.sendall(message[:sent])
    client.close()
    local_app.wait_idle()


def test_half_a_handshake_then_silence(greeted, local_app):
    """It is in nobody's way, nor in that of the daemon's end."""
    client = greeted()
    client.sendall(FIXED_NEWSTYLE + OPTION_MAGIC + b"\x00\x00")
    assert local_app.client().read(0, 512) == bytes(512)
    app = local_app.app
    began = time.monotonic()
    local_app.ask(lambda: app.reactor.spawn(app.nbd.close()))
    assert hung_up(client)
    assert time.monotonic() - began < 2


def test_unknown_option(greeted):
    client = greeted()
    client.sendall(FIXED_NEWSTYLE + OPTION_HEADER.pack(OPTION_MAGIC, 4711, 3) + b"abc")
    assert option_reply(client)[:2] == (4711, OptionReply.ERR_UNSUP)
    client.sendall(encode_option(Option.ABORT, b""))
    assert option_reply(client)[:2] == (Option.ABORT, OptionReply.ACK)
    assert hung_up(client)


def test_unknown_export(greeted):
    client = greeted()
    client.sendall(FIXED_NEWSTYLE + encode_option(Option.GO, encode_info_request("nope", ())))
    option, kind, text = option_reply(client)
    assert (option, kind) == (Option.GO, OptionReply.ERR_UNKNOWN)
    assert b"'nope'" in text


def test_option_of_4_gib(greeted, local_app):
    """It is refused at its header; what follows of it is thrown away as it comes."""
    client = greeted()
    length = (1 << 32) - 1
    client.sendall(FIXED_NEWSTYLE + OPTION_HEADER.pack(OPTION_MAGIC, Option.GO, length))
    assert option_reply(client)[:2] == (Option.GO, OptionReply.ERR_TOO_BIG)
    for _ in range(256):
        client.sendall(bytes(1 << 20))
    (connection,) = local_app.ask(lambda: list(local_app.app.nbd._connections))
    assert local_app.ask(lambda: len(connection._handshake._inbox)) <= 1 << 16
    client.close()
    local_app.wait_idle()


def test_handshake_and_requests_in_one_segment(greeted):
    """Whoever knows what it wants need not wait for the answers."""
    client = greeted()
    client.sendall(
        CLIENT_FLAGS.pack(3)
        + encode_option(Option.EXPORT_NAME, b"Disk")
        + header(Command.WRITE, 1, 0, 512)
        + b"\x44" * 512
        + header(Command.READ, 2, 0, 512)
        + header(Command.DISC, 3)
    )
    answer = receive(client, 10 + 16 + 16 + 512 + 1)
    assert len(answer) == 10 + 16 + 16 + 512
    assert answer.endswith(b"\x44" * 512)


def test_export_removed_during_a_handshake(greeted, local_app):
    client = greeted()
    app = local_app.app
    local_app.ask(lambda: app.reactor.spawn(app.nbd.remove_export("Disk")))
    local_app.wait_until(lambda: not app.nbd.exports)
    client.sendall(FIXED_NEWSTYLE + encode_option(Option.GO, encode_info_request("Disk", ())))
    assert option_reply(client)[1] == OptionReply.ERR_UNKNOWN
