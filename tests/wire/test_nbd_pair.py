"""The two halves of the NBD handshake joined, with no network between them.

Method: a small server with two exports, every goal of the client, and pieces of every size. What
one side believes at the end has to be what the other believes.
"""

from __future__ import annotations

import pytest

from vbdev.wire.nbd import (
    NEED_DATA,
    TRANSITIONS,
    BlockSizes,
    ClientHandshake,
    Closed,
    ContextRequest,
    ExportDescribed,
    ExportInfo,
    ExportListed,
    ExportRequest,
    Goal,
    ListRequest,
    Option,
    OptionReply,
    Refused,
    ServerHandshake,
    State,
    Transmission,
    TransmissionFlag,
)

EXPORTS = {
    "": ExportInfo(0, description="empty"),
    "disk0": ExportInfo(1 << 30, TransmissionFlag.SEND_DF, BlockSizes(512), "disk0", "first disk"),
}


def serve(server, event):
    match event:
        case ListRequest():
            server.answer_list((name, info.description) for name, info in EXPORTS.items())
        case ExportRequest(export_name=name) | ContextRequest(export_name=name) if (
            name not in EXPORTS
        ):
            server.refuse(OptionReply.ERR_UNKNOWN, f"no export {name!r}")
        case ExportRequest(export_name=name):
            server.answer_export(EXPORTS[name])
        case ContextRequest(matches=matches):
            server.answer_contexts(enumerate(matches, start=1))


def take(codec):
    events = []
    while (event := codec.next_event()) is not NEED_DATA:
        events.append(event)
        if isinstance(codec, ServerHandshake):
            serve(codec, event)
    return events


def join(client, size):
    """Let both sides talk in pieces of `size` until neither has anything to say."""
    server = ServerHandshake()
    heard = {client: [], server: []}
    quiet = False
    while not quiet:
        quiet = True
        for source, target in ((server, client), (client, server)):
            data = source.data_to_send()
            for at in range(0, len(data), size):
                quiet = False
                target.feed(data[at : at + size])
                heard[target] += take(target)
    return heard[client], heard[server]


SIZES = pytest.mark.parametrize("size", [1, 7, 20, 1 << 16])


@SIZES
@pytest.mark.parametrize("name", EXPORTS)
def test_both_sides_enter_the_same_transmission(name, size):
    client = ClientHandshake(name, contexts=["base:allocation", "qemu:none"])
    client_events, server_events = join(client, size)
    assert client_events[-1] == server_events[-1]
    assert isinstance(client_events[-1], Transmission)
    assert client_events[-1].meta_contexts == ((1, "base:allocation"),)
    assert client_events[-1].structured_replies


def test_flags_follow_what_was_negotiated():
    with_df, _ = join(ClientHandshake("disk0"), 64)
    without_df, _ = join(ClientHandshake("disk0", structured_replies=False), 64)
    df, has_flags = TransmissionFlag.SEND_DF, TransmissionFlag.HAS_FLAGS
    assert with_df[-1].info.flags == df | has_flags
    assert without_df[-1].info.flags == has_flags


@SIZES
def test_list(size):
    client_events, server_events = join(ClientHandshake(goal=Goal.LIST), size)
    assert client_events[:2] == [ExportListed("", "empty"), ExportListed("disk0", "first disk")]
    assert isinstance(client_events[2], Closed)
    assert isinstance(server_events[-1], Closed)


@SIZES
def test_describe(size):
    client_events, server_events = join(ClientHandshake("disk0", goal=Goal.DESCRIBE), size)
    described, closed = client_events
    assert isinstance(described, ExportDescribed)
    assert described.info.block_sizes == BlockSizes(512)
    assert (described.info.name, described.info.description) == ("disk0", "first disk")
    assert isinstance(closed, Closed)
    assert isinstance(server_events[-1], Closed)


@SIZES
def test_export_that_is_not_there(size):
    client_events, server_events = join(ClientHandshake("nope"), size)
    refused, closed = client_events
    error = OptionReply.ERR_UNKNOWN
    assert refused == Refused(Option.GO, error, "no export 'nope'", goes_on=False)
    assert isinstance(closed, Closed)
    assert isinstance(server_events[-1], Closed)


def test_every_state_can_be_reached_and_left():
    reached = {State.CLIENT_FLAGS, State.GREETING}.union(*TRANSITIONS.values())
    assert reached == set(State)
    ends = {state for state, following in TRANSITIONS.items() if not following}
    assert ends == {State.TRANSMISSION, State.CLOSED, State.FAILED}
