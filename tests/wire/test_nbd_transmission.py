"""Requests and replies of the NBD transmission phase, as bytes written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdev.vocab import NbdError
from vbdev.wire.nbd import (
    COMMAND_FLAGS,
    Command,
    CommandFlag,
    LocalProtocolError,
    RemoteProtocolError,
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

COOKIE = 0x0102030405060708

GOLDEN = {
    "read": (
        encode_request(Command.READ, COOKIE, 4096, 512),
        "25609513 0000 0000 0102030405060708 0000000000001000 00000200",
    ),
    "write with FUA": (
        encode_request(Command.WRITE, 1, (1 << 63) - 512, 512, CommandFlag.FUA),
        "25609513 0001 0001 0000000000000001 7ffffffffffffe00 00000200",
    ),
    "write zeroes": (
        encode_request(
            Command.WRITE_ZEROES, 1, 0, 0xFFFFFFFF, CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO
        ),
        "25609513 0012 0006 0000000000000001 0000000000000000 ffffffff",
    ),
    "flush": (
        encode_request(Command.FLUSH, 2),
        "25609513 0000 0003 0000000000000002 0000000000000000 00000000",
    ),
    "block status": (
        encode_request(Command.BLOCK_STATUS, 2, 0, 1, CommandFlag.REQ_ONE),
        "25609513 0008 0007 0000000000000002 0000000000000000 00000001",
    ),
    "simple reply": (encode_simple_reply(COOKIE), "67446698 00000000 0102030405060708"),
    "simple error": (
        encode_simple_reply(COOKIE, NbdError.ESHUTDOWN),
        "67446698 0000006c 0102030405060708",
    ),
    "none": (encode_chunk_none(COOKIE), "668e33ef 0001 0000 0102030405060708 00000000"),
    "data": (
        encode_chunk_offset_data_header(COOKIE, 4096, 512, done=False),
        "668e33ef 0000 0001 0102030405060708 00000208 0000000000001000",
    ),
    "hole": (
        encode_chunk_offset_hole(COOKIE, 4096, 512, done=True),
        "668e33ef 0001 0002 0102030405060708 0000000c 0000000000001000 00000200",
    ),
    "status": (
        encode_chunk_block_status(COOKIE, 9, [(512, 0), (1024, 3)], done=True),
        "668e33ef 0001 0005 0102030405060708 00000014 00000009 00000200 00000000 00000400 00000003",
    ),
    "error": (
        encode_chunk_error(COOKIE, NbdError.EINVAL, "no"),
        "668e33ef 0001 8001 0102030405060708 00000008 00000016 0002 6e6f",
    ),
    "error with offset": (
        encode_chunk_error(COOKIE, NbdError.EIO, "no", 4096, done=False),
        "668e33ef 0000 8002 0102030405060708 00000010 00000005 0002 6e6f 0000000000001000",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name):
    encoded, expected = GOLDEN[name]
    assert encoded == bytes.fromhex(expected)


@given(
    command=st.sampled_from(Command),
    cookie=st.integers(0, (1 << 64) - 1),
    offset=st.integers(0, (1 << 63) - 1),
    length=st.integers(0, (1 << 32) - 1),
    flags=st.integers(0, 63),
)
def test_request_comes_back_as_it_went(command, cookie, offset, length, flags):
    flags &= COMMAND_FLAGS[command]
    if command in (Command.DISC, Command.FLUSH):
        offset = length = 0
    data = encode_request(command, cookie, offset, length, flags)
    assert len(data) == 28
    assert decode_request_header(memoryview(data)) == Request(
        command, flags, cookie, offset, length
    )


def test_unknown_command_and_flags_are_not_the_decoders_to_judge():
    data = bytes.fromhex("25609513 ffff fffe ffffffffffffffff ffffffffffffffff ffffffff")
    assert decode_request_header(data) == Request(
        0xFFFE, 0xFFFF, (1 << 64) - 1, (1 << 64) - 1, (1 << 32) - 1
    )


@pytest.mark.parametrize("magic", ["00000001", "13956025", "67446698", "25609512"])
def test_wrong_magic(magic):
    with pytest.raises(RemoteProtocolError, match=magic.lstrip("0")):
        decode_request_header(bytes.fromhex(magic) + bytes(24))


@pytest.mark.parametrize("size", [0, 27, 29])
def test_wrong_size_is_ours(size):
    with pytest.raises(LocalProtocolError, match=str(size)):
        decode_request_header(bytes(size))


WRONG = {
    "DF on a write": lambda: encode_request(Command.WRITE, 1, 0, 1, CommandFlag.DF),
    "unknown flag": lambda: encode_request(Command.READ, 1, 0, 1, 1 << 9),
    "flush with a range": lambda: encode_request(Command.FLUSH, 1, 0, 1),
    "disconnect with an offset": lambda: encode_request(Command.DISC, 1, 1, 0),
    "wide cookie": lambda: encode_request(Command.READ, 1 << 64, 0, 1),
    "wide length": lambda: encode_request(Command.READ, 1, 0, 1 << 32),
    "negative offset": lambda: encode_request(Command.READ, 1, -1, 1),
    "negative cookie in a reply": lambda: encode_simple_reply(-1),
    "empty data": lambda: encode_chunk_offset_data_header(1, 0, 0, done=True),
    "data of 4 GiB": lambda: encode_chunk_offset_data_header(1, 0, (1 << 32) - 8, done=True),
    "empty hole": lambda: encode_chunk_offset_hole(1, 0, 0, done=True),
    "hole at 2^63": lambda: encode_chunk_offset_hole(1, 1 << 63, 1, done=True),
    "no extent": lambda: encode_chunk_block_status(1, 1, [], done=True),
    "empty extent": lambda: encode_chunk_block_status(1, 1, [(1, 0), (0, 0)], done=True),
    "wide status": lambda: encode_chunk_block_status(1, 1, [(1, 1 << 32)], done=True),
    "wide context": lambda: encode_chunk_block_status(1, 1 << 32, [(1, 0)], done=True),
    "error that is none": lambda: encode_chunk_error(1, NbdError.OK),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_must_not_be_sent_is_ours(name):
    with pytest.raises(LocalProtocolError):
        WRONG[name]()


def test_long_error_message_is_cut():
    chunk = encode_chunk_error(1, NbdError.EIO, "x" * 5000)
    assert chunk[20:26] == bytes.fromhex("00000005 1000")
    assert chunk[26:] == b"x" * 4096
