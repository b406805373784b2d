"""The server's half of the NBD handshake, as bytes written out.

Goal: each option gives the event and the reply that proto.md describes. Method: a table of
conversations, each run whole, byte by byte, and with the beginning of a next option behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from vbdev.wire.nbd import (
    NEED_DATA,
    BlockSizes,
    Closed,
    ContextRequest,
    ExportInfo,
    ExportRequest,
    ListRequest,
    LocalProtocolError,
    Option,
    OptionReply,
    ServerHandshake,
    State,
    Transmission,
    TransmissionFlag,
)

FLAGS = bytes.fromhex("00000003")
GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
REPLY_MAGIC = bytes.fromhex("0003e889045565a9")
MIB_EXPORT = ExportInfo(
    1 << 20,
    TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_DF,
    BlockSizes(512, 4096, 32 << 20),
    name="disk0",
    description="a disk",
)


def option(number, data=b""):
    return b"IHAVEOPT" + number.to_bytes(4) + len(data).to_bytes(4) + data


def reply(number, kind, data=b""):
    return REPLY_MAGIC + number.to_bytes(4) + kind.to_bytes(4) + len(data).to_bytes(4) + data


def text(string):
    return len(string).to_bytes(4) + string


def answer(server, event):
    match event:
        case ListRequest():
            server.answer_list([("a", ""), ("disk0", "a disk")])
        case ExportRequest(export_name="missing"):
            server.refuse(OptionReply.ERR_UNKNOWN, "no such export")
        case ExportRequest():
            server.answer_export(MIB_EXPORT)
        case ContextRequest(export_name="missing"):
            server.refuse(OptionReply.ERR_UNKNOWN, "no such export")
        case ContextRequest(matches=matches):
            server.answer_contexts((7 + at, name) for at, name in enumerate(matches))


def talk(server, pieces):
    """Feed pieces, answer what is asked, return all events and all that was sent."""
    events, sent = [], server.data_to_send()
    for piece in pieces:
        server.feed(piece)
        while (event := server.next_event()) is not NEED_DATA:
            events.append(event)
            answer(server, event)
        sent += server.data_to_send()
    return events, sent


@dataclass
class Case:
    client: bytes
    events: list
    server: bytes
    flags: bytes = field(default=FLAGS)


EXPORT_FIELDS = bytes.fromhex("0000 0000000000100000 0005")
EXPORT_FIELDS_DF = bytes.fromhex("0000 0000000000100000 0085")
SIZE_FIELDS = bytes.fromhex("0003 00000200 00001000 02000000")
ENTERED = ExportInfo(1 << 20, TransmissionFlag(0x05))
ENTERED_GO = ExportInfo(1 << 20, TransmissionFlag(0x05), BlockSizes(512, 4096, 32 << 20))

CASES = {
    "nothing": Case(b"", [], b""),
    "list": Case(
        option(3),
        [ListRequest()],
        reply(3, 2, text(b"a")) + reply(3, 2, text(b"disk0") + b"a disk") + reply(3, 1),
    ),
    "structured replies twice": Case(option(8) * 2, [], reply(8, 1) * 2),
    "info, nothing requested": Case(
        option(6, text(b"disk0") + bytes(2)),
        [ExportRequest(Option.INFO, "disk0", frozenset())],
        reply(6, 3, EXPORT_FIELDS) + reply(6, 3, SIZE_FIELDS) + reply(6, 1),
    ),
    "info, all requested and one that nobody knows": Case(
        option(6, text(b"") + bytes.fromhex("0005 0003 0002 0001 0000 7777")),
        [ExportRequest(Option.INFO, "", frozenset({0, 1, 2, 3, 0x7777}))],
        reply(6, 3, EXPORT_FIELDS)
        + reply(6, 3, SIZE_FIELDS)
        + reply(6, 3, bytes.fromhex("0001") + b"disk0")
        + reply(6, 3, bytes.fromhex("0002") + b"a disk")
        + reply(6, 1),
    ),
    "info after structured replies shows DF": Case(
        option(8) + option(6, text(b"disk0") + bytes(2)),
        [ExportRequest(Option.INFO, "disk0", frozenset())],
        reply(8, 1) + reply(6, 3, EXPORT_FIELDS_DF) + reply(6, 3, SIZE_FIELDS) + reply(6, 1),
    ),
    "go": Case(
        option(7, text(b"disk0") + bytes(2)),
        [
            ExportRequest(Option.GO, "disk0", frozenset()),
            Transmission("disk0", ENTERED_GO, False, ()),
        ],
        reply(7, 3, EXPORT_FIELDS) + reply(7, 3, SIZE_FIELDS) + reply(7, 1),
    ),
    "go without NO_ZEROES has no zeroes either": Case(
        option(7, text(b"disk0") + bytes(2)),
        [
            ExportRequest(Option.GO, "disk0", frozenset()),
            Transmission("disk0", ENTERED_GO, False, ()),
        ],
        reply(7, 3, EXPORT_FIELDS) + reply(7, 3, SIZE_FIELDS) + reply(7, 1),
        flags=bytes.fromhex("00000001"),
    ),
    "go refused, the client may go on": Case(
        option(7, text(b"missing") + bytes(2)) + option(8),
        [ExportRequest(Option.GO, "missing", frozenset())],
        reply(7, 0x80000006, b"no such export") + reply(8, 1),
    ),
    "export name": Case(
        option(1, b"disk0"),
        [
            ExportRequest(Option.EXPORT_NAME, "disk0", frozenset()),
            Transmission("disk0", ENTERED, False, ()),
        ],
        bytes.fromhex("0000000000100000 0005"),
    ),
    "export name with zeroes, plain newstyle": Case(
        option(1, "größe".encode()),
        [
            ExportRequest(Option.EXPORT_NAME, "größe", frozenset()),
            Transmission("größe", ENTERED, False, ()),
        ],
        bytes.fromhex("0000000000100000 0005") + bytes(124),
        flags=bytes(4),
    ),
    "list contexts, no query": Case(
        option(9, text(b"disk0") + bytes(4)),
        [ContextRequest(Option.LIST_META_CONTEXT, "disk0", (), ("base:allocation",))],
        reply(9, 4, bytes(4) + b"base:allocation") + reply(9, 1),
    ),
    "list contexts, wildcard": Case(
        option(9, text(b"disk0") + bytes([0, 0, 0, 1]) + text(b"base:")),
        [ContextRequest(Option.LIST_META_CONTEXT, "disk0", ("base:",), ("base:allocation",))],
        reply(9, 4, bytes(4) + b"base:allocation") + reply(9, 1),
    ),
    "list contexts, unknown namespace": Case(
        option(9, text(b"disk0") + bytes([0, 0, 0, 1]) + text(b"qemu:")),
        [ContextRequest(Option.LIST_META_CONTEXT, "disk0", ("qemu:",), ())],
        reply(9, 1),
    ),
    "set contexts": Case(
        option(8) + option(10, text(b"d") + bytes([0, 0, 0, 1]) + text(b"base:allocation")),
        [ContextRequest(Option.SET_META_CONTEXT, "d", ("base:allocation",), ("base:allocation",))],
        reply(8, 1) + reply(10, 4, bytes([0, 0, 0, 7]) + b"base:allocation") + reply(10, 1),
    ),
    "set contexts, a wildcard selects nothing": Case(
        option(8) + option(10, text(b"d") + bytes([0, 0, 0, 1]) + text(b"base:")),
        [ContextRequest(Option.SET_META_CONTEXT, "d", ("base:",), ())],
        reply(8, 1) + reply(10, 1),
    ),
    "abort": Case(option(2), [Closed("client aborted the negotiation")], reply(2, 1)),
    "abort with data": Case(
        option(2, b"bye"), [Closed("client aborted the negotiation")], reply(2, 1)
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_whole(case):
    assert talk(ServerHandshake(), [case.flags + case.client]) == (
        case.events,
        GREETING + case.server,
    )


def test_byte_by_byte(case):
    server = ServerHandshake()
    events, sent = [], b""
    for byte in case.flags + case.client:
        if server.state is State.CLOSED:
            break
        more_events, more_sent = talk(server, [bytes([byte])])
        events += more_events
        sent += more_sent
    assert (events, sent) == (case.events, GREETING + case.server)


def test_trailing_bytes_stay_unread(case):
    server = ServerHandshake()
    events, sent = talk(server, [case.flags + case.client + b"IHAVEOPT\0\0"])
    assert (events, sent) == (case.events, GREETING + case.server)
    if server.state is State.TRANSMISSION:
        assert server.trailing_data == b"IHAVEOPT\0\0"


def go_with_contexts(set_for, go_for):
    query = bytes([0, 0, 0, 1]) + text(b"base:allocation")
    events, _ = talk(
        ServerHandshake(),
        [
            FLAGS
            + option(8)
            + b"".join(option(10, text(name) + query) for name in set_for)
            + option(7, text(go_for) + bytes(2))
        ],
    )
    return events[-1].meta_contexts


def test_contexts_set_for_the_export_count():
    assert go_with_contexts([b"disk0"], b"disk0") == ((7, "base:allocation"),)


def test_contexts_set_for_another_export_do_not_count():
    assert go_with_contexts([b"disk1"], b"disk0") == ()


def test_a_failed_set_forgets_the_contexts_set_before():
    assert go_with_contexts([b"disk0", b"missing"], b"disk0") == ()


def test_refused_export_name_closes_without_a_reply():
    events, sent = talk(ServerHandshake(), [FLAGS + option(1, b"missing")])
    assert events[-1] == Closed("no such export")
    assert sent == GREETING


def test_one_question_at_a_time():
    server = ServerHandshake()
    server.feed(FLAGS + option(3) + option(8))
    assert server.next_event() == ListRequest()
    assert server.data_to_send() == GREETING
    assert server.next_event() is NEED_DATA
    server.answer_list([])
    assert server.next_event() is NEED_DATA
    assert server.data_to_send() == reply(3, 1) + reply(8, 1)


def asked(client):
    server = ServerHandshake()
    server.feed(FLAGS + client)
    event = server.next_event()
    server.data_to_send()
    return server, event


GO = option(7, text(b"d") + bytes(2))
SET = option(8) + option(10, text(b"d") + bytes([0, 0, 0, 1]) + text(b"base:allocation"))

WRONG_ANSWERS = {
    "none asked": (b"", lambda s: s.answer_list([])),
    "refusal of nothing": (b"", lambda s: s.refuse(OptionReply.ERR_POLICY, "")),
    "wrong kind": (GO, lambda s: s.answer_list([])),
    "refusal that is none": (GO, lambda s: s.refuse(OptionReply.ACK, "")),
    "TLS without TLS": (GO, lambda s: s.refuse(OptionReply.ERR_TLS_REQD, "")),
    "negative size": (GO, lambda s: s.answer_export(ExportInfo(-1))),
    "size of 2^63": (GO, lambda s: s.answer_export(ExportInfo(1 << 63))),
    "wide flags": (GO, lambda s: s.answer_export(ExportInfo(1, TransmissionFlag(1 << 16)))),
    "odd minimum": (GO, lambda s: s.answer_export(ExportInfo(1, block_sizes=BlockSizes(3)))),
    "preferred below 512": (
        GO,
        lambda s: s.answer_export(ExportInfo(1, block_sizes=BlockSizes(1, 256))),
    ),
    "maximum below preferred": (
        GO,
        lambda s: s.answer_export(ExportInfo(1 << 20, block_sizes=BlockSizes(512, 4096, 512))),
    ),
    "maximum not a multiple": (
        GO,
        lambda s: s.answer_export(ExportInfo(1 << 20, block_sizes=BlockSizes(512, 4096, 5000))),
    ),
    "long listed name": (option(3), lambda s: s.answer_list([("n" * 4097, "")])),
    "NUL in a listed name": (option(3), lambda s: s.answer_list([("ok", ""), ("a\0b", "")])),
    "lone surrogate": (option(3), lambda s: s.answer_list([("\ud800", "")])),
    "context that was not asked": (SET, lambda s: s.answer_contexts([(1, "base:other")])),
    "context ID twice": (SET, lambda s: s.answer_contexts([(1, "base:allocation")] * 2)),
    "wide context ID": (SET, lambda s: s.answer_contexts([(1 << 32, "base:allocation")])),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_wrong_answer_is_ours_and_changes_nothing(name):
    client, give = WRONG_ANSWERS[name]
    server, event = asked(client)
    before = server.state
    with pytest.raises(LocalProtocolError):
        give(server)
    assert server.data_to_send() == b""
    assert server.state is before
    if event is not NEED_DATA:
        server.refuse(OptionReply.ERR_POLICY, "")
        assert server.state is State.OPTION


def test_small_export_may_have_a_maximum_below_the_preferred_size():
    server, _ = asked(GO)
    server.answer_export(ExportInfo(512, block_sizes=BlockSizes(512, 4096, 512)))
    assert server.state is State.TRANSMISSION


def test_long_refusal_is_cut_between_characters():
    server, _ = asked(GO)
    server.refuse(OptionReply.ERR_POLICY, "ä" * 4096 + "\0")
    assert server.data_to_send() == reply(7, 0x80000002, "ä".encode() * 2048)


def test_feeding_after_the_end_is_ours():
    server = ServerHandshake()
    talk(server, [FLAGS + GO])
    with pytest.raises(LocalProtocolError):
        server.feed(b"x")


def test_trailing_data_before_the_end_is_ours():
    with pytest.raises(LocalProtocolError):
        _ = ServerHandshake().trailing_data


def test_context_names_need_a_namespace():
    with pytest.raises(LocalProtocolError, match="allocation"):
        ServerHandshake(["allocation"])
