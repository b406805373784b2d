"""Any bytes give events or RemoteProtocolError, nothing else, whatever their cut.

Method: Hypothesis, with bytes that are random, and with sound messages that were damaged, so
that the deeper states are reached too. A canary shows that the generator gets there.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from vbdev.vocab import NbdError
from vbdev.wire.nbd import (
    NEED_DATA,
    ClientHandshake,
    Closed,
    Command,
    ContextRequest,
    ExportInfo,
    ExportRequest,
    ListRequest,
    OptionReply,
    RemoteProtocolError,
    ReplyParser,
    Request,
    ServerHandshake,
    Transmission,
    encode_chunk_error,
    encode_chunk_none,
    encode_chunk_offset_data_header,
    encode_chunk_offset_hole,
    encode_simple_reply,
)
from vbdev.wire.nbd.constants import MAX_OPTION_BYTES
from vbdev.wire.nbd.payloads import (
    encode_context_request,
    encode_info_request,
    encode_option,
    encode_option_reply,
)

QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
queries = st.sampled_from(["base:", "base:allocation", "x-a:b", "nothing"])
option_data = st.one_of(
    st.just(b""),
    st.binary(max_size=24),
    st.builds(encode_info_request, texts, st.lists(st.integers(0, 5), max_size=4)),
    st.builds(encode_context_request, texts, st.lists(queries, max_size=3)),
)
options = st.builds(encode_option, st.integers(0, 12), option_data)
reply_types = st.one_of(st.integers(0, 5), st.sampled_from(OptionReply))
option_replies = st.builds(
    encode_option_reply, st.sampled_from([8, 10, 7, 2]), reply_types, option_data
)
chunks = st.one_of(
    st.builds(encode_simple_reply, st.integers(0, 2), st.sampled_from(NbdError)),
    st.builds(encode_chunk_none, st.integers(0, 2)),
    st.builds(
        encode_chunk_offset_data_header,
        st.integers(0, 2),
        st.integers(0, 9),
        st.integers(1, 9),
        done=st.booleans(),
    ),
    st.builds(
        encode_chunk_offset_hole,
        st.integers(0, 2),
        st.integers(0, 9),
        st.integers(1, 9),
        done=st.booleans(),
    ),
    st.builds(encode_chunk_error, st.integers(0, 2), st.just(NbdError.EIO), texts),
    st.binary(max_size=9),
)


@st.composite
def streams(draw, start, messages):
    """Return pieces: a sound beginning, messages, sometimes a changed byte, cut anywhere."""
    data = bytearray(draw(st.sampled_from([b"", start])) + b"".join(draw(st.lists(messages))))
    data += draw(st.binary(max_size=40))
    if data and draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    size = draw(st.integers(1, len(data) + 1))
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)]


def answer(server, event):
    match event:
        case ListRequest():
            server.answer_list([("a", "b")])
        case ExportRequest(export_name=""):
            server.answer_export(ExportInfo(1 << 20))
        case ContextRequest(matches=matches):
            server.answer_contexts(enumerate(matches))
        case ExportRequest():
            server.refuse(OptionReply.ERR_UNKNOWN, "no")


def drive(codec, pieces):
    """Feed pieces and the end of the stream; return events, and the error's message if any."""
    events = []
    try:
        for piece in pieces:
            codec.feed(piece)
            while (event := codec.next_event()) is not NEED_DATA:
                events.append(event)
                if isinstance(codec, ServerHandshake):
                    answer(codec, event)
                if isinstance(event, Transmission | Closed):
                    return events, None
            assert len(codec._inbox) <= MAX_OPTION_BYTES
    except RemoteProtocolError as error:
        return events, str(error)
    return events, None


server_streams = streams(bytes.fromhex("00000003"), options)
client_streams = streams(b"NBDMAGICIHAVEOPT\0\3", option_replies)


@QUICK
@given(server_streams)
def test_server(pieces):
    whole = drive(ServerHandshake(), [b"".join(pieces)])
    assert drive(ServerHandshake(), pieces) == whole


@QUICK
@given(client_streams)
def test_client(pieces):
    whole = drive(ClientHandshake(contexts=["base:allocation"]), [b"".join(pieces)])
    assert drive(ClientHandshake(contexts=["base:allocation"]), pieces) == whole


def parser(structured):
    replies = ReplyParser(structured_replies=structured, context_ids=[0])
    for cookie, command in enumerate((Command.READ, Command.WRITE, Command.BLOCK_STATUS)):
        replies.expect(Request(command, 0, cookie, 0, 12))
    return replies


@QUICK
@given(streams(b"", chunks), st.booleans())
def test_replies(pieces, structured):
    whole = drive(parser(structured), [b"".join(pieces)])
    assert drive(parser(structured), pieces) == whole


@QUICK
@given(st.binary())
def test_answers_to_garbage_are_sound_replies(data):
    """What a server sends to a confused client can be read by a sound one."""
    server = ServerHandshake()
    drive(server, [bytes.fromhex("00000003") + encode_option(9, data)])
    sent = server.data_to_send()[18:]
    while sent:
        assert sent[:12] == bytes.fromhex("0003e889045565a9 00000009")
        length = int.from_bytes(sent[16:20])
        sent[20 : 20 + length].decode()
        sent = sent[20 + length :]


@pytest.mark.parametrize("kind", [ListRequest, ExportRequest, ContextRequest, Transmission])
def test_canary_the_generator_reaches_every_event(kind):
    find(
        server_streams,
        lambda pieces: any(isinstance(e, kind) for e in drive(ServerHandshake(), pieces)[0]),
        settings=settings(max_examples=3000, deadline=None, database=None),
    )
