"""Fuzz both halves of the NBD handshake and the reply parser with atheris.

    PYTHONPATH=src python fuzz/nbd_handshake.py -max_total_time=60

The first byte of an input picks the codec and the size of the pieces. The property: events
or RemoteProtocolError, nothing else; memory bounded; the same outcome as for the whole input.
A crash is written to a file; give its name as the only argument to replay it.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import atheris

with atheris.instrument_imports(include=["vbdev.wire"]):
    from vbdev.wire.nbd import (
        NEED_DATA,
        ClientHandshake,
        Closed,
        Command,
        ContextRequest,
        ExportInfo,
        ExportRequest,
        Goal,
        ListRequest,
        OptionReply,
        RemoteProtocolError,
        ReplyParser,
        Request,
        ServerHandshake,
        Transmission,
    )
    from vbdev.wire.nbd.constants import MAX_OPTION_BYTES, MAX_STATUS_EXTENTS

Codec: TypeAlias = ServerHandshake | ClientHandshake | ReplyParser

MAX_HELD_BYTES = max(MAX_OPTION_BYTES, 4 + 8 * MAX_STATUS_EXTENTS)


def _replies(*, structured: bool) -> ReplyParser:
    parser = ReplyParser(structured_replies=structured, context_ids=[0])
    for cookie, command in enumerate((Command.READ, Command.WRITE, Command.BLOCK_STATUS)):
        parser.expect(Request(command, 0, cookie, 0, 512))
    return parser


CODECS = (
    (ServerHandshake, bytes.fromhex("00000003")),
    (lambda: ClientHandshake("d", contexts=["base:allocation"]), b"NBDMAGICIHAVEOPT\0\3"),
    (lambda: ClientHandshake(goal=Goal.LIST), b"NBDMAGICIHAVEOPT\0\3"),
    (lambda: _replies(structured=True), b""),
    (lambda: _replies(structured=False), b""),
)


def _answer(server: ServerHandshake, event: object) -> None:
    match event:
        case ListRequest():
            server.answer_list([("a", "b")])
        case ExportRequest(export_name="d"):
            server.answer_export(ExportInfo(1 << 20))
        case ContextRequest(matches=matches):
            server.answer_contexts(enumerate(matches))
        case ExportRequest():
            server.refuse(OptionReply.ERR_UNKNOWN, "no such export")


def _drive(codec: Codec, pieces: list[bytes]) -> list[object]:
    """Return the events, and last the message of the error if there was one."""
    events: list[object] = []
    try:
        for piece in pieces:
            codec.feed(piece)
            while (event := codec.next_event()) is not NEED_DATA:
                events.append(event)
                if isinstance(codec, ServerHandshake):
                    _answer(codec, event)
                if isinstance(event, Transmission | Closed):
                    return events
            held_bytes = len(codec._inbox)  # noqa: SLF001 - the bound is what is tested
            if held_bytes > MAX_HELD_BYTES:
                raise AssertionError(f"{held_bytes} bytes held")
    except RemoteProtocolError as error:
        events.append(str(error))
    return events


def one_input(data: bytes) -> None:
    """Check the property for one input."""
    if not data:
        return
    make, start = CODECS[data[0] % len(CODECS)]
    size = 1 + data[0] // len(CODECS)
    stream = start + data[1:]
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    cut, whole = _drive(make(), pieces), _drive(make(), [stream])
    if cut != whole:
        raise AssertionError(f"in pieces {cut}, whole {whole}")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
