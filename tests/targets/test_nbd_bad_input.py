"""Requests that break the rules: each gets the error of the specification, and only its sender.

Method: an App in this process with one malloc export; a client that can send anything. After each
refusal the same connection has to work, and at the end no BdevIO and no buffer may be in use.
"""

import pytest

from support.nbd_client import header
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command, CommandFlag, ErrorChunk, SimpleReply, TransmissionFlag

SIZE = 1 << 20
MIB = 1 << 20
READ, WRITE, TRIM = Command.READ, Command.WRITE, Command.TRIM
ZEROES, CACHE, FLUSH = Command.WRITE_ZEROES, Command.CACHE, Command.FLUSH
STATUS = Command.BLOCK_STATUS

REFUSED = {
    "read beyond the end": (READ, SIZE - 512, 1024, 0, NbdError.EINVAL),
    "read behind the end": (READ, SIZE, 512, 0, NbdError.EINVAL),
    "read far behind the end": (READ, (1 << 64) - 512, 512, 0, NbdError.EINVAL),
    "trim beyond the end": (TRIM, SIZE - 512, 1024, 0, NbdError.EINVAL),
    "trim of 4 GiB": (TRIM, 0, (1 << 32) - 512, 0, NbdError.EINVAL),
    "write beyond the end": (WRITE, SIZE - 512, 1024, 0, NbdError.ENOSPC),
    "write behind the end": (WRITE, SIZE, 512, 0, NbdError.ENOSPC),
    "zeroes beyond the end": (ZEROES, SIZE - 512, 1024, 0, NbdError.ENOSPC),
    "zeroes of 4 GiB": (ZEROES, 0, (1 << 32) - 512, 0, NbdError.ENOSPC),
    "cache beyond the end": (CACHE, SIZE, 512, 0, NbdError.EINVAL),
    "status beyond the end": (STATUS, SIZE, 512, 0, NbdError.EINVAL),
    "misaligned offset": (READ, 1, 512, 0, NbdError.EINVAL),
    "misaligned length": (READ, 0, 511, 0, NbdError.EINVAL),
    "misaligned write": (WRITE, 256, 512, 0, NbdError.EINVAL),
    "misaligned trim": (TRIM, 0, 100, 0, NbdError.EINVAL),
    "misaligned zeroes": (ZEROES, 100, 512, 0, NbdError.EINVAL),
    "read of nothing": (READ, 0, 0, 0, NbdError.EINVAL),
    "write of nothing": (WRITE, 0, 0, 0, NbdError.EINVAL),
    "trim of nothing": (TRIM, 0, 0, 0, NbdError.EINVAL),
    "zeroes of nothing": (ZEROES, 0, 0, 0, NbdError.EINVAL),
    "flush with a range": (FLUSH, 0, 512, 0, NbdError.EINVAL),
    "flush with an offset": (FLUSH, 512, 0, 0, NbdError.EINVAL),
    "unknown command": (99, 0, 512, 0, NbdError.EINVAL),
    "reserved command": (8, 0, 0, 0, NbdError.EINVAL),
    "unknown flag": (READ, 0, 512, 1 << 15, NbdError.EINVAL),
    "unknown flag of a write": (WRITE, 0, 512, 1 << 7, NbdError.EINVAL),
    "flag of another command": (WRITE, 0, 512, CommandFlag.NO_HOLE, NbdError.EINVAL),
    "REQ_ONE of a read": (READ, 0, 512, CommandFlag.REQ_ONE, NbdError.EINVAL),
    "NO_HOLE of a trim": (TRIM, 0, 512, CommandFlag.NO_HOLE, NbdError.EINVAL),
    "status without a context": (STATUS, 0, 512, 0, NbdError.EINVAL),
}


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
@pytest.mark.parametrize("what", REFUSED)
def test_refused(local_app, what, structured):
    command, offset, length, flags, error = REFUSED[what]
    local_app.serve(strict_blocks=True)
    client = local_app.client(structured=structured)
    payload = b"\xee" * length if command == WRITE else b""
    reply = client.ask(command, offset, length, flags, payload)
    assert reply.error is error
    chunked = structured and command in (READ, STATUS)
    assert reply.events == [ErrorChunk if chunked else SimpleReply]
    client.write(512, b"\x11" * 512)
    assert client.read(0, 1536) == bytes(512) + b"\x11" * 512 + bytes(512)


@pytest.mark.parametrize(
    ("command", "error"),
    [(READ, NbdError.EINVAL), (WRITE, NbdError.EINVAL), (CACHE, NbdError.EINVAL)],
)
def test_longer_than_a_payload_may_be(local_app, command, error):
    local_app.serve(num_blocks=131072)
    client = local_app.client()
    length = 32 * MIB + 512
    payload = bytes([0xEE]) * length if command == WRITE else b""
    assert client.ask(command, 0, length, 0, payload).error is error
    assert client.read(0, 4096) == bytes(4096)


def test_df_without_structured_replies(local_app):
    local_app.serve()
    client = local_app.client(structured=False)
    assert client.ask(READ, 0, 512, CommandFlag.DF).error is NbdError.EINVAL
    assert client.ask(READ, 0, 512).error is NbdError.OK


@pytest.mark.parametrize("command", [WRITE, TRIM, ZEROES])
def test_read_only(local_app, command):
    local_app.serve(read_only=True)
    client = local_app.client()
    assert TransmissionFlag.READ_ONLY in client.flags
    payload = b"\xee" * 4096 if command == WRITE else b""
    assert client.ask(command, 0, 4096, 0, payload).error is NbdError.EPERM
    assert client.read(0, 4096) == bytes(4096)


def test_read_only_offers_what_it_carries_out(local_app):
    """A FLUSH, if offered, succeeds: clients flush before they leave, even what they only read."""
    local_app.serve(read_only=True)
    client = local_app.client()
    offered = TransmissionFlag.SEND_FLUSH in client.flags
    assert client.ask(FLUSH).error is (NbdError.OK if offered else NbdError.EINVAL)


def test_bad_magic_ends_one_client(local_app):
    local_app.serve()
    good, bad = local_app.client(), local_app.client()
    before = bad.start(WRITE, 0, 512, 0, b"\x22" * 512)
    assert bad.wait(before).error is NbdError.OK
    bad.send(header(READ, 1, 0, 512, magic=0x25609514))
    assert bad.at_end()
    assert good.read(0, 512) == b"\x22" * 512


def test_bad_magic_behind_good_requests(local_app):
    """What came before in the same segment is carried out; where the stream ends is not."""
    local_app.serve()
    good, bad = local_app.client(), local_app.client()
    segment = header(WRITE, 1, 0, 512) + b"\x33" * 512 + b"garbage" * 10
    bad.send(segment)
    assert bad.at_end()
    assert good.read(0, 1024) == b"\x33" * 512 + bytes(512)


@pytest.mark.parametrize("length", [4096, 65536, 65536 + 512, MIB, 16 * MIB])
@pytest.mark.parametrize("sent", [0.0, 0.5, 1.0], ids=["header", "half", "all but one byte"])
def test_client_vanishes_in_a_write(local_app, length, sent):
    local_app.serve(num_blocks=65536)
    client, other = local_app.client(), local_app.client()
    client.send(header(WRITE, 1, 0, length) + b"\xee" * int(sent * (length - 1)))
    client.close()
    local_app.wait_until(lambda: local_app.app.nbd.connection_count == 1)
    assert other.read(0, 32 * MIB if length > MIB else MIB).count(0xEE) == 0
    other.disconnect()
    local_app.wait_idle()


def test_client_vanishes_with_reads_in_flight(local_app):
    local_app.serve(num_blocks=65536)
    client = local_app.client()
    client.send(b"".join(header(READ, i, 0, MIB) for i in range(200)))
    client.close()
    local_app.wait_idle()


def test_disconnect_with_requests_in_flight(local_app):
    """ "NBD_CMD_DISC": the server MUST handle all outstanding requests first."""
    local_app.serve()
    client = local_app.client()
    messages = [client.message(READ, 0, 65536) for _ in range(100)]
    client.send(b"".join(messages) + header(Command.DISC, 0))
    replies = client.wait_all()
    assert len(replies) == 100
    assert all(reply.data == bytes(65536) for reply in replies.values())
    assert client.at_end()
    local_app.wait_idle()


def test_disconnect_with_a_block_status_in_flight(local_app):
    local_app.serve()
    client = local_app.client(contexts=["base:allocation"])
    messages = [client.message(STATUS, 0, SIZE) for _ in range(10)]
    client.send(b"".join(messages) + header(Command.DISC, 0))
    replies = client.wait_all()
    assert [reply.extents for reply in replies.values()] == [((SIZE, 3),)] * 10
    assert client.at_end()
    local_app.wait_idle()


def test_nothing_behind_disconnect_counts(local_app):
    local_app.serve()
    client, other = local_app.client(), local_app.client()
    client.send(header(Command.DISC, 1) + header(WRITE, 2, 0, 512) + b"\xee" * 512)
    assert client.at_end()
    assert other.read(0, 512) == bytes(512)
