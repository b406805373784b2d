"""Large payloads over NBD: nothing is lost among other requests, however the bytes arrive."""

from __future__ import annotations

import random

import pytest

from support.nbd_client import header
from support.stream_rig import StreamRig
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command

READ, WRITE, FLUSH = Command.READ, Command.WRITE, Command.FLUSH
KIB, MIB = 1 << 10, 1 << 20
DISK_BYTES = 64 * MIB
SIZES = (512, 4 * KIB, 64 * KIB, 64 * KIB + 512, 256 * KIB, 1024 * KIB)


@pytest.fixture
def rig():
    made = StreamRig(num_blocks=DISK_BYTES // 512)
    made.connect()
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(8))
def test_payloads_of_all_sizes_in_pieces_of_all_sizes(rig, seed):
    """Against a bytearray; what is under way together has no order, so that none overlap."""
    choose = random.Random(seed)
    model = bytearray(choose.randbytes(DISK_BYTES // 4) + bytes(3 * DISK_BYTES // 4))
    before = header(WRITE, 100, 0, DISK_BYTES // 4)
    rig.expect(before)
    assert not rig.feed(before + bytes(model[: DISK_BYTES // 4]))
    rig.pump()
    rig.replies()
    written = DISK_BYTES // 4
    data, expected = b"", []
    for cookie in range(1, 41):
        command = choose.choice([READ, WRITE, WRITE, WRITE, FLUSH])
        size = choose.choice(SIZES) if command is not FLUSH else 0
        offset = choose.randrange(0, DISK_BYTES // 4 - size + 1, 512) if size else 0
        if command is WRITE:
            offset, written = written, written + size
        refused = command is WRITE and choose.random() < 0.2
        if refused:
            offset = DISK_BYTES
        message = header(command, cookie, offset, size)
        rig.expect(message)
        data += message
        if command is WRITE:
            payload = choose.randbytes(size)
            data += payload
            if not refused:
                model[offset : offset + size] = payload
        read = bytes(model[offset : offset + size]) if command is READ else b""
        expected.append((cookie, NbdError.ENOSPC if refused else NbdError.OK, read))
    rest = memoryview(data)
    while rest:
        piece = choose.choice([1, 27, 28, 29, 5000, 65 * KIB, 300 * KIB, 2048 * KIB])
        assert not rig.feed(rest[:piece])
        rig.pump()
        rest = rest[piece:]
    replies = {reply.cookie: (reply.cookie, reply.error, reply.data) for reply in rig.replies()}
    assert [replies[cookie] for cookie, *_ in expected] == expected
    for offset in range(0, DISK_BYTES, 16 * MIB):
        check = header(READ, 99, offset, 16 * MIB)
        rig.expect(check)
        rig.feed(check)
        rig.pump()
        (reply,) = rig.replies()
        assert reply.data == model[offset : offset + 16 * MIB]
