"""The client's half of NBD's transmission phase: requests, replies, hostile servers.

Method: a LinkRig, in which the test is the server and speaks through the codec of `wire.nbd`, byte
by byte where that matters. A hostile server costs its connection and the I/Os on it, nothing else.
"""

import errno
import itertools
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.link_rig import ALL_FLAGS, LinkRig
from vbdev.vocab import IoFlag, NbdError, Op, Status
from vbdev.wire.nbd import (
    Command,
    CommandFlag,
    TransmissionFlag,
    encode_chunk_block_status,
    encode_chunk_error,
    encode_chunk_none,
    encode_chunk_offset_data_header,
    encode_chunk_offset_hole,
    encode_request,
    encode_simple_reply,
)
from vbdev.wire.nbd.constants import CHUNK_HEADER, STRUCTURED_REPLY_MAGIC

Flag = TransmissionFlag


@pytest.fixture
def make():
    made = []

    def build(**options):
        made.append(LinkRig(**options))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def rig(make):
    return make()


def data_chunk(cookie, offset, data, *, done):
    return encode_chunk_offset_data_header(cookie, offset, len(data), done=done) + data


def chunk(cookie, kind, body, flags=1):
    return CHUNK_HEADER.pack(STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(body)) + body


# Requests


@pytest.mark.parametrize(
    ("op", "command", "flags", "expected"),
    [
        (Op.READ, Command.READ, 0, 0),
        (Op.WRITE, Command.WRITE, 0, 0),
        (Op.WRITE, Command.WRITE, IoFlag.FUA, CommandFlag.FUA),
        (Op.UNMAP, Command.TRIM, 0, 0),
        (Op.UNMAP, Command.TRIM, IoFlag.FUA, CommandFlag.FUA),
        (Op.WRITE_ZEROES, Command.WRITE_ZEROES, 0, 0),
        (
            Op.WRITE_ZEROES,
            Command.WRITE_ZEROES,
            IoFlag.NO_HOLE | IoFlag.FUA,
            CommandFlag.NO_HOLE | CommandFlag.FUA,
        ),
        (Op.WRITE_ZEROES, Command.WRITE_ZEROES, IoFlag.FAST_ZERO, CommandFlag.FAST_ZERO),
        (Op.FLUSH, Command.FLUSH, 0, 0),
    ],
)
def test_requests_are_the_codecs(rig, op, command, flags, expected):
    end = rig.connect()
    offset, blocks = (0, 0) if op is Op.FLUSH else (7, 3)
    data = bytearray(os.urandom(blocks * 512)) if op in (Op.READ, Op.WRITE) else None
    request = rig.submit(op, offset, blocks, data, flags=flags)
    end.read()
    message = bytes(end.data)
    asked, payload = end.request()
    assert message[:28] == encode_request(
        command, asked.cookie, offset * 512, blocks * 512, int(expected)
    )
    assert payload == (bytes(data) if op is Op.WRITE else b"")
    end.say(encode_simple_reply(asked.cookie) + (bytes(blocks * 512) if op is Op.READ else b""))
    assert request.done
    assert request.status == Status.SUCCESS


def test_a_batch_leaves_in_one_call_and_comes_back_in_one(rig):
    end = rig.connect()
    sends = end.link.sends
    buffers = [bytearray(512) for _ in range(8)]
    requests = [rig.opened.submit(Op.READ, n, 1, buffers[n]) for n in range(8)]
    rig.stack.settle()
    asked = [request for request, _ in end.requests()]
    assert end.link.sends - sends <= 8
    random.Random(1).shuffle(asked)
    receives = end.link.receives
    end.far.send(
        b"".join(
            encode_simple_reply(one.cookie) + bytes([one.offset_bytes // 512 + 1]) * 512
            for one in asked
        )
    )
    end.link.receive()
    assert end.link.receives == receives + 1
    rig.stack.settle()
    assert [r.status for r in requests] == [Status.SUCCESS] * 8
    assert buffers == [bytes([n + 1]) * 512 for n in range(8)]


def test_data_in_pieces(rig):
    end = rig.connect()
    pieces = [os.urandom(100), os.urandom(412), os.urandom(1024)]
    write = rig.submit(Op.WRITE, 1, 3, [bytearray(piece) for piece in pieces])
    asked, payload = end.request()
    assert payload == b"".join(pieces)
    end.say(encode_simple_reply(asked.cookie))
    into = [bytearray(1), bytearray(1500), bytearray(35)]
    read = rig.submit(Op.READ, 1, 3, into)
    asked, _ = end.request()
    for one in encode_simple_reply(asked.cookie) + payload:
        end.say(bytes([one]))
    assert b"".join(into) == payload
    assert write.status == read.status == Status.SUCCESS


def test_a_large_write_goes_on_when_the_socket_has_room(rig):
    end = rig.connect(buffer=4096)
    data = bytearray(os.urandom(1 << 20))
    request = rig.submit(Op.WRITE, 0, 2048, data)
    late = rig.submit(Op.FLUSH, 0, 0)
    assert end.link.wants_write
    while end.link.wants_write:
        end.read()
        end.link.send()
    (asked, payload), (flush, _) = end.requests()
    assert payload == data
    end.say(encode_simple_reply(asked.cookie) + encode_simple_reply(flush.cookie))
    assert request.status == late.status == Status.SUCCESS


def test_a_write_that_is_refused_before_it_is_sent_ends_when_it_is(rig):
    """Until then the socket reads from its buffer."""
    end = rig.connect(buffer=4096)
    request = rig.submit(Op.WRITE, 0, 2048, bytearray(1 << 20))
    end.read()
    cookie = int.from_bytes(end.data[8:16])
    end.say(encode_simple_reply(cookie, NbdError.ENOSPC))
    assert not request.done
    while end.link.wants_write:
        end.read()
        end.link.send()
    rig.stack.settle()
    assert request.errno == errno.ENOSPC
    assert not end.link.closed


def test_more_than_a_connection_takes_waits(rig):
    end = rig.connect()
    requests = [rig.opened.submit(Op.UNMAP, n, 1) for n in range(1500)]
    rig.stack.settle()
    seen = 0
    while seen < 1500:
        asked = end.requests()
        assert 0 < len(asked) <= 1024
        seen += len(asked)
        end.say(b"".join(encode_simple_reply(one.cookie) for one, _ in asked))
    assert all(one.status == Status.SUCCESS for one in requests)


def test_what_the_server_does_not_offer_fails_here(rig):
    end = rig.connect(flags=Flag.HAS_FLAGS)
    for op, flags in (
        (Op.WRITE_ZEROES, IoFlag.FAST_ZERO),
        (Op.FLUSH, 0),
        (Op.WRITE, IoFlag.FUA),
        (Op.UNMAP, IoFlag.FUA),
        (Op.WRITE_ZEROES, IoFlag.FUA),
    ):
        blocks = 0 if op is Op.FLUSH else 1
        data = bytearray(512) if op is Op.WRITE else None
        assert rig.submit(op, 0, blocks, data, flags=flags).errno == errno.EOPNOTSUPP
    assert end.requests() == []


def test_a_disk_that_has_become_read_only_or_smaller(rig):
    end = rig.connect(flags=ALL_FLAGS | Flag.READ_ONLY, size=100 * 512)
    assert rig.submit(Op.WRITE, 0, 1, bytearray(512)).errno == errno.EROFS
    assert rig.submit(Op.READ, 100, 1, bytearray(512)).errno == errno.EIO
    assert end.requests() == []


# Replies


ERRNOS = [
    (NbdError.EPERM, errno.EPERM),
    (NbdError.EIO, errno.EIO),
    (NbdError.ENOMEM, errno.ENOMEM),
    (NbdError.EINVAL, errno.EINVAL),
    (NbdError.ENOSPC, errno.ENOSPC),
    (NbdError.EOVERFLOW, errno.EOVERFLOW),
    (NbdError.ENOTSUP, errno.EOPNOTSUPP),
    (NbdError.ESHUTDOWN, errno.ESHUTDOWN),
    (4711, errno.EINVAL),
]


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize(("error", "number"), ERRNOS)
def test_errors(rig, error, number, structured):
    end = rig.connect(structured=structured)
    for op in (Op.READ, Op.WRITE):
        request = rig.submit(op, 0, 1, bytearray(512))
        asked, _ = end.request()
        if structured:
            end.say(encode_chunk_error(asked.cookie, error, "why", done=True))
        else:
            end.say(encode_simple_reply(asked.cookie, error))
        assert request.status == Status.AIO_ERROR
        assert request.errno == number
    assert not end.link.closed


def test_structured_replies_to_a_write(rig):
    end = rig.connect(structured=True)
    first = rig.submit(Op.WRITE, 0, 1, bytearray(512))
    asked, _ = end.request()
    end.say(encode_chunk_none(asked.cookie))
    assert first.status == Status.SUCCESS
    second = rig.submit(Op.WRITE, 0, 1, bytearray(512))
    asked, _ = end.request()
    end.say(encode_chunk_error(asked.cookie, NbdError.ENOSPC, done=False))
    assert not second.done
    end.say(encode_chunk_none(asked.cookie))
    assert second.errno == errno.ENOSPC


def test_an_unknown_error_chunk_is_an_error(rig):
    end = rig.connect(structured=True)
    request = rig.submit(Op.READ, 0, 1, bytearray(512))
    asked, _ = end.request()
    body = (28).to_bytes(4) + (2).to_bytes(2) + b"hi" + b"something else"
    end.say(chunk(asked.cookie, 0xC001, body))
    assert request.errno == errno.ENOSPC
    assert not end.link.closed


def test_data_before_an_error_does_not_help(rig):
    end = rig.connect(structured=True)
    request = rig.submit(Op.READ, 0, 2, bytearray(1024))
    asked, _ = end.request()
    end.say(data_chunk(asked.cookie, 0, bytes(512), done=False))
    end.say(encode_chunk_error(asked.cookie, NbdError.EIO, "bad sector", 512, done=True))
    assert request.errno == errno.EIO
    assert not end.link.closed


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4095), max_size=12),
    st.randoms(use_true_random=False),
    st.integers(1, 3000),
)
def test_a_read_in_any_chunks_cut_anywhere(cuts, rng, step):
    rig = LinkRig()
    try:
        end = rig.connect(structured=True)
        expected = bytearray(os.urandom(4096))
        into = bytearray(b"\xff" * 4096)
        request = rig.submit(Op.READ, 8, 8, into)
        asked, _ = end.request()
        edges = sorted({0, 4096, *cuts})
        pieces = list(itertools.pairwise(edges))
        rng.shuffle(pieces)
        stream = b""
        for n, (start, stop) in enumerate(pieces):
            done = n == len(pieces) - 1 and rng.random() < 0.5
            if rng.random() < 0.3:
                expected[start:stop] = bytes(stop - start)
                stream += encode_chunk_offset_hole(
                    asked.cookie, 4096 + start, stop - start, done=done
                )
            else:
                stream += data_chunk(
                    asked.cookie, 4096 + start, bytes(expected[start:stop]), done=done
                )
        if not done:
            stream += encode_chunk_none(asked.cookie)
        for at in range(0, len(stream), step):
            assert not request.done
            end.say(stream[at : at + step])
        assert request.status == Status.SUCCESS
        assert into == expected
        assert not end.link.closed
    finally:
        rig.close()


HOSTILE = {
    "no magic": lambda _: b"\0" * 16,
    "a magic that is nearly one": lambda _: b"\x67\x44\x66\x99" + bytes(12),
    "simple where structured was agreed": lambda c: encode_simple_reply(c) + bytes(1024),
    "an unknown cookie": lambda c: encode_chunk_none(c ^ 1),
    "a cookie from before": lambda c: encode_chunk_none(c - (1 << 32)),
    "a cookie far off": lambda _: encode_chunk_none((1 << 64) - 1),
    "less than asked": lambda c: data_chunk(c, 4096, bytes(512), done=True),
    "nothing": encode_chunk_none,
    "none with content": lambda c: chunk(c, 0, b"abcd"),
    "none that does not end": lambda c: chunk(c, 0, b"", flags=0),
    "before the request": lambda c: data_chunk(c, 4095, bytes(512), done=False),
    "behind the request": lambda c: data_chunk(c, 4096 + 1024, bytes(1), done=False),
    "over its end": lambda c: data_chunk(c, 4096 + 513, bytes(512), done=False),
    "more than asked": lambda c: data_chunk(c, 4096, bytes(2048), done=True),
    "an offset of 2^63": lambda c: chunk(c, 1, (1 << 63).to_bytes(8) + b"x"),
    "an offset that wraps": lambda c: chunk(c, 1, ((1 << 64) - 1).to_bytes(8) + b"x" * 512),
    "no data": lambda c: chunk(c, 1, (4096).to_bytes(8)),
    "half an offset": lambda c: chunk(c, 1, b"\0" * 4),
    "twice the same": lambda c: (
        data_chunk(c, 4096, bytes(512), done=False) + data_chunk(c, 4096, bytes(512), done=True)
    ),
    "overlapping by a byte": lambda c: (
        data_chunk(c, 4096 + 512, bytes(512), done=False)
        + data_chunk(c, 4096, bytes(513), done=True)
    ),
    "a hole over data": lambda c: (
        data_chunk(c, 4096 + 100, bytes(10), done=False)
        + encode_chunk_offset_hole(c, 4096, 1024, done=True)
    ),
    "a hole outside": lambda c: encode_chunk_offset_hole(c, 4096, 1025, done=True),
    "a hole of nothing": lambda c: chunk(c, 2, (4096).to_bytes(8) + bytes(4)),
    "a hole with more": lambda c: chunk(c, 2, (4096).to_bytes(8) + (512).to_bytes(4) + b"x"),
    "block status": lambda c: encode_chunk_block_status(c, 1, [(512, 0)], done=True),
    "an unknown type": lambda c: chunk(c, 77, b"abc"),
    "error 0": lambda c: chunk(c, 0x8001, bytes(6)),
    "an error that is cut": lambda c: chunk(c, 0x8001, b"\0\0\0\5"),
    "an error with a text that is longer": lambda c: chunk(c, 0x8001, b"\0\0\0\5\0\x09abc"),
    "an error with more than its text": lambda c: chunk(c, 0x8001, b"\0\0\0\5\0\1abc"),
    "an error of 4 GiB": lambda c: CHUNK_HEADER.pack(
        STRUCTURED_REPLY_MAGIC, 1, 0x8001, c, (1 << 32) - 1
    ),
    "an error outside": lambda c: encode_chunk_error(c, NbdError.EIO, "", 4096 + 1024, done=True),
    "the answer twice": lambda c: data_chunk(c, 4096, bytes(1024), done=True) * 2,
}


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_server_that_breaks_the_protocol_loses_its_connection(rig, what, owned, step):
    """owned: the READ has a buffer of the pool, in which its data may be expected."""
    end = rig.connect(structured=True)
    into = None if owned else bytearray(1024)
    beside = bytearray(512)
    before = bytearray(b"\xee" * 512)  # of nobody's I/O
    request = rig.submit(Op.READ, 8, 2, into)
    other = rig.submit(Op.READ, 100, 1, beside)
    (asked, _), _ = end.requests()
    stream = HOSTILE[what](asked.cookie)
    for at in range(0, len(stream), step):
        end.say(stream[at : at + step])
    assert end.link.closed
    assert "broke the protocol" in end.link.reason
    assert request.done
    assert other.errno == errno.EIO
    if what != "the answer twice":
        assert request.errno == errno.EIO
    assert beside == bytes(512)
    assert before == b"\xee" * 512


def test_a_reply_to_what_was_not_sent_yet(rig):
    end = rig.connect(buffer=4096)
    rig.submit(Op.WRITE, 0, 2048, bytearray(1 << 20))
    late = rig.submit(Op.FLUSH, 0, 0)
    end.read()
    cookie = int.from_bytes(end.data[8:16])
    end.say(encode_simple_reply(cookie ^ 1))
    assert end.link.closed
    assert late.errno == errno.EIO


def test_data_behind_the_handshake(rig):
    from vbdev.core.nbd.client.link import NbdLink

    link = NbdLink(rig.path, 0, size_bytes=512, flags=1, structured=False, early=b"x")
    assert link.closed


@pytest.mark.parametrize("structured", [False, True])
def test_a_connection_that_ends_at_any_byte(structured):
    """What is not whole is not taken, and each I/O ends once."""
    whole = 28 + 512 if structured else 16 + 512
    for cut in range(whole):
        rig = LinkRig()
        end = rig.connect(structured=structured)
        request = rig.submit(Op.READ, 0, 1, bytearray(512))
        asked, _ = end.request()
        if structured:
            stream = data_chunk(asked.cookie, 0, b"x" * 512, done=True)
        else:
            stream = encode_simple_reply(asked.cookie) + b"x" * 512
        assert len(stream) == whole
        end.say(stream[:cut])
        assert not request.done
        end.hang_up()
        assert request.errno == errno.EIO
        rig.close()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.integers(1, 100))
def test_garbage(garbage, structured, step):
    rig = LinkRig()
    try:
        end = rig.connect(structured=structured)
        requests = [rig.submit(Op.READ, n, 1, bytearray(512)) for n in range(3)]
        good = b"".join(encode_simple_reply(one.cookie) for one, _ in end.requests())
        stream = garbage + good
        for at in range(0, len(stream), step):
            end.say(stream[at : at + step])
        if not end.link.closed:
            end.hang_up()
        assert all(request.done for request in requests)
    finally:
        rig.close()


# Durability and loss


def test_fua_without_fua_is_a_write_and_a_flush(rig):
    end = rig.connect(flags=ALL_FLAGS & ~Flag.SEND_FUA)
    for op, command in (
        (Op.WRITE, Command.WRITE),
        (Op.UNMAP, Command.TRIM),
        (Op.WRITE_ZEROES, Command.WRITE_ZEROES),
    ):
        data = bytearray(512) if op is Op.WRITE else None
        request = rig.submit(op, 0, 1, data, flags=IoFlag.FUA)
        asked, _ = end.request()
        assert (asked.command, asked.flags) == (command, 0)
        end.say(encode_simple_reply(asked.cookie))
        assert not request.done
        flush, _ = end.request()
        assert flush.command == Command.FLUSH
        assert (flush.offset_bytes, flush.length_bytes, flush.flags) == (0, 0, 0)
        end.say(encode_simple_reply(flush.cookie))
        assert request.status == Status.SUCCESS
    request = rig.submit(Op.WRITE, 0, 1, bytearray(512), flags=IoFlag.FUA)
    asked, _ = end.request()
    end.say(encode_simple_reply(asked.cookie))
    flush, _ = end.request()
    end.say(encode_simple_reply(flush.cookie, NbdError.EIO))
    assert request.errno == errno.EIO


def answer(end):
    for asked, _ in end.requests():
        reply = encode_simple_reply(asked.cookie)
        end.say(reply + bytes(asked.length_bytes) if asked.command == Command.READ else reply)


def write(rig, n=0, **more):
    return rig.submit(Op.WRITE, n, 1, bytearray(512), **more)


def test_a_flush_goes_to_every_connection_with_writes(rig):
    ends = [rig.connect() for _ in range(3)]
    for _ in range(2):  # to two of them, whichever those are
        write(rig)
    wrote = [end for end in ends if end.link.in_flight]
    for end in ends:
        answer(end)
    assert len(wrote) == 2
    assert [end.link.dirty for end in ends].count(True) == 2
    request = rig.submit(Op.FLUSH, 0, 0)
    flushes = {end: [asked for asked, _ in end.requests()] for end in ends}
    assert [end for end in ends if flushes[end]] == wrote
    wrote[0].say(encode_simple_reply(flushes[wrote[0]][0].cookie))
    assert not request.done
    wrote[1].say(encode_simple_reply(flushes[wrote[1]][0].cookie))
    assert request.status == Status.SUCCESS
    assert not any(end.link.dirty for end in ends)


def test_one_flush_that_fails_is_a_failure(rig):
    ends = [rig.connect() for _ in range(2)]
    write(rig)
    write(rig)
    for end in ends:
        answer(end)
    request = rig.submit(Op.FLUSH, 0, 0)
    asked = [end.request()[0] for end in ends]
    ends[0].say(encode_simple_reply(asked[0].cookie, NbdError.EIO))
    ends[1].say(encode_simple_reply(asked[1].cookie))
    assert request.errno == errno.EIO
    assert ends[0].link.dirty
    assert not ends[1].link.dirty


def test_a_write_that_comes_during_a_flush_is_not_covered(rig):
    end = rig.connect()
    write(rig)
    answer(end)
    flush = rig.submit(Op.FLUSH, 0, 0)
    (asked, _) = end.request()
    write(rig, 1)
    answer(end)
    end.say(encode_simple_reply(asked.cookie))
    assert flush.status == Status.SUCCESS
    assert end.link.dirty


@pytest.mark.parametrize("resend", [False, True])
def test_acknowledged_writes_that_are_lost_fail_every_later_flush(make, resend):
    rig = make(resend=resend)
    end = rig.connect()
    assert write(rig).done is False
    answer(end)
    end.hang_up()
    assert end.link.lost_writes
    assert rig.disk.lost
    after = rig.connect()
    assert rig.submit(Op.FLUSH, 0, 0).errno == errno.EIO
    assert write(rig, flags=IoFlag.FUA).errno == errno.EIO
    assert after.requests() == []
    plain = write(rig)
    answer(after)
    assert plain.status == Status.SUCCESS


def test_what_was_flushed_is_not_lost(rig):
    end = rig.connect()
    write(rig)
    write(rig, 1, flags=IoFlag.FUA)
    answer(end)
    rig.submit(Op.FLUSH, 0, 0)
    answer(end)
    write(rig, 2, flags=IoFlag.FUA)
    answer(end)
    end.hang_up()
    assert not rig.disk.lost


def test_a_server_that_keeps_its_writes_is_believed(make):
    rig = make(keeps_writes=True, resend=True)
    end = rig.connect()
    write(rig)
    answer(end)
    flush = rig.submit(Op.FLUSH, 0, 0)
    end.hang_up()
    assert not rig.disk.lost
    assert not flush.done
    end = rig.connect()
    answer(end)
    assert flush.status == Status.SUCCESS


def test_a_flush_under_way_fails_with_the_writes_that_it_was_for(make):
    rig = make(resend=True)
    end = rig.connect()
    write(rig)
    answer(end)
    flush = rig.submit(Op.FLUSH, 0, 0)
    end.hang_up()
    assert flush.errno == errno.EIO


@pytest.mark.parametrize("gone", [True, False])
def test_what_is_sent_again(make, gone):
    """Writes only where the server has ended with the first copy."""
    rig = make(resend=True)
    end = rig.connect()
    into = bytearray(512)
    read, wrote = rig.submit(Op.READ, 3, 1, into), write(rig, 4)
    assert len(end.requests()) == 2
    end.link.lose(errno.ETIMEDOUT, "test", gone=gone)
    rig.stack.settle()
    assert not read.done
    end = rig.connect()
    asked = end.requests()
    assert [one.command for one, _ in asked] == (
        [Command.READ, Command.WRITE] if gone else [Command.READ]
    )
    for one, _ in asked:
        end.say(encode_simple_reply(one.cookie) + (b"x" * 512 if one.command == 0 else b""))
    assert into == b"x" * 512
    assert wrote.errno == (0 if gone else errno.ETIMEDOUT)
    assert not rig.disk.lost


def test_without_resending_all_fail_at_once_and_the_others_wait(rig):
    end = rig.connect()
    under_way = write(rig)
    end.hang_up()
    assert under_way.errno == errno.EIO
    waits = write(rig)
    assert not waits.done
    rig.path.holding = False
    rig.stack.settle()
    assert waits.errno == errno.ESHUTDOWN
    assert write(rig).errno == errno.ESHUTDOWN


def test_the_other_connections_take_over(make):
    rig = make(resend=True)
    first, second = rig.connect(), rig.connect()
    requests = [write(rig, n) for n in range(4)]
    first.hang_up()
    answer(second)
    assert all(request.status == Status.SUCCESS for request in requests)
    assert rig.path.resent == 2


@pytest.mark.parametrize("resend", [False, True])
def test_a_server_that_shuts_down(make, resend):
    """What it refuses for that waits for the next one; what it still answers is answered."""
    rig = make(resend=resend)
    end = rig.connect()
    refused, read = write(rig), rig.submit(Op.READ, 3, 1, bytearray(512))
    (first, _), (second, _) = end.requests()
    end.say(encode_simple_reply(first.cookie, NbdError.ESHUTDOWN))
    if not resend:
        assert refused.errno == errno.ESHUTDOWN
        return
    late = write(rig, 1)
    assert end.requests() == []  # it is asked for nothing more
    assert not end.link.closed
    end.say(encode_simple_reply(second.cookie) + bytes(512))
    assert read.status == Status.SUCCESS
    assert end.link.closed
    assert [one.command for one, _ in end.requests()] == [Command.DISC]
    answer(rig.connect())
    assert refused.status == late.status == Status.SUCCESS


def test_a_flush_of_a_server_that_shuts_down_is_no_success(make):
    rig = make(resend=True)
    end = rig.connect()
    write(rig)
    answer(end)
    flush, wrote = rig.submit(Op.FLUSH, 0, 0), write(rig, 1, flags=IoFlag.FUA)
    for asked, _ in end.requests():
        end.say(encode_simple_reply(asked.cookie, NbdError.ESHUTDOWN))
    assert flush.errno == errno.ESHUTDOWN
    assert end.link.closed
    assert rig.disk.lost
    assert not wrote.done
    assert rig.connect().requests() == []
    assert wrote.errno == errno.EIO


@pytest.mark.parametrize("last", [False, True])
def test_the_last_flush_covers_what_a_lost_connection_wrote(make, last):
    """The server has kept the writes, but nobody has told it to make them stable."""
    rig = make(keeps_writes=True, resend=True)
    end = rig.connect()
    write(rig)
    answer(end)
    end.hang_up()
    end = rig.connect()
    said = []
    rig.path.flush_dirty(said.append, last=last)
    asked = [one.command for one, _ in end.requests()]
    if not last:  # the FLUSH that this is a part of goes to another connection
        assert (asked, said) == ([], [0])
        return
    assert asked == [Command.FLUSH]
    end.hang_up()
    assert said == [errno.EIO]
    rig.path.flush_dirty(said.append, last=True)  # without any connection
    assert said == [errno.EIO, errno.EIO]
    end = rig.connect()
    rig.path.flush_dirty(said.append, last=True)
    answer(end)
    assert said[2:] == [0]
    rig.path.flush_dirty(said.append, last=True)  # nothing is owed any more
    assert said[2:] == [0, 0]
    assert end.requests() == []


def test_an_abort_ends_what_waits_and_nothing_else(rig):
    waits = write(rig)
    abort = rig.submit(Op.ABORT, victim=waits)
    assert waits.status == Status.ABORTED
    assert abort.status == Status.SUCCESS
    end = rig.connect()
    under_way = write(rig)
    abort = rig.submit(Op.ABORT, victim=under_way)
    assert abort.status == Status.FAILED
    answer(end)
    assert under_way.status == Status.SUCCESS


def test_memory_is_given_back_between_replies(rig):
    end = rig.connect()
    request = rig.submit(Op.READ, 0, 8, bytearray(4096))
    asked, _ = end.request()
    buffers = rig.stack.engine.buffers
    before = buffers.live_buffers
    end.say(encode_simple_reply(asked.cookie) + bytes(100))
    assert buffers.live_buffers == before
    end.say(bytes(3996))
    assert request.status == Status.SUCCESS
