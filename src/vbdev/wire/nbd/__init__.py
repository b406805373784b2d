"""The NBD protocol without I/O: both halves of the handshake, and the transmission phase.

    constants         numbers and limits, under the specification's names
    errors            whose fault it was
    events            what a handshake tells, and the values in it
    buffer            bytes that are not understood yet
    payloads          the data of options and replies, both ways
    contexts          which metadata contexts a query selects
    handshake         the state machine of both sides
    server_handshake  options in, answers out
    answers           those answers, as bytes
    client_handshake  options out, results in
    transmission      requests both ways, replies out
    replies           replies in
    pending           what a reply must bring, against what it brought

The specification is doc/proto.md of NetworkBlockDevice/nbd; comments name its sections.
"""

from vbdev.wire.nbd.client_handshake import ClientHandshake, Goal
from vbdev.wire.nbd.constants import (
    COMMAND_FLAGS,
    NEED_DATA,
    ChunkFlag,
    ChunkType,
    Command,
    CommandFlag,
    HandshakeFlag,
    InfoType,
    NeedData,
    Option,
    OptionReply,
    StateFlag,
    TransmissionFlag,
)
from vbdev.wire.nbd.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from vbdev.wire.nbd.events import (
    BlockSizes,
    ClientEvent,
    Closed,
    ContextRequest,
    ExportDescribed,
    ExportInfo,
    ExportListed,
    ExportRequest,
    ListRequest,
    Refused,
    ServerEvent,
    Transmission,
)
from vbdev.wire.nbd.handshake import TRANSITIONS, State
from vbdev.wire.nbd.replies import (
    BlockStatusChunk,
    DataChunk,
    ErrorChunk,
    HoleChunk,
    NoneChunk,
    ReplyEvent,
    ReplyParser,
    SimpleReply,
)
from vbdev.wire.nbd.server_handshake import ServerHandshake
from vbdev.wire.nbd.transmission import (
    Request,
    decode_request_header,
    encode_chunk_block_status,
    encode_chunk_error,
    encode_chunk_none,
    encode_chunk_offset_data_header,
    encode_chunk_offset_hole,
    encode_request,
    encode_simple_reply,
)

__all__ = [
    "COMMAND_FLAGS",
    "NEED_DATA",
    "TRANSITIONS",
    "BlockSizes",
    "BlockStatusChunk",
    "ChunkFlag",
    "ChunkType",
    "ClientEvent",
    "ClientHandshake",
    "Closed",
    "Command",
    "CommandFlag",
    "ContextRequest",
    "DataChunk",
    "ErrorChunk",
    "ExportDescribed",
    "ExportInfo",
    "ExportListed",
    "ExportRequest",
    "Goal",
    "HandshakeFlag",
    "HoleChunk",
    "InfoType",
    "ListRequest",
    "LocalProtocolError",
    "NeedData",
    "NoneChunk",
    "Option",
    "OptionReply",
    "ProtocolError",
    "Refused",
    "RemoteProtocolError",
    "ReplyEvent",
    "ReplyParser",
    "Request",
    "ServerEvent",
    "ServerHandshake",
    "SimpleReply",
    "State",
    "StateFlag",
    "Transmission",
    "TransmissionFlag",
    "decode_request_header",
    "encode_chunk_block_status",
    "encode_chunk_error",
    "encode_chunk_none",
    "encode_chunk_offset_data_header",
    "encode_chunk_offset_hole",
    "encode_request",
    "encode_simple_reply",
]
