"""Clients that are wrong, endless or gone: what they get, and that they cost little.

Method: the bytes a hostile client would send. An understandable mistake gets an error reply and
the next option still works; anything else is RemoteProtocolError, again and again.
"""

from __future__ import annotations

import re
import tracemalloc

import pytest

from vbdev.wire.nbd import (
    NEED_DATA,
    Closed,
    ListRequest,
    LocalProtocolError,
    OptionReply,
    RemoteProtocolError,
    ServerHandshake,
    State,
)
from vbdev.wire.nbd.constants import MAX_OPTION_BYTES, MAX_OPTIONS, MAX_UNREAD_BYTES

FLAGS = bytes.fromhex("00000003")
REPLY_MAGIC = bytes.fromhex("0003e889045565a9")


def option(number, data=b""):
    return b"IHAVEOPT" + number.to_bytes(4) + len(data).to_bytes(4) + data


def text(string):
    return len(string).to_bytes(4) + string


def count(number):
    return number.to_bytes(4)


def started(client=b""):
    server = ServerHandshake()
    server.feed(FLAGS + client)
    server.data_to_send()
    return server


def reply_types(server):
    """Return (option, reply type, message) of every reply to send."""
    data, replies = server.data_to_send(), []
    while data:
        assert data[:8] == REPLY_MAGIC
        length = int.from_bytes(data[16:20])
        replies.append(
            (int.from_bytes(data[8:12]), int.from_bytes(data[12:16]), data[20 : 20 + length])
        )
        data = data[20 + length :]
    return replies


MALFORMED = {
    "list with data": (3, b"x", OptionReply.ERR_INVALID),
    "structured reply with data": (8, b"xyz", OptionReply.ERR_INVALID),
    "info, empty": (6, b"", OptionReply.ERR_INVALID),
    "info, name beyond the data": (6, count(5) + b"abcd" + bytes(2), OptionReply.ERR_INVALID),
    "info, no count": (6, text(b"d"), OptionReply.ERR_INVALID),
    "info, fewer requests than counted": (6, text(b"d") + b"\0\2\0\1", OptionReply.ERR_INVALID),
    "info, more requests than counted": (6, text(b"d") + b"\0\0\0\1", OptionReply.ERR_INVALID),
    "info, request twice": (6, text(b"d") + b"\0\2\0\3\0\3", OptionReply.ERR_INVALID),
    "info, name is not UTF-8": (6, text(b"\xff") + bytes(2), OptionReply.ERR_INVALID),
    "info, name with NUL": (6, text(b"a\0") + bytes(2), OptionReply.ERR_INVALID),
    "info, long name": (6, text(b"n" * 4097) + bytes(2), OptionReply.ERR_TOO_BIG),
    "go, long name": (7, text(b"n" * 4097) + bytes(2), OptionReply.ERR_TOO_BIG),
    "go, name of 4 GiB": (7, count(0xFFFFFFFF) + bytes(2), OptionReply.ERR_INVALID),
    "set, one byte": (10, b"x", OptionReply.ERR_INVALID),
    "set, no count": (10, text(b"d"), OptionReply.ERR_INVALID),
    "set, 4 billion queries": (10, text(b"d") + count(0xFFFFFFFF), OptionReply.ERR_INVALID),
    "set, query beyond": (10, text(b"d") + count(1) + count(9) + b"a:", OptionReply.ERR_INVALID),
    "set, more than counted": (10, text(b"d") + count(0) + text(b"a:"), OptionReply.ERR_INVALID),
    "set, no colon": (10, text(b"d") + count(1) + text(b"base"), OptionReply.ERR_INVALID),
    "set, no namespace": (10, text(b"d") + count(1) + text(b":x"), OptionReply.ERR_INVALID),
    "set, space in namespace": (10, text(b"d") + count(1) + text(b"a b:"), OptionReply.ERR_INVALID),
    "set, empty query": (10, text(b"d") + count(1) + text(b""), OptionReply.ERR_INVALID),
    "list contexts, no colon": (9, text(b"d") + count(1) + text(b"b"), OptionReply.ERR_INVALID),
    "list contexts, query not UTF-8": (
        9,
        text(b"d") + count(1) + text(b"base:\xc3"),
        OptionReply.ERR_INVALID,
    ),
    "list contexts, long query": (
        9,
        text(b"d") + count(1) + text(b"base:" + b"x" * 4096),
        OptionReply.ERR_TOO_BIG,
    ),
    "starttls": (5, b"", OptionReply.ERR_UNSUP),
    "peek export": (4, b"abc", OptionReply.ERR_UNSUP),
    "extended headers": (11, b"", OptionReply.ERR_UNSUP),
    "option 0": (0, b"", OptionReply.ERR_UNSUP),
    "option 2^32 - 1": (0xFFFFFFFF, b"data", OptionReply.ERR_UNSUP),
    "one byte too long": (6, bytes(MAX_OPTION_BYTES + 1), OptionReply.ERR_TOO_BIG),
    "unknown and too long": (999, bytes(MAX_OPTION_BYTES + 1), OptionReply.ERR_TOO_BIG),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("bytewise", [False, True])
def test_malformed_option_gets_an_error_and_the_next_one_works(name, bytewise):
    number, data, error = MALFORMED[name]
    server = started(option(8))
    client = option(number, data) + option(3)
    # 64 KiB byte by byte only takes time; its header and its end are cut all the same.
    size = 1 if bytewise and len(client) < 10_000 else 4999
    events = []
    for at in range(0, len(client), size):
        server.feed(client[at : at + size])
        event = server.next_event()
        if event is not NEED_DATA:
            events.append(event)
    structured, (answered, kind, message) = reply_types(server)
    assert structured == (8, 1, b"")
    assert (answered, kind) == (number, error)
    assert message.decode()
    assert events == [ListRequest()]


def test_set_contexts_needs_structured_replies():
    server = started(option(10, text(b"d") + count(0)))
    assert server.next_event() is NEED_DATA
    ((number, kind, message),) = reply_types(server)
    assert (number, kind) == (10, OptionReply.ERR_INVALID)
    assert b"STRUCTURED_REPLY" in message


FATAL = {
    "unknown client flag": (bytes.fromhex("00000007"), "client flags 0x7"),
    "high client flag": (bytes.fromhex("80000001"), "0x80000001"),
    "bad option magic": (FLAGS + b"IHAVEOPX" + bytes(8), "IHAVEOPX"),
    "reply magic": (FLAGS + REPLY_MAGIC + bytes(8), "option starts with"),
    "option without fixed newstyle": (bytes(4) + option(3), "NBD_OPT_LIST"),
    "abort without fixed newstyle": (bytes(4) + option(2), "NBD_OPT_ABORT"),
    "unknown without fixed newstyle": (bytes(4) + option(77), "option 77"),
    "export name too long": (FLAGS + b"IHAVEOPT" + count(1) + count(4097), "4097 .*4096"),
    "export name is not UTF-8": (FLAGS + option(1, b"\xf0\x28"), "UTF-8"),
    "export name with NUL": (FLAGS + option(1, b"a\0"), "NUL"),
}


@pytest.mark.parametrize("name", FATAL)
@pytest.mark.parametrize("trailing", [b"", b"more"])
def test_what_has_no_answer_ends_the_session(name, trailing):
    client, message = FATAL[name]
    server = ServerHandshake()
    server.feed(client + trailing)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match=message):
            server.next_event()
    with pytest.raises(RemoteProtocolError, match=message):
        server.feed(b"x")
    assert server.state is State.FAILED


@pytest.mark.parametrize("name", FATAL)
def test_what_has_no_answer_ends_the_session_byte_by_byte(name):
    client, message = FATAL[name]
    server = ServerHandshake()
    failures = []
    for byte in client:
        try:
            server.feed(bytes([byte]))
            assert server.next_event() is NEED_DATA
        except RemoteProtocolError as error:
            failures.append(str(error))
    assert re.search(message, failures[0])
    assert len(set(failures)) == 1


def test_option_of_4_gib_costs_no_memory_and_no_event():
    server = started(b"IHAVEOPT" + count(6) + count(0xFFFFFFFF))
    assert server.next_event() is NEED_DATA
    ((number, kind, message),) = reply_types(server)
    assert (number, kind) == (6, OptionReply.ERR_TOO_BIG)
    assert b"4294967295" in message
    piece = bytes(1 << 20)
    last_piece = piece[:-1] + option(3)
    tracemalloc.start()
    try:
        for _ in range(4095):
            server.feed(piece)
            assert server.next_event() is NEED_DATA
        server.feed(last_piece)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert server.next_event() == ListRequest()
    assert peak_bytes < 64 << 10


def test_longest_allowed_option_is_read():
    query = text(b"x:" + b"y" * 4000)
    queries = query * 16
    server = started(option(9, text(b"d") + count(16) + queries))
    assert len(queries) < MAX_OPTION_BYTES
    assert server.next_event().queries == ("x:" + "y" * 4000,) * 16


def test_option_flood_ends_at_the_limit():
    server = started()
    server.feed(option(8) * MAX_OPTIONS)
    assert server.next_event() is NEED_DATA
    assert len(reply_types(server)) == MAX_OPTIONS
    server.feed(option(8))
    with pytest.raises(RemoteProtocolError, match=str(MAX_OPTIONS)):
        server.next_event()


def test_sending_ahead_of_an_answer_ends_at_the_limit():
    server = started(option(3))
    assert server.next_event() == ListRequest()
    server.feed(bytes(MAX_UNREAD_BYTES))
    with pytest.raises(RemoteProtocolError, match="ahead"):
        server.feed(b"x")
    with pytest.raises(RemoteProtocolError, match="ahead"):
        server.next_event()


def ended(client):
    server = ServerHandshake()
    server.feed(client)
    server.feed_eof()
    return server


@pytest.mark.parametrize("client", [b"", FLAGS, FLAGS + option(8), FLAGS + option(99, b"abc")])
def test_client_that_leaves_between_options(client):
    server = ended(client)
    assert isinstance(server.next_event(), Closed)
    assert server.next_event() is NEED_DATA


@pytest.mark.parametrize(
    "client",
    [
        FLAGS[:1],
        FLAGS + b"I",
        FLAGS + option(7, b"abc")[:-1],
        FLAGS + option(1, b"a")[:-1],
        FLAGS + option(99, b"abc")[:-1],
        FLAGS + b"IHAVEOPT" + count(6) + count(0xFFFFFFFF) + b"abc",
    ],
)
def test_client_that_leaves_in_the_middle(client):
    with pytest.raises(RemoteProtocolError, match="middle"):
        ended(client).next_event()


def test_end_of_stream_waits_for_what_came_before():
    server = ended(FLAGS + option(3))
    assert server.next_event() == ListRequest()
    assert server.next_event() is NEED_DATA
    server.answer_list([])
    assert isinstance(server.next_event(), Closed)


def test_bytes_after_the_end_are_ours():
    with pytest.raises(LocalProtocolError):
        ended(b"").feed(b"x")
