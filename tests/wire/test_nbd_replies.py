"""A client's parser of NBD replies.

Method: replies made by the server's encoders, each whole, byte by byte and with a next reply's
beginning behind; then the replies that no honest server sends.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdev.vocab import NbdError
from vbdev.wire.nbd import (
    NEED_DATA,
    BlockStatusChunk,
    Command,
    CommandFlag,
    DataChunk,
    ErrorChunk,
    HoleChunk,
    LocalProtocolError,
    NoneChunk,
    RemoteProtocolError,
    ReplyParser,
    Request,
    SimpleReply,
    encode_chunk_block_status,
    encode_chunk_error,
    encode_chunk_none,
    encode_chunk_offset_data_header,
    encode_chunk_offset_hole,
    encode_simple_reply,
)
from vbdev.wire.nbd.constants import MAX_CHUNK_PIECES

READ = Request(Command.READ, 0, 1, 4096, 1024)
READ_DF = Request(Command.READ, CommandFlag.DF, 1, 4096, 1024)
READ_NOTHING = Request(Command.READ, 0, 1, 4096, 0)
WRITE = Request(Command.WRITE, 0, 2, 4096, 1024)
STATUS = Request(Command.BLOCK_STATUS, 0, 3, 4096, 1024)
STATUS_ONE = Request(Command.BLOCK_STATUS, CommandFlag.REQ_ONE, 3, 4096, 1024)


def chunk(kind, payload, *, cookie=1, flags=1):
    """Return a chunk that no encoder would make."""
    head = bytes.fromhex("668e33ef") + flags.to_bytes(2) + kind.to_bytes(2)
    return head + cookie.to_bytes(8) + len(payload).to_bytes(4) + payload


def data(offset, payload, *, done=False):
    return encode_chunk_offset_data_header(1, offset, len(payload), done=done) + payload


def hole(offset, length, *, done=False):
    return encode_chunk_offset_hole(1, offset, length, done=done)


def status(extents, *, context=9, done=True):
    return encode_chunk_block_status(3, context, extents, done=done)


def parse(parser, pieces):
    events = []
    for piece in pieces:
        parser.feed(piece)
        while (event := parser.next_event()) is not NEED_DATA:
            events.append(event)
    return events


def parser_for(structured, requests, context_ids=(9,)):
    parser = ReplyParser(structured_replies=structured, context_ids=context_ids)
    for request in requests:
        parser.expect(request)
    return parser


HALF = b"h" * 512

# Structured replies or not, requests, what the server sends, what comes out.
CASES = {
    "simple read": (
        False,
        [READ],
        encode_simple_reply(1) + HALF * 2,
        [SimpleReply(1, NbdError.OK, HALF * 2)],
    ),
    "simple read that fails has no data": (
        False,
        [READ, WRITE],
        encode_simple_reply(1, NbdError.EIO) + encode_simple_reply(2),
        [SimpleReply(1, NbdError.EIO, b""), SimpleReply(2, NbdError.OK, b"")],
    ),
    "replies out of order": (
        False,
        [READ, WRITE],
        encode_simple_reply(2) + encode_simple_reply(1) + HALF * 2,
        [SimpleReply(2, NbdError.OK, b""), SimpleReply(1, NbdError.OK, HALF * 2)],
    ),
    "error that nobody defined": (
        False,
        [WRITE],
        bytes.fromhex("67446698 0000004d 0000000000000002"),
        [SimpleReply(2, NbdError.EINVAL, b"")],
    ),
    "structured read in one chunk": (
        True,
        [READ_DF],
        data(4096, HALF * 2, done=True),
        [DataChunk(1, 4096, HALF * 2, True)],
    ),
    "structured read, parts backwards, another reply between": (
        True,
        [READ, WRITE],
        hole(4608, 512) + encode_simple_reply(2) + data(4096, HALF) + encode_chunk_none(1),
        [
            HoleChunk(1, 4608, 512, False),
            SimpleReply(2, NbdError.OK, b""),
            DataChunk(1, 4096, HALF, False),
            NoneChunk(1),
        ],
    ),
    "read of nothing": (True, [READ_NOTHING], encode_chunk_none(1), [NoneChunk(1)]),
    "read that fails half way": (
        True,
        [READ],
        data(4096, HALF) + encode_chunk_error(1, NbdError.EIO, "bad sector", 4608),
        [
            DataChunk(1, 4096, HALF, False),
            ErrorChunk(1, NbdError.EIO, "bad sector", 4608, True),
        ],
    ),
    "error, then the end": (
        True,
        [WRITE],
        encode_chunk_error(2, NbdError.ENOSPC, "full", done=False) + encode_chunk_none(2),
        [ErrorChunk(2, NbdError.ENOSPC, "full", None, False), NoneChunk(2)],
    ),
    "unknown error type, with more behind the message": (
        True,
        [WRITE],
        chunk(0x8077, bytes.fromhex("00000005 0002 6e6f ffff"), cookie=2),
        [ErrorChunk(2, NbdError.EIO, "no", None, True)],
    ),
    "unknown chunk flags are ignored": (
        True,
        [WRITE],
        chunk(0, b"", cookie=2, flags=0xFFFF),
        [NoneChunk(2)],
    ),
    "block status, the last extent beyond the request": (
        True,
        [STATUS],
        status([(512, 0), (1 << 30, 3)]),
        [BlockStatusChunk(3, 9, ((512, 0), (1 << 30, 3)), True)],
    ),
    "block status of one extent": (
        True,
        [STATUS_ONE],
        status([(1024, 3)]),
        [BlockStatusChunk(3, 9, ((1024, 3),), True)],
    ),
    "block status that fails simply": (
        True,
        [STATUS],
        encode_simple_reply(3, NbdError.EINVAL),
        [SimpleReply(3, NbdError.EINVAL, b"")],
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_whole(case):
    structured, requests, server, events = case
    parser = parser_for(structured, requests)
    assert parse(parser, [server]) == events
    assert parser.outstanding_count == 0


def test_byte_by_byte(case):
    structured, requests, server, events = case
    pieces = [bytes([byte]) for byte in server]
    assert parse(parser_for(structured, requests), pieces) == events


def test_trailing_bytes_are_the_next_reply(case):
    structured, requests, server, events = case
    parser = parser_for(structured, requests)
    following = encode_simple_reply(99, NbdError.EIO)
    parser.expect(Request(Command.FLUSH, 0, 99, 0, 0))
    assert parse(parser, [server + following[:9]]) == events
    assert parse(parser, [following[9:]]) == [SimpleReply(99, NbdError.EIO, b"")]


BROKEN = {
    "magic": (True, [READ], bytes(4), "magic"),
    "structured, not negotiated": (False, [WRITE], encode_chunk_none(2), "structured"),
    "simple read, structured negotiated": (True, [READ], encode_simple_reply(1), "NBD_CMD_READ"),
    "simple error for a read": (True, [READ], encode_simple_reply(1, NbdError.EIO), "READ"),
    "block status that succeeds simply": (True, [STATUS], encode_simple_reply(3), "STATUS"),
    "unknown cookie, simple": (False, [READ], encode_simple_reply(5), "cookie 5"),
    "unknown cookie, chunk": (True, [READ], encode_chunk_none(5), "cookie 5"),
    "reply twice": (False, [WRITE], encode_simple_reply(2) * 2, "cookie 2"),
    "none without done": (True, [WRITE], chunk(0, b"", cookie=2, flags=0), "type 0x0"),
    "none with payload": (True, [WRITE], chunk(0, b"x", cookie=2), "type 0x0"),
    "unknown type": (True, [WRITE], chunk(3, b"", cookie=2), "type 0x3"),
    "data without a byte": (True, [READ], chunk(1, bytes(8)), "type 0x1"),
    "data longer than the request": (True, [READ], chunk(1, bytes(8 + 1025)), "1033 bytes"),
    "data for a write": (True, [WRITE], chunk(1, bytes(9), cookie=2), "NBD_CMD_WRITE"),
    "data of 4 GiB": (True, [READ], chunk(1, b"")[:16] + b"\xff" * 4, "4294967295 bytes"),
    "data before the request": (True, [READ], data(4095, HALF), "outside"),
    "data after the request": (True, [READ], data(4609, HALF), "outside"),
    "data twice": (True, [READ], data(4096, HALF) * 2, "overlaps"),
    "data overlaps from the left": (True, [READ], data(4400, b"x") + data(4096, HALF), "overlaps"),
    "hole within data": (True, [READ], data(4096, HALF) + hole(4100, 1), "overlaps"),
    "two chunks despite DF": (True, [READ_DF], data(4096, HALF) + hole(4608, 512), "DF"),
    "read that is not whole": (True, [READ], data(4096, HALF, done=True), "holes"),
    "read of which the middle lacks": (
        True,
        [READ],
        data(4096, b"a" * 511) + data(4608, HALF, done=True),
        "holes",
    ),
    "empty hole": (True, [READ], chunk(2, (4096).to_bytes(8) + bytes(4)), "empty"),
    "short hole": (True, [READ], chunk(2, bytes(11)), "type 0x2"),
    "status without extents": (True, [STATUS], chunk(5, bytes(4), cookie=3), "type 0x5"),
    "status of half an extent": (True, [STATUS], chunk(5, bytes(8), cookie=3), "type 0x5"),
    "status of 4 GiB": (
        True,
        [STATUS],
        chunk(5, b"", cookie=3)[:16] + (0xFFFFFFFC).to_bytes(4),
        "type 0x5",
    ),
    "status with an empty extent": (
        True,
        [STATUS],
        chunk(5, bytes([0, 0, 0, 9]) + bytes(8), cookie=3),
        "empty extent",
    ),
    "status of a foreign context": (True, [STATUS], status([(1, 0)], context=8), "context 8"),
    "status twice": (True, [STATUS], status([(1, 0)], done=False) * 2, "repeats"),
    "status beyond the end": (True, [STATUS], status([(1024, 0), (1, 0)]), "after the end"),
    "two extents despite REQ_ONE": (True, [STATUS_ONE], status([(1, 0), (1, 1)]), "REQ_ONE"),
    "long extent despite REQ_ONE": (True, [STATUS_ONE], status([(1025, 0)]), "REQ_ONE"),
    "no status": (True, [STATUS], encode_chunk_none(3), "without contexts"),
    "error of 0": (True, [WRITE], chunk(0x8001, bytes(6), cookie=2), "no error"),
    "short error": (True, [WRITE], chunk(0x8001, bytes(5), cookie=2), "type 0x8001"),
    "long error": (True, [WRITE], chunk(0x8001, bytes(4111), cookie=2), "4111 bytes"),
    "message cut short": (
        True,
        [WRITE],
        chunk(0x8001, bytes.fromhex("00000005 0003 6e6f"), cookie=2),
        "cut short",
    ),
    "offset cut short": (
        True,
        [WRITE],
        chunk(0x8002, bytes.fromhex("00000005 0004") + bytes(8), cookie=2),
        "4 bytes of offset",
    ),
    "error before the request": (
        True,
        [WRITE],
        encode_chunk_error(2, NbdError.EIO, "", 4095),
        "outside",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_broken_reply(name, size):
    structured, requests, server, message = BROKEN[name]
    parser = parser_for(structured, requests)
    pieces = [server[at : at + size] for at in range(0, len(server), size)]
    with pytest.raises(RemoteProtocolError, match=message):
        parse(parser, pieces)
    with pytest.raises(RemoteProtocolError, match=message):
        parser.feed(b"")


def test_block_status_can_not_succeed_without_any_context():
    parser = parser_for(True, [STATUS], context_ids=())
    with pytest.raises(RemoteProtocolError, match="without contexts"):
        parse(parser, [encode_chunk_none(3)])


def test_read_in_too_many_pieces():
    parser = parser_for(True, [Request(Command.READ, 0, 1, 0, 1 << 20)])
    pieces = [data(2 * at, b"x") for at in range(MAX_CHUNK_PIECES + 1)]
    assert len(parse(parser, pieces[:-1])) == MAX_CHUNK_PIECES
    with pytest.raises(RemoteProtocolError, match="too many"):
        parse(parser, pieces[-1:])


@given(st.permutations(range(16)))
def test_pieces_in_any_order_make_a_whole(order):
    parser = parser_for(True, [Request(Command.READ, 0, 1, 0, 64)])
    events = parse(parser, [data(4 * at, bytes([at]) * 4) for at in order])
    got = {event.offset_bytes: event.data for event in events}
    assert b"".join(got[at] for at in sorted(got)) == b"".join(bytes([at]) * 4 for at in range(16))
    assert parse(parser, [encode_chunk_none(1)]) == [NoneChunk(1)]


def test_cookie_may_be_used_again_once_free():
    parser = parser_for(False, [WRITE])
    with pytest.raises(LocalProtocolError, match="outstanding"):
        parser.expect(WRITE)
    parse(parser, [encode_simple_reply(2)])
    parser.expect(WRITE)
    assert parser.outstanding_count == 1


def test_disconnect_has_no_reply():
    with pytest.raises(LocalProtocolError):
        parser_for(False, [Request(Command.DISC, 0, 1, 0, 0)])
