"""The client's half of the NBD handshake against a server written out in bytes.

Method: a table of what a server says and what the client makes of it, whole, byte by byte and
with bytes behind; then the servers that break the protocol.
"""

from __future__ import annotations

import pytest

from vbdev.wire.nbd import (
    NEED_DATA,
    BlockSizes,
    ClientHandshake,
    Closed,
    ExportDescribed,
    ExportInfo,
    ExportListed,
    Goal,
    LocalProtocolError,
    Option,
    Refused,
    RemoteProtocolError,
    State,
    Transmission,
    TransmissionFlag,
)
from vbdev.wire.nbd.constants import MAX_CONTEXTS, MAX_OPTION_BYTES, MAX_REPLIES_PER_OPTION

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
CLIENT_FLAGS = bytes.fromhex("00000003")
EXPORT = bytes.fromhex("0000 0000000000100000 0005")
SIZES = bytes.fromhex("0003 00000001 00001000 02000000")
FLAGS = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH
GO_DATA = bytes.fromhex("00000001 64 0003 0001 0002 0003")
UNSUP, SHUTDOWN, UNKNOWN = 0x80000001, 0x80000007, 0x80000006


def option(number, data=b""):
    return b"IHAVEOPT" + number.to_bytes(4) + len(data).to_bytes(4) + data


def reply(number, kind, data=b""):
    magic = bytes.fromhex("0003e889045565a9")
    return magic + number.to_bytes(4) + kind.to_bytes(4) + len(data).to_bytes(4) + data


def talk(client, pieces):
    """Feed pieces; return all events and all that was sent."""
    events, sent = [], b""
    for piece in pieces:
        client.feed(piece)
        while (event := client.next_event()) is not NEED_DATA:
            events.append(event)
        sent += client.data_to_send()
    return events, sent


CONTEXT_QUERY = bytes.fromhex("00000001 64 00000001 0000000f") + b"base:allocation"
ABORT_EVENT = Closed("negotiation left as intended")

# Arguments of the client, what the server says after its greeting, events, what the client sends.
CASES = {
    "go": (
        {},
        reply(8, 1) + reply(7, 3, EXPORT) + reply(7, 3, SIZES) + reply(7, 1),
        [Transmission("d", ExportInfo(1 << 20, FLAGS, BlockSizes(1, 4096, 32 << 20)), True, ())],
        option(8) + option(7, GO_DATA),
    ),
    "go without structured replies": (
        {"structured_replies": False, "info_types": ()},
        reply(7, 3, EXPORT) + reply(7, 1),
        [Transmission("d", ExportInfo(1 << 20, FLAGS), False, ())],
        option(7, bytes.fromhex("00000001 64 0000")),
    ),
    "go with everything": (
        {"contexts": ["base:allocation"]},
        reply(8, 1)
        + reply(10, 4, bytes([0, 0, 0, 9]) + b"base:allocation")
        + reply(10, 1)
        + reply(7, 3, b"\0\1disk")
        + reply(7, 3, b"\0\2a disk")
        + reply(7, 3, b"\x77\x77 who knows")
        + reply(7, 3, EXPORT)
        + reply(7, 1),
        [
            Transmission(
                "d",
                ExportInfo(1 << 20, FLAGS, None, "disk", "a disk"),
                True,
                ((9, "base:allocation"),),
            )
        ],
        option(8) + option(10, CONTEXT_QUERY) + option(7, GO_DATA),
    ),
    "structured replies refused, so no contexts": (
        {"contexts": ["base:allocation"]},
        reply(8, UNSUP, b"old") + reply(7, 3, EXPORT) + reply(7, 1),
        [
            Refused(Option.STRUCTURED_REPLY, UNSUP, "old", goes_on=True),
            Transmission("d", ExportInfo(1 << 20, FLAGS), False, ()),
        ],
        option(8) + option(7, GO_DATA),
    ),
    "contexts refused after the first one": (
        {"contexts": ["base:allocation"]},
        reply(8, 1)
        + reply(10, 4, bytes([0, 0, 0, 9]) + b"base:allocation")
        + reply(10, UNKNOWN, b"\xff")
        + reply(7, 3, EXPORT)
        + reply(7, 1),
        [
            Refused(Option.SET_META_CONTEXT, UNKNOWN, "\ufffd", goes_on=True),
            Transmission("d", ExportInfo(1 << 20, FLAGS), True, ()),
        ],
        option(8) + option(10, CONTEXT_QUERY) + option(7, GO_DATA),
    ),
    "go unknown, export name": (
        {},
        reply(8, UNSUP) + reply(7, UNSUP) + bytes.fromhex("0000000000100000 0005"),
        [
            Refused(Option.STRUCTURED_REPLY, UNSUP, "", goes_on=True),
            Refused(Option.GO, UNSUP, "", goes_on=True),
            Transmission("d", ExportInfo(1 << 20, FLAGS), False, ()),
        ],
        option(8) + option(7, GO_DATA) + option(1, b"d"),
    ),
    "no such export": (
        {},
        reply(8, 1) + reply(7, UNKNOWN, b"no d here") + reply(2, 1),
        [Refused(Option.GO, UNKNOWN, "no d here", goes_on=False), ABORT_EVENT],
        option(8) + option(7, GO_DATA) + option(2),
    ),
    "server shuts down": (
        {},
        reply(8, SHUTDOWN) + reply(2, UNSUP, b"what?"),
        [
            Refused(Option.STRUCTURED_REPLY, SHUTDOWN, "", goes_on=False),
            Closed("server refused to be left: what?"),
        ],
        option(8) + option(2),
    ),
    "describe": (
        {"goal": Goal.DESCRIBE, "contexts": ["base:allocation"]},
        reply(8, 1) + reply(6, 3, EXPORT) + reply(6, 1) + reply(2, 1),
        [ExportDescribed(ExportInfo(1 << 20, FLAGS)), ABORT_EVENT],
        option(8) + option(6, GO_DATA) + option(2),
    ),
    "list": (
        {"goal": Goal.LIST},
        reply(3, 2, bytes([0, 0, 0, 1]) + b"a")
        + reply(3, 2, bytes([0, 0, 0, 1]) + b"d the disk")
        + reply(3, 1)
        + reply(2, 1),
        [ExportListed("a", ""), ExportListed("d", " the disk"), ABORT_EVENT],
        option(3) + option(2),
    ),
    "list refused": (
        {"goal": Goal.LIST},
        reply(3, 0x80000002, b"secret") + reply(2, 1),
        [Refused(Option.LIST, 0x80000002, "secret", goes_on=False), ABORT_EVENT],
        option(3) + option(2),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("trailing", [b"", b"\x67\x44\x66"])
def test_whole(name, trailing):
    arguments, server, events, sent = CASES[name]
    client = ClientHandshake("d", **arguments)
    assert talk(client, [GREETING + server + trailing]) == (events, CLIENT_FLAGS + sent)
    if client.state is State.TRANSMISSION:
        assert client.trailing_data == trailing


@pytest.mark.parametrize("name", CASES)
def test_byte_by_byte(name):
    arguments, server, events, sent = CASES[name]
    pieces = [bytes([byte]) for byte in GREETING + server]
    assert talk(ClientHandshake("d", **arguments), pieces) == (events, CLIENT_FLAGS + sent)


def test_plain_newstyle_server_gets_export_name_and_sends_zeroes():
    client = ClientHandshake("d")
    server = b"NBDMAGICIHAVEOPT\0\0" + bytes.fromhex("0000000000100000 0005") + bytes(124)
    events, sent = talk(client, [server[:-1], server[-1:]])
    assert events == [Transmission("d", ExportInfo(1 << 20, FLAGS), False, ())]
    assert sent == bytes(4) + option(1, b"d")


def test_unknown_handshake_flags_are_not_echoed():
    _, sent = talk(ClientHandshake("d"), [b"NBDMAGICIHAVEOPT\xff\xff"])
    assert sent[:4] == CLIENT_FLAGS


ENTER = GREETING + reply(8, 1)
CONTEXT = reply(10, 4, bytes(4) + b"base:allocation")
MANY_CONTEXTS = b"".join(reply(10, 4, at.to_bytes(4) + b"base:x") for at in range(MAX_CONTEXTS + 1))
BROKEN = {
    "web server": (b"HTTP/1.1 400 Bad R", "not an NBD server"),
    "oldstyle": (b"NBDMAGIC" + bytes.fromhex("00420281861253") + bytes(20), "second magic"),
    "oldstyle, real": (b"NBDMAGIC\0" + bytes.fromhex("00420281861253") + bytes(2), "oldstyle"),
    "second magic": (b"NBDMAGICIHAVEOPX\0\3", "second magic"),
    "reply magic": (GREETING + b"IHAVEOPT" + bytes(12), "reply magic"),
    "other option": (GREETING + reply(7, 1), "reply to NBD_OPT_GO, asked STRUCTURED_REPLY"),
    "ack with data": (GREETING + reply(8, 1, b"x"), "NBD_REP_ACK"),
    "list in the reply to go": (ENTER + CONTEXT + reply(7, 2, bytes(4)), "asked"),
    "server in the reply to structured": (GREETING + reply(8, 2, bytes(4)), "NBD_REP_SERVER"),
    "unknown reply": (GREETING + reply(8, 77), "reply 0x4d"),
    "long reply": (GREETING + reply(8, UNSUP, bytes(MAX_OPTION_BYTES + 1)), "65537 bytes"),
    "context ID twice": (ENTER + CONTEXT * 2, "repeats"),
    "contexts without end": (ENTER + MANY_CONTEXTS, "one too many"),
    "context without ID": (ENTER + reply(10, 4, b"abc"), "fewer than 4"),
    "context not UTF-8": (ENTER + reply(10, 4, bytes(4) + b"\xff"), "UTF-8"),
    "no export info": (ENTER + reply(10, 1) + reply(7, 1), "without NBD_INFO_EXPORT"),
    "short export info": (ENTER + reply(10, 1) + reply(7, 3, EXPORT[:-1]), "not 12"),
    "info without type": (ENTER + reply(10, 1) + reply(7, 3, b"\0"), "no type"),
    "long block sizes": (ENTER + reply(10, 1) + reply(7, 3, SIZES + b"\0"), "not 14"),
    "name not UTF-8": (ENTER + reply(10, 1) + reply(7, 3, b"\0\1\xff"), "NBD_INFO_NAME"),
    "no HAS_FLAGS": (
        ENTER + reply(10, 1) + reply(7, 3, EXPORT[:-1] + b"\4") + reply(7, 1),
        "HAS_FLAGS",
    ),
    "export of 2^63": (
        ENTER + reply(10, 1) + reply(7, 3, b"\0\0\x80" + bytes(8) + b"\1") + reply(7, 1),
        "9223372036854775808",
    ),
    "minimum of 3": (
        ENTER
        + reply(10, 1)
        + reply(7, 3, EXPORT)
        + reply(7, 3, bytes.fromhex("0003 00000003 00001000 02000000"))
        + reply(7, 1),
        "power of 2",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_broken_server(name, size):
    server, message = BROKEN[name]
    client = ClientHandshake("d", contexts=["base:allocation"])
    pieces = [server[at : at + size] for at in range(0, len(server), size)]
    with pytest.raises(RemoteProtocolError, match=message):
        talk(client, pieces)
    with pytest.raises(RemoteProtocolError, match=message):
        client.feed(b"x")
    assert client.state is State.FAILED


def test_list_without_end():
    client = ClientHandshake(goal=Goal.LIST)
    talk(client, [GREETING])
    item = reply(3, 2, bytes([0, 0, 0, 1]) + b"a") * 256
    with pytest.raises(RemoteProtocolError, match=str(MAX_REPLIES_PER_OPTION)):
        talk(client, [item] * (MAX_REPLIES_PER_OPTION // 256 + 1))


@pytest.mark.parametrize("goal", [Goal.LIST, Goal.DESCRIBE])
def test_plain_newstyle_server_can_only_be_entered(goal):
    with pytest.raises(RemoteProtocolError, match="fixed newstyle"):
        talk(ClientHandshake("d", goal=goal), [b"NBDMAGICIHAVEOPT\0\0"])


def test_server_that_drops_export_name():
    client = ClientHandshake("d")
    talk(client, [GREETING + reply(8, UNSUP) + reply(7, UNSUP)])
    client.feed_eof()
    with pytest.raises(RemoteProtocolError, match="no export 'd'"):
        client.next_event()


@pytest.mark.parametrize("server", [b"", GREETING[:-1], GREETING, GREETING + reply(8, 1)[:-1]])
def test_server_that_leaves(server):
    client = ClientHandshake("d")
    talk(client, [server])
    client.feed_eof()
    with pytest.raises(RemoteProtocolError, match="server left"):
        client.next_event()


def test_server_that_leaves_instead_of_acknowledging_abort():
    client = ClientHandshake(goal=Goal.LIST)
    talk(client, [GREETING + reply(3, 1)])
    client.feed_eof()
    assert client.next_event() == Closed("server left")


@pytest.mark.parametrize(
    "arguments",
    [
        {"export_name": "n" * 4097},
        {"export_name": "a\0"},
        {"export_name": "\ud800"},
        {"contexts": ["base:" + "x" * 4096]},
        {"contexts": ["base:allocation"], "structured_replies": False},
    ],
)
def test_what_can_not_be_asked_is_ours(arguments):
    with pytest.raises(LocalProtocolError):
        ClientHandshake(**arguments)
