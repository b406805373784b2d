"""What a client sends at once is answered piece by piece, and takes no turn that is others'.

Method: a stream on a socket pair, and one call of `receive` for what a reactor calls in one turn.
"""

import struct

import pytest

from support.stream_rig import StreamRig
from vbdev.wire.nbd import Command

BLOCK = 512
REQUEST = struct.Struct(">IHHQQI")
MAGIC = 0x25609513
REPLY_BYTES = 16
PIECE_REQUESTS = 16


@pytest.fixture
def rig():
    made = StreamRig(num_blocks=8192)
    made.connect()
    yield made
    made.close()


def requests(command, count, length=BLOCK):
    payload = bytes(length if command == Command.WRITE else 0)
    return b"".join(
        REQUEST.pack(MAGIC, 0, command, cookie, cookie * length, length) + payload
        for cookie in range(count)
    )


@pytest.mark.parametrize("command", [Command.READ, Command.WRITE])
def test_all_but_the_last_piece_are_answered_at_once(rig, command):
    """The last one is the turn's, whose end answers what all streams have submitted."""
    rig.near.send(requests(command, 50))
    rig.stream.receive()
    assert rig.stream.batches == 4
    replies = len(rig.near.recv(1 << 20)) // (REPLY_BYTES + BLOCK * (command == Command.READ))
    assert replies == 3 * PIECE_REQUESTS
    rig.engine.drain()
    assert rig.stream.idle
    assert rig.stream.sends == 4


def test_a_piece_has_an_end_in_bytes_too(rig):
    rig.near.send(requests(Command.READ, 4, 256 << 10))
    rig.stream.receive()
    assert rig.stream.batches == 4
    rig.near.recv(8 << 20)
    rig.pump()


def test_a_flood_leaves_the_turn_to_others(rig):
    """Of thousands of requests that cost their client nothing, some are for the next turns."""
    flood = b"".join(REQUEST.pack(MAGIC, 0, Command.FLUSH, cookie, 0, 0) for cookie in range(5000))
    assert rig.near.send(flood) == len(flood)
    rig.stream.receive()
    assert 0 < rig.stream.requests < 2000
    before = rig.stream.requests
    rig.stream.receive()  # the socket has more, and it is not this client's turn
    assert rig.stream.requests == before
    rig.pump()
    assert rig.stream.requests == 5000
    assert len(rig.output) == 5000 * REPLY_BYTES


def test_a_client_that_takes_nothing_is_given_no_further_piece(rig):
    rig.near.send(requests(Command.READ, 1000, 4096))
    rig.stream.receive()
    assert rig.stream.wants_write
    assert rig.stream.requests < 1000
    before = rig.stream.requests
    rig.stream.receive()
    rig.engine.drain()
    assert rig.stream.requests == before
    rig.pump()
    assert rig.stream.requests == 1000
